"""The default handler ``image_segmenter``."""

from __future__ import annotations

from typing import Any

import torch

from salver.runtimes.torchserve.ts.torch_handler.image_transforms import StandardTransform
from salver.runtimes.torchserve.ts.torch_handler.vision_handler import VisionHandler


class ImageSegmenter(VisionHandler):
    """For each pixel of each picture, the likeliest class and its probability: ``[height, width, 2]``."""

    image_processing = StandardTransform()

    def postprocess(self, data: Any) -> Any:
        best = torch.softmax(data["out"], dim=1).max(dim=1)
        return torch.stack([best.indices.to(best.values.dtype), best.values], dim=3).tolist()
