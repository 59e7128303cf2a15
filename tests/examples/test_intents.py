"""The example of many tenants: each chatbot's own model, pushed to a model store and asked through a real server."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

INTENTS = Path(__file__).resolve().parents[2] / "examples" / "intents"
sys.path.insert(0, str(INTENTS))

import chatbots  # noqa: E402
import publish  # noqa: E402

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("intents")


@pytest.fixture(scope="module")
def model(build: Path) -> onnxruntime.InferenceSession:
    """That of the first tenant."""
    first = chatbots.make_chatbot(0)
    folder = publish.models_folder(build)
    publish.train_all([first], folder, lambda: None)
    return onnxruntime.InferenceSession(publish.model_file(folder, first))


def run(build: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(INTENTS / "run.py"), "--build", str(build), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def test_ten_tenants_are_trained_pushed_and_answer_for_themselves(build: Path) -> None:
    done = run(build, "--tenants", "10")
    assert (done.returncode, done.stderr) == (0, "")
    right = [float(found) for found in re.findall(r"(\d+\.\d)%\s*│", done.stdout)]
    assert len(right) == 10  # each is of another trade
    assert min(right) >= 80
    assert "10 of 10 models are loaded" in done.stdout
    trained = publish.models_folder(build)
    assert all(publish.model_file(trained, each).stat().st_size > 300_000 for each in chatbots.make_chatbots(10))


def test_the_answer_of_another_tenant_is_found_out(tmp_path: Path, build: Path, model: object) -> None:
    first, second = chatbots.make_chatbots(2)
    swapped = publish.model_file(publish.models_folder(tmp_path), second)
    swapped.parent.mkdir(parents=True)
    swapped.write_bytes(publish.model_file(publish.models_folder(build), first).read_bytes())
    done = run(tmp_path, "--tenants", "2")
    assert done.returncode == 1
    assert f"{len(second.held_out)} answers came from another tenant's model" in done.stdout


def test_tenants_are_the_same_each_time_and_unlike_each_other() -> None:
    some, again = chatbots.make_chatbots(26), chatbots.make_chatbots(26)
    assert some == again
    assert len({each.name for each in some}) == 26
    assert len({each.training for each in some}) == 26
    for each in some:
        assert len(each.labels) >= 4
        assert all(label.startswith(f"{each.name}/") for label in each.labels)
        assert not {question.text for question in each.training} & {question.text for question in each.held_out}
        assert {question.label for question in each.held_out} == set(each.labels)


def answers(model: Any, *texts: str) -> tuple[list[str], list[float]]:
    labels, confidences = model.run(["intent", "confidence"], {"text": np.array(texts, dtype=object)})
    return labels.tolist(), confidences.tolist()


def test_the_graph_reads_texts_as_training_did(model: Any) -> None:
    question = chatbots.make_chatbot(0).held_out[0]
    spaced = "  ".join(chatbots.words(question.text))
    labels, confidences = answers(model, question.text, question.text.upper(), f"!! {spaced} ...", spaced)
    assert labels == [question.label] * 4
    np.testing.assert_allclose(confidences, confidences[0], rtol=1e-5)


def test_texts_in_a_batch_answer_as_they_do_alone(model: Any) -> None:
    texts = [question.text for question in chatbots.make_chatbot(0).held_out]
    together = answers(model, *texts)
    alone = [answers(model, text) for text in texts]
    assert together[0] == [labels[0] for labels, _ in alone]
    np.testing.assert_allclose(together[1], [confidences[0] for _, confidences in alone], rtol=1e-4)


def test_texts_without_a_known_word_get_an_unsure_answer(model: Any) -> None:
    labels, confidences = answers(model, "", "?!", "zzz qqq", "日本語")
    assert set(labels) <= set(chatbots.make_chatbot(0).labels)
    assert max(confidences) < 0.9
    assert len(set(confidences)) == 1
