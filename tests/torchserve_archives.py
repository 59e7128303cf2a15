"""Model archives, made as torch-model-archiver's users make them."""

from __future__ import annotations

import warnings
from pathlib import Path

with warnings.catch_warnings():
    warnings.simplefilter("ignore", ResourceWarning)  # it leaves a file open
    from model_archiver.model_archiver_config import ModelArchiverConfig
    from model_archiver.model_packaging import package_model
    from model_archiver.model_packaging_utils import ModelExportUtils


def write_archive(
    folder: Path,
    name: str = "mine",
    *,
    handler: str | None = None,
    code: str = "",
    version: str = "1.0",
    form: str = "default",
    files: dict[str, str] | None = None,
    settings: str = "",
    requirements: str = "",
    serialized: Path | None = None,
    model_file: Path | None = None,
) -> Path:
    """A ``.mar`` file (or a folder) in ``folder``.

    Args:
        folder: a model store.
        name: the model's.
        handler: one of TorchServe's own, or ``handler:function``.
        code: of a handler file, ``handler.py``.
        version: of the model, as TorchServe has it.
        form: what the archiver calls ``--archive-format``.
        files: more files, name -> content.
        settings: of ``model-config.yaml``.
        requirements: of ``requirements.txt``.
        serialized: the weights.
        model_file: the eager model's Python file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = folder.parent / f"parts of {name} {version}"
    parts.mkdir(parents=True, exist_ok=True)

    def written(file: str, content: str) -> str | None:
        if not content:
            return None
        (parts / file).write_text(content)
        return str(parts / file)

    handler_file = written("handler.py", code)
    if handler is not None and handler_file is not None:
        handler = str(parts / handler)
    extra = [path for file, content in (files or {}).items() if (path := written(file, content))]
    config = ModelArchiverConfig(
        model_name=name,
        handler=handler or handler_file or "base_handler",
        version=version,
        archive_format=form,
        export_path=str(folder),
        force=True,
        runtime="python",
        serialized_file=None if serialized is None else str(serialized),
        model_file=None if model_file is None else str(model_file),
        extra_files=",".join(extra) or None,
        config_file=written("model-config.yaml", settings),
        requirements_file=written("requirements.txt", requirements),
    )
    package_model(config, manifest=ModelExportUtils.generate_manifest_json(config))
    return folder / (name if form == "no-archive" else f"{name}.mar")
