"""Picture files to pixels, and back."""

from __future__ import annotations

import io
from typing import Annotated, Any, TypedDict

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from salver import errors

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_BYTES = 20_000_000
MAX_PIXELS = 16_000_000
MIN_SIDE = 32
WRITTEN: dict[str, dict[str, Any]] = {"png": {"compress_level": 3}, "jpeg": {"quality": 92}}
"""Formats, and how they are written."""

Pixels = Annotated[npt.NDArray[np.uint8], "UINT8", (-1, -1, 3)]
"""[height, width, 3 (red, green, blue)]"""


class Decoded(TypedDict):
    pixels: Pixels


class Format(TypedDict):
    name: str


class Encoded(TypedDict):
    picture: bytes


def decode(picture: bytes) -> Decoded:
    """A PNG, JPEG or WebP file's pixels, the right way up as its EXIF data tells.

    Raises:
        InvalidInput: it is something else, damaged, or too large or small.
    """
    if len(picture) > MAX_BYTES:
        raise errors.InvalidInput(f"the picture has {len(picture):,} bytes; expected {MAX_BYTES:,} at most")
    try:
        with Image.open(io.BytesIO(picture), formats=FORMATS) as image:
            # The header alone is read until here: what is too large never takes memory.
            if image.width * image.height > MAX_PIXELS or min(image.size) < MIN_SIDE:
                raise errors.InvalidInput(
                    f"the picture has {image.width} x {image.height} pixels; expected {MAX_PIXELS:,} pixels at most, "
                    f"and at least {MIN_SIDE} on each side"
                )
            upright = ImageOps.exif_transpose(image)
            return {"pixels": np.array(upright.convert("RGB"))}
    except Image.DecompressionBombError:
        raise errors.InvalidInput(f"the picture has more than {MAX_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise errors.InvalidInput(f"the bytes are no picture; expected one of {', '.join(FORMATS)}") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise errors.InvalidInput(f"the picture can't be read: {error}") from None


def known_format(name: str) -> Format:
    """The format that the request asks for, looked at before anything is done.

    Raises:
        InvalidInput: pictures aren't written in it.
    """
    if name not in WRITTEN:
        raise errors.InvalidInput(f"parameter 'format' is {name[:20]!r}; expected 'png' or 'jpeg'")
    return {"name": name}


def encode(pixels: Pixels, format: str) -> Encoded:
    """The file of a picture."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **WRITTEN[format])
    return {"picture": file.getvalue()}
