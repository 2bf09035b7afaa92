"""1,000 profiles by a server that fails on purpose: ``python -m benchmarks.dmrec.faults``.

The server (tests/fake_llm.py) meets 30 % of the calls with a fault; the run is then repeated until nothing is missing.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from dmrec.data.create import create_dataset
from dmrec.data.dataset import Dataset
from dmrec.data.entities import Entity
from dmrec.language.profiles.llm_writer import LlmWriter
from dmrec.language.profiles.prompts import read_prompts
from dmrec.language.profiles.rate_limiter import Limits
from dmrec.language.profiles.requests import Sampling
from dmrec.language.profiles.write import write_profiles

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks/results/faults.json"
sys.path.insert(0, str(ROOT / "tests"))
from fake_llm import FakeLlm  # noqa: E402

LIMITS = Limits(attempts=3, timeout=3.0, concurrency=16, backoff=0.01)


def measure(share: float = 0.3) -> dict[str, Any]:
    """What became of 600 users and 400 items in each run, and what the server saw of all runs."""
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, FakeLlm(share=share, seed=1) as server:
        dataset = _dataset(Path(folder) / "shop", 600, 400)
        while not runs or runs[-1]["failed"]:
            writer = LlmWriter("m", Path(folder) / "answers.sqlite", server.url, key_variable="", limits=LIMITS)
            before, started = len(server.calls), time.monotonic()
            counts = write_profiles(dataset, writer, read_prompts("llm"), Sampling()).counts
            runs.append(
                {
                    **{what: sum(of_side[what] for of_side in counts.values()) for what in counts["items"]},
                    "calls": writer.meter.calls,
                    "calls the server saw": len(server.calls) - before,
                    "seconds": round(time.monotonic() - started, 1),
                }
            )
        times = Counter(server.answered)
        return {
            "profiles": dataset.n_users + dataset.n_items,
            "share of faults": share,
            "attempts": LIMITS.attempts,
            "runs": runs,
            "faults": dict(sorted(Counter(call.met for call in server.calls if call.met != "answered").items())),
            "answered prompts requested again": sum(times.values()) - len(times),
        }


def _dataset(folder: Path, n_users: int, n_items: int) -> Dataset:
    rng = np.random.default_rng(0)
    train = sp.csr_matrix(rng.random((n_users, n_items)) < 0.05)
    items = [Entity(f"i{i}", f"Item {i}", "", (f"kind {i % 9}",), f"Number {i} of its kind.") for i in range(n_items)]
    none = sp.csr_matrix(train.shape)
    return create_dataset(folder, "shop", {"train": train, "valid": none, "test": none}, items=items, provenance={})


if __name__ == "__main__":
    found = measure()
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
