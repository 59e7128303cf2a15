"""Logs on stderr, as text for people or as one JSON object a line, each with the id of the request it belongs to."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal, TypeAlias

import orjson

from salver.core.events import (
    Event,
    InstanceRestarted,
    ModelCrashed,
    ModelEvicted,
    ModelLoadFailed,
    ModelLoading,
    ModelReady,
    ModelUnloaded,
)
from salver.monitoring.request_id import current_request_id

LogFormat: TypeAlias = Literal["text", "json"]

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_log = logging.getLogger("salver.models")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, request_id, and what ``extra`` adds."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if identifier := current_request_id():
            line["request_id"] = identifier
        line.update((key, value) for key, value in vars(record).items() if key not in _STANDARD)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:  # half a surrogate pair, or an integer beyond 64 bits
            return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """``12:00:00.000 INFO  message [request id] key=value``."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the traceback below it where there is one."""
        moment = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.%f")[:-3]
        parts = [moment, f"{record.levelname:<7}", record.getMessage()]
        if identifier := current_request_id():
            parts.append(f"[{identifier}]")
        parts += (f"{key}={value}" for key, value in vars(record).items() if key not in _STANDARD)
        lines = [_printable(" ".join(parts))]
        if record.exc_info:
            # Indented, so that no exception's text looks like a line of the log.
            lines += ("    " + _printable(line) for line in self.formatException(record.exc_info).split("\n"))
        return "\n".join(lines)


def configure_logging(*, log_format: LogFormat, level: str) -> None:
    """Send the logs of the whole process to stderr in this format, from this level up ("debug" to "error")."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("salver").setLevel(level.upper())
    logging.captureWarnings(True)


def log_event(event: Event) -> None:
    """Log what happened to a model."""
    match event:
        case ModelLoading(name, version):
            _log.debug("loading model '%s' version %s", name, version)
        case ModelReady():
            # Of thousands of models that come and go, nobody wants to read each time.
            _log.log(
                logging.DEBUG if event.on_demand else logging.INFO,
                "model '%s' version %s is ready",
                event.name,
                event.version,
                extra={
                    "seconds": round(event.seconds, 3),
                    "memory_mib": round(event.memory_bytes / 2**20, 1),
                    "device": event.device,
                    "isolation": event.isolation,
                },
            )
        case ModelLoadFailed(name, version, reason):
            _log.error("failed to load '%s'%s: %s", name, version and f" version {version}", reason)
        case ModelUnloaded(name, version):
            _log.info("model '%s' version %s is unloaded", name, version)
        case ModelEvicted():
            _log.debug("model '%s' version %s is evicted: %s", event.name, event.version, event.reason)
        case InstanceRestarted(name, version, cause):
            _log.warning("an instance of model '%s' version %s was started anew: %s", name, version, cause)
        case ModelCrashed(name, version, reason):
            _log.error("model '%s' version %s isn't served any more: %s", name, version, reason)


def _printable(text: str) -> str:
    """The text with line ends, terminals' control codes and the like written as escapes."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
