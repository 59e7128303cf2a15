"""``salver check``."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from salver.cli.output import note, print_json, print_rows, progress

if TYPE_CHECKING:
    from salver.core.model import ModelSpec
    from salver.registration.probe.result import ProbeResult
    from salver.store.repository import ModelEntry, VersionEntry

    Probe: TypeAlias = Callable[[ModelSpec], Awaitable[ProbeResult]]

EXAMPLES = """\b
Examples:
  salver check model.onnx
  salver check models/ --allow-code        every model of a repository
  salver check models/iris --json          for scripts and CI

The exit code is 1 if a model can't be served. Each version is probed as the model store does it: loaded and run in a
process of its own. Memory is what that process grew by, frameworks not counted. Latency is the median over made-up
inputs, called in the process."""


def check(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A model file, a model folder, or a model repository.")],
    allow_code: Annotated[
        bool,
        typer.Option("--allow-code", help="Load models that run code of their own: model.py, pickle and joblib files."),
    ] = False,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="cpu, cuda, cuda:N, or auto.")] = "auto",
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long the check of one version may take.")
    ] = 600.0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Load and measure models without serving them.

    Shows each version's signature, size on disk and in memory, load time and latency.
    """
    import asyncio

    # A Python file that is named itself needs no permission.
    allow_code = allow_code or (path.suffix == ".py" and not path.is_dir())
    reports = asyncio.run(_check_all(path, device=device, allow_code=allow_code, timeout=timeout))
    if json:
        print_json(reports)
    else:
        for report in reports:
            _show(report)
    failed = [report for report in reports if not report["ready"]]
    for report in failed:
        which = f"{report['name']} version {report['version']}" if report["version"] else report["name"]
        typer.echo(f"error: {which}: {report['error']}", err=True)
    if failed:
        raise typer.Exit(1)


async def _check_all(path: Path, *, device: str, allow_code: bool, timeout: float) -> list[dict[str, Any]]:
    import logging

    from salver.registration.probe.limits import ProbeLimits
    from salver.registration.probe.prober import Prober
    from salver.registration.repository_graphs import RepositoryModels, check_repository_graph
    from salver.store.repository import scan

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)  # what models print
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    prober = Prober()
    probe = partial(prober.probe, allow_code=allow_code, limits=ProbeLimits(seconds=timeout))
    models = RepositoryModels()
    check_graph = partial(check_repository_graph, models=models, probe=probe, allow_code=allow_code)
    reports: dict[str, list[dict[str, Any]]] = {}
    try:
        entries = scan(path).models
        for entry in entries.values():
            for problem in entry.problems:
                note(problem)
            found = reports[entry.name] = []
            if entry.error:
                found.append({"name": entry.name, "version": "", "ready": False, "error": entry.error})
        for entry in _after_what_they_ask(entries):
            for version in entry.versions.values():
                with progress(f"checking {entry.name} version {version.version}"):
                    report, result = await _check(probe, check_graph, entry, version, device)
                reports[entry.name].append(report)
                models.add(entry.name, version.version, None if result is None else result.signature, entry.aliases)
    finally:
        await prober.close()
    return [report for found in reports.values() for report in found]


def _after_what_they_ask(entries: Mapping[str, ModelEntry]) -> list[ModelEntry]:
    """Models, and then graphs, each after those that it asks; of graphs that ask each other any comes first."""
    from salver.core.errors import LoadError
    from salver.graph.runtime import asked_models

    asks: dict[str, set[str]] = {}
    for entry in entries.values():
        asks[entry.name] = set()
        for version in entry.versions.values():
            if not version.error:
                with suppress(LoadError):  # told when it is checked
                    asks[entry.name] |= asked_models(_spec(entry, version))
    order: dict[str, ModelEntry] = {}
    waiting = list(entries)
    while waiting:
        ready = [name for name in waiting if not asks[name] & set(waiting)] or waiting[:1]
        order |= {name: entries[name] for name in ready}
        waiting = [name for name in waiting if name not in order]
    return list(order.values())


async def _check(
    probe: Probe, check_graph: Probe, entry: ModelEntry, version: VersionEntry, device: str
) -> tuple[dict[str, Any], ProbeResult | None]:
    from salver.core.errors import LoadError

    report: dict[str, Any] = {"name": entry.name, "version": version.version, "ready": False}
    if version.error:
        return {**report, "error": version.error}, None
    try:
        spec = _spec(entry, version)
        report |= {
            "runtime": spec.runtime,
            "artifact": str(spec.path),
            "disk_bytes": _disk_bytes(version.path),
        }
        if spec.runtime == "graph":
            result = await check_graph(spec)
        else:
            result = await probe(spec if device == "auto" else replace(spec, device=device))
    except LoadError as error:
        return {**report, "error": str(error)}, None
    return {**report, "ready": True, **_describe(result)}, result


def _spec(entry: ModelEntry, version: VersionEntry) -> ModelSpec:
    from salver.runtimes.detect import detect
    from salver.store.repository import to_spec

    runtime, artifact = detect(version.path, entry.config.runtime)
    return to_spec(entry, version.version, runtime=runtime, artifact=artifact)


def _describe(result: ProbeResult) -> dict[str, Any]:
    from salver.wire.v2_metadata import encode_tensor

    measured = result.probe
    return {
        "platform": measured.platform,
        "device": measured.device,
        "inputs": [encode_tensor(spec) for spec in result.signature.inputs],
        "outputs": [encode_tensor(spec) for spec in result.signature.outputs],
        "batched": result.signature.batched,
        "memory_bytes": measured.memory_bytes,
        "peak_bytes": measured.peak_memory_bytes,
        "device_memory_bytes": measured.device_memory_bytes,
        "load_seconds": measured.load_seconds,
        "latency_p50_seconds": {str(rows): seconds for rows, seconds in measured.latency_seconds.items()},
        "max_batch_size": measured.max_batch_size,
        "batch_size_reason": measured.batch_size_reason,
        **({"note": "; ".join(result.notes)} if result.notes else {}),
    }


def _disk_bytes(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if "__pycache__" not in file.parts]
    return sum(file.stat().st_size for file in files if file.is_file())


def _show(report: dict[str, Any]) -> None:
    name = f"{report['name']} version {report['version']}" if report["version"] else str(report["name"])
    if not report["ready"]:
        typer.echo(f"{name}: can't be loaded\n")
        return
    from salver.registration.probe.limits import show_size

    shown = (1, 8, report["max_batch_size"])
    latency = ", ".join(
        f"{seconds * 1000:.3g} ms at batch {size}"
        for size, seconds in report["latency_p50_seconds"].items()
        if int(size) in shown
    )
    is_graph = report["runtime"] == "graph"
    rows = [
        ["  runtime", f"{report['runtime']} ({report['platform']})" + ("" if is_graph else f" on {report['device']}")],
        *_tensor_rows("  inputs", report["inputs"]),
        *_tensor_rows("  outputs", report["outputs"]),
        ["  on disk", show_size(report["disk_bytes"])],
    ]
    if not is_graph:  # it has nothing but what its models have
        rows += [
            ["  batches", "yes" if report["batched"] else "no"],
            [
                "  in memory",
                f"{show_size(report['memory_bytes'])}, at most {show_size(report['peak_bytes'])} on the way",
            ],
            ["  load time", f"{report['load_seconds']:.3g} s"],
            ["  latency", latency or "not measured"],
        ]
    typer.echo(f"{name}: fits its models" if is_graph else f"{name}: loads")
    print_rows([], rows)
    if "note" in report:
        note(f"{report['name']}: {report['note']}")
    typer.echo()


def _tensor_rows(label: str, tensors: list[dict[str, Any]]) -> list[list[str]]:
    texts = [f"{each['name']} {each['datatype']} {each['shape']}" for each in tensors] or ["not told before it has run"]
    return [[label if index == 0 else "", text] for index, text in enumerate(texts)]
