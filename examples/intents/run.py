"""A chatbot's intent classifier for each of many tenants: trains, pushes and asks them all.

    python examples/intents/run.py --tenants 50

The exit code is 1 where a tenant got another's answer, or too few answers were right.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx2
from asking import Answered, ask_all
from chatbots import Chatbot, make_chatbots
from own_server import own_server
from publish import Done, models_folder, push_all, train_all
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from salver import errors

BUILD = Path(__file__).resolve().parent.parent.parent / "build" / "intents"
LEAST_ACCURACY = 0.9


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tenants", type=int, default=50, help="how many; 50 by default")
    parser.add_argument("--url", default="", help="a server with a model store; without it, one is started")
    parser.add_argument(
        "--memory-budget", default="192MiB", help="of the server that is started, in which not all models have room"
    )
    parser.add_argument("--build", type=Path, default=BUILD, metavar="FOLDER", help="where trained models are kept")
    options = parser.parse_args(arguments)
    console = Console(highlight=False)
    try:
        with ExitStack() as stack:
            url = options.url
            if not url:
                store = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="intents-"))) / "store"
                url = stack.enter_context(own_server(store, "--memory-budget", options.memory_budget))
            return _run(console, url, make_chatbots(options.tenants), options.build)
    except (errors.SalverError, RuntimeError) as error:
        console.print(f"[red]{error}[/red]")
        return 1


def _run(console: Console, url: str, chatbots: Sequence[Chatbot], build: Path) -> int:
    folder = models_folder(build)
    console.print(f"{len(chatbots)} tenants, served by {url}")
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        began = perf_counter()
        train_all(chatbots, folder, _counter(progress, "training", len(chatbots)))
        trained = perf_counter()
        push_all(url, chatbots, folder, _counter(progress, "pushing", len(chatbots)))
        pushed = perf_counter()
    before = _cache(url)
    answers = ask_all(url, chatbots)
    asked = perf_counter()
    after = _cache(url)
    console.print(
        f"trained in {trained - began:.1f} s, pushed and tried out by the server in {pushed - trained:.1f} s, "
        f"{len(answers)} questions answered in {asked - pushed:.1f} s"
    )
    _print_accuracy(console, answers)
    _print_cache(console, before, after)
    foreign = sum(answer.is_foreign for answer in answers)
    accuracy = sum(answer.is_right for answer in answers) / len(answers)
    if foreign:
        console.print(f"[red]{foreign} answers came from another tenant's model[/red]")
    if accuracy < LEAST_ACCURACY:
        console.print(f"[red]{accuracy:.1%} of the answers are right; expected {LEAST_ACCURACY:.0%}[/red]")
    return 1 if foreign or accuracy < LEAST_ACCURACY else 0


def _counter(progress: Progress, title: str, total: int) -> Done:
    task = progress.add_task(title, total=total)
    return lambda: progress.advance(task)


def _print_accuracy(console: Console, answers: Sequence[Answered]) -> None:
    by_domain: defaultdict[str, list[Answered]] = defaultdict(list)
    for answer in answers:
        by_domain[answer.chatbot.domain].append(answer)
    table = Table("domain", "tenants", "questions", "right", "for instance")
    for domain, found in sorted(by_domain.items()):
        tenants = len({answer.chatbot.name for answer in found})
        right = sum(answer.is_right for answer in found) / len(found)
        table.add_row(
            domain, str(tenants), str(len(found)), f"{right:.1%}", f"{found[0].question.text}\n{found[0].label}"
        )
    console.print(table)


def _print_cache(console: Console, before: dict[str, Any], after: dict[str, Any]) -> None:
    hits, misses, evictions = (after[key] - before[key] for key in ("hits", "misses", "evictions"))
    memory = after["memory"]["cpu"]
    console.print(
        f"{hits / max(hits + misses, 1):.1%} of the questions found their model loaded; "
        f"{misses} waited for it, {evictions} models went to make room"
    )
    console.print(
        f"{len(after['loaded'])} of {after['known_versions']} models are loaded and take "
        f"{memory['models_bytes'] / 2**20:.0f} MiB; the server takes {memory['used_bytes'] / 2**20:.0f} MiB "
        f"of its {memory['budget_bytes'] / 2**20:.0f} MiB"
    )


def _cache(url: str) -> dict[str, Any]:
    cache: dict[str, Any] = httpx2.get(f"{url}/api/v1/cache", timeout=30).raise_for_status().json()
    return cache


if __name__ == "__main__":
    sys.exit(main())
