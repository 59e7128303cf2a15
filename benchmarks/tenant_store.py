"""The tenants of ``examples/intents`` in a model store, and their questions as requests. What was made is kept."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import harness
import httpx2
import numpy as np
import orjson
from clients import http_request
from harness import BenchmarkError, Running
from rich.console import Console
from rich.progress import Progress

INTENTS = Path(__file__).resolve().parent.parent / "examples" / "intents"
sys.path.insert(0, str(INTENTS))

from chatbots import Chatbot, Question, make_chatbot, make_chatbots  # noqa: E402
from publish import Done, model_file, models_folder, push_all, train_all  # noqa: E402

TRAINED_IN_HASTE = 12
"""Tenants whose models are trained where it has to go fast; others get one of these with other labels and noise."""

_NOISE = 0.02


@dataclass(frozen=True)
class Tenant:
    """A model, and what to ask it.

    Attributes:
        name: of the model.
        requests: HTTP requests, each with a question.
        labels: that the answers should hold.
    """

    name: str
    requests: list[bytes]
    labels: list[bytes]


def prepare(build: Path, count: int, *, in_haste: bool, console: Console) -> tuple[Path, list[Tenant]]:
    """A model store with so many tenants, and these.

    Args:
        build: where stores are kept.
        count: of tenants.
        in_haste: train a few models only, see :data:`TRAINED_IN_HASTE`.

    Raises:
        BenchmarkError: a model couldn't be pushed.
    """
    chatbots = _relabelled(count) if in_haste else make_chatbots(count)
    models = models_folder(build / ("relabelled" if in_haste else "trained"))
    folder = models.with_name(f"{models.name}-{count}")
    finished = folder / "finished"
    if not finished.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            make = _relabel_all if in_haste else train_all
            make(chatbots, models, _counter(progress, "training", count))
            with started(folder / "store") as server:
                try:
                    url = f"http://127.0.0.1:{server.port}"
                    push_all(url, chatbots, models, _counter(progress, "pushing", count))
                except Exception as error:
                    raise BenchmarkError(f"the models couldn't be pushed: {error}") from error
        finished.touch()
    return folder / "store", [_tenant(chatbot) for chatbot in chatbots]


@contextmanager
def started(store: Path, *options: str) -> Iterator[Running]:
    """A server of a store that is ready, with nothing loaded, until the end of the block.

    Raises:
        BenchmarkError: it isn't ready in time.
    """
    # A server that ends notes what was asked for most, and the next would load it.
    for noted in store.rglob("hottest.json"):
        noted.unlink()
    salver = Path(sys.executable).with_name("salver")
    with harness.started(
        "Salver", lambda port, _: [salver, "serve", "--store", store, "--port", str(port), *options]
    ) as server:
        deadline = time.monotonic() + harness.START_TIMEOUT
        while httpx2.get(f"http://127.0.0.1:{server.port}/v2/health/ready", timeout=60).status_code != 200:
            if time.monotonic() > deadline:
                raise BenchmarkError("Salver isn't ready")
            time.sleep(0.1)
        yield server


def _tenant(chatbot: Chatbot) -> Tenant:
    return Tenant(
        chatbot.name,
        [_request(chatbot.name, question.text) for question in chatbot.held_out],
        [question.label.encode() for question in chatbot.held_out],
    )


def _request(model: str, text: str) -> bytes:
    body = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}]}
    return http_request(f"/v2/models/{model}/infer", {"content-type": "application/json"}, orjson.dumps(body))


def _counter(progress: Progress, title: str, total: int) -> Done:
    task = progress.add_task(title, total=total)
    return lambda: progress.advance(task)


# Models of a few, under other names


def _relabelled(count: int) -> list[Chatbot]:
    """Tenants that ask what one of the first few asks, and mean something else by it."""
    return [_rename(make_chatbot(index % TRAINED_IN_HASTE), index) for index in range(count)]


def _rename(chatbot: Chatbot, index: int) -> Chatbot:
    name = f"{chatbot.name}-{index:04}"

    def renamed(questions: Sequence[Question]) -> tuple[Question, ...]:
        return tuple(replace(each, label=_own(name, each.label)) for each in questions)

    return replace(
        chatbot, name=name, seed=index, training=renamed(chatbot.training), held_out=renamed(chatbot.held_out)
    )


def _own(name: str, label: str) -> str:
    return f"{name}/{label.partition('/')[2]}"


def _relabel_all(chatbots: Sequence[Chatbot], folder: Path, done: Done) -> None:
    processes = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        few = range(min(TRAINED_IN_HASTE, len(chatbots)))
        for count in pool.map(partial(_train_and_relabel, folder, len(chatbots)), few):
            for _ in range(count):
                done()


def _train_and_relabel(folder: Path, count: int, few: int) -> int:
    import torch
    from classifier import train
    from text_graph import to_onnx

    torch.set_num_threads(1)
    trained = train(make_chatbot(few))
    chance = np.random.default_rng(few)
    indices = range(few, count, TRAINED_IN_HASTE)
    for index in indices:
        chatbot = _rename(make_chatbot(few), index)
        # The first row, of unknown words, stays zero.
        noise = chance.normal(0, _NOISE, trained.embeddings.shape).astype(np.float32)
        noise[0] = 0
        model = replace(
            trained,
            labels=[_own(chatbot.name, label) for label in trained.labels],
            embeddings=trained.embeddings + noise,
        )
        path = model_file(folder, chatbot)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(to_onnx(model))
    return len(indices)


def zipf(chance: np.random.Generator, tenants: int, exponent: float, count: int) -> list[int]:
    """Indices of tenants; the n-th most popular is asked in proportion to 1 / n ** exponent."""
    order = chance.permutation(tenants)
    weights = np.arange(1, tenants + 1) ** -exponent
    indices: list[int] = order[chance.choice(tenants, count, p=weights / weights.sum())].tolist()
    return indices
