"""What a training step and a ranking cost as the catalogue grows to a million items: `make bench-million`.

DMRec-M on synthetic catalogues (`dmrec.data.synthetic`): 20 steps of 256 users, then a ranking of 2,000 users, each
size in a process of its own, so that its peak memory is its own. Two floors, from rates measured in the same process:

- a step: the bytes that Adam and the gradients of the two item tables move (reads and writes of 4 + 3 numbers a weight
  for Adam, 1 to write the gradient, 2 to read the weights in the products) at the rate of a copy, plus three products
  of 256 users with all items at the rate of one;
- a ranking: one product of the users with all items.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
SIZES = (10_000, 100_000, 1_000_000)
USERS, STEPS, RANKED, HIDDEN = 256, 20, 2000, 64


def measure(n_items: int) -> dict[str, Any]:
    """One size, in this process."""
    import torch
    from dmrec.config import build_config
    from dmrec.data.synthetic import make_catalogue
    from dmrec.options import apply_overrides
    from dmrec.recipes import recipe
    from dmrec.runs.resolve import resolve
    from dmrec.runs.run import Run
    from dmrec.training.trainer import train

    sizes = [f"model.hidden={HIDDEN}", f"model.latent={HIDDEN // 2}", f"language.hidden={HIDDEN}"]
    steps = [f"training.batch_size={USERS}", "training.epochs=1", "training.evaluate_every=1"]
    with tempfile.TemporaryDirectory() as folder:
        data = make_catalogue(Path(folder) / "data", n_users=USERS * STEPS, n_items=n_items, held_out_users=RANKED)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        config = resolve(build_config(apply_overrides(recipe("dmrec-m"), [*sizes, *steps])), data)
        train(config, data, Path(folder) / "run")
        run = Run(Path(folder) / "run")
        step = 1e3 * run.events("epoch")[0]["seconds"] / STEPS
        ranking = run.events("evaluation")[0]["seconds"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    source = torch.randn(1 << 25)
    target, query, items = torch.empty_like(source), torch.randn(USERS, HIDDEN), torch.randn(100_000, HIDDEN)
    product = torch.empty(USERS, len(items))
    copy_rate = 2 * source.nbytes / _seconds(lambda: target.copy_(source))
    product_rate = 2 * USERS * HIDDEN * len(items) / _seconds(lambda: torch.mm(query, items.T, out=product))
    weights = 2 * n_items * HIDDEN
    of_step = 1e3 * (4 * weights * (7 + 1 + 2) / copy_rate + 3 * 2 * USERS * HIDDEN * n_items / product_rate)
    return {
        "items": n_items,
        "ms_per_step": round(step, 1),
        "step_floor_ms": round(of_step, 1),
        "ranking_seconds": round(ranking, 3),
        "product_alone_seconds": round(2 * RANKED * HIDDEN * n_items / product_rate, 3),
        "peak_mb": round(peak / 1e3),
        "peak_mb_before_training": round(before / 1e3),
        "weights_and_adam_mb": round(4 * 4 * weights / 1e6),
        "copy_gb_per_s": round(copy_rate / 1e9, 1),
        "product_gflop_per_s": round(product_rate / 1e9),
        "threads": torch.get_num_threads(),
    }


def _seconds(step: Any) -> float:
    """The median of seven."""
    times = []
    for _ in range(7):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return sorted(times)[3]


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Time per step, time of a ranking and peak memory over the number of items, what to hold them against dashed.

    A ranking forms no product of its size in memory, and can be quicker than torch's product.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
    items = [row["items"] for row in rows]
    columns = [
        ("ms per training step", "ms_per_step", "step_floor_ms", "floor"),
        (
            "seconds to rank 2,000 users",
            "ranking_seconds",
            "product_alone_seconds",
            "torch's product of that size, alone",
        ),
        ("peak memory, MB", "peak_mb", "weights_and_adam_mb", "weights, gradients, Adam"),
    ]
    for axis, (title, measured, beside, label) in zip(axes, columns, strict=True):
        axis.plot(items, [row[measured] for row in rows], "o-")
        axis.plot(items, [row[beside] for row in rows], "k--", label=label)
        axis.set(title=title, xscale="log", yscale="log", xlabel="items")
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=90)


def main() -> None:
    """All sizes, each in a fresh process; writes ``results/million.{json,png}``."""
    if len(sys.argv) > 1:
        print(json.dumps(measure(int(sys.argv[1]))))
        return
    rows = []
    for n_items in SIZES:
        command = [sys.executable, "-m", "benchmarks.dmrec.million", str(n_items)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
        (RESULTS / "million.json").write_text(json.dumps(rows, indent=1) + "\n")
    plot(rows, RESULTS / "million.png")


if __name__ == "__main__":
    main()
