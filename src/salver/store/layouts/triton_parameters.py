"""``parameters`` of a Triton configuration: settings of its backends."""

from __future__ import annotations

from typing import Any

from salver.store.layouts.text_protobuf import Message
from salver.store.layouts.triton_backends import Backend, parameter_texts

_THREADS = {
    "onnx": "intra_op_thread_count",
    "pytorch": "INTRA_OP_THREAD_COUNT",
    "tensorflow": "TF_NUM_INTRA_THREADS",
    "openvino": "INFERENCE_NUM_THREADS",
}
"""Runtime -> the parameter that says how many threads an execution may use."""

_FIL = ("output_class", "predict_proba", "threshold")
_FIL_HARMLESS = frozenset(
    {
        "model_type", "storage_type", "algo", "blocks_per_sm", "threads_per_tree", "transfer_threshold",
        "use_experimental_optimizations", "xgboost_allow_unknown_field",
    }
)  # fmt: skip
"""They change how fast FIL computes, and not what."""


def read_parameters(message: Message, backend: Backend, problems: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys of model.yaml, and options of the runtime.

    Raises:
        InvalidConfig: a parameter has a value of another kind.
    """
    keys: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for name, text in parameter_texts(message).items():
        if name == _THREADS.get(backend.runtime):
            threads = _integer(message, name, text)
            if threads > 0:  # 0 is the backend's own choice
                keys["threads"] = threads
        elif backend.runtime == "triton_fil" and name in _FIL:
            options[name] = _number(message, name, text) if name == "threshold" else _boolean(message, name, text)
        elif backend.runtime == "triton_fil" and name in _FIL_HARMLESS:
            continue
        elif backend.runtime == "triton_python" and name == "EXECUTION_ENV_PATH":
            problems.append(
                f"{_where(message)}: {name!r} is not used: packed environments are not unpacked; the model runs in "
                "Salver's Python, or in the one that 'python' of a model.yaml names"
            )
        elif backend.runtime == "triton_python":
            continue  # the model itself is told of them
        else:
            problems.append(f"{_where(message)}: parameter {name!r} has no equivalent here, and is not followed")
    return keys, options


def _integer(message: Message, name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise message.wrong("parameters", f"parameter {name!r} is an integer, not {text[:40]!r}") from None


def _number(message: Message, name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise message.wrong("parameters", f"parameter {name!r} is a number, not {text[:40]!r}") from None


def _boolean(message: Message, name: str, text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise message.wrong("parameters", f"parameter {name!r} is true or false, not {text[:40]!r}")
    return text.lower() in ("true", "1")


def _where(message: Message) -> str:
    return f"{message.shown_as}, line {message.line_of('parameters')}"
