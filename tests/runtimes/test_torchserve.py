"""Real model archives, with TorchServe's own handlers and with custom ones, against what PyTorch itself answers."""

from __future__ import annotations

import io
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchserve_archives import write_archive

from salver.core.errors import (
    CodeNotAllowed,
    InvalidArtifact,
    InvalidConfig,
    InvalidInput,
    LoadError,
    MissingDependency,
    ModelFailed,
)
from salver.core.model import ModelSpec
from salver.core.signature import TensorSpec
from salver.runtimes.base import LoadedModel
from salver.runtimes.detect import detect
from salver.runtimes.torchserve import TorchserveRuntime
from salver.runtimes.torchserve.archive import unpack

pytestmark = pytest.mark.filterwarnings(r"ignore:`torch\.jit:DeprecationWarning")

ECHO = """
def handle(data, context):
    return None if data is None else [row["data"] for row in data]
"""

_loaded: list[LoadedModel] = []


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Archives are unpacked below a folder of the test's own; models are closed in the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    while _loaded:
        _loaded.pop().close()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "model-store"


def load(path: Path, *, allow_code: bool = True, **settings: Any) -> LoadedModel:
    spec = ModelSpec(name="mine", version="1", path=path, runtime="torchserve", **settings)
    model = TorchserveRuntime(allow_code=allow_code).load(spec)
    _loaded.append(model)
    return model


def close(model: LoadedModel) -> None:
    _loaded.remove(model)
    model.close()


def rows(*elements: object) -> np.ndarray[Any, Any]:
    array = np.empty(len(elements), object)
    array[:] = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in elements]
    return array


def ask(model: LoadedModel, parameters: dict[str, Any] | None = None, **inputs: Any) -> list[Any]:
    output = model.predict(inputs, None, parameters or {})["output"]
    return [json.loads(each) for each in output]


def unpacked(temporary: Path) -> list[str]:
    return sorted(path.name for root in temporary.iterdir() for path in root.iterdir())


def png(seed: int = 0, size: tuple[int, int] = (300, 260)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class Scores(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 7, 16, stride=16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convolution(x).mean(dim=[2, 3])


def scripted(tmp_path: Path, module: torch.nn.Module) -> Path:
    file = tmp_path / "model.pt"
    torch.jit.script(module.eval()).save(file)  # type: ignore[no-untyped-call]
    return file


def test_the_base_handler_serves_torchscript(tmp_path: Path, store: Path, temporary: Path) -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(3, 2)
    code = """
import torch
from ts.torch_handler.base_handler import BaseHandler

class Handler(BaseHandler):
    def preprocess(self, data):
        return torch.tensor([row["body"]["x"] for row in data], dtype=torch.float32)
"""
    model = load(write_archive(store, code=code, serialized=scripted(tmp_path, linear)))
    assert model.signature.batched
    assert [(each.name, each.datatype, each.optional) for each in model.signature.inputs] == [
        ("data", "BYTES", True),
        ("body", "BYTES", True),
        ("json", "BYTES", True),
    ]
    x = torch.randn(5, 3)
    answers = ask(model, json=rows(*({"x": row} for row in x.tolist())))
    np.testing.assert_allclose(answers, linear(x).detach().numpy(), rtol=1e-5)
    assert model.memory_bytes() > 1000
    assert len(unpacked(temporary)) == 2  # the folder, and its lock
    close(model)
    assert unpacked(temporary) == []


def test_an_eager_model_brings_its_class_and_its_state(tmp_path: Path, store: Path) -> None:
    torch.manual_seed(1)
    code = """
from torch import nn
from layers import make

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = make()
    def forward(self, x):
        return self.layer(x).relu()
"""
    (tmp_path / "net.py").write_text(code)
    layer = torch.nn.Linear(4, 4)
    torch.save({f"layer.{key}": value for key, value in layer.state_dict().items()}, tmp_path / "state.pth")
    handler = """
import json, torch
import layers
from ts.torch_handler.base_handler import BaseHandler

class Handler(BaseHandler):
    def preprocess(self, data):
        assert layers.make
        return torch.tensor([json.loads(row["data"]) for row in data])
"""
    archive = write_archive(
        store,
        code=handler,
        serialized=tmp_path / "state.pth",
        model_file=tmp_path / "net.py",
        files={"layers.py": "from torch import nn\ndef make():\n    return nn.Linear(4, 4)\n"},
    )
    before = set(sys.modules)
    first, second = load(archive), load(archive)
    x = torch.randn(2, 4)
    for model in (first, second):
        answers = ask(model, data=rows(*x.tolist()))
        np.testing.assert_allclose(answers, layer(x).relu().detach().numpy(), rtol=1e-5, atol=1e-6)
        close(model)
    assert not {name for name in set(sys.modules) - before if name in ("net", "layers", "handler")}
    assert not [path for path in sys.path if "salver-torchserve" in path]


def test_image_classifier_without_a_handler_of_its_own(tmp_path: Path, store: Path) -> None:
    torch.manual_seed(2)
    module = Scores()
    labels = json.dumps({str(number): ["n0", f"class {number}"] for number in range(7)})
    archive = write_archive(
        store, handler="image_classifier", serialized=scripted(tmp_path, module), files={"index_to_name.json": labels}
    )
    model = load(archive)
    pictures = [png(0), png(1, (260, 400))]
    answers = ask(model, data=rows(*pictures))
    for picture, answer in zip(pictures, answers, strict=True):
        image = Image.open(io.BytesIO(picture))
        scale = 256 / min(image.size)
        image = image.resize((int(image.width * scale), int(image.height * scale)), Image.Resampling.BILINEAR)
        left, top = round((image.width - 224) / 2), round((image.height - 224) / 2)
        pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / 255
        pixels = (pixels - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
        scores = module(torch.from_numpy(pixels).permute(2, 0, 1)[None]).softmax(1)[0]
        best = scores.topk(5)
        assert list(answer) == [f"class {index}" for index in best.indices.tolist()]
        np.testing.assert_allclose(list(answer.values()), best.values.detach(), rtol=1e-4)


def test_image_segmenter_and_object_detector(tmp_path: Path, store: Path) -> None:
    class Segments(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"out": torch.stack([x[:, 0], x[:, 1] * 2], 1)}

    model = load(write_archive(store, "parts", handler="image_segmenter", serialized=scripted(tmp_path, Segments())))
    (answer,) = np.array(ask(model, data=rows(png(3)))).astype(np.float32)
    assert answer.shape == (224, 224, 2)
    assert set(np.unique(answer[:, :, 0])) == {0, 1}
    assert (answer[:, :, 1] >= 0.5).all()

    class Objects(torch.nn.Module):
        def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
            found: list[dict[str, torch.Tensor]] = []
            for image in images:
                size = float(image.shape[2])
                found.append(
                    {
                        "boxes": torch.tensor([[0.0, 0.0, size, 1.0], [1.0, 1.0, 2.0, 2.0]]),
                        "labels": torch.tensor([1, 2]),
                        "scores": torch.tensor([0.75, 0.25]),
                    }
                )
            return found

    archive = write_archive(
        store,
        "objects",
        handler="object_detector",
        serialized=scripted(tmp_path, Objects()),
        files={"index_to_name.json": '{"object_type_names": ["none", "cat", "dog"]}'},
    )
    assert ask(load(archive), body=rows(png(size=(40, 30)))) == [[{"cat": [0.0, 0.0, 40.0, 1.0], "score": 0.75}]]


def test_text_classifier(tmp_path: Path, store: Path) -> None:
    torch.manual_seed(3)

    class Bag(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.EmbeddingBag(20, 3)

        def forward(self, text: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
            return self.embedding(text, offsets)

    words = ["<unk>", "it", "is", "not", "cafe", "it is", "is not", "not cafe"]
    module = Bag()
    (tmp_path / "parts of mine 1.0").mkdir()
    vocabulary = tmp_path / "parts of mine 1.0" / "source_vocab.pt"
    torch.save({word: number for number, word in enumerate(words)}, vocabulary)
    archive = write_archive(store, handler="text_classifier", serialized=scripted(tmp_path, module))
    with pytest.raises(InvalidArtifact, match=r"has no source_vocab\.pt"):
        load(archive)
    with zipfile.ZipFile(archive, "a") as opened:
        opened.write(vocabulary, "source_vocab.pt")
    answers = ask(load(archive), data=rows("<b>It isn't</b> Café!".encode(), b"it banana"))
    texts = [[1, 2, 3, 4, 5, 6, 7], [1, 0, 0]]
    for answer, numbers in zip(answers, texts, strict=True):
        expected = module(torch.tensor(numbers), torch.tensor([0])).softmax(1)[0]
        np.testing.assert_allclose(list(answer.values()), expected.detach(), rtol=1e-5)
        assert list(answer) == ["0", "1", "2"]


def test_a_functions_handler_and_all_that_it_is_told(store: Path) -> None:
    code = """
import json, os
from ts.context import Context
from ts.handler_utils.timer import timed

told = {}

def initialize(context):
    folder = context.system_properties["model_dir"]
    with open(os.path.join(folder, "words.txt")) as file:
        told["words"] = file.read()
    told["settings"] = context.model_yaml_config["handler"]["unit"]
    told["name"] = context.model_name + " " + context.manifest["model"]["modelVersion"]
    assert isinstance(context, Context)

@timed
def answer(data, context):
    if not told:
        initialize(context)
    if data is None:
        return None
    context.metrics.add_counter("rows", len(data))
    context.set_response_content_type(0, "text/plain")
    unit = context.get_request_header(0, "unit")
    return [{**told, "unit": unit, "fields": sorted(row), "count": row["count"]} for row in data]
"""
    archive = write_archive(
        store, handler="handler:answer", code=code, version="1.2", files={"words.txt": "so many"},
        settings="handler:\n  unit: kg\n",
    )  # fmt: skip
    model = load(archive, inputs=(TensorSpec("count", "INT64", (-1,)),))
    answers = ask(model, {"unit": "g"}, data=rows(b"x", b"y"), count=np.array([3, 4]))
    common = {"words": "so many", "settings": "kg", "name": "mine 1.2", "unit": "g", "fields": ["count", "data"]}
    assert answers == [{**common, "count": 3}, {**common, "count": 4}]
    with pytest.raises(InvalidConfig, match="begins with -1"):
        load(archive, inputs=(TensorSpec("count", "INT64", (3,)),))


def test_answers_keep_their_kind(store: Path) -> None:
    code = """
import numpy as np
import torch
def handle(data, context):
    kinds = {b"text": "ä", b"bytes": b"\\0\\1", b"array": np.arange(2), b"tensor": {"x": torch.ones(1)}, b"set": {1}}
    return None if data is None else [kinds[row["data"]] for row in data]
"""
    model = load(write_archive(store, code=code))
    output = model.predict({"data": rows(b"text", b"bytes", b"array", b"tensor")}, None, {})["output"]
    assert output.tolist() == ["ä".encode(), b"\0\1", b"[0, 1]", b'{"x": [1.0]}']
    with pytest.raises(ModelFailed, match="can't be written as JSON: a set is neither"):
        model.predict({"data": rows(b"set")}, None, {})


def test_faults_of_requests_and_of_handlers_are_told_apart(store: Path) -> None:
    code = """
from ts.utils.util import PredictionException
def handle(data, context):
    if data is None:
        return
    what = data[0]["data"].decode()
    if what == "raise":
        raise KeyError("pictures")
    if what.startswith("status "):
        context.set_response_status(int(what[7:]), "by hand", 0)
    if what.startswith("exception "):
        raise PredictionException("unusable", int(what[10:]))
    if what == "few":
        return []
    return [what]
"""
    model = load(write_archive(store, code=code))
    for what, kind, message in (
        ("raise", ModelFailed, "failed in its handler: KeyError: 'pictures'"),
        ("status 415", InvalidInput, "status 415: by hand"),
        ("status 503", ModelFailed, "status 503: by hand"),
        ("exception 400", InvalidInput, "status 400: unusable"),
        ("exception 513", ModelFailed, "status 513: unusable"),
        ("few", ModelFailed, "gave 0 answers to 1 requests"),
    ):
        with pytest.raises(kind, match=message):
            model.predict({"data": rows(what.encode())}, None, {})
    with pytest.raises(InvalidInput, match="takes one of 'data', 'body' and 'json'"):
        model.predict({}, None, {})
    with pytest.raises(InvalidInput, match="row 1 isn't JSON"):
        model.predict({"json": rows(b"{}", b"{")}, None, {})
    assert model.predict({"data": rows(b"fine")}, None, {})["output"].tolist() == [b"fine"]


def test_archives_that_arent_archives_are_folders(store: Path, temporary: Path) -> None:
    folder = write_archive(store, code=ECHO, form="no-archive")
    assert detect(folder) == detect(folder, "torchserve") == ("torchserve", folder)
    model = load(folder)
    assert model.predict({"data": rows(b"x")}, None, {})["output"].tolist() == [b"x"]
    close(model)
    assert (folder / "handler.py").exists()
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"code": "import nosuchpackage\n"}, MissingDependency, "imports 'nosuchpackage', which isn't installed"),
        (
            {"code": "import ts.nosuchpart\n"},
            InvalidArtifact,
            "imports 'ts.nosuchpart': of the package 'ts', Salver has",
        ),
        ({"code": "x = 1\n"}, InvalidArtifact, "has 0 classes with a method handle"),
        ({"code": ECHO, "handler": "handler:other"}, InvalidArtifact, "has no function other"),
        ({"code": ECHO, "requirements": "nosuchpackage==3\n"}, MissingDependency, "pip install nosuchpackage==3"),
        ({"code": "def handle(data, context): raise OSError('no disk')"}, InvalidArtifact, "line 1 initialize failed"),
        ({"handler": "base_handler"}, InvalidArtifact, "names neither a serializedFile nor a modelFile"),
        ({"handler": "vllm_handler"}, InvalidArtifact, "has no handler vllm_handler.py, and of TorchServe's own there"),
        ({"code": ECHO, "settings": "[1"}, InvalidArtifact, r"model-config\.yaml isn't YAML"),
    ],
)
def test_what_is_wrong_with_an_archive(
    store: Path, temporary: Path, settings: dict[str, Any], kind: type[LoadError], message: str
) -> None:
    archive = write_archive(store, **settings)
    with pytest.raises(kind, match=message):
        load(archive)
    assert unpacked(temporary) == []


def test_nothing_runs_or_is_unpacked_without_permission(store: Path, temporary: Path) -> None:
    with pytest.raises(CodeNotAllowed, match="--allow-code"):
        load(write_archive(store, code=ECHO), allow_code=False)
    assert list(temporary.iterdir()) == []


def evil(tmp_path: Path, *entries: tuple[zipfile.ZipInfo | str, bytes]) -> Path:
    file = tmp_path / "evil.mar"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in entries:
            opened.writestr(name, content, zipfile.ZIP_DEFLATED)
    return file


def link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.create_system = 3
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([("../../outside", b"x")], "leads out of it"),
        ([("/outside", b"x")], "leads out of it"),
        ([("a\\..\\outside", b"x")], "leads out of it"),
        ([("a", b"x"), ("a", b"y")], "two files named 'a'"),
        ([("a", b"x"), ("./a", b"y")], "two files named"),
        ([(link("way"), b"/etc"), ("way/passwd", b"x")], "a link or a device: 'way'"),
        ([("/".join("abc" * 20), b"x")], "too deep"),
        ([("a", b"x"), ("a/b", b"x")], "can't be unpacked"),
        ([("zeros", bytes(2 << 20))], "would unpack to 2097152 bytes, more than the 1048576"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_of_enemies(tmp_path: Path, entries: list[tuple[Any, bytes]], message: str) -> None:
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(InvalidArtifact, match=message):
        unpack(evil(tmp_path, *entries), target, max_bytes=1 << 20)
    outside = [path for path in tmp_path.rglob("*") if path.name in ("outside", "passwd")]
    assert outside == []


def test_damaged_archives(tmp_path: Path, store: Path, temporary: Path) -> None:
    whole = write_archive(store, code=ECHO).read_bytes()
    for number, content in enumerate((b"", b"PK nonsense", whole[:-30], whole[:60] + b"\0\0\0\0" + whole[64:])):
        file = tmp_path / f"{number}.mar"
        file.write_bytes(content)
        with pytest.raises(InvalidArtifact):
            load(file)
    assert unpacked(temporary) == []


def test_what_a_killed_process_leaves_is_removed_by_the_next(store: Path, temporary: Path) -> None:
    archive = write_archive(store, code=ECHO)
    code = f"""
import signal, tempfile
tempfile.tempdir = {str(temporary)!r}
from pathlib import Path
from salver.core.model import ModelSpec
from salver.runtimes.torchserve import TorchserveRuntime
spec = ModelSpec(name="mine", version="1", path=Path({str(archive)!r}), runtime="torchserve")
model = TorchserveRuntime(allow_code=True).load(spec)
print("loaded", flush=True)
signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "loaded\n"
        left = unpacked(temporary)
        assert len(left) == 2
        mine = load(archive)
        assert set(left) < set(unpacked(temporary))  # it is in use
        child.send_signal(signal.SIGKILL)
        child.wait(60)
    other = load(archive)
    assert not set(left) & set(unpacked(temporary))
    assert len(unpacked(temporary)) == 4
    close(mine)
    close(other)
    assert os.listdir(next(temporary.iterdir())) == []
