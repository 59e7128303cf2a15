"""Many threads, servers and processes over one registry."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from registered_versions import DIGEST, OTHER_DIGEST, ready, set_ready, version

from salver.core.errors import Conflict, UnknownModel, VersionExists
from salver.core.registry import Node, RegistryChanges, VersionState
from salver.store.registry.registry import Registry


def test_next_numbers_never_collide(server: Callable[[], Registry]) -> None:
    servers = [server() for _ in range(3)]

    def push(worker: int) -> list[str]:
        registry = servers[worker % len(servers)]
        return [registry.register(version("iris"), actor=str(worker)).version for _ in range(8)]

    with ThreadPoolExecutor(12) as pool:
        given = [number for numbers in pool.map(push, range(12)) for number in numbers]
    assert sorted(given, key=int) == [str(number) for number in range(1, 97)]
    assert [each.version for each in servers[0].model("iris").versions] == sorted(given, key=int)
    revisions = [entry.revision for entry in servers[1].audit(limit=1000)]
    assert revisions == list(range(96, 0, -1))


def test_one_of_those_who_push_the_same_version_wins(server: Callable[[], Registry]) -> None:
    servers = [server() for _ in range(2)]

    def push(worker: int) -> str:
        digest = (DIGEST, OTHER_DIGEST)[worker % 2]
        try:
            return servers[worker // 4].register(version("iris", "1", digest), actor=str(worker)).digest
        except VersionExists:
            return "refused"

    with ThreadPoolExecutor(8) as pool:
        answers = Counter(pool.map(push, range(8)))
    winner = servers[0].get("iris", "1").digest
    assert answers == {winner: 4, "refused": 4}
    assert len(servers[0].audit()) == 1


def test_one_of_those_who_claim_a_version_has_it(server: Callable[[], Registry]) -> None:
    servers = [server() for _ in range(2)]
    for number in range(6):
        servers[0].register(version("iris", str(number)), actor="ann")

    def claim(worker: int) -> list[str]:
        registry = servers[worker % 2]
        return [
            each.version
            for each in servers[0].model("iris").versions
            if registry.claim("iris", each.version, node=str(worker), seconds=600)
        ]

    with ThreadPoolExecutor(8) as pool:
        claimed = [number for numbers in pool.map(claim, range(8)) for number in numbers]
    assert sorted(claimed) == [str(number) for number in range(6)]


def test_an_alias_never_points_to_a_deleted_version(server: Callable[[], Registry]) -> None:
    servers = [server() for _ in range(2)]
    numbers = [ready(servers[0], "iris") for _ in range(12)]
    together = threading.Barrier(2)

    def point() -> None:
        for number in numbers:
            together.wait(60)
            try:
                servers[0].set_alias("iris", "prod", number, actor="point")
            except UnknownModel:
                continue

    def remove() -> None:
        for number in numbers:
            together.wait(60)
            try:
                servers[1].delete("iris", number, actor="delete")
            except Conflict:
                continue

    with ThreadPoolExecutor(2) as pool:
        for each in [pool.submit(point), pool.submit(remove)]:
            each.result()
    target = servers[0].model("iris").aliases.get("prod")
    assert target is None or servers[0].get("iris", target).state is VersionState.READY


def test_whoever_follows_the_changes_misses_none(server: Callable[[], Registry]) -> None:
    """Revisions are in the order of commits: a follower that has seen one has seen all before it."""
    writers = [server() for _ in range(2)]
    follower = server()
    finished = threading.Event()
    seen: dict[tuple[str, str], tuple[VersionState, int]] = {}
    aliases: dict[str, dict[str, str]] = {}

    def take(changes: RegistryChanges) -> int:
        for each in changes.versions:
            seen[each.name, each.version] = (each.state, each.revision)
        for name, pointing in changes.aliases.items():
            aliases[name] = dict(pointing)
        return changes.revision

    def follow() -> None:
        revision = 0
        while True:
            over = finished.is_set()
            before, revision = revision, take(follower.changes(revision, limit=3))
            assert revision >= before
            if over and revision == before:
                return
            if revision == before:
                finished.wait(0.001)

    def write(worker: int) -> None:
        registry, name = writers[worker % 2], f"m{worker}"
        for _ in range(4):
            number = ready(registry, name)
            registry.set_alias(name, "prod", number, actor="")
        registry.delete(name, "1", actor="")
        registry.beat(Node(name, "http://localhost"))

    with ThreadPoolExecutor(7) as pool:
        following = pool.submit(follow)
        for each in [pool.submit(write, worker) for worker in range(6)]:
            each.result()
        finished.set()
        following.result()
    everything = follower.changes(0)
    assert seen == {(each.name, each.version): (each.state, each.revision) for each in everything.versions}
    assert len(seen) == 24
    assert aliases == everything.aliases == {f"m{worker}": {"prod": "4"} for worker in range(6)}


def test_two_servers_agree_within_a_second(server: Callable[[], Registry]) -> None:
    first, second = server(), server()
    revision = second.changes(0).revision
    for _ in range(5):
        number = first.register(version("iris"), actor="ann").version
        set_ready(first, "iris", number)
        first.set_alias("iris", "prod", number, actor="ann")
        done = time.monotonic()
        changes = second.changes(revision)
        assert time.monotonic() - done < 1
        assert [(each.version, each.state) for each in changes.versions] == [(number, VersionState.READY)]
        assert changes.aliases == {"iris": {"prod": number}}
        assert second.resolve("iris", "@prod").version == number
        revision = changes.revision
