"""What a reader of another system's repository gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from salver.store.model_config import ModelConfig


@dataclass(frozen=True, slots=True)
class ForeignModel:
    """A model of another system's repository, in Salver's terms.

    Attributes:
        name: the model's, as that system's clients call it.
        system: the system, as messages name it: "Triton", "TensorFlow Serving", "TorchServe", "MLflow", "MLServer",
            "Hugging Face".
        folder: the model's folder, or its file.
        config: what its configuration says, as far as model.yaml has words for it. ``versions`` is the policy.
        versions: version -> folder or file, of all versions on disk, wanted by the policy or not.
        wanted: versions that the policy wants, oldest first.
        aliases: labels of versions, alias -> version.
        stamp: of the configuration's files; changes when they do.
        problems: what an operator should know: settings that have no equivalent here, named one by one.
        error: why the model can't be served, or ""; one of a repository's models, while the others are served.
    """

    name: str
    system: str
    folder: Path
    config: ModelConfig
    versions: Mapping[str, Path]
    wanted: tuple[str, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)
    stamp: str = ""
    problems: tuple[str, ...] = ()
    error: str = ""
