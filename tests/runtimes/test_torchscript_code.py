"""TorchScript that reaches for files: refused before any of it runs."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch

from salver.core.errors import CodeNotAllowed, InvalidArtifact
from salver.core.model import ModelSpec
from salver.runtimes.pytorch import PytorchRuntime

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit")


class Layers(torch.nn.Module):
    """Its code has ``getattr(self.layers, "0")``, as that of all sequential networks."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
        self.save = torch.jit.Attribute(1, int)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layers(x)
        return found


class Same(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def write(path: Path, body: str) -> ModelSpec:
    """A TorchScript file whose forward(self, x) is ``body``."""
    plain = path.with_suffix(".plain")
    torch.jit.save(torch.jit.script(Same()), plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename.endswith(".py"):
                text = content.decode()
                assert text.rstrip().endswith("return x")
                content = text.replace("    return x", f"    {body}\n    return x").encode()
            if not entry.filename.endswith(".debug_pkl"):
                target.writestr(entry.filename, content)
    return ModelSpec("m", "1", path, "pytorch")


WAYS = [
    'torch.save(x, "{file}")',
    'torch . save(x, "{file}")',
    '(torch . # a note\n save)(x, "{file}")',
    'ops.aten.save(x, "{file}")',
    't = torch\n    t.save(x, "{file}")',
    'f = torch.save\n    f(x, "{file}")',
    'getattr(torch, "save")(x, "{file}")',
    'getattr(torch, "sa" "ve")(x, "{file}")',
    'a = "#"; torch.save(x, "{file}")',
]


@pytest.mark.parametrize("way", WAYS)
def test_code_that_reaches_for_files_needs_permission(tmp_path: Path, way: str) -> None:
    file = tmp_path / "written"
    spec = write(tmp_path / "model.pt", way.format(file=file))
    with pytest.raises(CodeNotAllowed, match="reaches for files or the network"):
        PytorchRuntime(allow_code=False).load(spec)
    if ";" not in way:  # PyTorch itself refuses that
        PytorchRuntime(allow_code=True).load(spec).predict({"x": torch.ones(2).numpy()}, None, {})
        assert file.exists()  # it is a way indeed


def test_code_that_reads_a_file_needs_permission(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    spec = write(tmp_path / "model.pt", f'return torch.from_file("{tmp_path}/secret", False, 6, dtype=0)')
    with pytest.raises(CodeNotAllowed, match="from_file"):
        PytorchRuntime(allow_code=False).load(spec)
    answer = PytorchRuntime(allow_code=True).load(spec).predict({"x": torch.ones(2).numpy()}, None, {})
    assert next(iter(answer.values())).tobytes() == b"secret"


def test_code_in_a_text_or_a_comment_is_none(tmp_path: Path) -> None:
    spec = write(tmp_path / "model.pt", "a = \"getattr(torch, 'save') torch.save('x')\"  # torch.save(x)")
    PytorchRuntime(allow_code=False).load(spec).close()


def test_networks_need_no_permission(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.jit.save(torch.jit.script(Layers()), path)
    with zipfile.ZipFile(path) as archive:
        code = "".join(archive.read(name).decode() for name in archive.namelist() if name.endswith(".py"))
    assert "getattr(" in code
    assert "save" in code
    PytorchRuntime(allow_code=False).load(ModelSpec("m", "1", path, "pytorch")).close()


def test_old_archives_and_very_long_code_need_permission(tmp_path: Path) -> None:
    spec = write(tmp_path / "old.pt", "pass")
    with zipfile.ZipFile(spec.path, "a") as archive:
        archive.writestr("old/model.json", json.dumps({}))
    with pytest.raises(CodeNotAllowed, match=r"PyTorch before 1\.2"):
        PytorchRuntime(allow_code=False).load(spec)
    spec = write(tmp_path / "long.pt", "pass")
    with zipfile.ZipFile(spec.path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("long/code/__torch__/bomb.py", bytes(65 << 20))
    with pytest.raises(CodeNotAllowed, match="64 MiB of code"):
        PytorchRuntime(allow_code=False).load(spec)


def test_a_damaged_archive_is_told(tmp_path: Path) -> None:
    spec = write(tmp_path / "model.pt", "pass")
    content = bytearray(spec.path.read_bytes())
    at = content.index(b"return x")
    content[at : at + 8] = b"return y"
    spec.path.write_bytes(content)
    with pytest.raises(InvalidArtifact, match=r"model\.pt is damaged"):
        PytorchRuntime(allow_code=False).load(spec)
