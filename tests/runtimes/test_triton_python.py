"""Models of Triton's Python backend, written as its documentation writes them, run unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from salver.core.errors import CodeNotAllowed, InvalidArtifact, InvalidInput, ModelFailed
from salver.core.model import ModelSpec
from salver.runtimes.base import LoadedModel, Outputs
from salver.runtimes.triton_python import TritonPythonRuntime

ADD_SUB = """
import json
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.model_config = model_config = json.loads(args["model_config"])
        self.dtypes = [
            pb_utils.triton_string_to_numpy(pb_utils.get_output_config_by_name(model_config, name)["data_type"])
            for name in ("SUM", "DIFFERENCE")
        ]

    def execute(self, requests):
        responses = []
        for request in requests:
            a = pb_utils.get_input_tensor_by_name(request, "A").as_numpy()
            b = pb_utils.get_input_tensor_by_name(request, "B").as_numpy()
            if (a < 0).any():
                responses.append(pb_utils.InferenceResponse(error=pb_utils.TritonError(
                    "A is negative", pb_utils.TritonError.INVALID_ARG)))
                continue
            responses.append(pb_utils.InferenceResponse(output_tensors=[
                pb_utils.Tensor("SUM", (a + b).astype(self.dtypes[0])),
                pb_utils.Tensor("DIFFERENCE", (a - b).astype(self.dtypes[1])),
            ]))
        return responses

    def finalize(self):
        open("FINALIZED", "w").close()
"""


def tensor(name: str, data_type: str = "TYPE_FP32", *dims: int) -> dict[str, Any]:
    return {"name": name, "data_type": data_type, "dims": list(dims) or [2]}


def config(**keys: Any) -> dict[str, Any]:
    return {"name": "mine", "backend": "python", "max_batch_size": 0, "input": [], "output": [], **keys}


def load(folder: Path, code: str, configuration: dict[str, Any] | None = None, **settings: Any) -> LoadedModel:
    version = folder / "mine" / "1"
    version.mkdir(parents=True, exist_ok=True)
    (version / "model.py").write_text(code)
    allow_code = settings.pop("allow_code", True)
    options = {} if configuration is None else {"config": configuration}
    spec = ModelSpec(name="mine", version="1", path=version, runtime="triton_python", options=options, **settings)
    return TritonPythonRuntime(allow_code=allow_code).load(spec)


def run(model: LoadedModel, parameters: dict[str, Any] | None = None, **inputs: Any) -> Outputs:
    return model.predict({name: np.asarray(value) for name, value in inputs.items()}, None, parameters or {})


def floats(*rows: Any) -> np.ndarray[Any, Any]:
    return np.array(rows, np.float32)


def test_the_documentations_example_answers_as_numpy_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = load(
        tmp_path,
        ADD_SUB,
        config(max_batch_size=8, input=[tensor("A"), tensor("B")], output=[tensor("SUM"), tensor("DIFFERENCE")]),
    )
    assert model.signature.batched
    assert [(each.name, each.shape) for each in model.signature.inputs] == [("A", (-1, 2)), ("B", (-1, 2))]
    a, b = floats([1, 2], [3, 4]), floats([5, 6], [7, 9])
    outputs = run(model, A=a, B=b)
    np.testing.assert_array_equal(outputs["SUM"], a + b)
    np.testing.assert_array_equal(outputs["DIFFERENCE"], a - b)
    with pytest.raises(InvalidInput, match="answered with an error: A is negative"):
        run(model, A=-a, B=b)
    model.close()
    assert (tmp_path / "FINALIZED").exists()


def test_nothing_runs_without_permission(tmp_path: Path) -> None:
    with pytest.raises(CodeNotAllowed, match="--allow-code"):
        load(tmp_path, f"open({str(tmp_path / 'ran')!r}, 'w').close()", config(), allow_code=False)
    assert not (tmp_path / "ran").exists()


def test_args_and_model_dir_lead_to_the_models_files(tmp_path: Path) -> None:
    code = """
import json, os
import numpy as np
import triton_python_backend_utils as pb_utils
from helper import read

class TritonPythonModel:
    def initialize(self, args):
        path = os.path.join(args["model_repository"], args["model_version"], "weights.txt")
        same = os.path.join(pb_utils.get_model_dir(), "weights.txt")
        assert read(path) == read(same)
        self.text = f"{args['model_name']} {args['model_instance_kind']} {read(path)}"
        self.text += json.loads(args["model_config"])["parameters"]["unit"]["string_value"]
    def execute(self, requests):
        output = np.array([self.text.encode()], dtype=np.object_)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", output)]) for _ in requests]
"""
    version = tmp_path / "mine" / "1"
    version.mkdir(parents=True)
    helper = "import triton_python_backend_utils\ndef read(path):\n    with open(path) as file: return file.read()\n"
    (version / "helper.py").write_text(helper)
    (version / "weights.txt").write_text("42")
    model = load(
        tmp_path,
        code,
        config(
            input=[tensor("A")],
            output=[tensor("OUT", "TYPE_STRING", 1)],
            parameters={"unit": {"string_value": " kg"}},
        ),
    )
    assert run(model, A=floats(1, 2))["OUT"].tolist() == [b"mine CPU 42 kg"]


def test_a_model_completes_its_configuration_and_takes_text(tmp_path: Path) -> None:
    code = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    @staticmethod
    def auto_complete_config(auto_complete_model_config):
        auto_complete_model_config.add_input({"name": "TEXT", "data_type": "TYPE_STRING", "dims": [-1]})
        auto_complete_model_config.add_output({"name": "UPPER", "data_type": "TYPE_STRING", "dims": [-1]})
        auto_complete_model_config.set_max_batch_size(0)
        return auto_complete_model_config

    def execute(self, requests):
        tensor, = requests[0].inputs()
        upper = [text.decode().upper() for text in tensor.as_numpy()]
        assert requests[0].requested_output_names() == ["UPPER"]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("UPPER", np.array(upper, dtype=object))])]
"""
    model = load(tmp_path, code, config())
    assert not model.signature.batched
    assert run(model, TEXT=np.array(["wörter".encode()], object))["UPPER"].tolist() == ["WÖRTER".encode()]
    with pytest.raises(InvalidArtifact, match="its configuration has no inputs"):
        load(tmp_path, "class TritonPythonModel:\n    def execute(self, requests): pass\n", config())


DECOUPLED = """
import threading
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            count = int(pb_utils.get_input_tensor_by_name(request, "COUNT").as_numpy()[0])
            threading.Thread(target=self.answer, args=(sender, count)).start()
        return None

    def answer(self, sender, count):
        for number in range(count):
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([number], np.int32))]))
        if count != 3:  # else it forgets to say that these were all
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


@pytest.mark.parametrize("count", [0, 1, 3, 100])
def test_decoupled_models_stream_from_threads_of_their_own(tmp_path: Path, count: int) -> None:
    model = load(
        tmp_path,
        DECOUPLED,
        config(
            input=[tensor("COUNT", "TYPE_INT32", 1)],
            output=[tensor("OUT", "TYPE_INT32", 1)],
            model_transaction_policy={"decoupled": True},
        ),
    )
    assert model.kind == "stream"
    answers = [each["OUT"].item() for each in model.stream({"COUNT": np.array([count], np.int32)}, None, {})]
    assert answers == list(range(count))


def test_a_caller_that_leaves_a_stream_doesnt_hold_its_model_up(tmp_path: Path) -> None:
    model = load(
        tmp_path,
        DECOUPLED,
        config(
            input=[tensor("COUNT", "TYPE_INT32", 1)],
            output=[tensor("OUT", "TYPE_INT32", 1)],
            model_transaction_policy={"decoupled": True},
        ),
    )
    stream: Any = model.stream({"COUNT": np.array([10_000], np.int32)}, None, {})
    assert next(stream)["OUT"].item() == 0
    stream.close()


def test_a_decoupled_model_that_fails_says_so(tmp_path: Path) -> None:
    keys = config(input=[tensor("A")], output=[tensor("OUT")], model_transaction_policy={"decoupled": True})
    raising = "class TritonPythonModel:\n    def execute(self, requests):\n        raise OSError('disk on fire')\n"
    model = load(tmp_path, raising, keys)
    with pytest.raises(ModelFailed, match="failed in execute: OSError: disk on fire"):
        list(model.stream({"A": floats(1, 2)}, None, {}))
    model = load(tmp_path, "class TritonPythonModel:\n    def execute(self, requests):\n        return 3\n", keys)
    with pytest.raises(ModelFailed, match="neither None nor a list"):
        list(model.stream({"A": floats(1, 2)}, None, {}))


def test_sequences_get_their_control_tensors_and_flags(tmp_path: Path) -> None:
    code = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        request, = requests
        seen = [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in ("START", "END", "CORRID")]
        assert [each.shape for each in seen] == [(2, 1)] * 3, seen
        values = [float(each[0, 0]) for each in seen] + [float(request.flags()), float(request.correlation_id())]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([values, values], np.float32))])]
"""
    control = [
        {"name": "START", "control": [{"kind": "CONTROL_SEQUENCE_START", "fp32_false_true": [0, 1]}]},
        {"name": "END", "control": [{"kind": "CONTROL_SEQUENCE_END", "int32_false_true": [-1, 1]}]},
        {"name": "CORRID", "control": [{"kind": "CONTROL_SEQUENCE_CORRID", "data_type": "TYPE_UINT64"}]},
    ]
    model = load(
        tmp_path,
        code,
        config(
            max_batch_size=4,
            input=[tensor("A")],
            output=[tensor("OUT", "TYPE_FP32", 5)],
            sequence_batching={"control_input": control},
        ),
    )
    a = floats([1, 2], [3, 4])
    first = run(model, {"sequence_id": 7, "sequence_start": True}, A=a)["OUT"]
    assert first.tolist() == [[1, -1, 7, 1, 7]] * 2
    last = run(model, {"sequence_id": 7, "sequence_end": True}, A=a)["OUT"]
    assert last.tolist() == [[0, 1, 7, 2, 7]] * 2


def test_what_reaches_into_triton_itself_says_that_it_cant(tmp_path: Path) -> None:
    code = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        pb_utils.InferenceRequest(model_name="other", inputs=requests[0].inputs()).exec()
"""
    model = load(tmp_path, code, config(input=[tensor("A")], output=[tensor("OUT")]))
    with pytest.raises(ModelFailed, match=r"'other' can't be made from within a model.*BLS"):
        run(model, A=floats(1, 2))
    with pytest.raises(InvalidArtifact, match=r"imports 'triton_python_backend_utils\.cuda'"):
        load(tmp_path, "import triton_python_backend_utils.cuda\n", config())


def test_without_a_configuration_model_yaml_says_what_it_is(tmp_path: Path) -> None:
    from salver.core.signature import TensorSpec

    code = """
import numpy as np
import json
import torch
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        assert json.loads(args["model_config"])["input"] == [{"name": "A", "data_type": "TYPE_FP32", "dims": [2]}]
    def execute(self, requests):
        a = torch.from_dlpack(pb_utils.get_input_tensor_by_name(requests[0], "A"))
        return [pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack("OUT", a * 2)])]
"""
    spec = TensorSpec("A", "FP32", (-1, 2))
    model = load(tmp_path, code, batched=True, inputs=(spec,), outputs=(TensorSpec("OUT", "FP32", (-1, 2)),))
    np.testing.assert_array_equal(run(model, A=floats([1, 2], [3, 4]))["OUT"], floats([2, 4], [6, 8]))


def test_helpers_for_bytes_are_each_others_inverse() -> None:
    from salver.runtimes.triton_python import backend_utils as pb_utils

    texts = np.array(["ä".encode(), b"", b"\0x\0"], object)
    encoded = pb_utils.serialize_byte_tensor(texts)
    assert encoded is not None
    assert pb_utils.deserialize_bytes_tensor(encoded.item()).tolist() == texts.tolist()
    assert pb_utils.triton_to_numpy_type(pb_utils.numpy_to_triton_type(np.float16)) is np.float16
