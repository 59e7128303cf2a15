"""Changes a registry until it is killed, and tells of each change when it was made: a JSON list a line.

Each model goes the same way: three versions are probed, an alias moves, a version is deleted; of every third model all
is deleted.
"""

from __future__ import annotations

import json
import os
import sys
from itertools import count

from salver.core.registry import ModelVersion, Probe
from salver.core.signature import Signature, TensorSpec
from salver.store.registry.registry import Registry

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1, 2)),), batched=True)


def tell(*words: str) -> None:
    os.write(1, json.dumps(words).encode() + b"\n")


def change_model(registry: Registry, name: str, *, delete: bool) -> None:
    for number in "123":
        registry.register(ModelVersion(name, "", "0" * 64, 1), actor="child")
        tell(name, "register", number)
        if number == "3":
            registry.set_failed(name, number, reason="bad", actor="child")
        else:
            registry.set_ready(name, number, runtime="onnx", signature=SIGNATURE, probe=Probe(1, 2, 3.0), actor="child")
        tell(name, "settle", number)
    for number in "12":
        registry.set_alias(name, "prod", number, actor="child")
        tell(name, "set_alias", number)
    if delete:
        registry.delete_model(name, actor="child")
        tell(name, "delete_model")
    else:
        registry.delete(name, "1", actor="child")
        tell(name, "delete", "2")


def main(url: str, what: str) -> None:
    if what == "open":
        tell("ready")
        while True:
            Registry.open(url).close()
    registry = Registry.open(url)
    for number in count():
        change_model(registry, f"m{what}-{number}", delete=number % 3 == 2)


main(*sys.argv[1:])
