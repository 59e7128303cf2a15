"""The openvino runtime, on models converted here; what they predict is held against their own frameworks."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
import openvino as ov
import pytest
from onnx_files import ONNX_TYPES, write_constant, write_graph
from openvino import opset13 as ops
from small_models import engine_over, request

from salver.core.errors import InvalidArtifact, InvalidConfig, InvalidInput
from salver.core.model import ModelSpec
from salver.core.scheduling import Scheduling
from salver.core.signature import TensorSpec
from salver.core.tensor import DTYPES, Array
from salver.runtimes.base import LoadedModel
from salver.runtimes.detect import detect
from salver.runtimes.openvino import OpenvinoRuntime
from salver.runtimes.openvino_shapes import ShapeCheck
from salver.runtimes.settings import cores

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(tensorflow|keras|google|flatbuffers).*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:(tensorflow|keras).*"),
]


def load(path: Path, **settings: Any) -> LoadedModel:
    return OpenvinoRuntime().load(ModelSpec(name="net", version="1", path=path, runtime="openvino", **settings))


def run(model: LoadedModel, **inputs: Any) -> dict[str, Array]:
    return model.predict(model.signature.check_inputs(inputs), None, {})


def convert(source: Path, folder: Path) -> Path:
    """OpenVINO's IR of an ONNX file or a SavedModel."""
    folder.mkdir(parents=True, exist_ok=True)
    ov.save_model(ov.Core().read_model(source), folder / "model.xml", compress_to_fp16=False)
    return folder / "model.xml"


def build(folder: Path, function: Any, *, dtype: Any = np.float32, shape: Sequence[int] = (-1, 2)) -> Path:
    """An IR of a function of ``x``."""
    x = ops.parameter(list(shape), dtype, name="x")
    x.output(0).get_tensor().set_names({"x"})
    result = function(x)
    result.output(0).get_tensor().set_names({"y"})
    folder.mkdir(parents=True, exist_ok=True)
    ov.save_model(ov.Model([result], [x], "net"), folder / "model.xml", compress_to_fp16=False)
    return folder / "model.xml"


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("double") / "1", lambda x: ops.multiply(x, np.float32(2)))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Array, Array]:
    """The IR of a Keras net, rows, and what Keras predicts for them."""
    from tensorflow_models import train_digits

    folder = tmp_path_factory.mktemp("digits")
    model, rows, _ = train_digits()
    model.export(folder / "saved", verbose=False)
    expected = model.predict(rows, verbose=0)
    return convert(folder / "saved", folder / "net" / "1"), rows, expected


def test_a_keras_net(digits: tuple[Path, Array, Array]) -> None:
    path, rows, expected = digits
    assert detect(path.parent) == ("openvino", path)
    model = load(path)
    assert model.signature.inputs == (TensorSpec("pixels", "FP32", (-1, 64)),)
    (output,) = model.signature.outputs
    assert (output.name, output.datatype, output.shape) == ("output_0", "FP32", (-1, 10))
    assert model.signature.batched
    assert (model.platform, model.device, model.kind) == ("openvino", "cpu", "sync")
    assert model.memory_bytes() >= 4 * (64 * 32 + 32 * 10)
    np.testing.assert_allclose(run(model, pixels=rows)["output_0"], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(run(model, pixels=rows[:1])["output_0"], expected[:1], rtol=1e-4, atol=1e-6)
    model.close()


def test_onnx_files_where_model_yaml_says_so(tmp_path: Path) -> None:
    write_constant(tmp_path / "1", 3.0)
    path = tmp_path / "1" / "model.onnx"
    assert detect(path.parent) == ("onnx", path)
    assert detect(path.parent, "openvino") == ("openvino", path)
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    (expected,) = onnxruntime.InferenceSession(path).run(None, {"INPUT0": rows})
    model = load(path)
    assert model.signature.inputs == (TensorSpec("INPUT0", "FP32", (-1, -1)),)
    np.testing.assert_allclose(run(model, INPUT0=rows)["OUTPUT0"], expected)
    np.testing.assert_allclose(run(load(convert(path, tmp_path / "ir")), INPUT0=rows)["OUTPUT0"], expected)


def test_tensorflow_lite_files_where_model_yaml_says_so(tmp_path: Path) -> None:
    from salver.runtimes.tensorflow import tf

    @tf.function(input_signature=[tf.TensorSpec([1, 3], tf.float32, "x")])  # type: ignore[untyped-decorator]
    def function(x: Any) -> Any:
        return {"y": tf.tanh(x) * 2}

    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
    (tmp_path / "net.tflite").write_bytes(converter.convert())
    with pytest.raises(InvalidArtifact, match="holds no model file"):
        detect(tmp_path)
    assert detect(tmp_path, "openvino") == ("openvino", tmp_path / "net.tflite")
    model = load(tmp_path / "net.tflite")
    row = np.array([[0.5, -1, 2]], np.float32)
    (tensor,), (output,) = model.signature.inputs, model.signature.outputs
    assert (tensor.datatype, tensor.shape, model.signature.batched) == ("FP32", (1, 3), False)
    found = run(model, **{tensor.name: row})[output.name]
    np.testing.assert_allclose(found, np.tanh(row) * 2, rtol=1e-5)


def test_a_sentence_encoder_of_any_length(torch_repository: Path) -> None:
    """Free dimensions, several inputs: MiniLM as ONNX, held against ONNX Runtime."""
    path = torch_repository / "minilm-onnx" / "1" / "model.onnx"
    session = onnxruntime.InferenceSession(path)
    model = load(path)
    assert {tensor.name for tensor in model.signature.inputs} == {node.name for node in session.get_inputs()}
    for rows, tokens in ((1, 5), (3, 12)):
        inputs = {
            node.name: np.full((rows, tokens), 0 if "type" in node.name else 1, np.int64)
            for node in session.get_inputs()
        }
        names = [tensor.name for tensor in model.signature.outputs]
        expected = dict(zip(names, session.run(names, inputs), strict=True))
        found = run(model, **inputs)
        for name in names:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("datatype", sorted(set(DTYPES) - {"BYTES"}))
def test_every_datatype_goes_in_and_comes_out(tmp_path: Path, datatype: str) -> None:
    dtype = ov.Type.bf16 if datatype == "BF16" else DTYPES[datatype]
    model = load(build(tmp_path, lambda x: ops.reshape(x, np.array([-1, 2]), special_zero=False), dtype=dtype))
    assert model.signature.inputs[0].datatype == model.signature.outputs[0].datatype == datatype
    rows = np.array([[0, 1], [1, 0], [1, 1]], DTYPES[datatype])
    rows.setflags(write=False)  # as a request's are
    for given in (rows, rows[::2], np.asfortranarray(rows)):
        found = run(model, x=given)["y"]
        assert found.dtype == DTYPES[datatype]
        assert found.tolist() == given.tolist()


def test_bfloat16_is_computed_with(tmp_path: Path) -> None:
    one = np.array([1], ml_dtypes.bfloat16)
    constant = ov.Tensor(one.view(np.uint16), ov.Shape([1]), ov.Type.bf16)
    model = load(build(tmp_path, lambda x: ops.add(x, ops.constant(constant)), dtype=ov.Type.bf16))
    assert run(model, x=np.array([[1.5, -2]], ml_dtypes.bfloat16))["y"].tolist() == [[2.5, -1.0]]


def test_text_is_refused(tmp_path: Path) -> None:
    path = build(tmp_path, lambda x: ops.reshape(x, np.array([-1]), special_zero=False), dtype=ov.Type.string)
    with pytest.raises(InvalidArtifact, match=r"input 'x' of .* is of type string, which the openvino runtime can't"):
        load(path)


def test_outputs_are_the_callers_own(double: Path) -> None:
    model = load(double)
    first = run(model, x=np.ones((1, 2), np.float32))["y"]
    run(model, x=np.full((1, 2), 5, np.float32))
    assert first.tolist() == [[2.0, 2.0]]


def test_many_calls_at_a_time(double: Path) -> None:
    model = load(double)
    inputs = [np.full((1 + n % 5, 2), n, np.float32) for n in range(300)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda rows: run(model, x=rows)["y"], inputs))
    for rows, y in zip(inputs, found, strict=True):
        np.testing.assert_array_equal(y, 2 * rows)


def test_a_models_own_state_does_not_pass_from_caller_to_caller(tmp_path: Path) -> None:
    """IR may have variables that a request keeps from call to call."""

    def total(x: Any) -> Any:
        before = ops.read_value(ops.constant(np.zeros((1, 2), np.float32)), "total", np.float32, [1, 2])
        return ops.assign(ops.add(before, x), "total")

    x = ops.parameter([1, 2], np.float32, name="x")
    x.output(0).get_tensor().set_names({"x"})
    sink = total(x)
    result = ops.result(sink.input_value(0))
    ov.save_model(ov.Model([result], [sink], [x], "net"), tmp_path / "model.xml")
    model = load(tmp_path / "model.xml")
    (name,) = [tensor.name for tensor in model.signature.outputs]
    for _ in range(3):
        assert run(model, x=np.ones((1, 2), np.float32))[name].tolist() == [[1.0, 1.0]]


def test_overwriting_the_files_leaves_a_loaded_model_as_it_is(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).standard_normal((2, 4096)).astype(np.float32)
    path = build(tmp_path, lambda x: ops.matmul(x, weights, False, False))
    model = load(path)
    rows = np.ones((1, 2), np.float32)
    before = run(model, x=rows)["y"]
    with path.with_suffix(".bin").open("r+b") as file:
        file.truncate(0)
    np.testing.assert_array_equal(run(model, x=rows)["y"], before)
    np.testing.assert_allclose(before, rows @ weights, rtol=1e-5)


def test_threads_and_streams(double: Path) -> None:
    assert load(double).threads == 1
    assert load(double, threads=2).threads == 2
    assert load(double, one_at_a_time=True).threads == cores()
    assert load(double, threads=1, scheduling=Scheduling(instances=3)).threads == 1
    for options in (
        {"performance_hint": "throughput"},
        {"performance_hint": "LATENCY", "cpu_pinning": True},
        {"num_streams": 2},
        {"execution_mode": "performance"},
    ):
        model = load(double, options=options)
        assert 1 <= model.threads <= cores()
        assert run(model, x=np.ones((1, 2), np.float32))["y"].tolist() == [[2.0, 2.0]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"options": {"hint": "x"}}, "has no option 'hint'"),
        ({"options": {"performance_hint": "fast"}}, "option 'performance_hint' can't be 'fast'"),
        ({"options": {"execution_mode": 3}}, "option 'execution_mode' can't be 3"),
        ({"options": {"num_streams": 0}}, "option 'num_streams' is a number from 1 to 1024, not 0"),
        ({"options": {"cpu_pinning": "no"}}, "option 'cpu_pinning' is true or false, not 'no'"),
        ({"device": "cuda"}, "runs on the CPU; for NVIDIA GPUs use the onnx runtime"),
        ({"inputs": (TensorSpec("x", "FP64", None),)}, "'x' is FP32, and its settings say FP64"),
    ],
)
def test_settings_that_are_refused(double: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        load(double, **settings)


def test_files_that_are_refused(double: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidArtifact, match=r"isn't a \.xml, \.onnx or \.tflite file"):
        load(tmp_path)
    broken = tmp_path / "broken.xml"
    broken.write_text("<net>")
    with pytest.raises(InvalidArtifact, match="is no OpenVINO IR"):
        load(broken)
    shutil.copy(double, tmp_path / "model.xml")
    with pytest.raises(InvalidArtifact, match=r"has no model\.bin beside it, which holds its weights"):
        load(tmp_path / "model.xml")
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(InvalidArtifact, match=r"OpenVINO can't load .*model\.xml"):
        load(tmp_path / "model.xml")
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07nothing")
    with pytest.raises(InvalidArtifact, match=r"OpenVINO can't load .*model\.onnx"):
        load(tmp_path / "model.onnx")


@pytest.mark.parametrize("mode", ["accuracy", "performance"])
def test_shapes_that_do_not_suit_are_refused(tmp_path: Path, mode: str) -> None:
    """OpenVINO's CPU plugin alone gives numbers for them, some of which lie beyond the input."""
    weights = np.arange(12, dtype=np.float32).reshape(3, 4)
    path = build(tmp_path, lambda x: ops.matmul(x, weights, False, False), shape=(-1, -1))
    model = load(path, options={"execution_mode": mode})
    for columns in (2, 5, 1, 3, 7, 2):
        rows = np.ones((2, columns), np.float32)
        if columns == 3:
            assert run(model, x=rows)["y"].tolist() == [[12.0, 15.0, 18.0, 21.0]] * 2
            continue
        with pytest.raises(InvalidInput) as raised:
            run(model, x=rows)
        assert str(raised.value) == (
            "model 'net' refused its input: Incompatible MatMul matrix dimension. First input dimension="
            f"{columns} at COL_INDEX_DIM=1 doesn't match the second input dimension=3 at ROW_INDEX_DIM=0"
        )


def test_shapes_are_checked_without_the_weights(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).standard_normal((64, 4096)).astype(np.float32)
    path = build(tmp_path, lambda x: ops.matmul(x, weights, False, False), shape=(-1, -1))
    check = ShapeCheck(ov.Core().read_model(path))
    constants = [node for node in check._graph.get_ops() if node.get_type_name() == "Constant"]
    assert sum(int(np.prod(list(node.get_output_shape(0)))) for node in constants) < 100
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(check.check, [((1 + n % 7, 64),) for n in range(100)])) == [None] * 100
    with pytest.raises(RuntimeError, match="Incompatible"):
        check.check(((1, 65),))


async def test_a_process_of_its_own(digits: tuple[Path, Array, Array], tmp_path: Path) -> None:
    path, rows, expected = digits
    shutil.copytree(path.parent, tmp_path / "net" / "1")
    (tmp_path / "net" / "model.yaml").write_text("isolation: process\ninstances: 2\n")
    async with engine_over(tmp_path) as engine:
        for _ in range(4):
            answer = await engine.predict(request("net", pixels=rows))
            np.testing.assert_allclose(answer.outputs["output_0"], expected, rtol=1e-4, atol=1e-6)


def test_names_of_tensors_that_have_none(tmp_path: Path) -> None:
    x = ops.parameter([-1, 2], np.float32)
    ov.save_model(ov.Model([ops.relu(x), ops.exp(x)], [x], "net"), tmp_path / "model.xml")
    model = load(tmp_path / "model.xml")
    names = [tensor.name for tensor in (*model.signature.inputs, *model.signature.outputs)]
    assert len(set(names)) == 3
    found = model.predict({names[0]: np.zeros((1, 2), np.float32)}, None, {})
    assert found[names[1]].tolist() == [[0.0, 0.0]]
    assert found[names[2]].tolist() == [[1.0, 1.0]]


def test_graphs_with_every_type_of_onnx(tmp_path: Path) -> None:
    assert set(ONNX_TYPES) == set(DTYPES)
    write_graph(tmp_path / "1", "INT32", [("Add", ["a", "b"], "sum")])
    found = run(load(tmp_path / "1" / "model.onnx"), a=np.array([[1]], np.int32), b=np.array([[2]], np.int32))
    assert found["sum"].tolist() == [[3]]
