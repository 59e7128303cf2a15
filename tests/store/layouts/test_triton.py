"""Triton's repositories, found and read as they stand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_files import write_graph

from salver.core.errors import InvalidConfig, LoadError
from salver.core.signature import Signature
from salver.runtimes.base import LoadedModel
from salver.runtimes.detect import detect
from salver.runtimes.table import create
from salver.store.layouts.foreign import ForeignModel
from salver.store.layouts.triton import read_model
from salver.store.repository import Layout, ModelEntry, scan, to_spec


def model(root: Path, config: str, *files: str, name: str = "mine") -> Path:
    """A model folder with a configuration; files that aren't there yet are made, ``1/model.onnx`` by default."""
    folder = root / name
    for file in files or ("1/model.onnx",):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / file).exists():
            (folder / file).write_text("content")
    (folder / "config.pbtxt").write_text(config)
    return folder


def read(folder: Path) -> ForeignModel:
    found = read_model(folder)
    assert found is not None
    return found


def load(entry: ModelEntry, version: str = "1", *, allow_code: bool = False) -> LoadedModel:
    assert not entry.error, entry.error
    runtime, artifact = detect(entry.versions[version].path, entry.config.runtime)
    return create(runtime, allow_code=allow_code).load(to_spec(entry, version, runtime=runtime, artifact=artifact))


def shapes(signature: Signature) -> dict[str, Any]:
    return {each.name: (each.datatype, each.shape) for each in (*signature.inputs, *signature.outputs)}


def floats(*rows: Any) -> np.ndarray[Any, Any]:
    return np.array(rows, np.float32)


WHOLE = """
# Comments, lists of both kinds and texts in pieces are of the format.
name: "mine"
platform: "onnxruntime_onnx"
max_batch_size: 16
input [
  { name: "IMAGE" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 224, -1 ] },
  { name: "TEXT" data_type: TYPE_STRING dims: 1 optional: true }
]
output { name: "SCORES" data_type: TYPE_FP32 dims: [ 10 ] label_filename: "labels.txt" }
version_policy: { all { } }
instance_group [
  { count: 2 kind: KIND_GPU gpus: [ 1, 2 ] rate_limiter { resources { name: "R1" count: 4 } priority: 2 } },
  { count: 1 kind: KIND_CPU }
]
dynamic_batching {
  preferred_batch_size: [ 4, 8 ]
  max_queue_delay_microseconds: 250000
  preserve_ordering: true
  priority_levels: 4
  default_priority_level: 3
  default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 5 max_queue_size: 100 }
  priority_queue_policy { key: 1 value: { max_queue_size: 7 } }
}
sequence_batching {
  max_sequence_idle_microseconds: 5000000
  control_input { name: "START" control { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } }
  oldest { max_candidate_sequences: 12 max_queue_delay_microseconds: 3 }
  state { input_name: "S" output_name: "T" data_type: TYPE_FP32 dims: 1 }
}
model_warmup [
  { name: "zeros" batch_size: 4 count: 3
    inputs { key: "IMAGE" value { data_type: TYPE_FP32 dims: [ 3, 2, 2 ] zero_data: true } } },
  { name: "file" inputs { key: "IMAGE" value { data_type: TYPE_FP32 dims: 1 input_data_file: "raw" } } }
]
response_cache { enable: true }
optimization { graph { level: 1 } }
parameters { key: "intra_op_thread_count" value { string_value: "3" } }
parameters { key: "execution_mode" value { string_value: "1" } }
cc_model_filenames { key: "7.5" value: "model75.plan" }
"""


def test_every_setting_is_mapped_or_named(tmp_path: Path) -> None:
    found = read(model(tmp_path, WHOLE, "1/model.onnx", "3/model.onnx", "007/model.onnx", "notes/x.txt"))
    assert (found.name, found.system, found.wanted) == ("mine", "Triton", ("1", "3"))
    assert found.config.model_dump(exclude_unset=True) == {
        "runtime": "onnx",
        "max_batch_size": 16,
        "batched": True,
        "inputs": (
            {"name": "IMAGE", "datatype": "FP32", "shape": (-1, 3, 224, -1)},
            {"name": "TEXT", "datatype": "BYTES", "shape": (-1, 1), "optional": True},
        ),
        "outputs": ({"name": "SCORES", "datatype": "FP32", "shape": (-1, 10)},),
        "preferred_batch_sizes": (4, 8),
        "max_queue_delay": 0.25,
        "priorities": {"levels": 4, "default": 3, "max_queue": {1: 7}},
        "max_queue": 100,
        "sequences": {"idle_timeout": 5.0, "max_sequences": 12},
        "device": "cuda:1",
        "instances": 2,
        "resources": {"R1": 4},
        "warm_up": ({"batch_size": 4, "count": 3},),
        "response_cache": 64 << 20,
        "threads": 3,
    }
    for named in (
        "FORMAT_NCHW",
        "label",
        "on one device: on cuda:1, not on cuda:2, cpu",
        "'priority' of rate_limiter",
        "order of requests",
        "'timeout_action'",
        "'default_timeout_microseconds'",
        "control tensors",
        "'state'",
        "'max_queue_delay_microseconds' of 'oldest'",
        "warm-up 'zeros' are drawn",
        "warm-up 'file' is left out",
        "'optimization'",
        "'execution_mode'",
        "'cc_model_filenames'",
    ):
        assert sum(named in problem for problem in found.problems) == 1, (named, found.problems)
    assert len(found.problems) == 15, found.problems
    assert all(problem.startswith("mine/config.pbtxt, line ") for problem in found.problems)
    assert "mine/config.pbtxt, line 37: 'optimization'" in "\n".join(found.problems)


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        ("", ("10",)),
        ("version_policy { latest { num_versions: 2 } }", ("9", "10")),
        ("version_policy { latest { } }", ("10",)),
        ("version_policy { all { } }", ("1", "9", "10")),
        ("version_policy { specific { versions: [ 1, 9, 4 ] } }", ("1", "9")),
    ],
)
def test_versions(tmp_path: Path, policy: str, wanted: tuple[str, ...]) -> None:
    files = ("1/model.onnx", "9/model.onnx", "10/model.onnx")
    found = read(model(tmp_path, f'backend: "onnxruntime" {policy}', *files))
    assert found.wanted == wanted
    assert set(found.versions) == {"1", "9", "10"}
    assert any("lists 1, 9, 4" in problem for problem in found.problems) == ("specific" in policy)


@pytest.mark.parametrize(
    ("config", "file", "runtime", "artifact"),
    [
        ('platform: "onnxruntime_onnx"', "model.onnx", "onnx", ""),
        ('backend: "onnxruntime" default_model_filename: "net.onnx"', "net.onnx", "onnx", "net.onnx"),
        ('platform: "pytorch_libtorch"', "model.pt", "pytorch", ""),
        ('platform: "tensorflow_savedmodel"', "model.savedmodel/saved_model.pb", "tensorflow", "model.savedmodel"),
        ('backend: "openvino"', "model.xml", "openvino", ""),
        ('backend: "python"', "model.py", "triton_python", ""),
        ('backend: "fil"', "xgboost.model", "triton_fil", ""),
        ("", "model.pt", "pytorch", ""),
        ("", "model.savedmodel/saved_model.pb", "tensorflow", "model.savedmodel"),
        ("", "model.py", "triton_python", ""),
    ],
)
def test_runtimes_and_their_files(tmp_path: Path, config: str, file: str, runtime: str, artifact: str) -> None:
    folder = model(tmp_path, config, f"1/{file}")
    found = read(folder)
    assert found.config.runtime == runtime
    assert found.versions["1"] == folder / "1" / artifact


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            'name: "other" backend: "python"',
            "line 1: 'name' is 'other', and Triton wants it to be the folder's, 'mine'",
        ),
        ('backend: "tensorrt"', "line 1: backend 'tensorrt' can't be served: .* Supported are onnxruntime, pytorch"),
        ('platform: "tensorrt_plan"', "'tensorrt' can't be served"),
        ('backend: "mine_own"', "custom backend .* model.py"),
        ("", "names neither 'backend' nor 'platform'"),
        ('platform: "ensemble"', r"in 'ensemble_scheduling \{ step \[...\] \}'; there are none"),
        ('backend: "fil" parameters { key: "model_type" value { string_value: "treelite_checkpoint" } }', "Treelite"),
        ('backend: "python" max_batch_size: -1', "'max_batch_size' has to be at least 0"),
        ('backend: "python" version_policy { specific { versions: 4 } }', "lists 4, and there is 1"),
        ('backend: "python" version_policy { newest { } }', "has 'newest'; expected one of 'latest', 'all'"),
        ('backend: "python"\ninput { name: "A" data_type: TYPE_COMPLEX dims: 1 }', "line 2: 'data_type' of 'A'"),
        ('backend: "python" input { name: "A" data_type: TYPE_FP32 dims: 0 }', "a dimension of 'A' is 0"),
        ('backend: "python" input { data_type: TYPE_FP32 dims: 1 }', "a tensor has no 'name'"),
        ('backend: "python" input { name: "A" data_type: TYPE_FP32 }', "'A' has no 'dims'"),
        ('backend: "python" default_model_filename: "../../x.py"', "leads out of the version's folder"),
        ('backend: "python" instance_group { kind: KIND_TPU }', "expected one of KIND_CPU"),
        (
            'backend: "python" dynamic_batching { preferred_batch_size: 8 } max_batch_size: 4',
            "more than max_batch_size",
        ),
        (
            'backend: "onnxruntime" parameters { key: "intra_op_thread_count" value { string_value: "x" } }',
            "is an integer",
        ),
        ('backend: "python" max_batch_size: "8"', "'max_batch_size' has to be an integer"),
        ('backend: "python', "line 1: .* doesn't end on its line"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, config: str, message: str) -> None:
    folder = model(tmp_path, config, "1/weights.bin")
    with pytest.raises(LoadError, match=message):
        read_model(folder)
    # It spoils neither the models beside it nor the scan.
    model(tmp_path, 'backend: "python"', "1/model.py", name="good")
    entries = scan(tmp_path).models
    assert entries["mine"].error
    assert not entries["good"].error


def test_a_model_without_versions(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="mine has no version"):
        read_model(model(tmp_path, 'backend: "python"', "notes.txt"))


def test_folders_without_a_configuration_are_salvers_own(tmp_path: Path) -> None:
    folder = model(tmp_path, "")
    (folder / "config.pbtxt").unlink()
    assert read_model(folder) is None
    assert read_model(folder / "1" / "model.onnx") is None


def test_a_change_of_the_configuration_is_noticed(tmp_path: Path) -> None:
    folder = model(tmp_path, 'backend: "onnxruntime"')
    before = scan(tmp_path)
    assert scan(tmp_path, previous=before) == before
    model(tmp_path, 'backend: "onnxruntime" max_batch_size: 4')
    after = scan(tmp_path, previous=before)
    assert before.layout is after.layout is Layout.REPOSITORY
    assert after.models["mine"].versions["1"].fingerprint != before.models["mine"].versions["1"].fingerprint
    assert scan(folder).models["mine"].config.max_batch_size == 4


def test_onnx_models_answer_as_their_configuration_says(tmp_path: Path) -> None:
    write_graph(tmp_path / "mine" / "1", "FP32", [("Add", ["A", "B"], "SUM")])
    model(
        tmp_path,
        """
        platform: "onnxruntime_onnx"  max_batch_size: 8
        input [ { name: "A" data_type: TYPE_FP32 dims: 2 }, { name: "B" data_type: TYPE_FP32 dims: 2 } ]
        output { name: "SUM" data_type: TYPE_FP32 dims: -1 }
        """,
    )
    loaded = load(scan(tmp_path).models["mine"])
    assert loaded.signature.batched
    assert shapes(loaded.signature)["A"] == ("FP32", (-1, 2))
    a, b = floats([1, 2], [3, 4]), floats([5, 6], [7, 8])
    np.testing.assert_array_equal(loaded.predict({"A": a, "B": b}, None, {})["SUM"], a + b)


@pytest.mark.filterwarnings(r"ignore:`torch\.jit:DeprecationWarning")
def test_torchscript_inputs_go_by_their_place(tmp_path: Path) -> None:
    import torch

    class Two(torch.nn.Module):
        def forward(self, minuend: torch.Tensor, subtrahend: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return minuend - subtrahend, minuend * subtrahend

    (tmp_path / "mine" / "1").mkdir(parents=True)
    torch.jit.script(Two()).save(tmp_path / "mine" / "1" / "model.pt")  # type: ignore[no-untyped-call]
    model(
        tmp_path,
        """
        backend: "pytorch"  max_batch_size: 8
        input [ { name: "INPUT__1" data_type: TYPE_FP32 dims: 2 }, { name: "INPUT__0" data_type: TYPE_FP32 dims: 2 } ]
        output [ { name: "OUTPUT__0" data_type: TYPE_FP32 dims: 2 } ]
        output [ { name: "OUTPUT__1" data_type: TYPE_FP32 dims: 2 } ]
        """,
        "1/model.pt",
    )
    loaded = load(scan(tmp_path).models["mine"])
    assert set(shapes(loaded.signature)) == {"INPUT__0", "INPUT__1", "OUTPUT__0", "OUTPUT__1"}
    a, b = floats([5, 7]), floats([2, 3])
    answer = loaded.predict({"INPUT__0": a, "INPUT__1": b}, None, {})
    assert answer["OUTPUT__0"].tolist() == [[3, 4]]
    assert answer["OUTPUT__1"].tolist() == [[10, 21]]


def test_python_models_are_told_their_configuration(tmp_path: Path) -> None:
    code = """
import json
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.config = args["model_config"]
    def execute(self, requests):
        text = np.array([self.config.encode()], dtype=object)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("CONFIG", text)])]
"""
    config = """
        backend: "python" max_batch_size: 0
        input { name: "A" data_type: TYPE_INT64 dims: [ 1 ] }
        output { name: "CONFIG" data_type: TYPE_STRING dims: [ 1 ] }
        parameters: { key: "unit" value: { string_value: "kg" } }
        """
    folder = model(tmp_path, config, "1/model.py")
    (folder / "1" / "model.py").write_text(code)
    loaded = load(scan(tmp_path).models["mine"], allow_code=True)
    (text,) = loaded.predict({"A": np.array([1])}, None, {})["CONFIG"]
    assert json.loads(text) == {
        "name": "", "platform": "", "backend": "python", "max_batch_size": 0,
        "input": [{"name": "A", "data_type": "TYPE_INT64", "dims": [1]}],
        "output": [{"name": "CONFIG", "data_type": "TYPE_STRING", "dims": [1]}],
        "parameters": {"unit": {"string_value": "kg"}},
    }  # fmt: skip


@pytest.mark.e2e
def test_saved_models_answer_as_their_configuration_says(tmp_path: Path) -> None:
    from salver.runtimes.tensorflow import tf as tensorflow

    module = tensorflow.Module()
    module.double = tensorflow.function(
        lambda x: {"y": 2 * x}, input_signature=[tensorflow.TensorSpec([None, 2], tensorflow.float32, name="x")]
    )
    folder = tmp_path / "mine" / "1" / "model.savedmodel"
    tensorflow.saved_model.save(module, str(folder), signatures=module.double.get_concrete_function())
    model(
        tmp_path,
        """
        platform: "tensorflow_savedmodel" max_batch_size: 8
        input { name: "x" data_type: TYPE_FP32 dims: 2 }
        output { name: "y" data_type: TYPE_FP32 dims: 2 }
        """,
        "1/model.savedmodel/saved_model.pb",
    )
    loaded = load(scan(tmp_path).models["mine"])
    assert shapes(loaded.signature) == {"x": ("FP32", (-1, 2)), "y": ("FP32", (-1, 2))}
    assert loaded.predict({"x": floats([1, 2])}, None, {})["y"].tolist() == [[2, 4]]
    loaded.close()


def fil(root: Path, kind: str, dims: int, **parameters: str) -> LoadedModel:
    written = "".join(
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'
        for key, value in {"model_type": kind, "storage_type": "AUTO", **parameters}.items()
    )
    folder = model(
        root,
        f"""
        backend: "fil" max_batch_size: 32768
        input {{ name: "input__0" data_type: TYPE_FP32 dims: [ 3 ] }}
        output {{ name: "output__0" data_type: TYPE_FP32 dims: [ {dims} ] }}
        instance_group {{ kind: KIND_GPU count: 1 }}
        {written}""",
        "1/xgboost.json",
    )
    (problem,) = read(folder).problems
    assert problem.endswith("line 5: XGBoost and LightGBM models run on the CPU here")
    loaded = load(scan(root).models["mine"])
    assert shapes(loaded.signature) == {"input__0": ("FP32", (-1, 3)), "output__0": ("FP32", (-1, dims))}
    return loaded


def test_fil_models_answer_as_their_libraries_do(tmp_path: Path) -> None:
    import lightgbm
    import xgboost

    random = np.random.default_rng(0)
    x = random.normal(size=(200, 3)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] > 0).astype(int)
    booster = xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(x, y), 5)
    (tmp_path / "mine" / "1").mkdir(parents=True)
    booster.save_model(tmp_path / "mine" / "1" / "xgboost.json")
    expected = booster.predict(xgboost.DMatrix(x))

    def ask(loaded: LoadedModel) -> np.ndarray[Any, Any]:
        return loaded.predict({"input__0": x}, None, {})["output__0"]

    np.testing.assert_allclose(ask(fil(tmp_path, "xgboost_json", 1))[:, 0], expected, rtol=1e-6)
    classes = ask(fil(tmp_path, "xgboost_json", 1, output_class="true", threshold="0.8"))
    np.testing.assert_array_equal(classes[:, 0], expected > 0.8)
    classes = ask(fil(tmp_path, "xgboost_json", 1, output_class="true"))
    np.testing.assert_array_equal(classes[:, 0], expected > 0.5)
    probabilities = ask(fil(tmp_path, "xgboost_json", 2, output_class="true", predict_proba="true"))
    np.testing.assert_allclose(probabilities, np.stack([1 - expected, expected], 1), rtol=1e-5)
    with pytest.raises(InvalidConfig, match=r"output has the shape \[-1\], and its settings say \[-1, 2\]"):
        fil(tmp_path, "xgboost_json", 2, output_class="true")

    trees = lightgbm.train({"objective": "regression", "verbosity": -1}, lightgbm.Dataset(x, x[:, 2].copy()), 5)
    trees.save_model(tmp_path / "mine" / "1" / "model.txt")
    np.testing.assert_allclose(ask(fil(tmp_path, "lightgbm", 1))[:, 0], trees.predict(x), rtol=1e-5)
    with pytest.raises(InvalidConfig, match="for classifiers, and it has no label"):
        fil(tmp_path, "lightgbm", 1, output_class="true")
