"""Whether the packages that a Python model asks for are installed. Nothing is imported or installed to find out."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

from salver.core.errors import InvalidConfig, MissingDependency


def read_requirements(folder: Path, name: str = "requirements.txt") -> list[str]:
    """The requirements in ``requirements.txt`` beside a model; lines with pip's own options are left out."""
    file = folder / name
    if not file.is_file():
        return []
    lines = (line.split(" #")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith(("#", "-"))]


def check_requirements(model: str, requirements: Iterable[str]) -> None:
    """Hold pip requirement strings against what is installed.

    Raises:
        InvalidConfig: a string is no requirement.
        MissingDependency: names each package that is missing or of another version, and the pip command for all.
    """
    requirements = list(requirements)
    if not requirements:
        return
    try:
        from packaging.requirements import InvalidRequirement, Requirement
    except ImportError:  # in a Python of the model's own, where Salver's packages aren't installed
        raise MissingDependency(
            f"model {model!r}: its requirements can't be checked without packaging; install it with: "
            f"{sys.executable} -m pip install packaging"
        ) from None
    problems: list[str] = []
    wanted: list[str] = []
    for text in requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise InvalidConfig(f"model {model!r}: {text!r} is no pip requirement: {error}") from None
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            problems.append(f"{requirement.name} isn't installed")
        else:
            if requirement.specifier.contains(installed, prereleases=True):
                continue
            problems.append(f"{requirement.name}{requirement.specifier} is wanted and {installed} is installed")
        wanted.append(text.partition(";")[0].strip())
    if problems:
        raise MissingDependency(f"model {model!r}: {'; '.join(problems)}; install with: {_pip(wanted)}")


def _pip(wanted: Sequence[str]) -> str:
    return "pip install " + " ".join(shlex.quote(text) for text in wanted)
