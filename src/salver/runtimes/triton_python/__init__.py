"""The ``triton_python`` runtime: models of Triton's Python backend, as they are."""

from salver.runtimes.triton_python.runtime import TritonPythonRuntime

__all__ = ["TritonPythonRuntime"]
