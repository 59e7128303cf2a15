"""The default handler ``image_classifier``."""

from __future__ import annotations

from typing import Any

import torch

from salver.runtimes.torchserve.ts.torch_handler.image_transforms import StandardTransform
from salver.runtimes.torchserve.ts.torch_handler.vision_handler import VisionHandler
from salver.runtimes.torchserve.ts.utils.util import map_class_to_label


class ImageClassifier(VisionHandler):
    """For each picture, the likeliest classes and their probabilities."""

    topk = 5
    image_processing = StandardTransform()

    def set_max_result_classes(self, topk: int) -> None:
        self.topk = topk

    def get_max_result_classes(self) -> int:
        return self.topk

    def postprocess(self, data: Any) -> Any:
        probabilities = torch.softmax(data, dim=1)
        best, classes = torch.topk(probabilities, min(self.topk, probabilities.shape[1]), dim=1)
        return map_class_to_label(best.tolist(), self.mapping, classes.tolist())
