"""The option ``names``: tensors called otherwise than the runtime calls them, for clients that expect other names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from salver.core.errors import InvalidConfig
from salver.core.model import ModelSpec
from salver.core.request import Parameters
from salver.core.signature import Signature, TensorSpec
from salver.runtimes.base import Inputs, LoadedModel, Outputs

NAMES = "names"


def renamed(spec: ModelSpec, model: LoadedModel) -> LoadedModel:
    """The model, with its tensors called as the option ``names`` says: the runtime's name -> the one in requests.

    Names of tensors that this model doesn't have are passed over: one map fits classifiers and regressors.

    Raises:
        InvalidConfig: it isn't a map of texts, or two tensors would have one name.
    """
    names = spec.options.get(NAMES)
    if names is None:
        return model
    if not isinstance(names, dict) or not all(
        isinstance(text, str) and text for pair in names.items() for text in pair
    ):
        raise InvalidConfig(
            f"model {spec.name!r}: option 'names' is a map such as {{label: predict}}, not {str(names)[:80]!r}"
        )
    return _Renamed(spec.name, model, names)


class _Renamed(LoadedModel):
    """A sync model whose tensors have other names."""

    def __init__(self, name: str, model: LoadedModel, names: dict[str, str]) -> None:
        self._model = model
        self.platform = model.platform
        self.device = model.device
        self.max_concurrency = model.max_concurrency
        self.threads = model.threads
        self.sees_parameters = model.sees_parameters
        self.may_run_inline = model.may_run_inline
        self._inputs = {names.get(tensor.name, tensor.name): tensor.name for tensor in model.signature.inputs}
        self._outputs = {names.get(tensor.name, tensor.name): tensor.name for tensor in model.signature.outputs}
        self._names = names
        self._own = {shown: own for own, shown in names.items()}
        inputs, outputs = model.signature.inputs, model.signature.outputs
        if len(self._inputs) < len(inputs) or len(self._outputs) < len(outputs):
            raise InvalidConfig(f"model {name!r}: option 'names' gives two tensors one name")
        self.signature = Signature(_named(inputs, names), _named(outputs, names), model.signature.batched)

    def predict(self, inputs: Inputs, asked: Sequence[str] | None, parameters: Parameters) -> Outputs:
        own = {self._inputs[name]: array for name, array in inputs.items()}
        # Models that don't declare their outputs have those of this answer.
        wanted = [self._outputs.get(name, self._own.get(name, name)) for name in asked] if asked else None
        outputs = self._model.predict(own, wanted, parameters)
        return {self._names.get(name, name): array for name, array in outputs.items()}

    def memory_bytes(self) -> int:
        return self._model.memory_bytes()

    def close(self) -> None:
        self._model.close()


def _named(tensors: tuple[TensorSpec, ...], names: dict[str, str]) -> tuple[TensorSpec, ...]:
    return tuple(replace(tensor, name=names.get(tensor.name, tensor.name)) for tensor in tensors)
