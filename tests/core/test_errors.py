"""The error tree: drawn as it is, and known to every front end."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import pytest

from salver.core import errors
from salver.core.errors import SalverError
from salver.frontends import grpc_errors, v2_rest
from salver.frontends.http import status_of

# What the protocol's clients expect.
STATUSES = {
    "MalformedBody": (400, "INVALID_ARGUMENT"),
    "InvalidInput": (400, "INVALID_ARGUMENT"),
    "UnknownOutput": (400, "INVALID_ARGUMENT"),
    "RequestTooLarge": (400, "RESOURCE_EXHAUSTED"),
    "UnsupportedRequest": (501, "UNIMPLEMENTED"),
    "MethodNotAllowed": (405, "UNIMPLEMENTED"),
    "UnknownRoute": (404, "UNIMPLEMENTED"),
    "UnknownModel": (404, "NOT_FOUND"),
    "UnknownUpload": (404, "NOT_FOUND"),
    "VersionExists": (409, "FAILED_PRECONDITION"),
    "ModelInUse": (409, "FAILED_PRECONDITION"),
    "InstanceFailed": (503, "UNAVAILABLE"),
    "Overloaded": (429, "RESOURCE_EXHAUSTED"),
    "DeadlineExceeded": (504, "DEADLINE_EXCEEDED"),
    "ModelFailed": (500, "INTERNAL"),
    "InvalidArtifact": (400, "FAILED_PRECONDITION"),
    "InvalidConfig": (400, "FAILED_PRECONDITION"),
    "CodeNotAllowed": (400, "FAILED_PRECONDITION"),
    "MissingDependency": (400, "FAILED_PRECONDITION"),
    "StoreUnavailable": (503, "UNAVAILABLE"),
    "ServerUnreachable": (502, "UNAVAILABLE"),
    "InternalError": (500, "INTERNAL"),
}


def tree(kind: type[SalverError], depth: int = 0) -> Iterator[tuple[int, str]]:
    yield depth, kind.__name__
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child, depth + 1)


def classes() -> list[type[SalverError]]:
    return [getattr(errors, name) for _, name in tree(SalverError)]


LEAVES = [kind for kind in classes() if not any(child.__module__ == errors.__name__ for child in kind.__subclasses__())]


def test_the_drawing_shows_the_tree() -> None:
    assert errors.__doc__ is not None
    drawn = []
    for line in errors.__doc__.splitlines():
        if found := re.match(r"    ([│ ]*)(?:[├└]── )?([A-Z]\w+)( |$)", line):
            indent = len(line[: found.start(2)]) - 4
            drawn.append((indent // 4, found[2]))
    assert drawn == list(tree(SalverError))


def test_every_class_of_the_module_is_in_the_tree() -> None:
    defined = {
        name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__
    }
    assert defined == {name for _, name in tree(SalverError)}


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
def test_every_class_says_what_it_means(kind: type[SalverError]) -> None:
    assert kind.__doc__
    assert kind.__doc__.rstrip().endswith(".")


def test_there_are_no_status_codes() -> None:
    assert re.search(r"\b[1-5]\d\d\b", inspect.getsource(errors)) is None


def test_the_expectations_name_every_leaf() -> None:
    assert {kind.__name__ for kind in LEAVES} == STATUSES.keys()


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
def test_every_leaf_has_the_status_that_clients_expect(kind: type[SalverError]) -> None:
    rest, grpc = STATUSES[kind.__name__]
    assert status_of(kind("x"), v2_rest.STATUSES) == rest
    assert grpc_errors.status_of(kind("x")).name == grpc


@pytest.mark.parametrize("table", [v2_rest.STATUSES, grpc_errors.STATUSES], ids=["rest", "grpc"])
@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
def test_no_leaf_falls_back_on_the_root(kind: type[SalverError], table: dict[type[SalverError], object]) -> None:
    assert any(base in table for base in kind.__mro__ if base not in (SalverError, Exception))


def test_what_errors_carry() -> None:
    assert errors.Overloaded("x").retry_after == 1.0
    assert errors.Overloaded("x", retry_after=3).retry_after == 3
    assert errors.MethodNotAllowed("x", allowed=("GET",)).allowed == ("GET",)
