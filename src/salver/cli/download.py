"""``salver download``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from salver.cli.output import size
from salver.cli.reference import split_reference
from salver.cli.transfer_bar import transfer_bar

EXAMPLES = """\b
Examples:
  salver download iris iris/               the newest version that is ready
  salver download iris:3 iris-3/
  salver download iris@production model/"""


def download(
    model: Annotated[str, typer.Argument(metavar="NAME[:VERSION|@ALIAS]", help="A version of a model store.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="A new folder for its files.")],
    url: Annotated[str, typer.Option(metavar="URL", help="Where the server listens.")] = "http://127.0.0.1:8000",
) -> None:
    """Download a version's files from a model store.

    The folder is there as a whole or not at all, and what broke off goes on where it ended. Every file is checked
    against its SHA-256.
    """
    from salver.client.model_store import ModelStoreClient

    name, reference = split_reference(model)
    with ModelStoreClient(url) as client, transfer_bar(f"downloading {model}") as bar:
        found = client.download(name, reference, target, progress=bar)
    files = "1 file" if len(found["files"]) == 1 else f"{len(found['files'])} files"
    typer.echo(f"{target}: {name} version {found['version']} ({files}, {size(found['size'])})")
