"""The table of runtimes, and what a missing framework says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from salver.core.errors import InvalidConfig
from salver.runtimes.table import BUILT_IN, create, names


@pytest.mark.e2e
@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_runtime_can_be_made(name: str) -> None:
    runtime = create(name, allow_code=True)
    assert (runtime.name, runtime.allow_code) == (name, True)
    assert not create(name).allow_code


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(InvalidConfig, match="no runtime 'onx'; did you mean 'onnx'"):
        create("onx")
    with pytest.raises(InvalidConfig, match="expected one of 'onnx', 'pytorch', 'sklearn', 'python'"):
        create("quantum")


def test_a_package_can_add_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "added.py").write_text(
        "from salver.runtimes.base import Runtime\n"
        "class Added(Runtime):\n    name = 'added'\n    def load(self, spec): raise NotImplementedError\n"
    )
    info = tmp_path / "added-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: added\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[salver.runtimes]\nadded = added:Added\nbroken = nosuchmodule:X\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert names() == [*BUILT_IN, "added", "broken"]
    assert create("added").name == "added"


@pytest.mark.parametrize(
    ("name", "module", "message"),
    [
        (
            "sklearn",
            "sklearn",
            "the sklearn runtime needs scikit-learn; install it with: pip install 'salver[sklearn]'",
        ),
        ("pytorch", "torch", "the pytorch runtime needs PyTorch; install it with: pip install 'salver[torch]'"),
    ],
)
def test_a_missing_framework_names_the_extra(name: str, module: str, message: str) -> None:
    code = f"""
import sys
sys.modules[{module!r}] = None
from salver.core.errors import MissingDependency
from salver.runtimes.table import create
try:
    create({name!r})
except MissingDependency as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == message
