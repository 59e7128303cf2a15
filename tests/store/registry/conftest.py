"""Every test of the registry runs on both of its databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from postgresql import postgresql_server, postgresql_url  # noqa: F401

from salver.store.registry.registry import Registry


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.e2e)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a fresh database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/registry.db"
    fresh: str = request.getfixturevalue("postgresql_url")
    return fresh


@pytest.fixture
def registry(url: str) -> Iterator[Registry]:
    """An empty registry."""
    opened = Registry.open(url)
    yield opened
    opened.close()


@pytest.fixture
def server(url: str) -> Iterator[Callable[[], Registry]]:
    """One more server over the registry, each time it is called."""
    with ExitStack() as opened:
        yield lambda: opened.enter_context(closing(Registry.open(url)))


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Registry]:
    """An empty registry, for what is decided before a database is asked."""
    opened = Registry.open(f"sqlite:///{tmp_path}/registry.db")
    yield opened
    opened.close()
