"""Where PyTorch models lie, and what they take there."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from salver.core.errors import InvalidConfig
from salver.core.model import ModelSpec
from salver.runtimes.settings import gpu_index


def torch_device(spec: ModelSpec) -> torch.device:
    """The device that a model's settings name; for "auto", the first GPU where PyTorch has one.

    Raises:
        InvalidConfig: there is no such device, or PyTorch can't use it.
    """
    index = gpu_index(spec)
    if index is None or (spec.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if index >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        there = f"{count} of them" if count else "none that this PyTorch can use"
        raise InvalidConfig(f"model {spec.name!r}: device is {spec.device!r}, but of CUDA GPUs there are {there}")
    return torch.device("cuda", index)


def storage_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of memory behind tensors; tied weights are one storage."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())
