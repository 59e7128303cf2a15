"""From a picture to the tensor that ImageNet models take, as torchvision's transforms do it, without torchvision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image


def to_tensor(image: Image.Image) -> torch.Tensor:
    """FP32 ``[channels, height, width]``, 0 to 1."""
    pixels = np.array(image, np.uint8)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().to(torch.float32).div(255)


class StandardTransform:
    """The shorter side to ``size``, the middle ``crop`` x ``crop`` of it, and each channel normalized."""

    def __init__(
        self,
        size: int = 256,
        crop: int = 224,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
    ) -> None:
        self._size = size
        self._crop = crop
        self._mean = torch.tensor(mean).view(-1, 1, 1)
        self._std = torch.tensor(std).view(-1, 1, 1)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """FP32 ``[3, crop, crop]``."""
        picture = image.convert("RGB")
        width, height = picture.size
        short, long = min(width, height), max(width, height)
        longer = int(self._size * long / short)
        size = (self._size, longer) if width <= height else (longer, self._size)
        picture = picture.resize(size, Image.Resampling.BILINEAR)
        left, top = (round((side - self._crop) / 2.0) for side in size)
        picture = picture.crop((left, top, left + self._crop, top + self._crop))
        return (to_tensor(picture) - self._mean) / self._std
