"""The object that handlers know as ``context.metrics``."""

from __future__ import annotations

import logging
from typing import Any

_log = logging.getLogger("salver.models")


class Metric:
    """A metric of a handler's own. It is logged at level DEBUG, and not among the server's metrics."""

    def __init__(self, name: str) -> None:
        self.name = name

    def add_or_update(self, value: float, *_: Any, **__: Any) -> None:
        _log.debug("metric %s: %s", self.name, value)

    update = add_or_update


class MetricsStore:
    """Takes what handlers measure."""

    def add_counter(self, name: str, value: float, *_: Any, **__: Any) -> None:
        Metric(name).update(value)

    add_time = add_size = add_percent = add_error = add_metric = add_counter

    def get_metric(self, metric_name: str, *_: Any, **__: Any) -> Metric:
        return Metric(metric_name)

    add_metric_to_cache = get_metric
