"""Everything at once, at random, against one server with a model store; who does what, and what must hold.

Models answer with their own identity: version V of model number M multiplies by M * 1000 + V.
"""

from __future__ import annotations

import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from time import monotonic

import numpy as np
import psutil
from onnx import TensorProto, helper, numpy_helper
from pushing import push
from servers import Server

from salver import Client
from salver.client.cache import CacheClient
from salver.client.model_store import ModelStoreClient
from salver.core.errors import (
    Conflict,
    DeadlineExceeded,
    ModelUnavailable,
    NotFound,
    Overloaded,
    SalverError,
    ServerUnreachable,
)

SECONDS_FOR_ANY_REQUEST = 60.0
IDENTITY = """
import os
import numpy as np

class Model:
    def predict(self, x: np.ndarray) -> np.ndarray:
        return x * {factor}
"""


def factor_of(model: int, version: str) -> int:
    """What a version multiplies by."""
    return model * 1000 + int(version)


def write_identity(folder: Path, model: int, version: str, *, in_process: bool) -> Path:
    """A model that multiplies by its identity: ONNX with 2 MiB of weights, or Python in a process of its own."""
    factor = factor_of(model, version)
    path = folder / f"m{model}" / version
    path.mkdir(parents=True, exist_ok=True)
    if in_process:
        (path / "model.py").write_text(IDENTITY.format(factor=factor))
        (path / "model.yaml").write_text("isolation: process\n")
    else:
        (path / "model.onnx").write_bytes(_onnx(factor))
    return path


def _onnx(factor: int, width: int = 512) -> bytes:
    weights = [np.eye(2, width), np.eye(width), np.eye(width), factor * np.eye(width, 2)]
    names = ["x", "h0", "h1", "h2", "output"]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", [before, f"w{index}"], [after])
            for index, (before, after) in enumerate(pairwise(names))
        ],
        "identity",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(each.astype(np.float32), f"w{index}") for index, each in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


@dataclass
class Known:
    """What the test knows of a model.

    Attributes:
        number: its identity.
        in_process: whether it runs in a process of its own.
        ready: versions that are there for certain.
        touched: versions that ever were READY, or may have been.
        deleted: versions that are gone for certain.
        aliases: what each alias has pointed to since the beginning, the newest last.
        disturbances: counts what may make its requests fail: an unload, a deletion; odd while one goes on.
    """

    number: int
    in_process: bool
    ready: set[str] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    aliases: dict[str, list[str]] = field(default_factory=dict)
    disturbances: int = 0
    next_version: int = 1

    @property
    def name(self) -> str:
        return f"m{self.number}"


class Chaos:
    """A server, and threads that do to it whatever may be done.

    Args:
        folder: for the store and the models.
        seed: of all that is random.
        models, in_process: how many models, and how many of them run in processes of their own.
        budget: of memory, in bytes above what the server takes by itself.
    """

    def __init__(self, folder: Path, *, seed: int, models: int, in_process: int, budget: int) -> None:
        self.folder = folder
        self.seed = seed
        self.budget = budget
        self.models = [Known(number, number > models - in_process) for number in range(1, models + 1)]
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.kills = 0
        self.restarts = 0
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        with socket.socket() as chosen:
            chosen.bind(("127.0.0.1", 0))
            self.port = chosen.getsockname()[1]
        self._limit = ""
        self.server = self._start()
        self.idle_bytes = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def prepare(self) -> None:
        """Push two versions of each model, find out what the server takes by itself, and give it a small budget."""
        for model in self.models:
            for _ in range(2):
                self.push(model)
            self.point(model, "live", random.Random(self.seed))
        self.idle_bytes = self.resident_after_evicting()
        with CacheClient(self.url) as cache:
            used = cache.show()["memory"]["cpu"]["used_bytes"]
        assert self.server.stop() == 0
        self._limit = str(used + self.budget)
        self.server = self._start()
        self.idle_bytes = self.resident_after_evicting()

    def run(self, seconds: float) -> None:
        """Let everybody loose."""
        self.stopping.clear()
        work: list[tuple[Callable[[random.Random], None], float]] = [
            *[(self.ask, 0.0)] * 4,
            (self.leave, 0.05),
            (self.swap, 0.02),
            (self.change, 0.05),
            (self.kill_instance, 2.0),
            (self.kill_server, 12.0),
        ]
        threads = [
            threading.Thread(target=self._repeat, args=(act, pause, random.Random(f"{self.seed} {index}")), daemon=True)
            for index, (act, pause) in enumerate(work)
        ]
        for thread in threads:
            thread.start()
        self.stopping.wait(seconds)
        self.stopping.set()
        deadline = monotonic() + 2 * SECONDS_FOR_ANY_REQUEST
        for thread in threads:
            thread.join(max(0.0, deadline - monotonic()))
            if thread.is_alive():
                self.wrong.append("a thread hangs")

    # Requests

    def ask(self, random_: random.Random) -> None:
        """Predict: hot or cold, by version, by alias or by neither, with a short deadline or none."""
        # A few models get most of the requests.
        model = self.models[min(int(random_.expovariate(0.35)), len(self.models) - 1)]
        rows = np.array([[random_.randint(1, 9), random_.randint(1, 9)]], np.float32)
        with self.lock:
            before = (model.disturbances, self.kills, self.restarts)
            ready = sorted(model.ready)
            alias = next(iter(model.aliases), "")
        how = random_.choice(["version", "alias", "default", "gone"])
        name, version, allowed = model.name, "", None
        if how == "version" and ready:
            version = random_.choice(ready)
            allowed = {version}
        elif how == "alias" and alias:
            name = f"{model.name}@{alias}"
        elif how == "gone":
            version = str(model.next_version + 1000)
        short = random_.random() < 0.1
        parameters = {"timeout": random_.randint(1, 50_000)} if short else {}
        began = monotonic()
        try:
            with Client(self.url, timeout=SECONDS_FOR_ANY_REQUEST) as client:
                answer = client.predict(name, {"x": rows}, version=version, parameters=parameters)["output"]
        except SalverError as error:
            self._judge(error, model, before, short=short, gone=how == "gone", began=began)
            return
        self.counts["answers"] += 1
        with self.lock:
            if allowed is None:
                allowed = set(model.aliases[alias]) if "@" in name else set(model.touched)
        if how == "gone" or not any(np.array_equal(answer, rows * factor_of(model.number, each)) for each in allowed):
            self.wrong.append(f"{name} {version!r} of {sorted(allowed)} answered {answer} to {rows}")

    def leave(self, random_: random.Random) -> None:
        """Ask, and don't wait for the answer."""
        model = random_.choice(self.models)
        body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1,2]}]}'
        head = (
            f"POST /v2/models/{model.name}/infer HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
                connection.sendall(head.encode() + body[: random_.choice([10, len(body)])])
                self.stopping.wait(random_.random() * 0.02)
            self.counts["left"] += 1
        except OSError:
            self.counts["nobody there"] += 1

    def _judge(
        self,
        error: SalverError,
        model: Known,
        before: tuple[int, int, int],
        *,
        short: bool,
        gone: bool,
        began: float,
    ) -> None:
        with self.lock:
            after = (model.disturbances, self.kills, self.restarts)
        restarted = before[2] != after[2] or before[2] % 2 == 1
        disturbed = before[0] != after[0] or before[0] % 2 == 1
        killed = model.in_process  # an instance that was killed may be found dead at the next request
        fits = (
            restarted
            or (gone and isinstance(error, NotFound))
            or (gone and isinstance(error, Overloaded))
            or (short and isinstance(error, DeadlineExceeded))
            or (disturbed and isinstance(error, NotFound | ModelUnavailable))
            or (killed and isinstance(error, ModelUnavailable))
        )
        self.counts[type(error).__name__] += 1
        if not fits:
            took = monotonic() - began
            self.wrong.append(f"{model.name}: {type(error).__name__} after {took:.2f} s: {error}")

    # Changes

    def swap(self, random_: random.Random) -> None:
        """Evict, pin, unpin, prefetch, and look."""
        model = random_.choice(self.models)
        with self.lock:
            ready = sorted(model.ready)
        if not ready:
            return
        version = random_.choice(ready)
        with self._tolerating("swap", Conflict, NotFound, ModelUnavailable), CacheClient(self.url, timeout=40) as cache:
            kind = random_.choice(["evict", "evict", "pin", "prefetch", "show"])
            if kind == "evict":
                cache.evict(model.name, version)
            elif kind == "pin":
                cache.pin(model.name, version, pinned=True)
                cache.pin(model.name, version, pinned=False)
            elif kind == "prefetch":
                cache.prefetch([f"{model.name}:{version}", f"{model.name}@live"])
            else:
                cache.show()
            self.counts[kind] += 1

    def change(self, random_: random.Random) -> None:
        """Push, move aliases, delete, unload and load."""
        model = random_.choice(self.models)
        kind = random_.choice(["push", "point", "delete", "unload", "load"])
        if kind == "push" and len(model.ready) < 4:
            self.push(model)
        elif kind == "point":
            self.point(model, "live", random_)
        elif kind == "delete" and len(model.ready) > 2:
            self.delete(model, random_)
        elif kind == "unload":
            with self._disturbing(model), Client(self.url, timeout=SECONDS_FOR_ANY_REQUEST) as client:
                with self._tolerating("unload"):
                    client.unload(model.name)
                    self.stopping.wait(random_.random() * 0.2)
                self._load(client, model)
        elif kind == "load":
            with Client(self.url, timeout=SECONDS_FOR_ANY_REQUEST) as client:
                self._load(client, model)
        else:
            return
        self.counts[kind] += 1

    def _load(self, client: Client, model: Known) -> None:
        """Load it; a server that isn't there comes back, and offers also what was unloaded."""
        killed = (ModelUnavailable,) if model.in_process else ()
        with self._tolerating("load", *killed):
            client.load(model.name)

    def push(self, model: Known) -> None:
        """Push a version; a probe that was killed is asked for again."""
        version = str(model.next_version)
        model.next_version += 1
        path = write_identity(self.folder / "models", model.number, version, in_process=model.in_process)
        with self.lock:
            model.touched.add(version)
        deadline = monotonic() + SECONDS_FOR_ANY_REQUEST
        last: object = None
        while monotonic() < deadline:
            kills, restarts = self.kills, self.restarts
            try:
                pushed = push(self.url, path, model.name, version=version)
            except (ServerUnreachable, NotFound) as error:
                last = error
                if restarts == self.restarts and restarts % 2 == 0:
                    break
                self.stopping.wait(0.1)
                continue
            if pushed["state"] == "READY":
                with self.lock:
                    model.ready.add(version)
                return
            last = pushed["reason"]
            if kills == self.kills and restarts == self.restarts:
                break
        self.wrong.append(f"pushing {model.name}:{version}: {last}")

    def point(self, model: Known, alias: str, random_: random.Random) -> None:
        """Let an alias point to a version."""
        with self.lock:
            version = random_.choice(sorted(model.ready))
            model.aliases.setdefault(alias, []).append(version)
        with self._tolerating("point"), ModelStoreClient(self.url, timeout=SECONDS_FOR_ANY_REQUEST) as store:
            store.set_alias(model.name, alias, version)

    def delete(self, model: Known, random_: random.Random) -> None:
        """Delete a version that no alias points to."""
        with self.lock:
            pointed = {versions[-1] for versions in model.aliases.values()}
            version = random_.choice(sorted(model.ready))
            if version in pointed:
                return
            model.ready.discard(version)
        with self._disturbing(model), ModelStoreClient(self.url, timeout=SECONDS_FOR_ANY_REQUEST) as store:
            try:
                store.delete(model.name, version, force=random_.random() < 0.7)
            except Conflict:
                with self.lock:
                    model.ready.add(version)
                self.counts["delete refused"] += 1
            except SalverError as error:
                if not isinstance(error, ServerUnreachable):
                    self.wrong.append(f"deleting {model.name}:{version}: {type(error).__name__} {error}")
            else:
                with self.lock:
                    model.deleted.add(version)

    # Kills

    def kill_instance(self, random_: random.Random) -> None:
        """SIGKILL one of the processes that models, or their probes, run in."""
        children = self.descendants()
        if not children:
            return
        with self.lock:
            self.kills += 1
        try:
            random_.choice(children).kill()
            self.counts["killed processes"] += 1
        except psutil.NoSuchProcess:
            pass

    def kill_server(self, random_: random.Random) -> None:
        """SIGKILL the server, and start it over the same store; its processes end by themselves."""
        children = self.descendants()
        with self.lock:
            self.restarts += 1
        self.server.kill()
        _, alive = psutil.wait_procs(children, timeout=30)
        if alive:
            self.wrong.append(f"processes outlive their server: {[each.cmdline() for each in alive]}")
        self.server = self._start()
        with self.lock:
            self.restarts += 1
        self.counts["killed servers"] += 1

    def descendants(self) -> list[psutil.Process]:
        """The server's processes."""
        try:
            return psutil.Process(self.server.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    # How it stands

    def resident_after_evicting(self) -> int:
        """Bytes that the server's process has once each model was loaded and all are evicted."""
        with Client(self.url) as client:
            for model in self.models:
                client.predict(model.name, {"x": np.ones((1, 2), np.float32)})
        self.evict_all()
        return int(psutil.Process(self.server.process.pid).memory_info().rss)

    def await_nothing_held(self) -> None:
        """Return when nothing is being loaded, and no version is held by a request."""
        with CacheClient(self.url) as cache:
            deadline = monotonic() + SECONDS_FOR_ANY_REQUEST
            while (shown := cache.show())["loading"] or any(each["held_by"] for each in shown["loaded"]):
                assert monotonic() < deadline, shown

    def evict_all(self) -> None:
        """Evict every version that is loaded."""
        with CacheClient(self.url, timeout=40) as cache:
            deadline = monotonic() + SECONDS_FOR_ANY_REQUEST
            while (shown := cache.show())["loaded"] or shown["loading"]:
                assert monotonic() < deadline, shown
                for each in shown["loaded"]:
                    with self._tolerating("evict at the end", Conflict, NotFound):
                        cache.evict(each["name"], each["version"])

    def check_registry(self) -> None:
        """What the server tells of its models agrees with itself, and with what was done to it."""
        rows = np.array([[2, 3]], np.float32)
        with ModelStoreClient(self.url) as store, Client(self.url, timeout=SECONDS_FOR_ANY_REQUEST) as client:
            for model in self.models:
                told = store.model(model.name)
                states = {each["version"]: each["state"] for each in told["versions"]}
                assert model.ready <= {version for version, state in states.items() if state == "READY"}, states
                assert not model.deleted & {version for version, state in states.items() if state == "READY"}, states
                for version, state in states.items():
                    if state == "READY":
                        answer = client.predict(model.name, {"x": rows}, version=version)["output"]
                        assert np.array_equal(answer, rows * factor_of(model.number, version))
                for alias, version in told["aliases"].items():
                    answer = client.predict(f"{model.name}@{alias}", {"x": rows})["output"]
                    assert np.array_equal(answer, rows * factor_of(model.number, version))

    def close(self) -> None:
        """End the server as an operator would."""
        children = self.descendants()
        assert self.server.stop() == 0, self.server.log
        _, alive = psutil.wait_procs(children, timeout=30)
        assert not alive

    def _start(self) -> Server:
        more = ["--memory-budget", self._limit] if self._limit else []
        store = f"--store={self.folder / 'store'}"
        server = Server(store, "--allow-code", "--port", str(self.port), *more)
        server.wait_until_ready()
        return server

    def _repeat(self, act: Callable[[random.Random], None], pause: float, random_: random.Random) -> None:
        while not self.stopping.wait(pause * (0.5 + random_.random())):
            try:
                act(random_)
            except BaseException as error:
                self.wrong.append(f"{act.__name__}: {type(error).__name__}: {error}")
                raise

    @contextmanager
    def _tolerating(self, what: str, *kinds: type[SalverError]) -> Iterator[None]:
        """Errors of some kinds are fine, and any while the server isn't there."""
        restarts = self.restarts
        try:
            yield
        except kinds:
            self.counts[f"{what} refused"] += 1
        except SalverError as error:
            if restarts == self.restarts and restarts % 2 == 0:
                self.wrong.append(f"{what}: {type(error).__name__}: {error}")

    @contextmanager
    def _disturbing(self, model: Known) -> Iterator[None]:
        with self.lock:
            model.disturbances += 1
        try:
            yield
        finally:
            with self.lock:
                model.disturbances += 1
