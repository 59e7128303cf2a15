"""kill -9 in the middle of any change leaves the old state or the new one, and what was acknowledged is there."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from gates import until

from salver.core.registry import RegisteredModel, VersionState
from salver.store.registry.registry import Registry

CHILD = Path(__file__).parent / "changing_process.py"
ROUNDS = 12


def changes_until_killed(url: str, round_number: int, after: float) -> list[list[str]]:
    """What a process that was killed has told to be done."""
    arguments = [sys.executable, str(CHILD), url, str(round_number)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        told = [child.stdout.readline()]  # it works now
        time.sleep(after)  # the moment of its death is what this test is about
        child.kill()
        told += child.stdout.readlines()
    assert child.returncode == -signal.SIGKILL
    return [json.loads(line) for line in told if line.endswith("\n")]


def nobody_is_connected(url: str) -> bool:
    """PostgreSQL may still work on the last change of a client that died."""
    if url.startswith("sqlite"):
        return True
    with psycopg.connect(url) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        return connection.execute(query).fetchone() == (0,)


def check_invariants(registry: Registry) -> dict[str, RegisteredModel]:
    changes = registry.changes(0, limit=100_000)
    entries = []
    while page := registry.audit(limit=1000, before=entries[-1].revision if entries else None):
        entries += page
    assert entries[0].revision == changes.revision, "the counter and the audit trail are of one change"
    changed = {(entry.name, entry.version): entry.action for entry in reversed(entries) if "alias" not in entry.action}
    models = {model.name: model for model in registry.models(limit=1000)}
    for version in changes.versions:
        gone = changed.get((version.name, ""), "") == "delete_model" and version.name not in models
        action = "delete" if gone else changed[version.name, version.version]
        expected = {"register": "PENDING", "set_ready": "READY", "set_failed": "FAILED", "delete": "DELETED"}[action]
        assert version.state == expected
        assert (version.probe is not None) == (version.signature is not None)
        assert version.state is not VersionState.READY or version.probe is not None
        assert version.reason or version.state is not VersionState.FAILED
    for name, pointing in changes.aliases.items():
        for target in pointing.values():
            assert registry.get(name, target).state is VersionState.READY
    return models


def check_acknowledged(models: dict[str, RegisteredModel], told: list[list[str]]) -> None:
    """All but the last model that was told of are finished: nobody changes them any more."""
    last: dict[str, list[str]] = {name: rest for name, *rest in told}
    for name, (action, *what) in list(last.items())[:-1]:
        if action == "delete_model":
            assert name not in models
        else:
            assert (action, models[name].aliases) == ("delete", {"prod": what[0]})
            assert [each.version for each in models[name].versions] == ["2", "3"]
            assert [each.state for each in models[name].versions] == [VersionState.READY, VersionState.FAILED]


async def test_the_registry_survives_any_kill(url: str) -> None:
    moments = random.Random(7)
    changes = 0
    for number in range(ROUNDS):
        told = changes_until_killed(url, number, moments.uniform(0, 0.25))
        changes += len(told)
        await until(lambda: nobody_is_connected(url))
        with closing(Registry.open(url)) as registry:
            check_acknowledged(check_invariants(registry), told)
            for name, times in Counter(name for name, *_ in told).items():
                # Each change is told of when it is made: one at most was made and couldn't be told of any more.
                assert times <= len(registry.audit(name)) <= times + 1
    assert changes > 5 * ROUNDS
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize("moment", [0.0, 0.02, 0.05, 0.1])
def test_a_kill_while_tables_are_made_leaves_none_or_all(url: str, moment: float) -> None:
    with subprocess.Popen([sys.executable, str(CHILD), url, "open"], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()  # modules are imported
        time.sleep(moment)
        child.kill()
    registry = Registry.open(url)
    assert registry.changes(0).revision == 0
    registry.close()
