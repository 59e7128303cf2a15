"""``salver alias``."""

from __future__ import annotations

from typing import Annotated

import typer

from salver.cli.reference import split_reference

EXAMPLES = """\b
Examples:
  salver alias iris@production 3
  salver alias iris@production @staging     what staging points to
  salver alias iris@staging --delete"""


def alias(
    name: Annotated[str, typer.Argument(metavar="NAME@ALIAS", help="The alias of a model.")],
    version: Annotated[
        str, typer.Argument(metavar="VERSION|@ALIAS", help="The version that it is to point to; it must be ready.")
    ] = "",
    delete: Annotated[bool, typer.Option("--delete", help="Take the alias away.")] = False,
    url: Annotated[str, typer.Option(metavar="URL", help="Where the server listens.")] = "http://127.0.0.1:8000",
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="How long to wait for an answer.")] = 10.0,
) -> None:
    """Let an alias point to a version, or take it away.

    Requests for NAME@ALIAS go to the version from then on, without a gap.
    """
    from salver.client.model_store import ModelStoreClient

    model, reference = split_reference(name)
    if not reference.startswith("@"):
        raise typer.BadParameter(f"expected NAME@ALIAS, got {name!r}")
    if bool(version) == delete:
        raise typer.BadParameter("give a VERSION, or --delete")
    with ModelStoreClient(url, timeout=timeout) as client:
        if delete:
            client.delete_alias(model, reference[1:])
            typer.echo(f"{name} is gone")
        else:
            typer.echo(f"{name} is version {client.set_alias(model, reference[1:], version)}")
