"""``salver cache``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from salver.cli.output import note, print_json, print_rows, size

EXAMPLES = """\b
Examples:
  salver cache                          what is loaded, and what went and why
  salver cache --prefetch iris --prefetch mnist@champion
                                        load what is about to be asked for
  salver cache --evict iris:3           give a version's memory back
  salver cache --pin iris:3             never evict it (until the server ends)"""


def cache(
    prefetch: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:VERSION|@ALIAS]", help="Load a model that is about to be asked for; may be repeated."
        ),
    ] = None,
    evict: Annotated[
        str | None, typer.Option(metavar="NAME:VERSION", help="Evict a version that nobody uses now.")
    ] = None,
    pin: Annotated[str | None, typer.Option(metavar="NAME:VERSION", help="Never evict a version.")] = None,
    unpin: Annotated[str | None, typer.Option(metavar="NAME:VERSION", help="Let a version be evicted again.")] = None,
    limit: Annotated[int, typer.Option(metavar="NUMBER", help="Rows of each table.")] = 20,
    url: Annotated[str, typer.Option(metavar="URL", help="Where the server listens.")] = "http://127.0.0.1:8000",
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="How long to wait for an answer.")] = 10.0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Show a server's model cache, or change what it holds.

    Loaded models are listed in the order in which they would be evicted.
    """
    from salver.client.cache import CacheClient

    with CacheClient(url, timeout=timeout) as client:
        answer: dict[str, Any]
        if prefetch:
            answer = client.prefetch(prefetch)
        elif evict is not None:
            answer = client.evict(*_split(evict))
        elif pin is not None:
            answer = client.pin(*_split(pin), pinned=True)
        elif unpin is not None:
            answer = client.pin(*_split(unpin), pinned=False)
        else:
            answer = client.show()
    if json:
        print_json(answer)
    elif prefetch:
        for refused in answer["refused"]:
            note(f"{refused['model']}: {refused['error']}")
        typer.echo(f"{answer['accepted']} of {len(prefetch)} are loaded, or being loaded")
        if answer["refused"]:
            raise typer.Exit(1)
    elif "evicted" in answer:
        done = "is evicted" if answer["evicted"] else "wasn't loaded"
        typer.echo(f"{answer['name']} version {answer['version']} {done}")
    elif "pinned" in answer:
        done = "stays" if answer["pinned"] else "may be evicted"
        typer.echo(f"{answer['name']} version {answer['version']} {done}")
    else:
        _print_cache(answer, limit)


def _split(reference: str) -> tuple[str, str]:
    name, _, version = reference.partition(":")
    if not name or not version:
        raise typer.BadParameter(f"{reference!r} must be NAME:VERSION")
    return name, version


def _print_cache(cache: dict[str, Any], limit: int) -> None:
    asked = cache["hits"] + cache["misses"]
    ratio = f"{cache['hits'] / asked:.1%} of {asked} requests found their model loaded" if asked else "no requests yet"
    typer.echo(f"{len(cache['loaded'])} of {cache['known_versions']} versions are loaded; {ratio}")
    for device, memory in cache["memory"].items():
        typer.echo(
            f"{device}: models take {size(memory['models_bytes'])} of {size(memory['budget_bytes'])}; "
            f"the server takes {size(memory['used_bytes'])} in all"
        )
    if cache["loaded"]:
        typer.echo("")
        print_rows(
            ["MODEL", "MEMORY", "REQUESTS", "HELD BY", "LAST USED", "LOAD TIME", "TENANT", "PINNED"],
            [
                [
                    f"{each['name']}:{each['version']}",
                    size(each["memory_bytes"]),
                    str(each["requests"]),
                    str(each["held_by"]),
                    "never" if each["idle_seconds"] is None else f"{each['idle_seconds']:.1f} s ago",
                    f"{each['load_seconds'] * 1000:.0f} ms",
                    each["tenant"],
                    "yes" if each["pinned"] else "",
                ]
                for each in cache["loaded"][:limit]
            ],
        )
    _print_rest(cache, limit)


def _print_rest(cache: dict[str, Any], limit: int) -> None:
    if cache["loading"]:
        typer.echo("")
        rows = [[f"{each['name']}:{each['version']}", str(each["waiting"])] for each in cache["loading"][:limit]]
        print_rows(["BEING LOADED", "REQUESTS WAIT"], rows)
    if cache["last_evictions"]:
        typer.echo("")
        print_rows(
            ["EVICTED", "FREED", "NOT USED FOR", "WHY"],
            [
                [
                    f"{each['name']}:{each['version']}",
                    size(each["freed_bytes"]),
                    f"{each['idle_seconds']:.1f} s",
                    each["reason"],
                ]
                for each in cache["last_evictions"][:limit]
            ],
        )
