"""``salver predict``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from salver.cli.output import plain, print_json, print_rows, progress, summary

if TYPE_CHECKING:
    from salver.core.request import Parameters
    from salver.core.tensor import Array

EXAMPLES = """\b
Examples:
  salver predict iris --input '[[5.1, 3.5, 1.4, 0.2]]'   a served model
  salver predict iris --input 5.1,3.5,1.4,0.2            the same
  salver predict iris --input @flowers.csv --json
  salver predict model.onnx --input @array.npy           without a server
  salver predict ocr --input image=@line.png --output text
  cat request.json | salver predict iris --input -

\b
VALUE is JSON, numbers with commas, or text. @FILE is read by its ending:
  .json            a V2 request, {"NAME": VALUE, ...}, or a value
  .npy .npz        arrays; those of .npz by input name
  .csv             columns by input name, or the rows of a [-1, n] input
  .png .jpg ...    the file itself for a BYTES input; else pixels in the shape
                   of the input: resized only if it fixes height and width,
                   floats scaled to 0..1
  .txt             text"""


def predict(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="The name of a served model, or a model's file or folder.")
    ],
    input: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="[NAME=]VALUE",
            help="A value, @FILE, or - for stdin. Repeat it for several inputs.",
        ),
    ] = None,
    output: Annotated[
        list[str] | None,
        typer.Option("--output", "-o", metavar="NAME", help="An output to ask for; all without it. May be repeated."),
    ] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="A request parameter. May be repeated."),
    ] = None,
    version: Annotated[str, typer.Option(metavar="VERSION", help="The model version; the newest without it.")] = "",
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Where the server listens. Default: http://127.0.0.1:8000, unless MODEL is a file or folder.",
        ),
    ] = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Without a server: load a model that runs code of its own.")
    ] = False,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="How long to wait for the server's answer.")] = 60.0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON: an object of the outputs by name.")] = False,
) -> None:
    """Run a model once, on a server or from its file."""
    parameters = read_parameters(parameter or [])
    if url is None and Path(model).exists():
        parts = _from_file(Path(model), input or [], output, parameters, version, allow_code)
    else:
        parts = _from_server(model, input or [], output, parameters, version, url, timeout)
    for index, outputs in enumerate(parts):
        _show(outputs, is_first=index == 0, json=json)


def _show(outputs: dict[str, Array], *, is_first: bool, json: bool) -> None:
    from salver.core.tensor import datatype_of

    if json:
        print_json({name: plain(array) for name, array in outputs.items()})
        return
    print_rows(
        ["OUTPUT", "DATATYPE", "SHAPE", "VALUES"] if is_first else [],
        [[name, datatype_of(array), str(list(array.shape)), summary(array)] for name, array in outputs.items()],
    )


def _from_file(
    path: Path, inputs: list[str], outputs: list[str] | None, parameters: Parameters, version: str, allow_code: bool
) -> Iterator[dict[str, Array]]:
    from salver.cli.inputs import read_inputs
    from salver.embed import load

    with progress(f"loading {path}"):
        model = load(path, version=version or None, allow_code=allow_code)
    with model:
        request = read_inputs(inputs, model.signature, model=model.name)
        yield from model.stream(
            request.inputs, outputs=outputs or request.outputs, parameters={**request.parameters, **parameters}
        )


def _from_server(
    model: str,
    inputs: list[str],
    outputs: list[str] | None,
    parameters: Parameters,
    version: str,
    url: str | None,
    timeout: float,
) -> Iterator[dict[str, Array]]:
    from salver.cli.inputs import read_inputs
    from salver.client.client import DEFAULT_URL, Client
    from salver.core.errors import ServerUnreachable
    from salver.wire.v2_metadata import decode_signature

    with Client(url or DEFAULT_URL, timeout=timeout) as client:
        try:
            signature = decode_signature(client.metadata(model, version))
        except ServerUnreachable as error:
            if url is None:
                raise ServerUnreachable(f"there is no file or folder {model!r} here, and {error}") from None
            raise
        request = read_inputs(inputs, signature, model=model)
        with progress(f"waiting for {client.url}"):
            answer = client.predict(
                model,
                request.inputs,
                version=version,
                outputs=outputs or request.outputs,
                parameters={**request.parameters, **parameters},
                id=request.id,
            )
    yield answer


def read_parameters(arguments: list[str]) -> Parameters:
    """Parameters from NAME=VALUE; values are JSON, or text."""
    import orjson

    parameters: Parameters = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"expected NAME=VALUE, got {argument!r}", param_hint="--parameter")
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            value = text
        parameters[name] = value if isinstance(value, bool | int | float | str) else text
    return parameters
