"""How Salver's errors look in gRPC: statuses, and the text that goes with one."""

from __future__ import annotations

from enum import IntEnum
from urllib.parse import quote

from salver.core import errors


class Status(IntEnum):
    """gRPC's status codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


STATUSES: dict[type[errors.SalverError], Status] = {
    errors.SalverError: Status.INTERNAL,
    errors.InvalidRequest: Status.INVALID_ARGUMENT,
    errors.MalformedBody: Status.INVALID_ARGUMENT,
    errors.InvalidInput: Status.INVALID_ARGUMENT,
    errors.UnknownOutput: Status.INVALID_ARGUMENT,
    errors.RequestTooLarge: Status.RESOURCE_EXHAUSTED,
    errors.UnsupportedRequest: Status.UNIMPLEMENTED,
    errors.MethodNotAllowed: Status.UNIMPLEMENTED,
    errors.NotFound: Status.NOT_FOUND,
    errors.UnknownRoute: Status.UNIMPLEMENTED,
    errors.UnknownModel: Status.NOT_FOUND,
    errors.UnknownUpload: Status.NOT_FOUND,
    errors.Conflict: Status.FAILED_PRECONDITION,
    errors.VersionExists: Status.FAILED_PRECONDITION,
    errors.ModelInUse: Status.FAILED_PRECONDITION,
    errors.ModelUnavailable: Status.UNAVAILABLE,
    errors.InstanceFailed: Status.UNAVAILABLE,
    errors.Overloaded: Status.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: Status.DEADLINE_EXCEEDED,
    errors.ModelFailed: Status.INTERNAL,
    errors.LoadError: Status.FAILED_PRECONDITION,
    errors.InvalidArtifact: Status.FAILED_PRECONDITION,
    errors.InvalidConfig: Status.FAILED_PRECONDITION,
    errors.CodeNotAllowed: Status.FAILED_PRECONDITION,
    errors.MissingDependency: Status.FAILED_PRECONDITION,
    errors.StoreUnavailable: Status.UNAVAILABLE,
    errors.ServerUnreachable: Status.UNAVAILABLE,
    errors.InternalError: Status.INTERNAL,
}
"""Error class -> status. A class that isn't here has its nearest ancestor's."""

_MAX_MESSAGE = 2000  # characters; clients refuse header lists of more than 8 KiB
_UNRESERVED = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"


def status_of(error: errors.SalverError) -> Status:
    """The status of an error."""
    for ancestor in type(error).__mro__:
        if ancestor in STATUSES:
            return STATUSES[ancestor]
    raise AssertionError("SalverError itself has a status")


def encode_message(text: str) -> bytes:
    """The value of the ``grpc-message`` trailer: percent-encoded UTF-8, cut where it would be too long for a header."""
    if len(text) > _MAX_MESSAGE:
        text = text[: _MAX_MESSAGE - 3] + "..."
    encoded = quote(text, safe=_UNRESERVED, errors="replace")
    if len(encoded) > 2 * _MAX_MESSAGE:  # mostly percent signs; cut between characters
        encoded = quote(text[: _MAX_MESSAGE // 6], safe=_UNRESERVED, errors="replace") + "..."
    return encoded.encode("ascii")
