"""From where text is on pages to lines of text.

What is done to the networks' outputs is described in "Real-time Scene Text Detection with Differentiable Binarization"
(Liao et al., 2020) and "Connectionist Temporal Classification" (Graves et al., 2006).
"""

import math
from typing import Annotated, TypedDict

import cv2
import numpy as np
import numpy.typing as npt

from salver import errors

Array = npt.NDArray[np.float32]

TEXT = 0.3  # a pixel is part of a text from this probability on
CERTAIN = 0.5  # a line is kept from this mean probability on
GROWN = 1.6  # the network marks the middle of lines: so much of area / perimeter is added on each side
SMALLEST = 3  # pixels
MAX_LINES = 500  # of all pages

LINE_HEIGHT = 48  # pixels, as the reader takes them
SHORT = 384  # pixels: lines of up to this width don't pay for what longer ones cost
LONGEST = 1536
WIDTHS = 128  # lines are padded to a multiple of this
PADDING = 128  # grey: the networks' zero

UNSURE = 0.5  # lines of a smaller mean score are left out


class Boxes(TypedDict):
    boxes: Annotated[Array, "FP32", (-1, 4, 2)]  # corners (x, y), clockwise from the top left, in pixels of the page


class Cut(TypedDict):
    short: Annotated[npt.NDArray[np.uint8], "UINT8", (-1, LINE_HEIGHT, -1)]
    long: Annotated[npt.NDArray[np.uint8], "UINT8", (-1, LINE_HEIGHT, -1)]
    is_long: Annotated[npt.NDArray[np.bool_], "BOOL", (-1,)]  # for each box: which of the two it is in


class Lines(TypedDict):
    texts: list[str]
    places: Annotated[Array, "FP32", (-1, 4)]  # left, top, right, bottom; the pages made level
    pages: list[int]


def find_boxes(text: Annotated[Array, "FP32", (1, 1, -1, -1)], scale: float) -> Boxes:
    """A box around each line, larger by ``scale``, from how likely each pixel is part of a text."""
    likely = text[0, 0]
    contours, _ = cv2.findContours((likely > TEXT).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    boxes = []
    for contour in contours:
        centre, (width, height), angle = cv2.minAreaRect(contour)
        if min(width, height) < SMALLEST or _mean(likely, contour) < CERTAIN:
            continue
        more = 2 * GROWN * width * height / (2 * (width + height))
        corners = np.asarray(cv2.boxPoints((centre, (width + more, height + more), angle)), np.float32)
        boxes.append(_clockwise(corners) * scale)
    return {"boxes": np.array(boxes, np.float32).reshape(-1, 4, 2)}


def cut(
    pages: Annotated[npt.NDArray[np.uint8], "UINT8", (-1, -1, -1)], boxes: Array, page: npt.NDArray[np.int64]
) -> Cut:
    """The lines in the boxes, level and of one height."""
    if len(boxes) > MAX_LINES:
        raise errors.InvalidInput(f"the pages have {len(boxes)} lines of text; expected at most {MAX_LINES}")
    pictures = [_level(pages[number], box) for number, box in zip(page, boxes, strict=True)]
    is_long = np.array([picture.shape[1] > SHORT for picture in pictures], dtype=bool)
    short = [picture for picture, longer in zip(pictures, is_long, strict=True) if not longer]
    long = [picture for picture, longer in zip(pictures, is_long, strict=True) if longer]
    return {"short": _stack(short), "long": _stack(long), "is_long": is_long}


def read(
    short_characters: npt.NDArray[np.int32],
    short_scores: Array,
    long_characters: npt.NDArray[np.int32],
    long_scores: Array,
    is_long: npt.NDArray[np.bool_],
    boxes: Array,
    page: npt.NDArray[np.int64],
) -> Lines:
    """The texts from top to bottom, and where they are.

    ``*_characters`` and ``*_scores`` are [lines, columns]: code points, 0 for none, and how sure they are.
    """
    short = zip(short_characters, short_scores, strict=True)
    long = zip(long_characters, long_scores, strict=True)
    found = []
    places = _places(boxes, page)
    for index, longer in enumerate(is_long):
        text, score = _text(*next(long if longer else short))
        if text and score >= UNSURE:
            found.append((int(page[index]), places[index], text))
    found.sort(key=lambda line: (line[0], line[1][1], line[1][0]))
    return {
        "texts": [text for _, _, text in found],
        "places": np.array([place for _, place, _ in found], np.float32).reshape(-1, 4),
        "pages": [number for number, _, _ in found],
    }


def _mean(likely: Array, contour: npt.NDArray[np.int32]) -> float:
    left, top, width, height = cv2.boundingRect(contour)
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [contour - (left, top)], 1)
    return float(cv2.mean(likely[top : top + height, left : left + width], mask)[0])


def _clockwise(corners: Array) -> Array:
    """Corners in the order top left, top right, bottom right, bottom left."""
    by_x = corners[np.argsort(corners[:, 0], kind="stable")]
    top_left, bottom_left = sorted(by_x[:2].tolist(), key=lambda corner: corner[1])
    top_right, bottom_right = sorted(by_x[2:].tolist(), key=lambda corner: corner[1])
    return np.array([top_left, top_right, bottom_right, bottom_left], np.float32)


def _level(page: npt.NDArray[np.uint8], box: Array) -> npt.NDArray[np.uint8]:
    height = max(1.0, float(np.linalg.norm(box[3] - box[0])))
    wide = float(np.linalg.norm(box[1] - box[0])) * LINE_HEIGHT / height
    width = min(LONGEST, max(8, math.ceil(wide)))
    target = np.array([[0, 0], [width, 0], [width, LINE_HEIGHT]], np.float32)
    turned = cv2.getAffineTransform(box[:3].astype(np.float32), target)
    size = (width, LINE_HEIGHT)
    level = cv2.warpAffine(page, turned, size, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(level, np.uint8)


def _stack(pictures: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    """Lines of one width, which those of other requests are likely to have, too: so they share batches."""
    widest = max((picture.shape[1] for picture in pictures), default=0)
    lines = np.full((len(pictures), LINE_HEIGHT, -(-widest // WIDTHS) * WIDTHS), PADDING, np.uint8)
    for line, picture in zip(lines, pictures, strict=True):
        line[:, : picture.shape[1]] = picture
    return lines


def _text(characters: npt.NDArray[np.int32], scores: Array) -> tuple[str, float]:
    """A character that fills several columns counts once; a column without one, between two, keeps them apart."""
    starts = np.concatenate(([True], characters[1:] != characters[:-1]))
    kept = starts & (characters != 0)
    if not kept.any():
        return "", 0.0
    return "".join(map(chr, characters[kept])).strip(), float(scores[kept].mean())


def _places(boxes: Array, page: npt.NDArray[np.int64]) -> Array:
    """Where the boxes would be if their pages were level: turned by the usual angle of a page's lines."""
    places = np.empty((len(boxes), 4), np.float32)
    for number in np.unique(page):
        on_page = page == number
        these = boxes[on_page]
        along = these[:, 1] - these[:, 0]
        wide = np.hypot(along[:, 0], along[:, 1]) > 2 * np.hypot(*(these[:, 3] - these[:, 0]).T)
        angle = float(np.median(np.arctan2(along[:, 1], along[:, 0])[wide])) if wide.any() else 0.0
        level = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]], np.float32)
        corners = these @ level.T
        places[on_page] = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    return places
