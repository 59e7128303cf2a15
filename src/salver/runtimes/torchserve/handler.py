"""Importing an archive's handler, and making it ready."""

from __future__ import annotations

import importlib
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, TypeAlias

from salver.core.errors import InvalidArtifact, LoadError, MissingDependency
from salver.runtimes.python.importing import ModelPackage
from salver.runtimes.torchserve import ts
from salver.runtimes.torchserve.manifest import Manifest
from salver.runtimes.torchserve.ts.context import Context

Handle: TypeAlias = Callable[[list[dict[str, Any]], Context], Any]

DEFAULT_HANDLERS = {
    "base_handler": "BaseHandler",
    "image_classifier": "ImageClassifier",
    "image_segmenter": "ImageSegmenter",
    "object_detector": "ObjectDetector",
    "text_classifier": "TextClassifier",
}
"""Module of TorchServe's -> its class."""

_NEEDED = {"torch": "pip install 'salver[torch]'", "PIL": "pip install 'salver[image]'"}

_looking = threading.Lock()


def load_handler(model: str, folder: Path, manifest: Manifest, context: Context) -> tuple[Handle, ModelPackage | None]:
    """Import the handler that the manifest names, and initialize it.

    Returns what answers requests, and the package of the archive's modules, which is to be removed in the end.

    Raises:
        MissingDependency: a package that it imports isn't installed.
        InvalidArtifact: there is no handler, or its code fails.
    """
    file = folder / (manifest.handler if manifest.handler.endswith(".py") else f"{manifest.handler}.py")
    if file.is_file():
        package = ModelPackage(model, file, provided={"ts": ts.__name__})
        try:
            with importable(folder):
                return _initialized(model, package.module, manifest.function, context), package
        except (Exception, SystemExit) as error:  # noqa: BLE001 - explain raises
            package.remove()
            package.explain(error, "initialize failed")
    if manifest.handler not in DEFAULT_HANDLERS:
        raise InvalidArtifact(
            f"model {model!r}: the archive has no handler {file.name}, and of TorchServe's own there are "
            f"{', '.join(DEFAULT_HANDLERS)}"
        )
    try:
        module = importlib.import_module(f"{ts.__name__}.torch_handler.{manifest.handler}")
        with importable(folder):
            service = getattr(module, DEFAULT_HANDLERS[manifest.handler])()
            service.initialize(context)
    except Exception as error:  # noqa: BLE001 - _explain raises
        _explain(model, manifest.handler, error)
    handle: Handle = service.handle
    return handle, None


def _initialized(model: str, module: ModuleType, function: str, context: Context) -> Handle:
    found = getattr(module, function or "handle", None)
    if callable(found) and not inspect.isclass(found):
        found(None, context)  # so TorchServe tells a function to initialize
        handle: Handle = found
        return handle
    if inspect.isclass(found):
        classes = [found]
    elif function:
        raise InvalidArtifact(f"model {model!r}: its handler {module.__file__} has no function {function}")
    else:
        classes = [
            each for _, each in inspect.getmembers(module, inspect.isclass) if each.__module__ == module.__name__
        ]
        classes = [each for each in classes if callable(getattr(each, "handle", None))]
    if len(classes) != 1:
        raise InvalidArtifact(
            f"model {model!r}: its handler {module.__file__} has {len(classes)} classes with a method handle; expected "
            "one of them, or a function handle(data, context)"
        )
    service: Any = classes[0]()
    if callable(getattr(service, "initialize", None)):
        service.initialize(context)
    method: Handle = service.handle
    return method


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Lets ``importlib`` and pickles find an archive's modules by their bare names, as TorchServe does.

    Only while a handler is made ready, and for one at a time: two archives may have modules of one name. Import
    statements in the archive's own files need none of this, and work at any time.
    """
    place = str(folder)
    with _looking:
        before = set(sys.modules)
        sys.path.insert(0, place)
        importlib.invalidate_caches()
        try:
            yield
        finally:
            sys.path.remove(place)
            for name in set(sys.modules) - before:
                file = getattr(sys.modules[name], "__file__", None)
                if "." not in name and file is not None and Path(file).is_relative_to(folder):
                    del sys.modules[name]


def _explain(model: str, handler: str, error: Exception) -> NoReturn:
    if isinstance(error, LoadError):
        raise error
    if isinstance(error, ModuleNotFoundError) and error.name:
        top = error.name.partition(".")[0]
        raise MissingDependency(
            f"model {model!r}: the handler {handler} needs {top!r}, which isn't installed; install it with: "
            f"{_NEEDED.get(top, f'pip install {top}')}"
        ) from error
    raise InvalidArtifact(
        f"model {model!r}: the handler {handler} can't load it: {type(error).__name__}: {str(error)[:1000]}"
    ) from error
