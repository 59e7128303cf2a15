"""From each token's vector to one of the text, as sentence-transformers has it: pooling, dense layers, normalizing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from salver.core.errors import InvalidArtifact
from salver.runtimes.transformers.folder import CONFIG, SentenceModule
from salver.runtimes.transformers.options import POOLINGS

Step: TypeAlias = Callable[[Tensor], Tensor]
ReadWeights: TypeAlias = Callable[[Path], Mapping[str, Tensor]]

_LEGACY_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Keys of 1_Pooling/config.json in older versions of sentence-transformers, in the order in which it joins vectors."""

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "Identity": nn.Identity,
    "Tanh": nn.Tanh,
    "ReLU": nn.ReLU,
    "GELU": nn.GELU,
    "SiLU": nn.SiLU,
    "Sigmoid": nn.Sigmoid,
}


class Pooler:
    """Token vectors to embeddings.

    Args:
        modes: of :data:`salver.runtimes.transformers.options.POOLINGS`; the vectors of several are joined.
        steps: what comes after.
    """

    def __init__(self, modes: Sequence[str], steps: Sequence[Step] = ()) -> None:
        self._modes = tuple(modes)
        self._steps = tuple(steps)

    def __call__(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Embeddings, FP32 [rows, size].

        Args:
            tokens: [rows, tokens, size].
            mask: [rows, tokens], 1 where there is a token, 0 for padding.
        """
        tokens = tokens.float()
        embedding = torch.cat([_POOL[mode](tokens, mask) for mode in self._modes], dim=1)
        for step in self._steps:
            embedding = step(embedding)
        return embedding

    def tensors(self) -> list[Tensor]:
        """The weights of its dense layers."""
        return [tensor for step in self._steps if isinstance(step, nn.Module) for tensor in step.parameters()]

    def to(self, device: torch.device) -> None:
        """Move its dense layers."""
        for step in self._steps:
            if isinstance(step, nn.Module):
                step.to(device)


def normalize(embedding: Tensor) -> Tensor:
    """Vectors of length 1."""
    return nn.functional.normalize(embedding, p=2, dim=1)


def build_pooler(
    modules: Sequence[SentenceModule] | None,
    *,
    pooling: str | None,
    unit_length: bool | None,
    read_weights: ReadWeights,
) -> Pooler:
    """What a folder's modules say, and options change.

    Args:
        modules: sentence-transformers' modules after the transformer; None where the folder has none.
        pooling: instead of the folder's; by default the mean.
        unit_length: whether embeddings are normalized; None for what the folder says, else they aren't.
        read_weights: reads the weights of a module's folder.

    Raises:
        InvalidArtifact: a module isn't known here, or something in it is wrong.
    """
    modes: Sequence[str] = ("mean",)
    steps: list[Step] = []
    normalizes = False
    for module in modules or ():
        normalizes = module.kind == "Normalize"  # only where it is the last one can an option leave it out
        if module.kind == "Pooling":
            modes = _modes(module)
        elif module.kind == "Normalize":
            steps.append(normalize)
        elif module.kind == "Dense":
            steps.append(_Dense(module, read_weights(module.folder)))
        elif module.kind != "Dropout":  # which does something in training only
            raise InvalidArtifact(
                f"{module.folder}: sentence-transformers' module {module.kind[:80]!r} isn't known here; expected "
                "Pooling, Dense, Normalize"
            )
    if unit_length is False and normalizes:
        steps.pop()
    if unit_length and not normalizes:
        steps.append(normalize)
    return Pooler(modes if pooling is None else (pooling,), steps)


def _modes(module: SentenceModule) -> Sequence[str]:
    named = module.config.get("pooling_mode")
    modes = [named] if isinstance(named, str) else named
    if modes is None:
        modes = [mode for key, mode in _LEGACY_MODES.items() if module.config.get(key)] or ["mean"]
    if not isinstance(modes, list) or not modes or not all(mode in POOLINGS for mode in modes):
        raise InvalidArtifact(f"{module.folder / CONFIG}: 'pooling_mode' is {str(named)[:200]!r}, which isn't known")
    if module.config.get("include_prompt") is False:
        raise InvalidArtifact(f"{module.folder / CONFIG}: 'include_prompt: false' isn't supported")
    return modes


class _Dense(nn.Module):
    """sentence-transformers' ``Dense``: one linear layer and an activation."""

    def __init__(self, module: SentenceModule, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        config: Mapping[str, Any] = module.config
        shown = module.folder / CONFIG
        activation = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
        if activation not in _ACTIVATIONS:
            raise InvalidArtifact(
                f"{shown}: 'activation_function' is {activation[:80]!r}; expected one of {', '.join(_ACTIVATIONS)}"
            )
        if config.get("use_residual") or config.get("module_input_name", "sentence_embedding") != "sentence_embedding":
            raise InvalidArtifact(
                f"{shown}: a Dense with 'use_residual' or another 'module_input_name' isn't supported"
            )
        try:
            outputs, inputs = weights["linear.weight"].shape
            self.linear = nn.Linear(inputs, outputs, bias=bool(config.get("bias", True)))
            self.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InvalidArtifact(
                f"{module.folder}: the Dense layer and its weights don't fit: {' '.join(str(error).split())}"
            ) from None
        self.activation = _ACTIVATIONS[activation]()
        self.eval()

    def forward(self, embedding: Tensor) -> Tensor:
        activated: Tensor = self.activation(self.linear(embedding))
        return activated


def _mean(tokens: Tensor, mask: Tensor) -> Tensor:
    weights = mask.unsqueeze(2).to(tokens.dtype)
    return (tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)


def _mean_by_root(tokens: Tensor, mask: Tensor) -> Tensor:
    weights = mask.unsqueeze(2).to(tokens.dtype)
    return (tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9).sqrt()


def _weighted_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    weights = (mask.cumsum(dim=1) * mask).unsqueeze(2).to(tokens.dtype)
    return (tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)


def _max(tokens: Tensor, mask: Tensor) -> Tensor:
    return tokens.masked_fill(mask.unsqueeze(2) == 0, -torch.inf).amax(dim=1)


def _first(tokens: Tensor, mask: Tensor) -> Tensor:
    return _at(tokens, mask.argmax(dim=1))


def _last(tokens: Tensor, mask: Tensor) -> Tensor:
    return _at(tokens, mask.shape[1] - 1 - mask.flip(1).argmax(dim=1))


def _at(tokens: Tensor, places: Tensor) -> Tensor:
    return tokens[torch.arange(len(tokens), device=tokens.device), places]


_POOL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_by_root,
    "weightedmean": _weighted_mean,
    "max": _max,
    "cls": _first,
    "lasttoken": _last,
}
