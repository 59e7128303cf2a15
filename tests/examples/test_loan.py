"""The example of a loan: PDF files go to a real server's graph, and facts and a decision come back."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from fpdf import FPDF
from prepare import prepare_all
from rich.console import Console
from servers import Server

from salver import Client, errors

LOAN = Path(__file__).resolve().parents[2] / "examples" / "loan"
sys.path[:0] = [str(LOAN), str(LOAN / "models" / "loan" / "1")]

import ask_for_loans as ask  # noqa: E402
import decision  # noqa: E402
import facts  # noqa: E402
import make_models  # noqa: E402
import paper  # noqa: E402
from applicants import Applicant, applicants  # noqa: E402

pytestmark = pytest.mark.e2e

BROKEN = """
class Model:
    def predict(self, input: list[list[float]]) -> dict[str, object]:
        raise RuntimeError("out of order")
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loan") / "models"
    prepare_all(make_models.MODELS, folder, Console(quiet=True))
    # The same graph, whose scores never come.
    broken = folder / "broken-score" / "1"
    broken.mkdir(parents=True)
    (broken / "model.py").write_text(BROKEN)
    shutil.copytree(folder / "loan", folder / "unscored-loan", ignore=shutil.ignore_patterns(".*"))
    graph = folder / "unscored-loan" / "1" / "graph.yaml"
    graph.write_text(graph.read_text().replace("model: loan-score", "model: broken-score"))
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    server = Server(repository, "--allow-code")
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.url, timeout=100) as client:
        yield client


@pytest.fixture(scope="module")
def samples() -> dict[str, ask.Sample]:
    return {sample.name: sample for sample in ask.samples()}


def told(applicant: Applicant) -> dict[str, object]:
    """The facts as the graph should tell them."""
    return {
        "name": applicant.name,
        "employer": applicant.employer or None,
        "monthly_income": applicant.income,
        "requested": applicant.requested,
        "months": applicant.months,
        "monthly_debts": applicant.debts,
        "employed_since": applicant.employed_since.isoformat(),
        "applied_on": applicant.applied_on.isoformat(),
        "employed_months": applicant.employed_months,
    }


@pytest.mark.parametrize(
    ("name", "expected", "reason"),
    [
        ("table, printed", "approved", "all facts together"),
        ("table, scanned", "approved", "a long employment"),
        ("letter, printed", "declined", "a low income"),
        ("letter, scanned", "approved", "a high income"),
        ("boxes, printed", "declined", "many other loans"),
        ("boxes, scanned", "declined", "a short employment"),
    ],
)
def test_applications_are_read_and_decided(
    client: Client, samples: dict[str, ask.Sample], name: str, expected: str, reason: str
) -> None:
    sample = samples[name]
    assert sample.applicant is not None
    answer = ask.ask(client, sample.pdf)
    assert answer.facts == told(sample.applicant)
    assert (answer.decision, answer.approved) == (expected, expected == "approved")
    assert reason in answer.reasons
    assert answer.probability == pytest.approx(sample.applicant.chance, abs=0.15)


@pytest.mark.parametrize(
    ("name", "expected", "reasons"),
    [
        ("letter, without the employer", "incomplete", ("the application doesn't tell: employer",)),
        ("an invoice", "no application", ("it isn't titled as an application for a loan",)),
        ("a blank page", "unreadable", ("no text was found on the pages",)),
    ],
)
def test_what_cant_be_decided_is_answered_early(
    client: Client, samples: dict[str, ask.Sample], name: str, expected: str, reasons: tuple[str, ...]
) -> None:
    answer = ask.ask(client, samples[name].pdf)
    assert (answer.decision, answer.approved, answer.reasons) == (expected, False, reasons)
    assert answer.probability is None
    applicant = samples[name].applicant
    assert answer.facts == ({} if applicant is None else told(applicant))


def test_a_person_decides_where_the_score_fails(client: Client, samples: dict[str, ask.Sample]) -> None:
    applicant = samples["table, printed"].applicant
    assert applicant is not None
    answer = client.predict("unscored-loan", {"pdf": [samples["table, printed"].pdf]})
    assert answer["decision"].tolist() == ["referred"]
    assert answer["approved"].tolist() == [False]
    assert np.isnan(answer["probability"]).all()
    assert json.loads(answer["facts"][0])["requested"] == applicant.requested


def pages(count: int) -> bytes:
    pdf = FPDF()
    for _ in range(count):
        pdf.add_page()
    return bytes(pdf.output())


@pytest.mark.parametrize(
    ("pdf", "message"),
    [
        (b"%PDF-1.7 and nothing more", "'pdf' is no PDF file that can be read"),
        (b"", "'pdf' is no PDF file that can be read"),
        (pages(11), "the PDF file has 11 pages; expected 1 to 10"),
        (b"x" * ((20 << 20) + 1), "the PDF file has 20,971,521 bytes; expected at most 20,971,520"),
    ],
    ids=["damaged", "empty", "long", "large"],
)
def test_files_that_cant_be_drawn_are_the_callers_fault(client: Client, pdf: bytes, message: str) -> None:
    with pytest.raises(errors.InvalidRequest, match=message) as caught:
        ask.ask(client, pdf)
    assert "step 'drawn'" in str(caught.value)


def test_the_command_tells_the_decision_of_a_file(
    server: Server, client: Client, samples: dict[str, ask.Sample], tmp_path: Path
) -> None:
    file = tmp_path / "form.pdf"
    file.write_bytes(samples["table, scanned"].pdf)
    applicant = samples["table, scanned"].applicant
    assert applicant is not None
    command = [sys.executable, str(LOAN / "ask_for_loans.py"), "--url", server.url, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{file}: approved (" in done.stdout
    assert f"name {applicant.name}, employer {applicant.employer}, monthly income {applicant.income}" in done.stdout


# The parts


def lines(*texts: str) -> facts.Facts:
    """What is found in lines, one below the other."""
    places = np.array([[100, 100 * row, 900, 100 * row + 30] for row in range(len(texts))], np.float32)
    return facts.find_facts(list(texts), places.reshape(-1, 4), [0] * len(texts))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3,450 EUR", 3450),
        ("EUR 3,450.50", 3450.5),
        ("3450EUR", 3450),
        ("1,203,450", 1203450),
        ("3 450", 3450),
        ("none", 0),
        ("34,50,0", None),
        ("three", None),
        ("", None),
    ],
)
def test_sums_are_read_as_people_write_them(text: str, expected: float | None) -> None:
    found = json.loads(lines(f"Amount of the loan: {text}")["facts"])
    assert found["requested"] == expected


def test_labels_are_known_with_a_wrong_letter_and_other_labels_are_no_values() -> None:
    found = json.loads(lines("Narne of applicant", "Ernployer", "Ada Marsh")["facts"])
    assert (found["name"], found["employer"]) == (None, "Ada Marsh")


def test_reasons_are_the_facts_that_ordinary_ones_would_change_most() -> None:
    def decided(own: float, *changed: float) -> decision.Decision:
        rows = [own, *changed]
        return decision.decide(np.array([[1 - each, each] for each in rows], np.float32))

    assert decided(0.3, 0.31, 0.9, 0.3, 0.5, 0.1)["reasons"] == ["a large sum", "many other loans"]
    assert decided(0.9, 0.4, 0.9, 0.9, 0.88, 0.95)["reasons"] == ["a high income"]
    assert decided(0.9, 0.9, 0.9, 0.9, 0.9, 0.9)["reasons"] == ["all facts together"]


def test_made_up_people_are_the_same_each_time() -> None:
    first, again = (list(islice(applicants(seed=3), 20)) for _ in range(2))
    assert first == again
    assert len(set(first)) == 20
    assert paper.application(first[0], "table") == paper.application(again[0], "table")


def test_whoever_borrows_less_is_likelier_to_pay_back() -> None:
    applicant = next(applicants(seed=3))
    assert replace(applicant, requested=applicant.requested // 4).chance > applicant.chance
