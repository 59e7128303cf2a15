"""Puts the face of one picture onto the faces of another: warp, light and colour, and a seam that can't be seen."""

from __future__ import annotations

from typing import Annotated, TypedDict

import cv2
import numpy as np
import numpy.typing as npt
from detection import to_picture

MIN_PRESENCE = 0.0  # of the mesh's logit: less, and there is no face
EXPRESSION = 0.6  # how much of the person's own shape is kept within the face; 0 takes the photo's
ABOVE_BROWS = 0.7  # where the changed part ends, from the brows (0) to the middle of the forehead (1)
FEATHER = 0.04  # how soft its edge is, and
SMOOTH = 0.13  # the details that its light is found without; both of its smaller side

# Points of MediaPipe's face mesh.
CHEEKS = [
    162, 127, 234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152,
    377, 400, 378, 379, 365, 397, 288, 361, 323, 454, 356, 389,
]  # fmt: skip
FOREHEAD = [301, 298, 333, 299, 337, 151, 108, 69, 104, 68, 71]
BROWS = [300, 293, 334, 296, 336, 9, 107, 66, 105, 63, 70]  # below each of these
OVAL = [*CHEEKS, 251, 284, 332, 297, 338, 10, 109, 67, 103, 54, 21]

Floats = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]
Pixels = Annotated[Image, "UINT8", (-1, -1, 3)]


class Swapped(TypedDict):
    """The photo with other faces.

    Attributes:
        boxes: [faces, 4]: left, top, right and bottom of each face that was changed.
    """

    pixels: Pixels
    boxes: Annotated[npt.NDArray[np.int64], "INT64", (-1, 4)]


def swap(
    person: Pixels,
    photo: Pixels,
    squares: Annotated[Floats, "FP32", (-1, 4)],
    points: Annotated[Floats, "FP32", (-1, 468, 3)],
    presence: Annotated[Floats, "FP32", (-1,)],
) -> Swapped:
    """The photo, where each face that the mesh is sure of is the person's; the first square is the person's."""
    meshes = [_mesh(square, each) for square, each in zip(squares, points, strict=True)]
    picture = photo.copy()
    boxes = []
    for mesh, logit in zip(meshes[1:], presence[1:], strict=True):
        if logit < MIN_PRESENCE:
            continue
        box = _replace(picture, mesh, person, meshes[0])
        if box is not None:
            boxes.append(box)
    return {"pixels": picture, "boxes": np.array(boxes, np.int64).reshape(-1, 4)}


def _mesh(square: Floats, raw: Floats) -> Points:
    """The mesh's points [468, 2] in the picture."""
    matrix = to_picture(square)
    flat: Points = raw[:, :2].astype(np.float64)
    moved: Points = flat @ matrix[:, :2].T + matrix[:, 2]
    return moved


def _replace(picture: Image, mesh: Points, person: Image, own: Points) -> tuple[int, int, int, int] | None:
    """Change one face; its box, or None where there is too little of it in the picture."""
    height, width = picture.shape[:2]
    size = np.ptp(mesh, axis=0)
    low = np.maximum(np.floor(mesh.min(axis=0) - size * 0.3), 0).astype(int)
    high = np.minimum(np.ceil(mesh.max(axis=0) + size * 0.3), (width, height)).astype(int)
    if (high - low).min() < 16:
        return None
    part = picture[low[1] : high[1], low[0] : high[0]]
    shape = _shape(own, mesh) - low
    warped, inside = _warp(person, own, shape, part.shape[:2])
    mask = _mask(mesh - low, inside)
    if mask.sum() < 64 * 255:
        return None
    _blend(part, _in_the_light_of(warped, part, mask), mask)
    left, top = np.maximum(mesh.min(axis=0), 0).astype(int)
    right, bottom = np.minimum(np.ceil(mesh.max(axis=0)) + 1, (width, height)).astype(int)
    return int(left), int(top), int(right), int(bottom)


def _shape(own: Points, mesh: Points) -> Points:
    """Where the person's points go: the outline is the photo's, what is within keeps something of the person's."""
    turned = _aligned(own, mesh)
    outline = mesh[OVAL]
    distance = np.min(np.linalg.norm(mesh[:, np.newaxis] - outline, axis=2), axis=1)
    within = np.clip(distance / (0.25 * np.ptp(mesh, axis=0).mean()), 0, 1)[:, np.newaxis]
    kept: Points = EXPRESSION * within * (turned - mesh)
    return mesh + kept


def _aligned(own: Points, mesh: Points) -> Points:
    """The person's points turned, scaled and moved onto the photo's (S. Umeyama, 1991)."""
    one, other = own - own.mean(axis=0), mesh - mesh.mean(axis=0)
    left, sizes, right = np.linalg.svd(other.T @ one)
    signs = np.array([1, np.sign(np.linalg.det(left @ right))])
    turn: Points = (sizes * signs).sum() / (one**2).sum() * (left @ np.diag(signs) @ right)
    turned: Points = one @ turn.T
    return np.asarray(turned + mesh.mean(axis=0))


def _warp(person: Image, own: Points, shape: Points, size: tuple[int, int]) -> tuple[Image, npt.NDArray[np.bool_]]:
    """The person's face, triangle by triangle, in another shape; and where it is."""
    triangles = _triangles(shape, size)
    # For each triangle, the affine map from the new place to where its pixels come from.
    corners = np.concatenate([shape[triangles], np.ones((len(triangles), 3, 1))], axis=2)
    maps = np.linalg.solve(corners, own[triangles])
    numbers = np.full(size, -1, np.int32)
    for number, triangle in enumerate(np.round(shape[triangles] * 16).astype(np.int32)):
        cv2.fillConvexPoly(numbers, triangle, number, shift=4)
    inside = numbers >= 0
    y, x = np.nonzero(inside)
    source = np.zeros((2, *size), np.float32)
    source[:, inside] = np.einsum("pi,pij->jp", np.column_stack([x, y, np.ones(len(x))]), maps[numbers[inside]])
    shrink = np.sqrt(abs(np.linalg.det(maps[:, :2])).mean())
    if shrink > 1.5:  # else pixels are left out, and what stays looks jagged
        person = np.asarray(cv2.GaussianBlur(person, (0, 0), float(shrink) / 3), np.uint8)
    warped = cv2.remap(person, source[0], source[1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, np.uint8), inside


def _triangles(shape: Points, size: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Corners [triangles, 3] of a Delaunay triangulation of the points."""
    low, high = shape.min(axis=0) - 2, shape.max(axis=0) + 2
    plane = cv2.Subdiv2D(
        (int(low[0]), int(low[1]), int(np.ceil(high[0] - low[0])) + 2, int(np.ceil(high[1] - low[1])) + 2)
    )
    rounded = shape.astype(np.float32)
    number_of = {}
    for number, (x, y) in enumerate(rounded):
        plane.insert((float(x), float(y)))
        number_of[float(x), float(y)] = number
    found = []
    for triangle in np.array(plane.getTriangleList()).reshape(-1, 3, 2):
        corners = [number_of.get((float(x), float(y))) for x, y in triangle]
        if None not in corners:
            found.append(corners)
    triangles = np.array(found, np.int64)
    sides = shape[triangles[:, 1:]] - shape[triangles[:, :1]]
    area = abs(sides[:, 0, 0] * sides[:, 1, 1] - sides[:, 0, 1] * sides[:, 1, 0])
    return triangles[area > 1e-3]


def _mask(mesh: Points, inside: npt.NDArray[np.bool_]) -> Image:
    """255 where the face is to be changed."""
    mask = np.zeros(inside.shape, np.uint8)
    # Hair hangs down over many a forehead: it stays as it is from a little above the brows.
    top = mesh[BROWS] + ABOVE_BROWS * (mesh[FOREHEAD] - mesh[BROWS])
    hull = cv2.convexHull(np.round(np.concatenate([top, mesh[CHEEKS]])).astype(np.int32))
    cv2.fillConvexPoly(mask, hull, 255)
    mask[~inside] = 0
    # The seam needs something around it.
    mask[[0, -1]] = 0
    mask[:, [0, -1]] = 0
    return np.asarray(mask, np.uint8)


def _in_the_light_of(warped: Image, part: Image, mask: Image) -> Image:
    """The face with the mean and spread of the colours that were there (E. Reinhard et al., Color Transfer, 2001)."""
    there = mask > 0
    given = cv2.cvtColor(warped, cv2.COLOR_RGB2LAB).astype(np.float32)
    wanted = cv2.cvtColor(part, cv2.COLOR_RGB2LAB).astype(np.float32)
    means, spreads = given[there].mean(axis=0), given[there].std(axis=0)
    scale = np.clip(wanted[there].std(axis=0) / np.maximum(spreads, 1), 0.7, 1.3)
    changed = (given - means) * scale + wanted[there].mean(axis=0)
    return np.asarray(cv2.cvtColor(np.clip(np.round(changed), 0, 255).astype(np.uint8), cv2.COLOR_LAB2RGB), np.uint8)


def _blend(part: Image, face: Image, mask: Image) -> None:
    """Put the face in, its colours led over to those around it (P. Perez et al., Poisson Image Editing, 2003).

    What is led over is the light alone, without hair, glasses and wrinkles: they would leave traces in the face.
    """
    left, top, width, height = cv2.boundingRect(mask)
    within = mask[..., np.newaxis] > 0
    kernel = int(min(width, height) * SMOOTH) // 2 * 2 + 1
    around = cv2.medianBlur(part, kernel)
    light = np.where(within, cv2.medianBlur(np.where(within, face, part), kernel), around)
    middle = (left + width // 2, top + height // 2)
    # seamlessClone writes to the mask that it is given.
    led = cv2.seamlessClone(light, around, mask.copy(), middle, cv2.NORMAL_CLONE)
    corrected = face.astype(np.float32) + led - light
    alpha = _feathered(mask, min(width, height) * FEATHER)[..., np.newaxis]
    part[:] = np.clip(np.round(alpha * corrected + (1 - alpha) * part), 0, 255).astype(np.uint8)


def _feathered(mask: Image, width: float) -> Floats:
    """The mask from 0 to 1, which it reaches some pixels from its edge."""
    side = 2 * max(int(width), 1) + 1
    smaller = cv2.erode(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    soft = cv2.GaussianBlur(smaller.astype(np.float32) / 255, (0, 0), max(width / 2, 0.5))
    return np.where(mask > 0, soft, np.float32(0))
