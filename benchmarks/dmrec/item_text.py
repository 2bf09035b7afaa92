"""What rows of items from their texts cost: ``python -m benchmarks.dmrec.item_text``.

A training step of Mult-VAE (loss, backward, Adam) with `model.item_text` over one without, in turns in one process, at
11,010 items (hidden 600) and a million (hidden 64), 1,024 users with 20 items, texts of width 384; and the peak memory
of a process that does either alone. What follows from counting: the map adds 2 N E H operations forward and as many
backward, and the formed rows and their gradient are 8 N H bytes. Written to ``results/item-text.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dmrec.models.base import Step, TrainingData
from dmrec.models.vae.model import Vae
from dmrec.models.vae.mult_vae import MultVaeConfig

from dmrec_ext import Csr

RESULTS = Path(__file__).parents[1] / "results"
SIZES = {"11,010": (11_010, 600), "1,000,000": (1_000_000, 64)}
USERS, OF_USER, TEXT = 1024, 20, 384
MAPS: dict[str, dict[str, Any] | None] = {
    "without": None,
    "linear": {},
    "low-rank": {"map": "low-rank"},
    "two-layer": {"map": "two-layer"},
}


def made(
    n_items: int, hidden: int, text: np.ndarray | None, options: dict[str, Any] | None
) -> tuple[Vae, torch.optim.Adam]:
    """A model and its optimiser."""
    draw = np.random.default_rng(0)
    items = np.sort(
        draw.choice(n_items // OF_USER, (USERS, OF_USER)) + np.arange(OF_USER) * (n_items // OF_USER), axis=1
    )
    x = Csr(torch.arange(USERS + 1) * OF_USER, torch.from_numpy(items.reshape(-1)), None, n_items)
    torch.manual_seed(0)
    model = MultVaeConfig(hidden=hidden, latent=32, item_text=options).build(TrainingData(x, item_text=text))
    return model.train(), torch.optim.Adam(model.parameters())


def step(model: Vae, optimiser: torch.optim.Adam) -> float:
    """Seconds of one."""
    started = time.perf_counter()
    optimiser.zero_grad(set_to_none=True)
    model.loss(model.batch(torch.arange(USERS)), Step())["loss"].backward()
    optimiser.step()
    return time.perf_counter() - started


def text_of(n_items: int) -> np.ndarray:
    """(N, TEXT) unit vectors."""
    vectors = np.random.default_rng(1).standard_normal((n_items, TEXT), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def peak(size: str, kind: str) -> float:
    """GB of a process that does two steps (Linux)."""
    command = [sys.executable, "-m", "benchmarks.dmrec.item_text", "--alone", size, kind]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _largest_resident_set() -> int:
    """KiB of this process since it was last reset; getrusage counts what the process that started it held as well."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--alone", nargs=2, metavar=("SIZE", "MAP"))
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    if given.alone:
        size, kind = given.alone
        text = None if MAPS[kind] is None else text_of(SIZES[size][0])
        Path("/proc/self/clear_refs").write_text("5")  # what it took to make the texts is not counted, they are
        pair = made(*SIZES[size], text, MAPS[kind])
        for _ in range(2):
            step(*pair)
        print(_largest_resident_set() / 2**20)
        return
    rows = []
    for size, (n_items, hidden) in SIZES.items():
        text = text_of(n_items)
        seconds: dict[str, list[float]] = {kind: [] for kind in MAPS}
        ratios: dict[str, list[float]] = {kind: [] for kind in MAPS}
        for kind, options in MAPS.items():  # each against the one without, so that two models are held at a time
            if options is None:
                continue
            pairs = {each: made(n_items, hidden, text, MAPS[each]) for each in ("without", kind)}
            for number in range(given.rounds + 1):
                found = {each: step(*pair) for each, pair in pairs.items()}
                if number:
                    ratios[kind].append(found[kind] / found["without"])
                    for each, value in found.items():
                        seconds[each].append(value)
        for kind in MAPS:
            rows.append(
                {
                    "items": n_items,
                    "hidden": hidden,
                    "map": kind,
                    "seconds of a step": round(statistics.median(seconds[kind]), 4),
                    "ratio": round(statistics.median(ratios[kind]), 3) if ratios[kind] else 1.0,
                    "peak GB": round(peak(size, kind), 2),
                }
            )
            print(rows[-1], flush=True)
    result = {"threads": torch.get_num_threads(), "users": USERS, "width of texts": TEXT, "rows": rows}
    RESULTS.joinpath("item-text.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
