"""``salver delete``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from salver.cli.reference import split_reference

EXAMPLES = """\b
Examples:
  salver delete iris:3
  salver delete iris --yes          all versions and aliases
  salver delete iris:3 --force      although it served a minute ago"""


def delete(
    model: Annotated[
        str, typer.Argument(metavar="NAME[:VERSION]", help="A version of a model store, or a whole model.")
    ],
    force: Annotated[bool, typer.Option("--force", help="Also what was used in the last minute.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask before a whole model is deleted.")] = False,
    url: Annotated[str, typer.Option(metavar="URL", help="Where the server listens.")] = "http://127.0.0.1:8000",
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="How long to wait for an answer.")] = 10.0,
) -> None:
    """Delete a version, or a whole model, from a model store.

    A version that has an alias isn't deleted. The name of a deleted version stays taken.
    """
    from salver.client.model_store import ModelStoreClient

    name, version = split_reference(model)
    if version.startswith("@"):
        raise typer.BadParameter(f"expected NAME or NAME:VERSION; 'salver alias {model} --delete' deletes an alias")
    with ModelStoreClient(url, timeout=timeout) as client:
        if not version and not yes:
            count = len(client.model(name)["versions"])
            if not sys.stdin.isatty():
                raise typer.BadParameter(f"{name} and its {count} versions are deleted only with --yes")
            typer.confirm(f"Delete {name} and its {count} versions?", abort=True, err=True)
        client.delete(name, version, force=force)
    typer.echo(f"{model} is deleted")
