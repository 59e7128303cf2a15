"""The example that swaps faces, over a real server: its pictures, and what it says where there is no face."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw
from servers import Server

from salver import Client
from salver.core.errors import InvalidRequest

FACES = Path(__file__).resolve().parents[2] / "examples" / "faces"
HOPPER, COLLINS, SWAPPED = (FACES / "photos" / f"{name}.jpg" for name in ("hopper", "collins", "swapped"))

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("faces") / "models"
    subprocess.run([sys.executable, FACES / "prepare_faces.py", folder], check=True, timeout=100)
    server = Server(folder, "--allow-code")
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.kill()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with server.client() as client:
        yield client


Swap = tuple[npt.NDArray[np.uint8], list[list[int]]]


def swap(client: Client, person: bytes, photo: bytes) -> Swap:
    answer = client.predict("face-swap", {"person": [person], "photo": [photo]})
    assert answer["message"].tolist() == [""]
    return pixels(answer["picture"][0]), answer["faces"].tolist()


def pixels(file: bytes | Path) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
        return np.array(image.convert("RGB"))


def png(array: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "png")
    return file.getvalue()


def empty(width: int = 300, height: int = 200) -> bytes:
    image = Image.new("RGB", (width, height), "seagreen")
    ImageDraw.Draw(image).rectangle((40, 40, 200, 120), fill="white")
    return png(np.array(image))


def cut(picture: npt.NDArray[np.uint8], box: list[int]) -> npt.NDArray[np.uint8]:
    left, top, right, bottom = box
    return picture[top:bottom, left:right]


def test_the_picture_is_the_one_in_the_readme(client: Client) -> None:
    picture, faces = swap(client, HOPPER.read_bytes(), COLLINS.read_bytes())
    np.testing.assert_allclose(faces, [[177, 66, 275, 176]], atol=3)
    expected = pixels(SWAPPED)
    assert picture.shape == expected.shape
    difference = abs(cut(picture, faces[0]).astype(float) - cut(expected, faces[0]))
    assert difference.mean() < 4
    assert np.percentile(difference, 99) < 30


@pytest.mark.parametrize(("person", "photo"), [(HOPPER, COLLINS), (COLLINS, HOPPER)])
def test_all_around_the_face_is_as_it_was(client: Client, person: Path, photo: Path) -> None:
    picture, (face,) = swap(client, person.read_bytes(), photo.read_bytes())
    before = pixels(photo)
    outside = np.ones(before.shape[:2], bool)
    outside[face[1] : face[3], face[0] : face[2]] = False
    assert np.array_equal(picture[outside], before[outside])
    assert abs(cut(picture, face).astype(float) - cut(before, face)).mean() > 10


def test_every_face_of_the_photo_is_changed(client: Client) -> None:
    one, other = pixels(HOPPER), pixels(COLLINS)
    group = np.zeros((600, 1024, 3), np.uint8)
    group[:, :512], group[88:, 512:] = one, other
    picture, faces = swap(client, HOPPER.read_bytes(), png(group))
    assert len(faces) == 2
    left, right = sorted(faces)
    np.testing.assert_allclose(right, [689, 154, 786, 263], atol=6)
    # Her own face changes little, the other one much.
    changed = [abs(cut(picture, face).astype(float) - cut(group, face)).mean() for face in (left, right)]
    assert changed[0] < changed[1] / 2


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_pictures_of_any_mode_that_lie_on_their_side(client: Client, mode: str) -> None:
    with Image.open(COLLINS) as image:
        lying = image.transpose(Image.Transpose.ROTATE_90).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right
    file = io.BytesIO()
    lying.save(file, "jpeg" if mode in ("L", "CMYK") else "png", exif=exif)
    picture, faces = swap(client, HOPPER.read_bytes(), file.getvalue())
    assert picture.shape == (512, 512, 3)
    np.testing.assert_allclose(faces, [[177, 66, 275, 176]], atol=4)


def test_many_at_once_get_the_same_picture(server: Server, client: Client) -> None:
    alone, _ = swap(client, COLLINS.read_bytes(), HOPPER.read_bytes())

    def ask(_: int) -> bool:
        with server.client() as each:
            return np.array_equal(swap(each, COLLINS.read_bytes(), HOPPER.read_bytes())[0], alone)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(16)))


@pytest.mark.parametrize(
    ("person", "photo", "message"),
    [
        (empty(), COLLINS.read_bytes(), "there is no face in 'person'"),
        (COLLINS.read_bytes(), empty(2000, 40), "there is no face in 'photo'"),
        (empty(), empty(), "there is no face in 'person' and none in 'photo'"),
    ],
)
def test_no_face_is_an_answer(client: Client, person: bytes, photo: bytes, message: str) -> None:
    answer = client.predict("face-swap", {"person": [person], "photo": [photo]})
    assert list(answer) == ["message"]
    assert answer["message"].tolist() == [message]


def _header(width: int, height: int) -> bytes:
    """A PNG that claims to be so large, and has no pixels."""
    chunks = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IEND", b"")):
        chunks += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return chunks


@pytest.mark.parametrize(
    ("photo", "message"),
    [
        (b"no picture", "expected one of PNG, JPEG, WEBP"),
        (b"", "expected one of PNG, JPEG, WEBP"),
        (_header(60_000, 60_000), "more than 16,000,000 pixels"),
        (_header(5000, 5000), "5000 x 5000 pixels"),
        (_header(100, 100), "can't be read"),
        (COLLINS.read_bytes()[:20_000], "can't be read"),
        (empty(300, 8), "300 x 8 pixels"),
    ],
)
def test_what_is_no_picture_is_the_callers_fault(client: Client, photo: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=f"step 'photo': .*{message}"):
        client.predict("face-swap", {"person": [COLLINS.read_bytes()], "photo": [photo]})


def test_the_format_is_a_parameter(client: Client) -> None:
    inputs = {"person": [COLLINS.read_bytes()], "photo": [HOPPER.read_bytes()]}
    picture = client.predict("face-swap", inputs, parameters={"format": "jpeg"})["picture"][0]
    assert picture[:3] == b"\xff\xd8\xff"
    with pytest.raises(InvalidRequest, match=r"step 'format': .*'bmp'; expected 'png' or 'jpeg'"):
        client.predict("face-swap", inputs, parameters={"format": "bmp"})


def test_the_command_writes_a_picture_or_says_why_not(server: Server, tmp_path: Path) -> None:
    def run(*arguments: Path | str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, FACES / "swap_faces.py", *arguments, "--url", server.url]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    done = run("--output", tmp_path / "swapped.jpg")
    assert (done.returncode, done.stderr) == (0, "")
    assert pixels(tmp_path / "swapped.jpg").shape == (512, 512, 3)
    (tmp_path / "empty.png").write_bytes(empty())
    done = run(tmp_path / "empty.png", COLLINS, "--output", tmp_path / "none.png")
    assert (done.returncode, done.stderr) == (1, "no picture: there is no face in 'person'\n")
    assert not (tmp_path / "none.png").exists()
