"""The handler that all others derive from."""

from __future__ import annotations

import importlib
import os
import warnings
from typing import Any

import torch

from salver.runtimes.torchserve.ts.context import Context
from salver.runtimes.torchserve.ts.utils.util import list_classes_from_module, load_label_mapping


class BaseHandler:
    """Loads a TorchScript model, an eager one with its class and state, or an ONNX model; and runs it.

    Handlers override :meth:`preprocess`, :meth:`inference`, :meth:`postprocess`, or :meth:`initialize`.
    """

    def __init__(self) -> None:
        self.model: Any = None
        self.mapping: Any = None
        self.device: Any = None
        self.initialized = False
        self.context: Any = None
        self.model_pt_path: str | None = None
        self.manifest: Any = None
        self.map_location: str | None = None
        self.explain = False
        self.target = 0
        self.profiler_args: dict[str, Any] = {}

    def initialize(self, context: Context) -> None:
        """Load the model that the archive's manifest names."""
        properties = context.system_properties
        self.context = context
        self.manifest = context.manifest
        self.model_yaml_config = context.model_yaml_config
        gpu = properties.get("gpu_id")
        use_gpu = gpu is not None and torch.cuda.is_available()
        self.map_location = "cuda" if use_gpu else "cpu"
        self.device = torch.device(f"cuda:{gpu}" if use_gpu else "cpu")
        folder = str(properties["model_dir"])
        described = self.manifest["model"]
        if "serializedFile" in described:
            self.model_pt_path = os.path.join(folder, described["serializedFile"])
        if described.get("modelFile"):
            self.model = self._load_pickled_model(folder, described["modelFile"], self.model_pt_path)
            self.model.to(self.device)
            self.model.eval()
        elif self.model_pt_path is not None and self.model_pt_path.endswith(".onnx"):
            import onnxruntime

            self.model = onnxruntime.InferenceSession(self.model_pt_path, providers=["CPUExecutionProvider"])
        elif self.model_pt_path is not None:
            self.model = self._load_torchscript_model(self.model_pt_path)
            self.model.eval()
        else:
            raise RuntimeError("the archive's manifest names neither a serializedFile nor a modelFile to load")
        self._compile()
        self.mapping = load_label_mapping(os.path.join(folder, "index_to_name.json"))
        self.initialized = True

    def _compile(self) -> None:
        """Compile the model where ``pt2`` of model-config.yaml asks for it."""
        wanted = self.model_yaml_config.get("pt2")
        if isinstance(wanted, dict) and isinstance(wanted.get("compile"), dict):
            options = dict(wanted["compile"])
            if options.pop("enable", False):
                self.model = torch.compile(self.model, **options)
        elif isinstance(wanted, str):
            self.model = torch.compile(self.model, backend=wanted)
        elif isinstance(wanted, dict) and "export" not in wanted:
            self.model = torch.compile(self.model, **wanted)

    def _load_torchscript_model(self, model_pt_path: str) -> Any:
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.load` is deprecated", category=DeprecationWarning)
        return torch.jit.load(model_pt_path, map_location=self.device)

    def _load_pickled_model(self, model_dir: str, model_file: str, model_pt_path: str | None) -> Any:
        """An object of the one class in ``model_file``, with the state that ``model_pt_path`` holds."""
        if not os.path.isfile(os.path.join(model_dir, model_file)):
            raise RuntimeError(f"the archive has no {model_file}, which its manifest names as modelFile")
        # Found beside the handler: while a handler loads, its folder is among those that Python looks in.
        module = importlib.import_module(model_file.split(".")[0])
        classes = list_classes_from_module(module)
        if len(classes) != 1:
            raise ValueError(f"{model_file} has to define one class, not {len(classes)}")
        model = classes[0]()
        if model_pt_path:
            model.load_state_dict(torch.load(model_pt_path, map_location=self.device))
        return model

    def preprocess(self, data: Any) -> Any:
        """A tensor of what the requests hold."""
        return torch.as_tensor(data, device=self.device)

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """What the model gives for a tensor."""
        with torch.inference_mode():
            return self.model(data.to(self.device), *args, **kwargs)

    def postprocess(self, data: Any) -> Any:
        """A list with an answer for each request."""
        return data.tolist()

    def handle(self, data: Any, context: Context) -> Any:
        """Answer a list of requests, with a list."""
        self.context = context
        return self.postprocess(self.inference(self.preprocess(data)))

    def describe_handle(self) -> Any:
        """What a handler tells of itself; None for nothing."""
        return None
