"""``salver graph``: show a graph, and run one to see what each step does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from salver.cli.output import harmless, note, print_json, print_rows, progress

if TYPE_CHECKING:
    from salver.client.graphs import GraphClient
    from salver.core.request import InferenceRequest

EXAMPLES = """\b
Examples:
  salver graph show loan                       a graph that is served
  salver graph show loan/1/graph.yaml          one in a file
  salver graph show loan --svg loan.svg        a picture
  salver graph traces loan                     time lines of its last requests
  salver graph run loan -i pdf=@form.pdf --explain
                                               what each step got and gave"""

graph = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Show graphs, and explain their requests.")

_DEFAULT_URL = "http://127.0.0.1:8000"
_Url = Annotated[str, typer.Option(metavar="URL", help="Where the server listens.")]
_Version = Annotated[str, typer.Option(metavar="VERSION", help="The version; the newest without it.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
_Timeout = Annotated[float, typer.Option(metavar="SECONDS", help="How long to wait for an answer.")]


@graph.command(epilog=EXAMPLES)
def show(
    name: Annotated[str, typer.Argument(metavar="GRAPH", help="A graph that is served, or its file or folder.")],
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a picture instead.")] = None,
    version: _Version = "",
    url: Annotated[
        str | None, typer.Option(metavar="URL", help=f"Where the server listens.  [default: {_DEFAULT_URL}]")
    ] = None,
    timeout: _Timeout = 10.0,
    json: _Json = False,
) -> None:
    """Draw a graph: its steps, and what each needs."""
    from salver.graph.drawing import draw_svg, draw_text

    if url is None and Path(name).exists():
        description = _from_file(Path(name))
    else:
        with _client(url or _DEFAULT_URL, timeout) as client:
            description = client.show(name, version)
    if svg is not None:
        _write(svg, draw_svg(description))
        note(f"{svg} is written")
    elif json:
        print_json(description)
    else:
        title = f"{description['name']} {description['version']}".rstrip()
        typer.echo(harmless(f"{title}  {description['description']}".rstrip()))
        typer.echo(draw_text(description))


@graph.command(epilog=EXAMPLES)
def traces(
    name: Annotated[str, typer.Argument(metavar="GRAPH", help="A graph that is served.")],
    last: Annotated[int, typer.Option(metavar="NUMBER", min=1, help="How many of the last requests.")] = 3,
    version: _Version = "",
    url: _Url = _DEFAULT_URL,
    timeout: _Timeout = 10.0,
    json: _Json = False,
) -> None:
    """Show the last requests' steps on time lines."""
    with _client(url, timeout) as client:
        found = client.traces(name, version)[-last:]
    if json:
        print_json(found)
        return
    for index, trace in enumerate(found):
        typer.echo(("\n" if index else "") + _title(trace))
        _print_time_line(trace)


@graph.command(epilog=EXAMPLES)
def run(
    name: Annotated[str, typer.Argument(metavar="GRAPH", help="A graph that is served.")],
    input: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="[NAME=]VALUE",
            help="A value, @FILE, or - for stdin, as for 'salver predict'. Repeat it for several inputs.",
        ),
    ] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="A request parameter. May be repeated."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show what each step got and gave, and a time line.")
    ] = False,
    version: _Version = "",
    url: _Url = _DEFAULT_URL,
    timeout: _Timeout = 60.0,
    json: _Json = False,
) -> None:
    """Run a graph once."""
    from salver.cli.inputs import read_inputs
    from salver.cli.predict import predict, read_parameters
    from salver.client.client import Client
    from salver.wire.v2_metadata import decode_signature

    if not explain:
        predict(name, input=input, parameter=parameter, version=version, url=url, timeout=timeout, json=json)
        return
    with Client(url, timeout=timeout) as client:
        signature = decode_signature(client.metadata(name, version))
    request = read_inputs(input or [], signature, model=name)
    request.model, request.version = name, version
    request.parameters.update(read_parameters(parameter or []))
    answer = _explained(request, url, timeout)
    if json:
        print_json(answer)
    else:
        _print_explained(answer)
    if answer["error"]:
        raise typer.Exit(1)


def _explained(request: InferenceRequest, url: str, timeout: float) -> dict[str, Any]:
    with _client(url, timeout) as client, progress(f"waiting for {client.url}"):
        return client.explain(request)


def _print_explained(answer: dict[str, Any]) -> None:
    for step in sorted(answer["steps"], key=lambda step: (step["start"], -step["end"])):
        told = f"{step['step']}  {step['kind']}, {step['status']}, {(step['end'] - step['start']) / 1000:.2f} ms"
        if step["attempts"] > 1:
            told += f", {step['attempts']} tries"
        typer.echo(harmless(told + (f" ({step['detail']})" if step["detail"] else "")))
        for sign, key in (("<-", "inputs"), ("->", "outputs")):
            for tensor in step.get(key, ()):
                typer.echo(harmless(f"   {sign} {_tensor(tensor)}"))
    typer.echo("")
    _print_time_line(answer)
    typer.echo("")
    if answer["error"]:
        typer.echo(f"error: {harmless(answer['error'])}", err=True)
        return
    print_rows(
        ["OUTPUT", "DATATYPE", "SHAPE", "VALUES"],
        [[each["name"], each["datatype"], str(each["shape"]), _data(each)] for each in answer["outputs"]],
    )


def _print_time_line(trace: dict[str, Any]) -> None:
    from salver.graph.drawing import draw_time_line

    typer.echo(draw_time_line(trace))


def _title(trace: dict[str, Any]) -> str:
    from datetime import UTC, datetime

    came = datetime.fromtimestamp(trace["time"], UTC).isoformat(timespec="milliseconds")
    told = f"{came} {trace['id']}".rstrip()
    return harmless(told + (f"  failed: {trace['error']}" if trace["error"] else ""))


def _tensor(tensor: dict[str, Any]) -> str:
    return f"{tensor['name']}: {tensor['datatype']} {tensor['shape']} {_data(tensor)}"


def _data(tensor: dict[str, Any]) -> str:
    values = ", ".join(f"{each:.6g}" if isinstance(each, float) else str(each) for each in tensor["data"])
    text = values if tensor["is_all"] else f"{values}, ..."
    return text if len(text) <= 160 else text[:157] + "..."


def _client(url: str, timeout: float) -> GraphClient:
    from salver.client.graphs import GraphClient

    return GraphClient(url, timeout=timeout)


def _write(path: Path, text: str) -> None:
    from salver.core.errors import InvalidRequest

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"{path} can't be written: {error.strerror}") from None


def _from_file(path: Path) -> dict[str, Any]:
    """A graph that isn't served, as far as it can be known without its models."""
    from salver.graph.description import describe_file

    return describe_file(path)
