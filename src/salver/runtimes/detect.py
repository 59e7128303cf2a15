"""Which runtime reads a version's files. No framework is imported, and no artifact is loaded, to find out."""

from __future__ import annotations

import re
from pathlib import Path

from salver.core.errors import InvalidArtifact
from salver.runtimes.mlflow_files import MLMODEL, native_flavor
from salver.runtimes.torch_files import torch_format

_SUFFIXES = {
    ".onnx": "onnx",
    ".pt": "pytorch",
    ".pth": "pytorch",
    ".ts": "pytorch",
    ".torchscript": "pytorch",
    ".pt2": "pytorch",
    ".joblib": "sklearn",
    ".pkl": "sklearn",
    ".pickle": "sklearn",
    ".skops": "sklearn",
    ".py": "python",
    ".keras": "tensorflow",
    ".h5": "tensorflow",
    ".hdf5": "tensorflow",
    ".ubj": "xgboost",
    ".xgb": "xgboost",
    ".lgb": "lightgbm",
    ".cbm": "catboost",
    ".cb": "catboost",
    ".xml": "openvino",
    ".mar": "torchserve",
}
_WHERE_NAMED = {"openvino": frozenset({".onnx", ".tflite"})}
"""What else a runtime reads, where model.yaml names it."""

_BY_CONTENT = {
    ".json": (("xgboost", re.compile(rb'\s*\{.{0,200}"learner"', re.DOTALL)),),
    ".bst": (("lightgbm", re.compile(rb"tree\r?\n")), ("xgboost", re.compile(rb"\{|binf|.{0,200}learner", re.DOTALL))),
    ".txt": (("lightgbm", re.compile(rb"tree\r?\n")),),
}
"""Suffixes that many things have: what the file begins with tells."""

_GRAPH_YAML = "graph.yaml"

_FOLDERS: tuple[tuple[str, tuple[frozenset[str], ...]], ...] = (
    ("tensorflow", (frozenset({"saved_model.pb", "saved_model.pbtxt"}),)),
    ("mlflow", (frozenset({"MLmodel"}),)),
    ("torchserve", (frozenset({"MAR-INF"}),)),
    (
        "transformers",
        (
            frozenset({"config.json"}),
            frozenset({"tokenizer.json", "tokenizer_config.json", "vocab.txt"}),
            frozenset({"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"}),
        ),
    ),
)
"""Formats that are folders: of each set of names, one is there."""

_FORMATS = (
    "ONNX (.onnx), TorchScript (.pt, .pth, .ts, .torchscript), torch.export (.pt2), "
    "scikit-learn (.skops, .joblib, .pkl, .pickle), Python (model.py), TensorFlow (saved_model.pb, .keras, .h5), "
    "XGBoost (.ubj, .xgb, .json), LightGBM (.lgb, .txt), CatBoost (.cbm), OpenVINO (.xml), MLflow (MLmodel), "
    "TorchServe (.mar), Hugging Face (config.json, a tokenizer and weights)"
)


def detect(path: Path, runtime: str | None = None) -> tuple[str, Path]:
    """The runtime's name and the artifact, for a model file or for the folder of a version.

    Where ``runtime`` is given (model.yaml names one), only its files are looked at; a runtime that isn't one of
    Salver's own, or whose format is a folder, gets the folder. Else, in a folder, ``model.py`` wins over the files
    beside it (a Python model brings its weights along), and a file named ``model.*`` over others.

    Raises:
        InvalidArtifact: no file here is of a format that a runtime reads, or several are.
    """
    if path.is_file():
        return runtime or _runtime_of(path), path
    if not path.is_dir():
        raise InvalidArtifact(f"there is no {path}")
    files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    if runtime is not None and runtime not in _SUFFIXES.values():
        return runtime, path
    names = {file.name for file in files}
    if _GRAPH_YAML in names and runtime in (None, "graph"):
        return "graph", path
    if (path / "MAR-INF" / "MANIFEST.json").is_file():
        names.add("MAR-INF")
    if MLMODEL in names and runtime != "mlflow":
        native = native_flavor(path)
        if native is not None and runtime in (None, native[0]):
            return native
        if runtime is None:
            return "mlflow", path
    if "model.py" not in names or runtime is not None:
        for name, needed in _FOLDERS:
            if runtime in (None, name) and all(names & any_of for any_of in needed):
                return name, path
    candidates = [file for file in files if (found := _runtime_or_none(file)) and runtime in (None, found)]
    if not candidates:
        candidates = [file for file in files if file.suffix.lower() in _WHERE_NAMED.get(runtime or "", ())]
    for preferred in (
        [file for file in candidates if file.name == "model.py"],
        [file for file in candidates if file.stem == "model"],
        [file for file in candidates if file.suffix != ".py" and torch_format(file) != "checkpoint"],
        candidates,
    ):
        if len(preferred) == 1:
            return runtime or _runtime_of(preferred[0]), preferred[0]
        if preferred:
            raise InvalidArtifact(
                f"{path} holds several models ({', '.join(file.name for file in preferred)}); keep one, "
                "or name the one to serve model" + "".join(sorted({file.suffix for file in preferred})[:1])
            )
    found = ", ".join(file.name for file in files[:10]) or "nothing"
    raise InvalidArtifact(f"{path} holds no model file, but {found}; expected one of {_FORMATS}")


def _runtime_or_none(file: Path) -> str | None:
    """The runtime of a file, by its suffix and, where that says too little, by what the file begins with."""
    suffix = file.suffix.lower()
    tests = _BY_CONTENT.get(suffix)
    if tests is None:
        return _SUFFIXES.get(suffix)
    try:
        with file.open("rb") as opened:
            beginning = opened.read(512)
    except OSError:
        return None
    return next((runtime for runtime, begins in tests if begins.match(beginning)), None)


def _runtime_of(file: Path) -> str:
    runtime = _runtime_or_none(file)
    if runtime is None:
        raise InvalidArtifact(f"{file} is of no format known here; expected one of {_FORMATS}")
    if runtime == "pytorch" and torch_format(file) == "checkpoint":
        raise InvalidArtifact(CHECKPOINT.format(file=file))
    return runtime


CHECKPOINT = (
    "{file} was made with torch.save: it holds weights or a pickled object, but not the code of the model. Export the "
    "model with torch.export.save(torch.export.export(model, inputs), 'model.pt2') or torch.jit.script(model).save("
    "'model.pt'), or load the weights in a model.py"
)
