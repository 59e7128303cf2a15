"""``salver push``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from salver.cli.output import harmless, print_json, progress, size
from salver.cli.transfer_bar import transfer_bar

EXAMPLES = """\b
Examples:
  salver push model.onnx --name iris
  salver push models/iris/3 --name iris --version 3 --alias production
  salver push model/ --name iris --tag team=vision --metadata owner=ada
  salver push model/ --name iris --metadata run.yaml
  salver push https://example.org/iris.onnx --name iris
  salver push s3://bucket/iris/ --name iris --source-option region=eu-west-1

A push that broke off goes on where it ended when it is made again. The version is then probed: loaded and run in a
process of its own. The exit code is 1 if that fails."""


def push(
    source: Annotated[
        str, typer.Argument(metavar="PATH|URL", help="A model file, or the folder of one version, here or at a URL.")
    ],
    name: Annotated[str, typer.Option(metavar="NAME", help="The model's name.")],
    version: Annotated[str, typer.Option(metavar="VERSION", help="Its version; the next number without it.")] = "",
    alias: Annotated[
        list[str] | None,
        typer.Option(metavar="ALIAS", help="An alias to point to the version once it is ready. May be repeated."),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A tag, for lists. May be repeated.")
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE|NAME=VALUE", help="What is to be known of it, see above. May be repeated."),
    ] = None,
    source_option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="An option of the file system of a URL. May be repeated."),
    ] = None,
    tenant: Annotated[str, typer.Option(metavar="TENANT", help="Whose share of the memory it counts to.")] = "",
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until the version was probed, which is the default.")
    ] = True,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="How long to wait for the probe.")] = 600.0,
    url: Annotated[str, typer.Option(metavar="URL", help="Where the server listens.")] = "http://127.0.0.1:8000",
    json: Annotated[bool, typer.Option("--json", help="Print all about the version as JSON.")] = False,
) -> None:
    """Push a model version to a server's model store.

    Metadata is framework, framework_version, algorithm, run_id, owner, description (texts), or any NAME of your own; a
    FILE is YAML or JSON with these, and 'tags' and 'properties'.
    """
    from salver.client.model_store import ModelStoreClient
    from salver.core.errors import LoadError
    from salver.store.artifacts.describe import describe

    told = _metadata(metadata or [], tag or [], tenant)
    with _brought_here(source, source_option or []) as path, ModelStoreClient(url) as client:
        with transfer_bar(f"reading {path}") as bar:
            manifest = describe(path, progress=bar)
        with transfer_bar(f"pushing {name}") as bar:
            pushed = client.push(name, path, manifest, version=version, metadata=told, progress=bar)
        which = f"'{name}' version {pushed['version']}"
        if wait and pushed["state"] == "PENDING":
            with progress(f"{which} is being probed"):
                pushed = client.wait(name, pushed["version"], timeout=timeout)
        if pushed["state"] == "FAILED":
            raise LoadError(f"{which} is stored, and its probe failed: {harmless(pushed['reason'])}")
        if pushed["state"] == "READY":
            for each in alias or []:
                client.set_alias(name, each, pushed["version"])
    if json:
        print_json(pushed)
        return
    typer.echo(f"{name}:{pushed['version']} {pushed['state']} ({size(pushed['size'])}, sha256:{pushed['digest'][:12]})")
    if alias and pushed["state"] != "READY":
        typer.echo(f"note: {', '.join(alias)} can be set once it is ready: salver alias NAME@ALIAS VERSION", err=True)


@contextmanager
def _brought_here(source: str, options: Sequence[str]) -> Iterator[Path]:
    """Where the files are: a path as it stands, those of a URL in a temporary folder."""
    pairs = [option.partition("=") for option in options]
    if not all(name and equals for name, equals, _ in pairs):
        raise typer.BadParameter("expected NAME=VALUE", param_hint="--source-option")
    if "://" not in source:
        if options:
            raise typer.BadParameter("it is for URLs; this source is a path", param_hint="--source-option")
        yield Path(source)
        return
    import tempfile

    from salver.store.artifacts.download import download
    from salver.store.artifacts.retries import masked

    with tempfile.TemporaryDirectory(prefix="salver-push-", ignore_cleanup_errors=True) as folder:
        with transfer_bar(f"downloading {masked(source)}") as bar:
            found = download(
                source, Path(folder) / "model", options={name: value for name, _, value in pairs}, progress=bar
            )
        yield found


def _metadata(given: Sequence[str], tags: Sequence[str], tenant: str) -> dict[str, Any]:
    """The metadata that the options tell; what comes later wins."""
    from salver.wire.model_store_json import METADATA_TEXTS

    told: dict[str, Any] = {"tags": {}, "properties": {}}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals or Path(item).is_file():
            found = _read(Path(item))
            told["tags"] |= found.pop("tags", {}) or {}
            told["properties"] |= found.pop("properties", {}) or {}
            told |= found
        elif name in METADATA_TEXTS:
            told[name] = value
        else:
            told["properties"][name] = value
    for item in tags:
        name, equals, value = item.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"expected NAME=VALUE, got {item!r}", param_hint="--tag")
        told["tags"][name] = value
    if tenant:
        told["tenant"] = tenant
    return told


def _read(file: Path) -> dict[str, Any]:
    from salver.config.yaml_file import read_document
    from salver.core.errors import InvalidRequest

    if not file.is_file():
        raise typer.BadParameter(f"expected a file or NAME=VALUE, got {str(file)!r}", param_hint="--metadata")
    found = dict(read_document(file).data)
    for key in ("tags", "properties"):
        if not isinstance(found.get(key) or {}, dict):
            raise InvalidRequest(f"{file}: '{key}' holds names and values")
    return found
