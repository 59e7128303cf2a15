"""Makes the repository: `python examples/loan/make_models.py [FOLDER]` (default: build/loan/models).

Downloads nothing: the networks come with the package rapidocr. What is there and up to date is left alone.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

LOAN = Path(__file__).resolve().parent
sys.path.insert(0, str(LOAN.parent))

import networks  # noqa: E402
import scoring  # noqa: E402
from prepare import prepare_all  # noqa: E402
from repository import ExampleModel  # noqa: E402
from rich.console import Console  # noqa: E402

DEFAULT_FOLDER = LOAN.parent.parent / "build" / "loan" / "models"
SOURCES = LOAN / "models"

MODELS = (
    ExampleModel(
        "text-detector", SOURCES / "text-detector", "writing it", networks.write_detector, ("rapidocr", "onnx")
    ),
    ExampleModel("text-reader", SOURCES / "text-reader", "writing it", networks.write_reader, ("rapidocr", "onnx")),
    ExampleModel("loan-score", SOURCES / "loan-score", "training", scoring.train),
    ExampleModel("loan", SOURCES / "loan"),
)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Make the repository of the loan's graph and its models.")
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER, help="default: build/loan/models")
    folder: Path = parser.parse_args().folder.absolute()
    made = prepare_all(MODELS, folder, Console())
    print(f"{len(MODELS)} models in {folder}, {len(made)} of them new")


if __name__ == "__main__":
    main()
