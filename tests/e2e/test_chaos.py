"""Load, evict, push, delete, kill and predict at random: every answer is right, nothing hangs, memory comes back.

``python tests/e2e/test_chaos.py --seconds 300 --seed 7`` does it for longer.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # as pytest does

from chaos import Chaos

from salver.client.cache import CacheClient

pytestmark = pytest.mark.e2e

SECONDS = 30.0
SEED = 20240
MIB = 1 << 20


def rampage(folder: Path, *, seconds: float, seed: int) -> Chaos:
    """Some time of chaos, and what must hold afterwards."""
    chaos = Chaos(folder, seed=seed, models=10, in_process=2, budget=40 * MIB)
    try:
        chaos.prepare()
        assert chaos.wrong == []
        chaos.run(seconds)
        print(f"seed {seed}: {dict(chaos.counts)}")
        assert chaos.wrong == [], "\n".join([*chaos.wrong[:20], f"{len(chaos.wrong)} in all", chaos.server.log[-5000:]])
        chaos.check_registry()
        with CacheClient(chaos.url) as cache:
            chaos.await_nothing_held()
            resident = chaos.resident_after_evicting()
            memory = cache.show()["memory"]["cpu"]
        print(f"resident: {chaos.idle_bytes / MIB:.1f} MiB when idle, {resident / MIB:.1f} MiB after all")
        assert memory["models_bytes"] == 0
        assert resident < 1.15 * chaos.idle_bytes
        assert "Traceback" not in chaos.server.log
        chaos.close()
    finally:
        chaos.server.kill()
    return chaos


def test_every_answer_is_right_whatever_happens_meanwhile(tmp_path: Path) -> None:
    chaos = rampage(tmp_path, seconds=SECONDS, seed=SEED)
    for what in ("answers", "push", "point", "delete", "evict", "prefetch", "killed servers", "killed processes"):
        assert chaos.counts[what], what


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        rampage(Path(root), seconds=arguments.seconds, seed=arguments.seed)
