"""Keras files, made into SavedModels: ``.keras`` of Keras 3, and the older ``.h5``."""

from __future__ import annotations

import tempfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from packaging.version import Version

from salver.core.errors import CodeNotAllowed, InvalidArtifact, InvalidConfig, MissingDependency, SalverError
from salver.core.model import ModelSpec

KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")

_SAFE = Version("3.12")
"""The first Keras whose safe mode keeps what it promises: CVE-2025-8747, -9905 (.h5), -9906, -12058."""

_HDF5 = b"\x89HDF\r\n\x1a\n"
_exporting = threading.Lock()  # Keras names what it makes by counters of the process, and traces are Python's


@contextmanager
def exported(spec: ModelSpec, *, allow_code: bool) -> Iterator[Path]:
    """A SavedModel of a Keras file, in a folder that is removed afterwards.

    Raises:
        InvalidArtifact: the file is damaged, or holds weights only.
        CodeNotAllowed: it has code in it (a Lambda layer, for one), or this Keras couldn't tell.
        InvalidConfig: this process's Keras doesn't run on TensorFlow.
        MissingDependency: there is no Keras 3.
    """
    try:
        import keras  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingDependency(
            f"model {spec.name!r}: {spec.path} needs Keras, which can't be imported: {error}"
        ) from None
    _check_keras(spec, keras, allow_code=allow_code)
    if not _is_whole(spec.path):
        raise InvalidArtifact(f"model {spec.name!r}: {spec.path} is damaged, or no Keras file")
    with tempfile.TemporaryDirectory(prefix="salver-keras-") as folder, _exporting:
        path = Path(folder) / "model"
        try:
            model = keras.saving.load_model(spec.path, compile=False, safe_mode=not allow_code)
            if not isinstance(model, keras.Model):
                raise InvalidArtifact(f"model {spec.name!r}: {spec.path} holds a {type(model).__name__}, and no model")
            model.export(path, verbose=False)
        except SalverError:
            raise
        except Exception as error:
            raise _explained(spec, error) from error
        del model
        yield path


def _check_keras(spec: ModelSpec, keras: Any, *, allow_code: bool) -> None:
    version = Version(getattr(keras, "__version__", "0"))
    if version < Version("3"):
        raise MissingDependency(f"model {spec.name!r}: {spec.path} needs Keras 3, and there is Keras {version}")
    if keras.config.backend() != "tensorflow":
        raise InvalidConfig(
            f"model {spec.name!r}: Keras runs on {keras.config.backend()} here, and has to run on TensorFlow; start "
            "Salver with KERAS_BACKEND=tensorflow"
        )
    if version < _SAFE and not allow_code:
        raise CodeNotAllowed(
            f"model {spec.name!r}: loading {spec.path} with Keras {version} can run code in it, which isn't allowed; "
            f"install Keras {_SAFE} or newer, or, if you trust the file, set allow_code (--allow-code, or "
            "SALVER_ALLOW_CODE=1)"
        )


def _is_whole(path: Path) -> bool:
    """Whether a file begins, and a ``.keras`` file also ends, as it should. Of others, Keras says there is no file."""
    if path.suffix.lower() == ".keras":
        return zipfile.is_zipfile(path)
    with path.open("rb") as file:
        return file.read(len(_HDF5)) == _HDF5


def _explained(spec: ModelSpec, error: Exception) -> SalverError:
    text = " ".join(str(error).split())
    if "safe_mode" in text or "unsafe_deserialization" in text or "arbitrary code" in text:
        return CodeNotAllowed(
            f"model {spec.name!r}: {spec.path} has code in it (a Lambda layer, or an object that Keras doesn't trust), "
            "which isn't allowed; if you trust the file, set allow_code (--allow-code, or SALVER_ALLOW_CODE=1)"
        )
    if "No model config found" in text:
        return InvalidArtifact(
            f"model {spec.name!r}: {spec.path} holds weights only; save the whole model with model.save('model.keras')"
        )
    if "Could not locate class" in text or "custom_objects" in text or "register_keras_serializable" in text:
        return InvalidArtifact(
            f"model {spec.name!r}: {spec.path} has a class of its own, whose code isn't in the file; save it as a "
            f"SavedModel with model.export(path), which needs no code. Keras says: {text[:300]}"
        )
    return InvalidArtifact(f"model {spec.name!r}: Keras can't load {spec.path}: {text[:500]}")
