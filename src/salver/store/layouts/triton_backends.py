"""Which runtime stands for a platform or backend of Triton's, and which of a version's files it loads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from salver.core.errors import InvalidConfig
from salver.store.layouts.text_protobuf import Message

_PLATFORMS = {
    "onnxruntime_onnx": "onnxruntime",
    "pytorch_libtorch": "pytorch",
    "tensorflow_savedmodel": "tensorflow",
    "tensorrt_plan": "tensorrt",
    "tensorflow_graphdef": "tensorflow_graphdef",
}
"""Platform -> backend."""

_RUNTIMES = {
    "onnxruntime": ("onnx", "model.onnx"),
    "pytorch": ("pytorch", "model.pt"),
    "tensorflow": ("tensorflow", "model.savedmodel"),
    "python": ("triton_python", "model.py"),
    "openvino": ("openvino", "model.xml"),
    "fil": ("triton_fil", ""),
}
"""Backend -> runtime, and the file that it loads where ``default_model_filename`` names none."""

_FIL_FILES = {
    "xgboost": "xgboost.model",
    "xgboost_json": "xgboost.json",
    "xgboost_ubj": "xgboost.ubj",
    "lightgbm": "model.txt",
}
"""The FIL backend's ``model_type`` -> its file."""

_BY_FILE = {
    "model.onnx": "onnxruntime",
    "model.pt": "pytorch",
    "model.savedmodel": "tensorflow",
    "model.py": "python",
    "model.xml": "openvino",
    "model.plan": "tensorrt",
    "model.graphdef": "tensorflow_graphdef",
}
"""What Triton takes a model for whose configuration names neither platform nor backend."""

_ADVICE = {
    "tensorrt": "a TensorRT plan runs on the one kind of GPU it was built for; serve the ONNX file that it was made of",
    "tensorflow_graphdef": "GraphDefs are of TensorFlow 1; save the model as a SavedModel",
    "dali": "port the pipeline to a model.py",
    "vllm": "serve it with vLLM itself",
    "tensorrtllm": "serve it with TensorRT-LLM itself",
}


@dataclass(frozen=True, slots=True)
class Backend:
    """How a model of Triton's is run here.

    Attributes:
        runtime: Salver's name.
        file: the file or folder that it loads, relative to the version's folder.
        options: of the runtime.
    """

    runtime: str
    file: str
    options: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def artifact(self, version: Path) -> Path:
        """What the runtime is to load of a version's folder.

        The folder itself, where it finds its file by its name: so a change of the files beside it is noticed, too.
        """
        path = version / self.file
        by_itself = self.runtime.startswith("triton_") or (Path(self.file).stem == "model" and not path.is_dir())
        return version if by_itself else path


def find_backend(message: Message, version: Path) -> Backend:
    """What runs a model.

    Args:
        message: its config.pbtxt.
        version: the folder of its newest version, whose files tell where the configuration doesn't.

    Raises:
        InvalidConfig: nothing here runs it; the text says what would.
    """
    platform, name = message.text("platform"), message.text("backend")
    if not name:
        name = _PLATFORMS.get(platform, platform)
    file = message.text("default_model_filename")
    _check_inside(message, "default_model_filename", file)
    if not name:
        name = _of_files(message, version, file)
    if name not in _RUNTIMES:
        field_ = "backend" if "backend" in message else "platform"
        advice = _ADVICE.get(name, "a custom backend is native code for Triton; port the model to a model.py")
        raise message.wrong(
            field_,
            f"{field_} {name!r} can't be served: {advice}. Supported are {', '.join(_RUNTIMES)}",
        )
    runtime, usual = _RUNTIMES[name]
    if name == "pytorch" and (platform == "torch_aoti" or message.text("runtime") == "model.py"):
        raise message.wrong(
            "platform" if platform == "torch_aoti" else "runtime",
            "of the pytorch backend's models, those of TorchScript are served; save the model with torch.jit.script",
        )
    if runtime == "triton_fil":
        return _fil(message, file)
    if runtime == "triton_python":
        return Backend(runtime, file or usual, {"file": file} if file else {})
    return Backend(runtime, file or usual)


def _check_inside(message: Message, name: str, file: str) -> None:
    if file and (Path(file).is_absolute() or ".." in Path(file).parts):
        raise message.wrong(name, f"{name!r} is {file!r}, which leads out of the version's folder")


def _of_files(message: Message, version: Path, file: str) -> str:
    for name, backend in _BY_FILE.items():
        if file.endswith(Path(name).suffix) if file else (version / name).exists():
            return backend
    raise InvalidConfig(
        f"{message.shown_as}: names neither 'backend' nor 'platform', and the files of version {version.name} don't "
        f"tell; set 'backend' to one of {', '.join(_RUNTIMES)}"
    )


def _fil(message: Message, file: str) -> Backend:
    values = parameter_texts(message)
    kind = values.get("model_type", "xgboost")
    if kind not in _FIL_FILES:
        advice = "" if kind != "treelite_checkpoint" else ": Treelite checkpoints can't be read; serve the model itself"
        raise message.wrong(
            "parameters", f"model_type {kind!r} can't be served{advice}. Supported are {', '.join(_FIL_FILES)}"
        )
    options = {"file": file or _FIL_FILES[kind], "model_type": kind}
    return Backend("triton_fil", options["file"], options)


def parameter_texts(message: Message) -> dict[str, str]:
    """``parameters`` of a configuration: key -> ``string_value``.

    Raises:
        InvalidConfig: they are of another form.
    """
    found: dict[str, str] = {}
    for key, value in message.entries("parameters").items():
        if not isinstance(value, Message):
            raise message.wrong("parameters", f"expected {key!r} of 'parameters' to have value {{ string_value: ... }}")
        found[key] = value.text("string_value")
    return found
