"""The ``salver`` program: its commands, and how their errors end."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from salver.cli import alias, cache, check, delete, download, graph, list, predict, push, serve, show, version
from salver.core.errors import SalverError

INTERRUPTED = 130
BROKEN_PIPE = 141


class Commands(TyperGroup):
    """Runs a command. Errors that Salver raises on purpose end it with a line, not with a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the arguments name."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except SalverError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # What is left in the buffer would fail again, with a message, when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(BROKEN_PIPE) from None
        return result


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nExamples:\n"
    "  salver serve model.onnx                       serve it on port 8000\n"
    "  salver predict model --input '[1, 2, 3, 4]'   ask it\n"
    "  salver check model.onnx                       look at it without serving\n\n"
    "'salver COMMAND --help' says more of each.",
)
for module in (serve, predict, push, list, show, alias, delete, download, cache, check, version):
    app.command(epilog=module.EXAMPLES)(getattr(module, module.__name__.rpartition(".")[2]))
app.add_typer(graph.graph, name="graph", epilog=graph.EXAMPLES)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"salver {version.salver_version()}")
        raise typer.Exit


@app.callback()
def salver(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show Salver's version and end."),
    ] = False,
) -> None:
    """Serve trained models: from a model file to a predict API over REST and gRPC in one command."""


def main() -> None:
    """What the ``salver`` command runs."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
