"""The example that routes texts by language, over a real server: every answer, and what lies beyond what it knows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from servers import Server

from salver import Client
from salver.core.errors import InvalidRequest

ROUTER = Path(__file__).resolve().parents[2] / "examples" / "router"
sys.path.insert(0, str(ROUTER))

import ask_router  # noqa: E402

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("router") / "models"
    subprocess.run([sys.executable, ROUTER / "train_router.py", folder], check=True, timeout=100)
    server = Server(folder)  # it brings no code
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.kill()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with server.client() as client:
        yield client


def route(client: Client, text: str, **parameters: float | str) -> tuple[str, str]:
    answer = client.predict("router", {"text": [text]}, parameters=parameters)
    return str(answer["language"][0]), str(answer["topic"][0])


def runs(client: Client, model: str) -> tuple[int, int]:
    """How many texts a model has seen so far, and in how many executions."""
    statistics = client.statistics(model)["model_stats"][0]
    return statistics["inference_count"], statistics["execution_count"]


def test_every_question_gets_its_language_and_topic(client: Client) -> None:
    expected = {text: (language, topic) for text, language, topic in ask_router.questions()}
    assert {text: route(client, text) for text in expected} == expected


def test_only_the_languages_own_classifier_is_asked(client: Client) -> None:
    def seen() -> dict[str, int]:
        return {model: runs(client, model)[0] for model in ("topics-de", "topics-en", "topics-es", "topics-fr")}

    before = seen()
    assert route(client, "Wo ist mein Paket?") == ("de", "delivery")
    assert route(client, "Não quero este casaco.") == ("pt", "unsupported")
    assert {model: count - before[model] for model, count in seen().items() if count != before[model]} == {
        "topics-de": 1
    }


def test_probabilities_are_there_where_a_classifier_was_asked(client: Client) -> None:
    answer = client.predict("router", {"text": ["Où est mon colis ?"]})
    np.testing.assert_allclose(answer["probabilities"].sum(), 1)
    assert answer["probabilities"].argmax() == 1  # account, delivery, payment, returns
    assert "probabilities" not in client.predict("router", {"text": ["Ik wil graag mijn geld terug."]})


def test_limits_are_parameters(client: Client) -> None:
    assert route(client, "Wo ist mein Paket?", sure_of_topic=0.999) == ("de", "unclear")
    assert route(client, "Wo ist mein Paket?", sure_of_language=0.999) == ("unknown", "unclear")
    assert route(client, "What is the capital of Australia?", sure_of_topic=0)[1] != "unclear"
    with pytest.raises(InvalidRequest, match="parameter 'sure_of_language' must be a number, got 'very'"):
        route(client, "Wo ist mein Paket?", sure_of_language="very")


@pytest.mark.parametrize("text", ["", " ", "\n\t", "!!!", "🙂", "\0", "Ω" * 10_000])
def test_texts_of_no_language_are_unknown(client: Client, text: str) -> None:
    assert route(client, text) == ("unknown", "unclear")


def test_a_long_text_is_routed_like_a_short_one(client: Client) -> None:
    assert route(client, "Wo ist mein Paket? " * 2000) == ("de", "delivery")


def test_a_mailbox_is_routed_at_once_and_in_few_runs(client: Client) -> None:
    expected = ask_router.questions()
    texts = [text for text, _, _ in expected] * 5
    before = runs(client, "language")
    answer = client.predict("mailbox", {"texts": texts})
    after = runs(client, "language")
    found = list(zip(answer["language"].tolist(), answer["topic"].tolist(), strict=True))
    assert found == [(language, topic) for _, language, topic in expected] * 5
    assert after[0] - before[0] == len(texts)
    assert after[1] - before[1] < len(texts) / 3  # the items' requests meet in the model's queue
    answer = client.predict("mailbox", {"texts": texts[:5]}, parameters={"sure_of_topic": 1.5})
    assert set(answer["topic"].tolist()) == {"unclear"}


def test_mailboxes_of_no_text_and_of_too_many(client: Client) -> None:
    answer = client.predict("mailbox", {"texts": np.array([], dtype=object)})
    assert (answer["language"].tolist(), answer["topic"].tolist()) == ([], [])
    with pytest.raises(InvalidRequest, match="step 'routed': 1001 items, and it takes 1000"):
        client.predict("mailbox", {"texts": ["hello"] * 1001})


def test_many_clients_get_their_own_answers(server: Server) -> None:
    expected = ask_router.questions()

    def ask(shift: int) -> bool:
        with server.client() as client:
            mine = expected[shift:] + expected[:shift]
            return all(route(client, text) == (language, topic) for text, language, topic in mine)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(0, len(expected), 6)))


def test_the_command_asks_and_counts(server: Server) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROUTER / "ask_router.py"), "--url", server.url, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert "44 of 44 as expected" in done.stdout
    done = run("J'ai oublié mon mot de passe")
    assert "account" in done.stdout
