"""The ``transformers`` runtime: Hugging Face folders for tasks on text."""

from salver.runtimes.transformers.runtime import TransformersRuntime

__all__ = ["TransformersRuntime"]
