"""Asks a server for a photo with another face in it.

    python examples/faces/swap_faces.py PERSON PHOTO --output swapped.png

The exit code is 1 where there is no such picture: no face, a file that is no picture, no server.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from salver import Client, errors

PHOTOS = Path(__file__).resolve().parent / "photos"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("person", nargs="?", type=Path, default=PHOTOS / "hopper.jpg", help="whose face it is")
    parser.add_argument("photo", nargs="?", type=Path, default=PHOTOS / "collins.jpg", help="whose faces are replaced")
    parser.add_argument(
        "--output", "-o", type=Path, default=Path("swapped.png"), help="swapped.png by default; or .jpg"
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the server's")
    options = parser.parse_args(arguments)
    try:
        inputs = {"person": [options.person.read_bytes()], "photo": [options.photo.read_bytes()]}
        picture_format = "jpeg" if options.output.suffix.lower() in (".jpg", ".jpeg") else "png"
        with Client(options.url) as client:
            answer = client.predict("face-swap", inputs, parameters={"format": picture_format})
        if "picture" not in answer:
            print(f"no picture: {answer['message'][0]}", file=sys.stderr)
            return 1
        options.output.write_bytes(answer["picture"][0])
    except (errors.SalverError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    for left, top, right, bottom in answer["faces"].tolist():
        print(f"a face from ({left}, {top}) to ({right}, {bottom})")
    print(f"written: {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
