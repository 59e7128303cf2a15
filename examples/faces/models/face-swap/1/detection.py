"""Faces in two pictures, around a BlazeFace detector and a face mesh: their inputs, and what their outputs mean.

Both are models of MediaPipe (Apache-2.0), and are used as MediaPipe does:

- V. Bazarevsky et al., BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs, 2019. The detector has two
  anchors for each cell of a 16 x 16 grid, and six for each of an 8 x 8 grid.
- Y. Kartynnik et al., Real-time Facial Surface Geometry from Monocular Video on Mobile GPUs, 2019.
"""

from __future__ import annotations

from typing import Annotated, TypedDict

import cv2
import numpy as np
import numpy.typing as npt

DETECTOR_SIDE = 256  # pixels of the detector's input
MESH_SIDE = 192  # pixels of the mesh's input
MESH_SCALE = 1.5  # how much larger than the face its crop is

MIN_SCORE = 0.6
MIN_OVERLAP = 0.3  # boxes that share so much of their area are of one face
MAX_FACES = 20

Floats = npt.NDArray[np.float32]
Pixels = Annotated[npt.NDArray[np.uint8], "UINT8", (-1, -1, 3)]


class Canvases(TypedDict):
    canvases: Annotated[Floats, "FP32", (2, DETECTOR_SIDE, DETECTOR_SIDE, 3)]


class Found(TypedDict):
    """Faces: the clearest one of ``person`` first, then all of ``photo``, the clearest first.

    Attributes:
        squares: [faces, 4]: the middle's x and y, the side's length, the angle of the line between the eyes in radians.
        scores: [faces]: how sure the detector is.
        in_person, in_photo: how many there are.
        message: what is missing; "" for nothing.
    """

    squares: Annotated[Floats, "FP32", (-1, 4)]
    scores: Annotated[Floats, "FP32", (-1,)]
    in_person: int
    in_photo: int
    message: str


class Crops(TypedDict):
    crops: Annotated[Floats, "FP32", (-1, MESH_SIDE, MESH_SIDE, 3)]


def fit(person: Pixels, photo: Pixels) -> Canvases:
    """Both pictures as the detector wants them: in the middle of a square, values from -1 to 1."""
    return {"canvases": np.stack([_canvas(person), _canvas(photo)])}


def find(
    boxes: Annotated[Floats, "FP32", (2, 896, 16)],
    scores: Annotated[Floats, "FP32", (2, 896, 1)],
    person: Pixels,
    photo: Pixels,
) -> Found:
    """The faces that the detector has found."""
    of_person = _faces(boxes[0], scores[0, :, 0], person)[:1]
    of_photo = _faces(boxes[1], scores[1, :, 0], photo)[:MAX_FACES]
    without = [name for name, faces in (("person", of_person), ("photo", of_photo)) if not len(faces)]
    faces = np.concatenate([of_person, of_photo]).astype(np.float32)
    return {
        "squares": faces[:, :4],
        "scores": faces[:, 4],
        "in_person": len(of_person),
        "in_photo": len(of_photo),
        "message": f"there is no face in {' and none in '.join(repr(name) for name in without)}" if without else "",
    }


def crop(person: Pixels, photo: Pixels, squares: Annotated[Floats, "FP32", (-1, 4)]) -> Crops:
    """Each face upright, in a square, as the mesh wants it: values from 0 to 1."""
    crops = [
        cv2.warpAffine(
            person if index == 0 else photo,
            to_picture(square),
            (MESH_SIDE, MESH_SIDE),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        for index, square in enumerate(squares)
    ]
    return {"crops": np.stack(crops) / np.float32(255)}


def to_picture(square: Floats) -> npt.NDArray[np.float64]:
    """The matrix [2, 3] from points of a crop to points of its picture."""
    x, y, side, angle = (float(value) for value in square)
    scale = side / MESH_SIDE
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.array([x, y]) - turn @ np.full(2, MESH_SIDE / 2)
    return np.column_stack([turn, middle])


def _canvas(picture: npt.NDArray[np.uint8]) -> Floats:
    scale, left, top = _placement(picture)
    size = [max(round(length * scale), 1) for length in (picture.shape[1], picture.shape[0])]
    smaller = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    canvas = np.full((DETECTOR_SIDE, DETECTOR_SIDE, 3), -1, np.float32)
    x, y = round(left), round(top)
    canvas[y : y + size[1], x : x + size[0]] = smaller.astype(np.float32) / 127.5 - 1
    return canvas


def _placement(picture: npt.NDArray[np.uint8]) -> tuple[float, float, float]:
    """The scale of a picture on its canvas, and what is free at the left and at the top."""
    height, width = picture.shape[:2]
    scale = DETECTOR_SIDE / max(height, width)
    return scale, (DETECTOR_SIDE - width * scale) / 2, (DETECTOR_SIDE - height * scale) / 2


def _anchors() -> Floats:
    """The middles of the detector's anchors [896, 2], from 0 to 1."""
    found = []
    for cells, each in ((16, 2), (8, 6)):
        middles = (np.arange(cells) + 0.5) / cells
        grid = np.stack(np.meshgrid(middles, middles), axis=-1).reshape(-1, 2)
        found.append(np.repeat(grid, each, axis=0))
    return np.concatenate(found).astype(np.float32)


_ANCHORS = _anchors()


def _faces(boxes: Floats, logits: Floats, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """[faces, 5]: the crop's square, and the score.

    A box is the middle, the size, and six points (eyes, nose, mouth, ears) in pixels of the canvas, the middle and the
    points relative to the anchor.
    """
    scores = 1 / (1 + np.exp(-np.clip(logits, -80, 80).astype(np.float64)))
    kept = scores > MIN_SCORE
    points = boxes[kept].reshape(-1, 8, 2).astype(np.float64) / DETECTOR_SIDE
    points[:, [0, 2, 3, 4, 5, 6, 7]] += _ANCHORS[kept][:, np.newaxis]
    scale, left, top = _placement(picture)
    faces = []
    for face, score in _merged(points, scores[kept]):
        (x, y), size = face[0] * DETECTOR_SIDE - (left, top), face[1] * DETECTOR_SIDE
        (left_x, left_y), (right_x, right_y) = face[2], face[3]
        angle = np.arctan2(right_y - left_y, right_x - left_x)
        faces.append([x / scale, y / scale, size.max() / scale * MESH_SCALE, angle, score])
    return np.array(faces).reshape(-1, 5)


def _merged(
    points: npt.NDArray[np.float64], scores: npt.NDArray[np.float64]
) -> list[tuple[npt.NDArray[np.float64], float]]:
    """One box for each face: the mean, weighted by score, of the boxes that overlap with the best one."""
    waiting = np.argsort(-scores, kind="stable")
    faces = []
    while len(waiting):
        best = waiting[0]
        same = _overlap(points[best], points[waiting]) > MIN_OVERLAP
        same[0] = True
        members = waiting[same]
        weights = scores[members] / scores[members].sum()
        faces.append((np.tensordot(weights, points[members], axes=1), float(scores[best])))
        waiting = waiting[~same]
    return faces


def _overlap(one: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The area that boxes share with one, divided by the area that both cover."""
    low = np.maximum(one[0] - one[1] / 2, others[:, 0] - others[:, 1] / 2)
    high = np.minimum(one[0] + one[1] / 2, others[:, 0] + others[:, 1] / 2)
    shared = np.clip(high - low, 0, None).prod(axis=1)
    both = one[1].prod() + others[:, 1].prod(axis=1) - shared
    return np.asarray(shared / np.maximum(both, 1e-9))
