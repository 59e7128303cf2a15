"""Runs a PyTorch model of ``transformers`` on rows of tokens."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from salver.core.errors import ModelFailed
from salver.core.tensor import Array
from salver.runtimes.torch_device import storage_bytes
from salver.runtimes.transformers.tokens import Tokenization, Tokens, batches, pad

Read: TypeAlias = Callable[[Any, Tensor], Tensor]
"""Makes, of what the model gives and the attention mask of a batch, a tensor with a row for each of its rows."""

_ERRORS = (RuntimeError, IndexError, TypeError, ValueError, NotImplementedError, AssertionError)
_CPU_TOKENS, _GPU_TOKENS = 2048, 32768
_PADDING_SHARE = 32
"""On one core, a batch of MiniLM costs 5 ms and each of its tokens, padding too, 0.16 ms: padding pays while it is less
than a 32nd of a batch of 2048, and larger batches aren't faster. GPUs want more of both."""


class Network:
    """A model, its tokenizer, and how rows share batches.

    Args:
        model: a ``PreTrainedModel`` in evaluation mode.
        tokenization: of the model's tokenizer.
        device: where the model lies.
        batch_tokens: tokens that go through it at once; None for what is good on this device.
        may_pad: rows that share a batch needn't have the same number of tokens.
        name: of the model, for messages.
    """

    def __init__(
        self,
        model: Any,
        tokenization: Tokenization,
        *,
        device: torch.device,
        batch_tokens: int | None,
        may_pad: bool,
        name: str,
    ) -> None:
        self.tokenization = tokenization
        self.device = device
        self._model = model
        self._name = name
        self._max_tokens = batch_tokens or (_CPU_TOKENS if device.type == "cpu" else _GPU_TOKENS)
        # Models to whom nobody has told of a padding token may want to have one row at a time.
        shares = tokenization.pad_id is not None
        self._max_padding = self._max_tokens // _PADDING_SHARE if shares and may_pad else 0 if shares else -1
        taken = inspect.signature(model.forward).parameters
        self._takes = frozenset(taken)
        self._fixed = {"use_cache": False} if "use_cache" in taken else {}

    def run(self, rows: Sequence[Tokens], read: Read) -> list[Array]:
        """What ``read`` makes of each row, in their order.

        Raises:
            ModelFailed: PyTorch can't run the model on them.
        """
        lengths = [len(row) for row in rows]
        found: list[Any] = [None] * len(rows)
        try:
            with torch.inference_mode():
                for batch in batches(lengths, max_tokens=self._max_tokens, max_padding=self._max_padding):
                    arrays = self._forward([rows[index] for index in batch], read)
                    for index, array in zip(batch, arrays, strict=True):
                        found[index] = array
        except _ERRORS as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ModelFailed(f"model {self._name!r} failed in PyTorch: {lines[0][:500]}") from error
        return found

    def _forward(self, rows: Sequence[Tokens], read: Read) -> Array:
        padded = pad(rows, self.tokenization)
        inputs = {
            name: torch.from_numpy(array).to(self.device) for name, array in padded.items() if name in self._takes
        }
        mask = torch.from_numpy(padded["attention_mask"]).to(self.device)
        array: Array = read(self._model(**inputs, **self._fixed), mask).float().cpu().numpy()
        return array

    def tensors(self) -> Iterable[Tensor]:
        """The model's weights and buffers."""
        return (*self._model.parameters(), *self._model.buffers())

    def memory_bytes(self) -> int:
        """Bytes of the model's weights and buffers."""
        return storage_bytes(self.tensors())

    def close(self) -> None:
        """Let go of the model."""
        del self._model
