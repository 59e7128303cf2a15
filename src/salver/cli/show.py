"""``salver show``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from salver.cli.output import brief, harmless, print_json, print_rows, size
from salver.cli.reference import split_reference

EXAMPLES = """\b
Examples:
  salver show iris                  a model and its versions
  salver show iris:3                all about a version
  salver show iris@production
  salver show iris --history        who did what to it"""


def show(
    model: Annotated[
        str, typer.Argument(metavar="NAME[:VERSION|@ALIAS]", help="A model of a model store, or a version.")
    ],
    history: Annotated[bool, typer.Option("--history", help="Show what was changed, newest first.")] = False,
    url: Annotated[str, typer.Option(metavar="URL", help="Where the server listens.")] = "http://127.0.0.1:8000",
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="How long to wait for an answer.")] = 10.0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Show a model of a model store, or one version of it."""
    from salver.client.model_store import ModelStoreClient

    name, reference = split_reference(model)
    with ModelStoreClient(url, timeout=timeout) as client:
        if history:
            entries = client.audit(name)
            print_json(entries) if json else _print_history(entries)
            return
        found = client.version(name, reference) if reference else client.model(name)
    if json:
        print_json(found)
    elif reference:
        _print_version(found)
    else:
        _print_model(found)


def _print_model(model: dict[str, Any]) -> None:
    typer.echo(harmless(f"{model['name']}: {model['description']}" if model["description"] else model["name"]))
    aliases: dict[str, list[str]] = {}
    for alias, version in model["aliases"].items():
        aliases.setdefault(version, []).append(alias)
    print_rows(
        ["VERSION", "ALIASES", "STATE", "RUNTIME", "SIZE", "MEMORY", "OWNER", "CREATED"],
        [
            [
                each["version"],
                ", ".join(aliases.get(each["version"], [])),
                f"{each['state']}: {brief(each['reason'])}" if each["reason"] else each["state"],
                each["runtime"],
                size(each["size"]),
                "" if each["memory_bytes"] is None else size(each["memory_bytes"]),
                each["owner"],
                _time(each["created_at"]),
            ]
            for each in model["versions"]
        ],
    )


def _print_version(version: dict[str, Any]) -> None:
    typer.echo(f"{version['name']} version {version['version']}: {version['state']}")
    rows = [
        ["  reason", version["reason"]],
        ["  runtime", version["runtime"]],
        ["  digest", f"sha256:{version['digest']}"],
        ["  on disk", size(version["size"])],
        ["  created", _time(version["created_at"])],
    ]
    metadata = version["metadata"]
    rows += [[f"  {key.replace('_', ' ')}", value] for key, value in metadata.items() if isinstance(value, str)]
    rows += [["  tag", f"{key}={value}"] for key, value in metadata["tags"].items()]
    rows += [["  property", f"{key}={value}"] for key, value in metadata["properties"].items()]
    rows += [["  model.yaml", f"{key}: {value}"] for key, value in version["config"].items()]
    signature = version["signature"] or {"inputs": [], "outputs": []}
    for kind in ("inputs", "outputs"):
        rows += [[f"  {kind[:-1]}", f"{each['name']} {each['datatype']} {each['shape']}"] for each in signature[kind]]
    if version["probe"] is not None:
        rows += _probe_rows(version["probe"])
    print_rows([], [row for row in rows if row[1]])


def _probe_rows(probe: dict[str, Any]) -> list[list[str]]:
    latency = ", ".join(
        f"{seconds * 1000:.3g} ms at batch {rows}" for rows, seconds in probe["latency_seconds"].items()
    )
    device_memory = probe["device_memory_bytes"]
    return [
        ["  loaded by", f"{probe['framework']} {probe['framework_version']} on {probe['device']}"],
        ["  in memory", f"{size(probe['memory_bytes'])}, at most {size(probe['peak_memory_bytes'])} on the way"],
        ["  on the device", size(device_memory) if device_memory else ""],
        ["  load time", f"{probe['load_seconds']:.3g} s"],
        ["  latency", latency],
    ]


def _print_history(entries: list[dict[str, Any]]) -> None:
    if not entries:
        typer.echo("Nothing was changed yet.")
        return
    print_rows(
        ["AT", "ACTOR", "ACTION", "VERSION", "DETAILS"],
        [
            [
                _time(each["at"]),
                each["actor"],
                each["action"],
                each["version"],
                ", ".join(f"{key}={value}" for key, value in each["details"].items()),
            ]
            for each in entries
        ],
    )


def _time(text: str | None) -> str:
    """A time in UTC, to the second."""
    return "" if text is None else text[:19].replace("T", " ")
