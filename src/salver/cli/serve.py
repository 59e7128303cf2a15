"""``salver serve``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """\b
Examples:
  salver serve model.onnx     one model file; the model is called "model"
  salver serve models/        a repository: models/NAME/VERSION/files
  salver serve models/ --host 0.0.0.0 --watch --log-format json
  salver serve model.py       your own Python class; naming the file allows
                              its code
  salver serve --store store/ a model store: push models to it (salver push),
                              each is loaded when it is asked for

\b
Options can also be set in a file (--config) or the environment:
  SALVER_PORT=9000 SALVER_ALLOW_CODE=1 salver serve models/

REST and gRPC share the port. Ctrl-C or SIGTERM ends the server once the requests that it accepted are answered."""


def serve(
    path: Annotated[
        Path | None, typer.Argument(metavar="PATH", help="A model repository, one model folder, or one model file.")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|URL",
            help="Serve a model store instead of PATH: a folder, or a URL such as s3://bucket/models.",
        ),
    ] = None,
    store_options: Annotated[
        str | None, typer.Option(metavar="NAME=VALUE,...", help="Options of the store's file system.")
    ] = None,
    registry: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The store's registry: sqlite:///PATH, or postgresql://... to share it."),
    ] = None,
    data_folder: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where a store's server keeps its disk cache and uploads.")
    ] = None,
    disk_cache: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Disk space for copies of a store's artifacts. Default: 50GiB.")
    ] = None,
    load: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="Load PATH's models at startup (the default), or on_demand."),
    ] = None,
    memory_budget: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Memory that the server may take: 8GiB, or 80% (the default) of what there is."
        ),
    ] = None,
    device_memory_budget: Annotated[
        str | None, typer.Option(metavar="SIZE", help="The same for each GPU. Default: 90%.")
    ] = None,
    eviction: Annotated[
        str | None, typer.Option(metavar="POLICY", help="Which models go first: cost (the default) or lru.")
    ] = None,
    memory_shares: Annotated[
        str | None,
        typer.Option(
            metavar="TENANT=PART",
            help="Parts of the memory budget that tenants' models may take: acme=0.5.",
        ),
    ] = None,
    concurrent_loads: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="Models that are loaded side by side. Default: 4.")
    ] = None,
    max_artifact_bytes: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Largest artifact that may be pushed. Default: 50GiB.")
    ] = None,
    probe_timeout: Annotated[
        str | None,
        typer.Option(metavar="SECONDS", help="How long the probe of a pushed version may take. Default: 300."),
    ] = None,
    probe_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory that a pushed version may take while it is probed.")
    ] = None,
    advertise: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where other servers over the same registry reach this one."),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Address to listen on. 127.0.0.1 (the default) answers this machine only; 0.0.0.0 the network.",
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(metavar="PORT", help="Port of REST and gRPC; 0 takes a free one. Default: 8000.")
    ] = None,
    grpc_port: Annotated[int | None, typer.Option(metavar="PORT", help="A port of its own for gRPC.")] = None,
    allow_code: Annotated[
        bool | None,
        typer.Option(
            "--allow-code",
            help="Load models that run code of their own: model.py, pickle and joblib files. "
            "Only where you trust whoever can write to the repository.",
        ),
    ] = None,
    watch: Annotated[
        bool | None,
        typer.Option("--watch", help="Load new and changed versions and unload removed ones while serving."),
    ] = None,
    watch_interval: Annotated[
        str | None,
        typer.Option(metavar="SECONDS", help="Time between two looks at a watched repository. Default: 2."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A YAML file of settings; options given here come first.")
    ] = None,
    log_format: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="text (the default), or json: one object a line.")
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="debug, info (the default), warning or error.")
    ] = None,
    log_requests: Annotated[bool | None, typer.Option("--log-requests", help="Log a line for each request.")] = None,
    max_request_bytes: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Largest request body, such as 64MB. Default: 256MiB.")
    ] = None,
    max_queue: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER", help="Requests that may wait for one model version; more are refused. Default: 1000."
        ),
    ] = None,
    max_concurrent_requests: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER",
            help="Requests that the whole server works on at a time; more are refused. Default: 10000.",
        ),
    ] = None,
    resources: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=COUNT,...", help="Named resources that models share, and how much there is of each."
        ),
    ] = None,
    drain_timeout: Annotated[
        str | None,
        typer.Option(metavar="SECONDS", help="On SIGTERM, how long accepted requests may take to finish. Default: 30."),
    ] = None,
) -> None:
    """Serve models over REST and gRPC.

    The API is V2, the Open Inference Protocol. With the server go /docs, which describes it, and /metrics.
    """
    from salver.app import run
    from salver.config import read_settings

    overrides = {
        "repository": path,
        "store": store,
        "store_options": store_options,
        "registry": registry,
        "data_folder": data_folder,
        "disk_cache": disk_cache,
        "load": load,
        "memory_budget": memory_budget,
        "device_memory_budget": device_memory_budget,
        "eviction": eviction,
        "memory_shares": memory_shares,
        "concurrent_loads": concurrent_loads,
        "max_artifact_bytes": max_artifact_bytes,
        "probe_timeout": probe_timeout,
        "probe_memory": probe_memory,
        "advertise": advertise,
        "host": host,
        "port": port,
        "grpc_port": grpc_port,
        "allow_code": allow_code,
        "watch": watch,
        "watch_interval": watch_interval,
        "log_format": log_format,
        "log_level": log_level,
        "log_requests": log_requests,
        "max_request_bytes": max_request_bytes,
        "max_queue": max_queue,
        "max_concurrent_requests": max_concurrent_requests,
        "resources": resources,
        "drain_timeout": drain_timeout,
    }
    sys.exit(run(read_settings(config, os.environ, overrides)))
