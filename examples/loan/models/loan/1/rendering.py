"""PDF files as pictures of their pages."""

from typing import Annotated, TypedDict

import cv2
import numpy as np
import numpy.typing as npt
import pypdfium2

from salver import errors

MAX_PAGES = 10
MAX_BYTES = 20 << 20

WIDTH, HEIGHT = 1600, 2240  # of a page: A4 at 194 dpi; multiples of 64, so that half of it is one of 32


class Pages(TypedDict):
    pages: Annotated[npt.NDArray[np.uint8], "UINT8", (-1, HEIGHT, WIDTH)]  # grey
    small: Annotated[npt.NDArray[np.uint8], "UINT8", (-1, HEIGHT // 2, WIDTH // 2)]  # the same at half the size


def render(pdf: bytes) -> Pages:
    """Pages as large as WIDTH x HEIGHT allows, at the top left, on white."""
    if len(pdf) > MAX_BYTES:
        raise errors.InvalidInput(f"the PDF file has {len(pdf):,} bytes; expected at most {MAX_BYTES:,}")
    try:
        with pypdfium2.PdfDocument(pdf) as document:
            pages = _draw_all(document)
    except pypdfium2.PdfiumError as error:
        raise errors.InvalidInput(f"'pdf' is no PDF file that can be read: {error}") from None
    half = (WIDTH // 2, HEIGHT // 2)
    small = np.stack([cv2.resize(page, half, interpolation=cv2.INTER_AREA) for page in pages])
    return {"pages": pages, "small": np.asarray(small, np.uint8)}


def _draw_all(document: pypdfium2.PdfDocument) -> npt.NDArray[np.uint8]:
    if not 1 <= len(document) <= MAX_PAGES:
        raise errors.InvalidInput(f"the PDF file has {len(document)} pages; expected 1 to {MAX_PAGES}")
    pages = np.full((len(document), HEIGHT, WIDTH), 255, np.uint8)
    for canvas, page in zip(pages, document, strict=True):
        # A page may say that it is a kilometre wide: the scale is what bounds the picture.
        scale = min(WIDTH / page.get_width(), HEIGHT / page.get_height())
        picture = page.render(scale=scale, grayscale=True).to_numpy()[:HEIGHT, :WIDTH]
        canvas[: picture.shape[0], : picture.shape[1]] = picture
    return pages
