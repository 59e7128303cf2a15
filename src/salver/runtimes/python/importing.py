"""Importing a model's Python file, with the modules beside it, in a namespace of its own.

The folder of a model becomes a package with a unique name, so that the ``model.py`` and ``helper.py`` of two models, or
of two versions of one, never meet. Inside that package ``from .helper import x`` works as everywhere. ``import helper``
works too: code of the package gets an ``__import__`` that looks for a module beside the model first, as Python does for
a script. This reaches import statements only: ``importlib.import_module("helper")`` and pickles of classes in
``helper`` don't find it.

No ``.pyc`` files are written or read: a model's folder may be read-only, and a stale one would run old code.
"""

from __future__ import annotations

import builtins
import importlib
import itertools
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, NoReturn

from salver.core.errors import InvalidArtifact, LoadError, MissingDependency

_ROOT = "salver_models"
_PROVIDED = "__salver_provided__"
_numbers = itertools.count(1)

_DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""Packages whose pip name isn't their import name."""


class ModelPackage:
    """A model's file and the modules beside it, imported under a name of their own.

    Attributes:
        module: the imported file.
        folder: where it lies.
    """

    def __init__(self, model: str, file: Path, *, provided: Mapping[str, str] = MappingProxyType({})) -> None:
        """Import ``file``.

        Args:
            model: names it in errors.
            file: the model's file.
            provided: top-level names that its import statements find elsewhere, name -> module: what another server
                has for its models.

        Raises:
            MissingDependency: it imports a package that isn't installed.
            InvalidArtifact: its code has a syntax error, or raises one.
        """
        self.model = model
        self.provided = dict(provided)
        self.folder = file.parent.resolve()
        file = self.folder / file.name
        self.name = f"{_ROOT}_{next(_numbers)}_{re.sub(r'[^0-9a-zA-Z]', '_', model)}"
        package = ModuleType(self.name)
        package.__path__ = [str(self.folder)]
        setattr(package, _PROVIDED, self.provided)
        sys.modules[self.name] = package
        _install_finder()
        importlib.invalidate_caches()  # the folder may have changed since an earlier load from it
        name = f"{self.name}.{file.stem.replace('.', '_')}"
        spec = spec_from_file_location(name, file, loader=_ModelLoader(name, str(file)))
        assert spec is not None
        assert spec.loader is not None
        self.module = module_from_spec(spec)
        sys.modules[name] = self.module
        try:
            spec.loader.exec_module(self.module)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - explain raises
            self.remove()
            self.explain(error, "can't be imported")

    def explain(self, error: BaseException, what: str) -> NoReturn:
        """Raise what an exception of the model's code means for loading it."""
        if isinstance(error, LoadError):
            raise error
        place = self.place_of(error)
        if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith(self.name):
            top = error.name.partition(".")[0]
            if top in self.provided:
                raise InvalidArtifact(
                    f"model {self.model!r}: {place} imports {error.name!r}: of the package {top!r}, "
                    "Salver has what models usually use, and not that"
                ) from error
            if _is_beside(self.folder, top):
                raise InvalidArtifact(
                    f"model {self.model!r}: {place} {what}: the module {top!r} beside it is found by import statements "
                    "in the model's own files only, not by importlib or pickle"
                ) from error
            raise MissingDependency(
                f"model {self.model!r}: {place} imports {error.name!r}, which isn't installed; "
                f"install it with: pip install {_DISTRIBUTIONS.get(top, top)}"
            ) from error
        text = str(error.msg if isinstance(error, SyntaxError) else error).replace(self.name + ".", "")
        raise InvalidArtifact(f"model {self.model!r}: {place} {what}: {type(error).__name__}: {text}") from error

    def place_of(self, error: BaseException) -> str:
        """File and line of the model's code where an exception was raised."""
        if isinstance(error, SyntaxError) and error.filename:
            return f"{error.filename} line {error.lineno}"
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if Path(frame.filename).is_relative_to(self.folder):
                return f"{frame.filename} line {frame.lineno}"
        return str(self.folder)

    def remove(self) -> None:
        """Forget the modules, so that their memory can be freed."""
        for name in [name for name in list(sys.modules) if name == self.name or name.startswith(self.name + ".")]:
            del sys.modules[name]


def _is_beside(folder: str | Path, name: str) -> bool:
    path = Path(folder, name)
    return path.with_suffix(".py").is_file() or (path.is_dir() and any(path.glob("*.py")))


class _ModelLoader(SourceFileLoader):
    """Loads a module of a model's package."""

    def path_stats(self, path: Any) -> NoReturn:
        raise OSError("no bytecode is kept for models")  # importlib takes this for "don't cache"

    def exec_module(self, module: ModuleType) -> None:
        package = module.__name__.partition(".")[0]
        folder = sys.modules[package].__path__[0]
        provided: Mapping[str, str] = getattr(sys.modules[package], _PROVIDED)

        def import_(
            name: str,
            globals: Mapping[str, object] | None = None,
            locals: Mapping[str, object] | None = None,
            fromlist: Sequence[str] | None = (),
            level: int = 0,
        ) -> ModuleType:
            top = name.partition(".")[0]
            if not level and top in provided:
                return _import_provided(provided[top], name, globals, locals, fromlist or ())
            if level or not _is_beside(folder, top):
                return builtins.__import__(name, globals, locals, fromlist or (), level)
            inside = importlib.import_module(f"{package}.{name}")
            if not fromlist:
                return sys.modules[f"{package}.{top}"]
            return builtins.__import__(inside.__name__, globals, locals, fromlist)

        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": import_}
        super().exec_module(module)


def _import_provided(
    module: str,
    name: str,
    globals: Mapping[str, object] | None,
    locals: Mapping[str, object] | None,
    fromlist: Sequence[str],
) -> ModuleType:
    """What an import statement gives for ``name``, whose first part is called ``module`` here."""
    top, _, rest = name.partition(".")
    try:
        inside = importlib.import_module(f"{module}.{rest}" if rest else module)
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith(module):
            raise  # a package that the provided module needs
        wanted = top + error.name.removeprefix(module)
        raise ModuleNotFoundError(f"No module named {wanted!r}", name=wanted) from None
    if not fromlist:
        return importlib.import_module(module)
    return builtins.__import__(inside.__name__, globals, locals, fromlist)


class _ModelFinder(MetaPathFinder):
    """Finds the modules in the folders of models' packages, for :class:`_ModelLoader` to load."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is None or not fullname.startswith(_ROOT + "_"):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _ModelLoader(fullname, spec.loader.path)
        return spec


_finder = _ModelFinder()


def _install_finder() -> None:
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
