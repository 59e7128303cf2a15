"""The ``torchserve`` runtime: model archives of TorchServe with their handlers, as they are."""

from salver.runtimes.torchserve.runtime import TorchserveRuntime

__all__ = ["TorchserveRuntime"]
