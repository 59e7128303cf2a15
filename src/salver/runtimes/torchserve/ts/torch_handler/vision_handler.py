"""The handler of pictures that others derive from."""

from __future__ import annotations

import base64
import io
from typing import Any

import torch
from PIL import Image

from salver.runtimes.torchserve.ts.torch_handler.base_handler import BaseHandler


class VisionHandler(BaseHandler):
    """Makes a batch of pictures: files of any format that Pillow reads, their base64, or nested lists of numbers.

    Subclasses have ``image_processing``, which makes a tensor of a Pillow image.
    """

    image_processing: Any

    def preprocess(self, data: Any) -> Any:
        images = []
        for row in data:
            image = row.get("data") or row.get("body")
            if isinstance(image, str):
                image = base64.b64decode(image)
            if isinstance(image, bytes | bytearray):
                images.append(self.image_processing(Image.open(io.BytesIO(image))))
            else:
                images.append(torch.as_tensor(image, dtype=torch.float32))
        return torch.stack(images).to(self.device)
