"""Memory of GPUs, through NVML."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any


def gpus() -> dict[str, tuple[int, Callable[[], int]]]:
    """Each GPU by name, "cuda:0" and so on: its memory in bytes, and what tells how much of it this process uses.

    Empty where there is none, or the package ``nvidia-ml-py`` (``salver[gpu]``) isn't installed.
    """
    try:
        import pynvml
    except ImportError:
        return {}
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
        return {
            f"cuda:{number}": (int(pynvml.nvmlDeviceGetMemoryInfo(handle).total), _used_by_us(pynvml, handle))
            for number, handle in enumerate(handles)
        }
    except pynvml.NVMLError:
        return {}


def _used_by_us(nvml: Any, handle: Any) -> Callable[[], int]:
    def used() -> int:
        try:
            running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        except nvml.NVMLError:
            return 0
        return sum(int(each.usedGpuMemory or 0) for each in running if each.pid == os.getpid())

    return used
