"""``salver list``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from salver.cli.output import brief, print_json, print_rows, size

if TYPE_CHECKING:
    from salver.client.client import Client

EXAMPLES = """\b
Examples:
  salver list
  salver list --url http://10.0.0.7:8000
  salver list --tag team:vision     of a model store: models with a tag
  salver list --json"""

URL = typer.Option(metavar="URL", help="Where the server listens.")


def list(
    prefix: Annotated[str, typer.Option(metavar="TEXT", help="Only models whose names begin with this.")] = "",
    tag: Annotated[
        str, typer.Option(metavar="NAME:VALUE", help="Of a model store: only models that have a version with this tag.")
    ] = "",
    url: Annotated[str, URL] = "http://127.0.0.1:8000",
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="How long to wait for an answer.")] = 10.0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """List the models of a server.

    Their versions and states, and the inputs and outputs of those that are ready; of a model store, also aliases,
    sizes and owners.
    """
    from salver.client.client import Client

    stored = _stored(url, timeout, prefix, tag)
    with Client(url, timeout=timeout) as client:
        found = [
            _described(client, entry, stored)
            for entry in client.models()
            if entry["name"].startswith(prefix) and (not tag or (stored is not None and entry["name"] in stored))
        ]
    if json:
        print_json(found)
    elif not found:
        typer.echo(f"The server at {url} has no {'such ' if prefix or tag else ''}models.")
    elif stored is None:
        print_rows(["NAME", "VERSION", "STATE", "INPUTS", "OUTPUTS"], [_row(model) for model in found])
    else:
        print_rows(
            ["NAME", "VERSION", "ALIASES", "STATE", "SIZE", "OWNER", "INPUTS", "OUTPUTS"],
            [_stored_row(model) for model in found],
        )


def _stored(url: str, timeout: float, prefix: str, tag: str) -> dict[str, dict[str, Any]] | None:
    """The models of the server's store by name; None where it has no store."""
    from salver.client.model_store import ModelStoreClient
    from salver.core.errors import UnsupportedRequest

    try:
        with ModelStoreClient(url, timeout=timeout) as client:
            return {model["name"]: model for model in client.models(prefix=prefix, tag=tag)}
    except UnsupportedRequest:
        if tag:
            raise
        return None


def _described(client: Client, entry: dict[str, str], stored: dict[str, dict[str, Any]] | None) -> dict[str, Any]:
    from salver.core.errors import ModelUnavailable, NotFound

    model: dict[str, Any] = {
        "name": entry["name"],
        "version": entry.get("version", ""),
        "state": entry.get("state", ""),
        "reason": entry.get("reason", ""),
        "inputs": [],
        "outputs": [],
    }
    if model["state"] == "READY":
        try:
            metadata = client.metadata(model["name"], model["version"])
            model |= {"inputs": metadata["inputs"], "outputs": metadata["outputs"]}
        except (NotFound, ModelUnavailable):  # it was unloaded meanwhile
            pass
    if stored is not None:
        known = stored.get(model["name"], {})
        version: dict[str, Any] = next(
            (each for each in known.get("versions", []) if each["version"] == model["version"]), {}
        )
        model["aliases"] = [name for name, to in known.get("aliases", {}).items() if to == model["version"]]
        model |= {key: version.get(key) for key in ("size", "owner", "tenant", "tags", "memory_bytes", "created_at")}
    return model


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    return (model["name"], model["version"], _state(model), _tensors(model["inputs"]), _tensors(model["outputs"]))


def _stored_row(model: dict[str, Any]) -> tuple[str, ...]:
    return (
        model["name"],
        model["version"],
        ", ".join(model["aliases"]),
        _state(model),
        "" if model["size"] is None else size(model["size"]),
        model["owner"] or "",
        _tensors(model["inputs"]),
        _tensors(model["outputs"]),
    )


def _state(model: dict[str, Any]) -> str:
    return f"{model['state']}: {brief(model['reason'])}" if model["reason"] else str(model["state"])


def _tensors(tensors: Iterable[dict[str, Any]]) -> str:
    return ", ".join(f"{each['name']} {each['datatype']} {each['shape']}" for each in tensors)
