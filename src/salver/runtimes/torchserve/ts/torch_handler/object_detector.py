"""The default handler ``object_detector``."""

from __future__ import annotations

from typing import Any

import torch

from salver.runtimes.torchserve.ts.torch_handler.image_transforms import to_tensor
from salver.runtimes.torchserve.ts.torch_handler.vision_handler import VisionHandler
from salver.runtimes.torchserve.ts.utils.util import map_class_to_label


class ObjectDetector(VisionHandler):
    """For each picture, the objects in it: ``[{"label": [left, top, right, bottom], "score": probability}, ...]``."""

    threshold = 0.5
    image_processing = staticmethod(lambda image: to_tensor(image.convert("RGB")))

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        # Detectors take a list of pictures, not one tensor; scripted ones give their losses, too.
        with torch.inference_mode():
            found = self.model(list(data.to(self.device)), *args, **kwargs)
        return found[1] if isinstance(found, tuple) else found

    def postprocess(self, data: Any) -> Any:
        answers = []
        for row in data:
            keep = row["scores"] >= self.threshold
            classes = row["labels"][keep].tolist()
            boxes = map_class_to_label(
                [[box] for box in row["boxes"][keep].tolist()], self.mapping, [[c] for c in classes]
            )
            scores = row["scores"][keep].tolist()
            answers.append([{**box, "score": score} for box, score in zip(boxes, scores, strict=True)])
        return answers
