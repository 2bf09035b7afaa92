"""Size and time of a report: ``python -m benchmarks.dmrec.report``.

Stand-in runs of 12 models on 3 datasets with 10 seeds each, 10,000 tested users, 60 evaluations: made-up values, of the
size of real ones. Written to ``results/report.json``: seconds to collect and compare, to write the page, and its bytes.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dmrec.config import build_config
from dmrec.eval.metrics import METRICS
from dmrec.experiment.ledger import append_row, run_folder
from dmrec.experiment.report.contents import contents
from dmrec.experiment.report.html import html, renderer
from dmrec.recipes import recipe
from dmrec.runs.run import USERS, Run

RESULTS = Path(__file__).parents[1] / "results"
DATASETS, SEEDS, TESTED, EVALUATIONS, DEPTH, LATENT = ("amazon-book", "yelp", "steam"), 10, 10_000, 60, 100, 200
NAMES = ["mult-vae", "cvga", "l-diffrec", *(f"{b}-{s}" for b in ("dmrec", "cvga", "l-diffrec") for s in "gcm")]
NAMED = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")


def stand_in(folder: Path, dataset: str, model: str, seed: int, random: np.random.Generator, level: float) -> None:
    """A finished run: row, configuration, log, result, values of users."""
    row: dict[str, Any] = {"dataset": dataset, "model": model, "seed": seed, "state": "finished", "started": seed}
    run = Run.create(run_folder(folder, row), build_config(recipe(model)))
    hits = torch.from_numpy(random.random((TESTED, DEPTH)) < level * 2 / np.sqrt(1 + np.arange(DEPTH)))
    held_out = (hits.sum(1) + 2).long()
    values = {name: METRICS[name.split("@")[0]](hits.double(), held_out, int(name.split("@")[1])) for name in NAMED}
    interactions = 2 + random.geometric(0.1, TESTED)
    np.savez_compressed(
        run.folder / USERS,
        user=np.arange(TESTED),
        interactions=interactions,
        held_out=held_out.numpy(),
        hits=np.packbits(hits.numpy(), axis=1),
        depth=np.array(DEPTH),
        **{name: each.numpy() for name, each in values.items()},
    )
    for epoch in range(3, 3 * EVALUATIONS + 1):
        run.log("epoch", epoch=epoch, seconds=0.5)
        if epoch % 3 == 0:
            run.log(
                "evaluation", epoch=epoch, **{"recall@20": level * (1 - 0.9 ** (epoch / 3)) + random.normal() / 2e3}
            )
    test = {name: float(each.mean()) for name, each in values.items()}
    variance = {"variance": random.exponential(0.05, LATENT).tolist(), "explained_by_length": [0.1] * LATENT}
    names = ("collaborative", "language", "fused") if "-" in model and model[-1] in "gcm" else ("collaborative",)
    run.finish({"activity": dict.fromkeys(names, variance), "environment": {}})
    times = {"epochs": 3 * EVALUATIONS, "best_epoch": 150, "seconds_per_epoch": 0.5, "threads": 2, "workers": 1}
    append_row(folder, {**row, "test": test, "valid": test, "test_users": TESTED, "device": "cpu", **times})


def main() -> None:
    """Makes the runs, then the report."""
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for dataset in DATASETS:
            for number, model in enumerate(NAMES):
                for seed in range(SEEDS):
                    stand_in(folder, dataset, model, seed, random, 0.03 + 0.001 * number)
        started = time.perf_counter()
        found = contents(folder, against=["mult-vae"])
        compared = time.perf_counter()
        page = html(found, renderer())
        ended = time.perf_counter()
    result = {
        "models": len(NAMES),
        "datasets": len(DATASETS),
        "seeds": SEEDS,
        "tested users": TESTED,
        "figures": page.count("<figure>"),
        "seconds to compare": round(compared - started, 1),
        "seconds to write": round(ended - compared, 1),
        "megabytes": round(len(page.encode()) / 1e6, 2),
        "threads": torch.get_num_threads(),
    }
    (RESULTS / "report.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
