"""The tensorflow runtime, on SavedModels and Keras models saved here."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import textwrap
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from small_models import engine_over, request
from tensorflow_models import FLOATS, WEIGHTS, save, save_linear, train_digits

from salver.core.errors import CodeNotAllowed, InvalidArtifact, InvalidConfig, InvalidInput, ModelFailed
from salver.core.model import ModelSpec
from salver.core.signature import TensorSpec
from salver.core.tensor import DTYPES, Array
from salver.runtimes.base import LoadedModel
from salver.runtimes.detect import detect
from salver.runtimes.tensorflow import TensorflowRuntime, tf

pytestmark = [
    pytest.mark.e2e,
    # TensorFlow's and Keras's own code, on the way to save a model.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(tensorflow|keras|google|flatbuffers).*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:(tensorflow|keras).*"),
]

VECTOR = tf.TensorSpec([None, 3], tf.float32, "x")


def load(path: Path, *, allow_code: bool = False, **settings: Any) -> LoadedModel:
    spec = ModelSpec(name="net", version="1", path=path, runtime="tensorflow", **settings)
    return TensorflowRuntime(allow_code=allow_code).load(spec)


def run(model: LoadedModel, **inputs: Any) -> dict[str, Array]:
    return model.predict(model.signature.check_inputs(inputs), None, {})


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_linear(tmp_path_factory.mktemp("linear") / "1")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two signatures, neither of which is the default."""
    return save(
        tmp_path_factory.mktemp("several") / "1",
        VECTOR,
        double=lambda x: {"twice": 2 * x, "rows": tf.reduce_sum(x, axis=1)},
        total=lambda x: {"total": tf.reduce_sum(x)},
    )


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Array, Array, Array]:
    """Keras's files and its export of a net, rows, their labels, and what Keras predicts."""
    folder = tmp_path_factory.mktemp("digits")
    model, rows, labels = train_digits()
    for name in ("model.keras", "model.h5"):
        model.save(folder / name)
    model.save_weights(folder / "model.weights.h5")
    model.export(folder / "saved", verbose=False)
    return folder, rows, labels, model.predict(rows, verbose=0)


def test_a_saved_model(linear: Path) -> None:
    model = load(linear)
    assert model.signature.inputs == (TensorSpec("x", "FP32", (-1, 3)),)
    assert model.signature.outputs == (TensorSpec("y", "FP32", (-1, 2)),)
    assert model.signature.batched
    assert (model.platform, model.device, model.kind) == ("tensorflow_savedmodel", "cpu", "sync")
    assert model.memory_bytes() > WEIGHTS.nbytes
    for rows in (FLOATS, FLOATS[:1], np.zeros((0, 3), np.float32)):
        found = run(model, x=rows)
        assert found["y"].dtype == np.float32
        np.testing.assert_allclose(found["y"], rows @ WEIGHTS)
    assert detect(linear) == ("tensorflow", linear)
    model.close()


def test_the_same_from_the_file_itself_and_as_text(linear: Path, tmp_path: Path) -> None:
    from google.protobuf import text_format
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    np.testing.assert_allclose(run(load(linear / "saved_model.pb"), x=FLOATS)["y"], FLOATS @ WEIGHTS)
    shutil.copytree(linear, tmp_path / "1")
    proto = SavedModel.FromString((linear / "saved_model.pb").read_bytes())
    (tmp_path / "1" / "saved_model.pb").unlink()
    (tmp_path / "1" / "saved_model.pbtxt").write_text(text_format.MessageToString(proto))
    np.testing.assert_allclose(run(load(tmp_path / "1"), x=FLOATS)["y"], FLOATS @ WEIGHTS)


def test_a_signature_is_chosen_by_name(several: Path) -> None:
    model = load(several, options={"signature": "double"})
    assert [tensor.name for tensor in model.signature.outputs] == ["rows", "twice"]
    found = run(model, x=FLOATS)
    np.testing.assert_allclose(found["twice"], 2 * FLOATS)
    np.testing.assert_allclose(found["rows"], FLOATS.sum(axis=1))
    assert model.predict({"x": FLOATS}, ["rows"], {}).keys() == {"rows"}
    total = load(several, options={"signature": "total"})
    assert not total.signature.batched
    found = run(total, x=FLOATS)
    assert (found["total"].shape, found["total"].dtype, float(found["total"])) == ((), np.float32, 15.0)


def test_the_only_signature_needs_no_name(tmp_path: Path) -> None:
    model = load(save(tmp_path / "1", VECTOR, other=lambda x: {"y": x + 1}))
    np.testing.assert_allclose(run(model, x=FLOATS)["y"], FLOATS + 1)


def test_which_signature_has_to_be_told(several: Path) -> None:
    with pytest.raises(InvalidArtifact, match="no signature 'serving_default'; name one of 'double', 'total' by the"):
        load(several)
    with pytest.raises(InvalidConfig, match=r"no signature 'doubel'; did you mean 'double'\?"):
        load(several, options={"signature": "doubel"})
    with pytest.raises(InvalidConfig, match="no signature 3"):
        load(several, options={"signature": 3})


def test_a_model_without_signatures_is_refused(tmp_path: Path) -> None:
    tf.saved_model.save(tf.Module(), str(tmp_path / "1"))
    with pytest.raises(InvalidArtifact, match="no signature that could be served; save the model with"):
        load(tmp_path / "1")


def test_tags(linear: Path) -> None:
    np.testing.assert_allclose(run(load(linear, options={"tags": ["serve"]}), x=FLOATS)["y"], FLOATS @ WEIGHTS)
    with pytest.raises(InvalidConfig, match=r"has the tags \['train'\]; there is: serve"):
        load(linear, options={"tags": ["train"]})
    with pytest.raises(InvalidConfig, match="'tags' is a list of names, not 'serve'"):
        load(linear, options={"tags": "serve"})


def test_a_saved_model_of_tensorflow_1(tmp_path: Path) -> None:
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 3], name="placeholder")
        weights = v1.get_variable("w", initializer=WEIGHTS, use_resource=False)
        y = x @ weights
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(tmp_path / "1"))
        signature = v1.saved_model.predict_signature_def({"images": x}, {"scores": y})
        builder.add_meta_graph_and_variables(session, ["serve", "cpu"], {"serving_default": signature})
        builder.save()
    model = load(tmp_path / "1")
    assert model.signature.inputs == (TensorSpec("images", "FP32", (-1, 3)),)
    np.testing.assert_allclose(run(model, images=FLOATS)["scores"], FLOATS @ WEIGHTS)


@pytest.mark.parametrize("datatype", sorted(DTYPES))
def test_every_datatype_goes_in_and_comes_out(tmp_path: Path, datatype: str) -> None:
    dtype = tf.string if datatype == "BYTES" else tf.as_dtype(DTYPES[datatype])
    model = load(
        save(tmp_path / "1", tf.TensorSpec([None, 2], dtype, "x"), serving_default=lambda x: {"y": tf.identity(x)})
    )
    assert model.signature.inputs[0].datatype == model.signature.outputs[0].datatype == datatype
    values: Any = [[b"a\xff", b"\x00b\x00"], [b"", b"c"]] if datatype == "BYTES" else [[0, 1], [1, 0]]
    rows = np.array(values, DTYPES[datatype])
    rows.setflags(write=False)  # as a request's are
    found = run(model, x=rows)["y"]
    assert found.dtype == DTYPES[datatype]
    assert found.tolist() == rows.tolist()


def test_text_numbers_and_scalars_together(tmp_path: Path) -> None:
    path = save(
        tmp_path / "1",
        tf.TensorSpec([], tf.string, "text"),
        tf.TensorSpec(None, tf.float32, "any"),
        serving_default=lambda text, any: {"upper": tf.strings.upper(text), "size": tf.size(any)},
    )
    model = load(path)
    assert model.signature.inputs == (TensorSpec("any", "FP32", None), TensorSpec("text", "BYTES", ()))
    found = run(model, text=np.array(b"ab\xc3\xa4", np.object_), any=np.ones((2, 2, 2), np.float32))
    assert (found["upper"].shape, found["upper"].item()) == ((), b"AB\xc3\xa4")
    assert (found["size"].dtype, found["size"].item()) == (np.int32, 8)


def test_vocabularies_of_a_model_are_loaded(tmp_path: Path) -> None:
    vocabulary = tmp_path / "words.txt"
    vocabulary.write_text("zero\none\ntwo\n")
    module = tf.Module()
    module.table = tf.lookup.StaticVocabularyTable(
        tf.lookup.TextFileInitializer(
            str(vocabulary),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        ),
        num_oov_buckets=1,
    )
    function = tf.function(
        lambda words: {"ids": module.table.lookup(words)}, input_signature=[tf.TensorSpec([None], tf.string, "words")]
    )
    tf.saved_model.save(module, str(tmp_path / "1"), signatures=function.get_concrete_function())
    vocabulary.unlink()
    found = run(load(tmp_path / "1"), words=np.array([b"two", b"zero", b"?"], np.object_))
    assert found["ids"].tolist() == [2, 0, 3]


def test_what_no_request_carries(linear: Path, tmp_path: Path) -> None:
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    complex_input = save(
        tmp_path / "in", tf.TensorSpec([None], tf.complex64, "x"), serving_default=lambda x: {"y": tf.abs(x)}
    )
    with pytest.raises(InvalidArtifact, match=r"input 'x' of .* is of type complex64, which no request can carry"):
        load(complex_input)
    complex_output = save(
        tmp_path / "out",
        tf.TensorSpec([None], tf.float32, "x"),
        serving_default=lambda x: {"c": tf.complex(x, x), "y": x},
    )
    assert [tensor.name for tensor in load(complex_output).signature.outputs] == ["y"]
    proto = SavedModel.FromString((linear / "saved_model.pb").read_bytes())
    proto.meta_graphs[0].signature_def["serving_default"].inputs["x"].coo_sparse.values_tensor_name = "x:0"
    (tmp_path / "sparse").mkdir()
    (tmp_path / "sparse" / "saved_model.pb").write_bytes(proto.SerializeToString())
    with pytest.raises(InvalidArtifact, match=r"input 'x' of .* is a coo_sparse tensor, which no request can carry"):
        load(tmp_path / "sparse")


def test_model_yaml_narrows_and_is_held_to(linear: Path) -> None:
    assert not load(linear, batched=False).signature.batched
    with pytest.raises(InvalidConfig, match="'x' is FP32, and its settings say FP64"):
        load(linear, inputs=(TensorSpec("x", "FP64", None),))
    with pytest.raises(
        InvalidConfig, match="the tensorflow runtime has no option 'signatur'; did you mean 'signature'"
    ):
        load(linear, options={"signatur": "x"})
    with pytest.raises(InvalidConfig, match="device is 'cuda:7', but of CUDA GPUs there are"):
        load(linear, device="cuda:7")


def test_what_a_model_refuses_and_where_it_fails(tmp_path: Path) -> None:
    refuses = load(
        save(
            tmp_path / "1",
            tf.TensorSpec([None, None], tf.float32, "x"),
            serving_default=lambda x: {"y": x @ tf.constant(WEIGHTS)},
        )
    )
    with pytest.raises(InvalidInput) as raised:
        run(refuses, x=np.ones((2, 4), np.float32))
    assert str(raised.value) == ("model 'net' refused its input: Matrix size-incompatible: In[0]: [2,4], In[1]: [3,2]")
    exhausts = load(
        save(
            tmp_path / "2",
            tf.TensorSpec([], tf.int64, "n"),
            serving_default=lambda n: {"y": tf.reduce_sum(tf.random.uniform(tf.stack([n, n, n])))},
        )
    )
    with pytest.raises(ModelFailed, match="failed in TensorFlow: OOM when allocating tensor"):
        run(exhausts, n=np.array(200_000, np.int64))
    assert run(exhausts, n=np.array(2, np.int64))["y"].shape == ()


def test_many_calls_at_a_time(linear: Path) -> None:
    model = load(linear)
    inputs = [np.full((1 + n % 5, 3), n, np.float32) for n in range(200)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda rows: run(model, x=rows)["y"], inputs))
    for rows, y in zip(inputs, found, strict=True):
        np.testing.assert_allclose(y, rows @ WEIGHTS)


def test_models_side_by_side_do_not_mix(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = [save_linear(tmp_path / str(n), factor=n) for n in range(4)]
        models = list(pool.map(load, paths))
    for n, model in enumerate(models):
        np.testing.assert_allclose(run(model, x=FLOATS)["y"], n * FLOATS @ WEIGHTS)
    models.pop(0).close()
    np.testing.assert_allclose(run(models[0], x=FLOATS)["y"], FLOATS @ WEIGHTS)


@pytest.mark.parametrize("operator", ["py_function", "numpy_function", "write_file", "in a loop"])
def test_graphs_that_call_python_or_touch_files_need_permission(tmp_path: Path, operator: str) -> None:
    target = tmp_path / "written"

    def body(x: Any) -> Any:
        if operator == "py_function":
            return tf.py_function(lambda a: a + 1, [x], tf.float32)
        if operator == "numpy_function":
            return tf.numpy_function(lambda a: a + 1, [x], tf.float32)
        if operator == "in a loop":
            return tf.map_fn(lambda row: tf.py_function(lambda a: a, [row], tf.float32), x)
        with tf.control_dependencies([tf.io.write_file(str(target), "content")]):
            return tf.identity(x)

    path = save(tmp_path / "1", VECTOR, serving_default=lambda x: {"y": body(x)})
    expected = "reaches for files or the network" if operator == "write_file" else "calls Python functions"
    with pytest.raises(CodeNotAllowed, match=expected + r" \(\w+\), which isn't allowed; if you trust the file, set"):
        load(path)
    assert not target.exists()
    assert load(path, allow_code=True).signature.inputs[0].name == "x"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("cut", "is damaged"),
        ("garbage", "is damaged"),
        ("no variables", "TensorFlow can't load .*variables"),
        ("cut variables", "TensorFlow can't load"),
        ("empty", "is no SavedModel; expected a folder with saved_model.pb"),
        ("no graph", "no graph in .* is tagged 'serve'; choose one by the option 'tags'. There is: no graph at all"),
        ("operator", "TensorFlow can't load .*Op type not registered 'NoSuchOp'"),
        ("tensor", "is damaged: .*nowhere"),
    ],
)
def test_damaged_saved_models(linear: Path, tmp_path: Path, damage: str, message: str) -> None:
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    folder = tmp_path / "1"
    shutil.copytree(linear, folder)
    file = folder / "saved_model.pb"
    proto = SavedModel.FromString(file.read_bytes())
    variables = folder / "variables" / "variables.data-00000-of-00001"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-20])
    elif damage == "garbage":
        file.write_bytes(b"\xff" * 100)
    elif damage == "no variables":
        shutil.rmtree(folder / "variables")
    elif damage == "cut variables":
        variables.write_bytes(variables.read_bytes()[:10])
    elif damage == "empty":
        file.unlink()
    elif damage == "no graph":
        file.write_bytes(b"")
    elif damage == "operator":
        proto.meta_graphs[0].graph_def.node.add(name="strange", op="NoSuchOp")
        file.write_bytes(proto.SerializeToString())
    else:
        proto.meta_graphs[0].signature_def["serving_default"].outputs["y"].name = "nowhere:0"
        file.write_bytes(proto.SerializeToString())
    with pytest.raises(InvalidArtifact, match=re.compile(message, re.DOTALL)) as raised:
        load(folder)
    assert len(str(raised.value)) < 1500


@pytest.mark.parametrize("file", ["model.keras", "model.h5", "saved"])
def test_keras_models_predict_what_keras_does(digits: tuple[Path, Array, Array, Array], file: str) -> None:
    folder, rows, labels, expected = digits
    assert detect(folder / file) == ("tensorflow", folder / file)
    model = load(folder / file)
    assert model.signature.inputs == (TensorSpec("pixels", "FP32", (-1, 64)),)
    assert model.signature.outputs == (TensorSpec("output_0", "FP32", (-1, 10)),)
    assert model.signature.batched
    found = run(model, pixels=rows)["output_0"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert (found.argmax(axis=1) == labels).mean() > 0.8


def test_keras_names_of_several_inputs_and_outputs(tmp_path: Path) -> None:
    import keras

    a = keras.Input((4,), name="a")
    words = keras.Input((None,), name="words", dtype="int32")
    mean = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(10, 4)(words))
    net = keras.Model({"a": a, "words": words}, {"score": keras.layers.Dense(1)(a + mean), "same": a})
    net.save(tmp_path / "model.keras")
    model = load(tmp_path / "model.keras")
    assert model.signature.inputs == (TensorSpec("a", "FP32", (-1, 4)), TensorSpec("words", "INT32", (-1, -1)))
    inputs = {"a": np.ones((2, 4), np.float32), "words": np.array([[1, 2, 3], [4, 5, 6]], np.int32)}
    expected = net.predict(inputs, verbose=0)
    found = run(model, **inputs)
    assert found.keys() == {"score", "same"}
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_lambda_layers_need_permission(tmp_path: Path, suffix: str) -> None:
    import keras

    path = tmp_path / f"model{suffix}"
    keras.Sequential([keras.Input((3,), name="x"), keras.layers.Lambda(lambda x: x * 2)]).save(path)
    with pytest.raises(CodeNotAllowed, match=r"has code in it \(a Lambda layer, or"):
        load(path)
    np.testing.assert_allclose(run(load(path, allow_code=True), x=FLOATS)["output_0"], 2 * FLOATS)


def test_keras_files_that_cannot_be_loaded(tmp_path: Path, digits: tuple[Path, Array, Array, Array]) -> None:
    import keras

    with pytest.raises(InvalidArtifact, match="holds weights only"):
        load(digits[0] / "model.weights.h5")
    for name in ("no.keras", "no.h5"):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(InvalidArtifact, match="damaged, or no Keras file"):
            load(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "empty.keras", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(InvalidArtifact, match=r"empty\.keras"):
        load(tmp_path / "empty.keras")

    class Own(keras.layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x

    keras.Sequential([keras.Input((3,)), Own()]).save(tmp_path / "own.keras")
    with pytest.raises(InvalidArtifact, match=r"a class of its own, whose code isn't in the file; .*model\.export"):
        load(tmp_path / "own.keras")


SEPARATE = """
import gc, sys
from pathlib import Path
import psutil
import numpy as np
from salver.core.model import ModelSpec
from salver.runtimes.tensorflow import TensorflowRuntime

def load(**settings):
    return TensorflowRuntime().load(
        ModelSpec(name="net", version="1", path=Path(sys.argv[1]), runtime="tensorflow", **settings)
    )

def run(model):
    model.predict({"x": np.ones((1, 3), np.float32)}, None, {})

def rss():
    gc.collect()
    return psutil.Process().memory_info().rss >> 20
"""


def separately(path: Path, code: str) -> tuple[str, str]:
    """Output and errors of a process in which TensorFlow hasn't run yet."""
    done = subprocess.run(
        [sys.executable, "-c", SEPARATE + textwrap.dedent(code), str(path)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_closing_gives_the_memory_back(tmp_path: Path) -> None:
    module = tf.Module()
    module.weights = tf.Variable(np.ones((3, 64 << 18), np.float32))  # 192 MiB
    function = tf.function(
        lambda x: {"y": tf.reduce_sum(x @ module.weights, axis=1)}, input_signature=[VECTOR]
    ).get_concrete_function()
    tf.saved_model.save(module, str(tmp_path / "1"), signatures=function)
    out, err = separately(
        tmp_path / "1",
        """
        model = load()
        run(model)
        bytes = model.memory_bytes() >> 20
        loaded = rss()
        model.close()
        print(bytes, loaded - rss())
        """,
    )
    told, freed = map(int, out.split())
    assert told == 192
    assert freed >= 190
    assert err == ""  # TensorFlow says nothing on stderr, neither when it is imported nor later


def test_threads_are_decided_by_the_first_model(linear: Path) -> None:
    out, err = separately(
        linear,
        """
        import logging
        logging.basicConfig(format="%(message)s")
        print(load(threads=2).threads, load().threads)
        print(load(threads=3).threads)
        """,
    )
    assert out.split() == ["2", "2", "2"]
    assert "threads is 3, but TensorFlow has one pool for all models of a process, and that has 2 threads" in err


@pytest.mark.parametrize("kind", ["saved_model", "keras"])
async def test_processes_of_their_own(
    linear: Path, digits: tuple[Path, Array, Array, Array], tmp_path: Path, kind: str
) -> None:
    """Children are forked from a process that has imported TensorFlow; it may not have run it."""
    folder, rows, _, expected = digits
    version = tmp_path / "net" / "1"
    if kind == "keras":
        version.mkdir(parents=True)
        shutil.copy(folder / "model.keras", version)
    else:
        shutil.copytree(linear, version)
    (tmp_path / "net" / "model.yaml").write_text("isolation: process\ninstances: 2\n")
    async with engine_over(tmp_path) as engine:
        if kind == "keras":
            for _ in range(4):
                answer = await engine.predict(request("net", pixels=rows))
                np.testing.assert_allclose(answer.outputs["output_0"], expected, rtol=1e-4, atol=1e-6)
        else:
            for _ in range(4):
                answer = await engine.predict(request("net", x=FLOATS))
                np.testing.assert_allclose(answer.outputs["y"], FLOATS @ WEIGHTS)


def test_bfloat16_is_numpys_own(tmp_path: Path) -> None:
    model = load(save(tmp_path / "1", tf.TensorSpec([None], tf.bfloat16, "x"), serving_default=lambda x: {"y": x * 2}))
    found = run(model, x=np.array([1.5, -2.0], ml_dtypes.bfloat16))["y"]
    assert found.dtype == ml_dtypes.bfloat16
    assert found.astype(np.float32).tolist() == [3.0, -4.0]
