"""Trains the tenants' models and pushes them to a server's model store."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from chatbots import Chatbot, make_chatbot

from salver.client.model_store import ModelStoreClient
from salver.store.artifacts.describe import describe

Done = Callable[[], None]
"""Is called as each model is done, on any thread."""

PUSHES = 8
"""Models that are pushed side by side."""

PROBE_SECONDS = 600.0

_SOURCES = ("domains.yaml", "chatbots.py", "classifier.py", "text_graph.py")


def models_folder(build: Path) -> Path:
    """Where trained models are kept: another folder when what makes them has changed."""
    sources = b"".join((Path(__file__).parent / name).read_bytes() for name in _SOURCES)
    return build / hashlib.sha256(sources).hexdigest()[:12]


def train_all(chatbots: Sequence[Chatbot], folder: Path, done: Done) -> None:
    """Write FOLDER/TENANT/model.onnx for each tenant that has none, on all cores."""
    missing = [each.seed for each in chatbots if not model_file(folder, each).exists()]
    for _ in range(len(chatbots) - len(missing)):
        done()
    if not missing:
        return
    folder.mkdir(parents=True, exist_ok=True)
    processes = min(len(missing) // 20 + 1, len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        for _ in pool.map(partial(_train_one, folder), missing, chunksize=4):
            done()


def push_all(url: str, chatbots: Sequence[Chatbot], folder: Path, done: Done) -> None:
    """Push the trained models, and return once the server has tried all of them out.

    Raises:
        RuntimeError: one isn't ready to serve.
        SalverError: as of :class:`ModelStoreClient`.
    """
    with ModelStoreClient(url, actor="examples/intents") as client, ThreadPoolExecutor(PUSHES) as threads:
        versions = list(threads.map(lambda chatbot: _push_one(client, chatbot, folder), chatbots))
        for chatbot, version in zip(chatbots, versions, strict=True):
            found = client.wait(chatbot.name, version, timeout=PROBE_SECONDS)
            if found["state"] != "READY":
                raise RuntimeError(f"{chatbot.name}:{version} is {found['state']}: {found.get('reason')}")
            done()


def model_file(folder: Path, chatbot: Chatbot) -> Path:
    """Where a tenant's model is."""
    return folder / chatbot.name / "model.onnx"


def _push_one(client: ModelStoreClient, chatbot: Chatbot, folder: Path) -> str:
    path = model_file(folder, chatbot)
    metadata = {
        "framework": "pytorch",
        "algorithm": "bag of word embeddings",
        "tenant": chatbot.name,
        "description": f"Intents of the {chatbot.domain} chatbot {chatbot.name}",
        "tags": {"domain": chatbot.domain},
    }
    # Files that the model has already are no new version: to push again does nothing.
    pushed = client.push(chatbot.name, path, describe(path), metadata=metadata)
    return str(pushed["version"])


def _train_one(folder: Path, seed: int) -> None:
    # Each process computes on one core.
    import torch
    from classifier import train
    from text_graph import to_onnx

    torch.set_num_threads(1)
    chatbot = make_chatbot(seed)
    path = model_file(folder, chatbot)
    path.parent.mkdir(exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.part")
    unfinished.write_bytes(to_onnx(train(chatbot)))
    unfinished.replace(path)
