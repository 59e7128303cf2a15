"""Models that run in a Python of their own, where Salver isn't installed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from process_models import Launch, python_spec

from salver.core.errors import CodeNotAllowed, InvalidConfig, LoadError, MissingDependency
from salver.registration.probe.prober import probe_version
from salver.runtimes.process.launcher import ProcessLauncher

pytestmark = pytest.mark.e2e

MODEL = """
import sys
import numpy as np
import six

class Model:
    def predict(self, x: np.ndarray):
        others = {"pydantic", "orjson", "h2corn", "uvloop", "onnxruntime"} & set(sys.modules)
        versions = {"six": six.__version__, "numpy": np.__version__, "python": sys.prefix}
        return {"y": x * 2, "others": len(others), **versions}
"""


def make_venv(folder: Path, *packages: str) -> Path:
    subprocess.run([sys.executable, "-m", "venv", str(folder), *([] if packages else ["--without-pip"])], check=True)
    if packages:
        install = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        if subprocess.run([*install, *packages], check=False).returncode:
            pytest.skip("the packages can't be installed: is there a package index?")
    return folder


@pytest.mark.timeout(300)
async def test_two_models_with_clashing_requirements_serve_side_by_side(launch: Launch, tmp_path: Path) -> None:
    old = make_venv(tmp_path / "old", "six==1.15.0", "numpy==1.26.4", "ml-dtypes")
    new = make_venv(tmp_path / "new", "six==1.17.0", "numpy>=2", "ml-dtypes")
    first = await launch(MODEL, name="first", python=old)
    second = await launch(MODEL, name="second", python=new / "bin" / "python")
    large = np.arange(100_000, dtype=np.float32)
    for _ in range(3):
        futures = [each.start({"x": large}, None, {}) for each in (first, second)]
        one, other = [await future for future in futures]
        assert np.array_equal(one["y"], large * 2)
        assert np.array_equal(other["y"], large * 2)
    assert one["six"].tolist() == [b"1.15.0"]
    assert other["six"].tolist() == [b"1.17.0"]
    assert one["numpy"].tolist() == [b"1.26.4"]
    assert other["numpy"][0].startswith(b"2.")
    assert one["python"].tolist() == [str(old).encode()]
    assert one["others"][0] == other["others"][0] == 0

    with pytest.raises(MissingDependency) as caught:
        await launch("import yaml\n" + MODEL, name="third", python=old)
    assert "pip install pyyaml" in str(caught.value)


async def test_a_python_that_lacks_numpy_is_told_what_to_install(launch: Launch, tmp_path: Path) -> None:
    venv = make_venv(tmp_path / "empty")
    with pytest.raises(MissingDependency) as caught:
        await launch(MODEL, python=venv)
    python = venv / "bin" / "python"
    assert str(caught.value) == (
        f"model 'm': {python} lacks numpy and ml-dtypes; install it there with: {python} -m pip install numpy ml-dtypes"
    )


async def test_a_python_that_is_not_there(launch: Launch, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="model 'm': python is /nowhere/python"):
        await launch(MODEL, python=Path("/nowhere/python"))
    with pytest.raises(InvalidConfig, match="expected a Python, or the folder of a virtual environment"):
        await launch(MODEL, python=tmp_path)


async def test_something_that_is_no_python(launcher: ProcessLauncher, tmp_path: Path) -> None:
    spec = python_spec(tmp_path, "m", MODEL, python=Path("/bin/false"))
    with pytest.raises(LoadError, match="/bin/false ended before it had imported the python runtime: it exited with"):
        await launcher.launch(spec, allow_code=True, number=2)
    text = tmp_path / "text"
    text.write_text("no program")
    text.chmod(0o755)
    with pytest.raises(InvalidConfig, match="can't be started: Exec format error"):
        await launcher.launch(python_spec(tmp_path, "m", MODEL, python=text), allow_code=True, number=1)


async def test_a_program_that_a_model_names_needs_permission(launcher: ProcessLauncher, tmp_path: Path) -> None:
    """Whoever writes a model.yaml would choose what the server runs: a file of the model itself, for one."""
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    program.chmod(0o755)
    spec = replace(python_spec(tmp_path, "m", MODEL, python=program), runtime="onnx")  # which brings no code
    with pytest.raises(CodeNotAllowed, match="names a program to run"):
        await launcher.launch(spec, allow_code=False, number=1)
    with pytest.raises(CodeNotAllowed, match="names a program to run"):
        await probe_version(spec, allow_code=False)
    assert not (tmp_path / "ran").exists()
