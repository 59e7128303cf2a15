"""The error tree. No status codes here: each front end has one table from these classes to its statuses.

    SalverError
    ├── InvalidRequest           the request can't be understood or doesn't fit the model; the caller must change it
    │   ├── MalformedBody        the bytes are not what the protocol says
    │   ├── InvalidInput         an input tensor: its name, datatype, shape, element count or value
    │   ├── UnknownOutput        an asked-for output that the model doesn't have
    │   └── RequestTooLarge      over a limit of the server
    ├── UnsupportedRequest       well formed, but not something that this server or model does
    ├── MethodNotAllowed         the URL exists, the HTTP method doesn't fit it
    ├── NotFound
    │   ├── UnknownRoute         no such URL or RPC
    │   ├── UnknownModel         no such model, or no such version of it
    │   └── UnknownUpload        no such upload: it was finished, given up or has expired
    ├── Conflict                 the request doesn't fit what is there
    │   ├── VersionExists        versions are immutable, and other bytes have this version already
    │   └── ModelInUse           it can't be deleted while it serves traffic
    ├── ModelUnavailable         the model exists and is not ready: loading, failed to load, or unloaded
    │   └── InstanceFailed       the instance that ran the request died or was ended; others may do better
    ├── Overloaded               a bound was reached; the same request may succeed later
    ├── DeadlineExceeded         the answer would have come too late
    ├── ModelFailed              the model's own code failed on a request that fits its signature
    ├── LoadError                a model can't be loaded
    │   ├── InvalidArtifact      its files are missing, corrupt or of a format nobody here reads
    │   ├── InvalidConfig        its model.yaml (or the server's settings) can't be understood
    │   ├── CodeNotAllowed       loading would run code from the model, and the operator hasn't allowed that
    │   └── MissingDependency    a package that it needs isn't installed
    ├── StoreUnavailable         the artifact store or the registry can't be reached
    ├── ServerUnreachable        (clients) the server can't be reached or broke off
    └── InternalError            a fault of Salver's own

Every message is written for the person who reads it: what was expected, what came, what to do.
"""

from __future__ import annotations


class SalverError(Exception):
    """Root of all errors that Salver raises on purpose. ``str(error)`` is safe to show to a client."""


class InvalidRequest(SalverError):
    """The request can't be understood or doesn't fit the model; the caller must change it."""


class MalformedBody(InvalidRequest):
    """The bytes are not what the protocol says they should be."""


class InvalidInput(InvalidRequest):
    """An input tensor has a wrong name, datatype, shape, element count or value."""


class UnknownOutput(InvalidRequest):
    """An output was asked for that the model doesn't have."""


class RequestTooLarge(InvalidRequest):
    """The request is over one of the server's limits."""


class UnsupportedRequest(SalverError):
    """The request is well formed but asks for something that this server or model doesn't do."""


class MethodNotAllowed(SalverError):
    """The URL exists, but not with this HTTP method; it takes those that are ``allowed``."""

    def __init__(self, message: str, *, allowed: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.allowed = allowed


class NotFound(SalverError):
    """What was asked for doesn't exist."""


class UnknownRoute(NotFound):
    """No such URL or RPC."""


class UnknownModel(NotFound):
    """No such model, or no such version of it."""


class UnknownUpload(NotFound):
    """No such upload: it was finished, given up or has expired."""


class Conflict(SalverError):
    """The request doesn't fit what is there."""


class VersionExists(Conflict):
    """Versions are immutable, and this one has other bytes already."""


class ModelInUse(Conflict):
    """A model or version can't be deleted while it serves traffic."""


class ModelUnavailable(SalverError):
    """The model exists and is not ready: it is loading, failed to load, or was unloaded."""


class InstanceFailed(ModelUnavailable):
    """The instance that ran the request died or was ended, for a reason that the text names."""


class Overloaded(SalverError):
    """A bound was reached; the same request may succeed after ``retry_after`` seconds."""

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceeded(SalverError):
    """The answer would have come later than the caller wants it."""


class ModelFailed(SalverError):
    """The model's own code failed on a request that fits its signature."""


class LoadError(SalverError):
    """A model can't be loaded."""


class InvalidArtifact(LoadError):
    """The model's files are missing, corrupt, or of a format that no runtime here reads."""


class InvalidConfig(LoadError):
    """A ``model.yaml`` or a setting can't be understood."""


class CodeNotAllowed(LoadError):
    """Loading would run code that comes with the model, and the operator hasn't allowed that."""


class MissingDependency(LoadError):
    """A package that the model needs isn't installed."""


class StoreUnavailable(SalverError):
    """The artifact store or the registry can't be reached; the same request may succeed later."""


class ServerUnreachable(SalverError):
    """(Clients) The server can't be reached, or the connection broke off."""


class InternalError(SalverError):
    """A fault of Salver's own."""
