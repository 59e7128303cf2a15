"""Versions to register in tests, and what a probe would have found."""

from __future__ import annotations

from typing import Any

from salver.core.registry import ModelVersion, Probe, VersionMetadata
from salver.core.signature import Signature, TensorSpec
from salver.store.registry.registry import Registry

DIGEST = "0123456789abcdef" * 4
OTHER_DIGEST = "fedcba9876543210" * 4
SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, 4)), TensorSpec("any", None, None, optional=True, safe_cast=True)),
    (TensorSpec("y", "BYTES", ()),),
    batched=True,
)
PROBE = Probe(
    memory_bytes=1_000_000,
    peak_memory_bytes=2_000_000,
    load_seconds=0.25,
    latency_seconds={1: 0.001, 8: 0.004},
    max_batch_size=8,
    batch_size_reason="it pays",
    threads=1,
    platform="onnx_onnxruntimev1",
    framework="onnxruntime",
    framework_version="1.32.0",
)


def version(name: str = "iris", number: str = "", digest: str = DIGEST, **metadata: Any) -> ModelVersion:
    """What is registered."""
    return ModelVersion(name, number, digest, 12, metadata=VersionMetadata(**metadata))


def ready(registry: Registry, name: str = "iris", number: str = "", digest: str = DIGEST, **metadata: Any) -> str:
    """Register a version and say that its probe went well; its number."""
    made = registry.register(version(name, number, digest, **metadata), actor="tests")
    set_ready(registry, name, made.version)
    return made.version


def set_ready(registry: Registry, name: str, number: str) -> ModelVersion:
    """Say that a version's probe went well."""
    return registry.set_ready(name, number, runtime="onnx", signature=SIGNATURE, probe=PROBE, actor="tests")
