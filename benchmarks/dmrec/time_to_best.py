"""Seconds of an epoch and until the best one: ``python -m benchmarks.dmrec.time_to_best experiments/NAME``.

The runs of an experiment say which epoch validation chose; the seconds come from runs of ``--epochs`` epochs that are
made here, one after the other and with nothing beside them, since those of an experiment may have shared the machine.
An epoch's seconds are the median after the first, its share of an evaluation is that over the epochs between two. What
is fitted in closed form is fitted once. Written to ``results/time-to-best-DATASET.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from cpuinfo import get_cpu_info
from dmrec.data.dataset import PERMUTED, open_dataset
from dmrec.experiment.ledger import read_rows
from dmrec.experiment.plan import PLAN, Job, read_plan
from dmrec.runs.run import Run
from dmrec.training.trainer import train

RESULTS = Path(__file__).parents[1] / "results"


def alone(job: Job, epochs: int) -> dict[str, Any]:
    """Seconds of an epoch and of an evaluation of one model, or those of its closed form."""
    training = job.config.training.model_copy(update={"epochs": epochs, "patience": epochs})
    config = job.config.model_copy(update={"training": training})
    with tempfile.TemporaryDirectory() as temporary:
        result = train(config, open_dataset(Path(str(config.data))), Path(temporary) / "run")
        if "best_epoch" not in result:
            return {"seconds": round(result["seconds"], 2)}
        run = Run(Path(temporary) / "run")
        phases = [each["phases"] for each in run.events("epoch")[1:]]
        evaluations = [each["seconds"] for each in run.events("evaluation")]
    train_seconds = statistics.median(
        sum(seconds for phase, seconds in each.items() if phase not in ("evaluation", "saving")) for each in phases
    )
    return {"epoch": round(train_seconds, 3), "evaluation": round(statistics.median(evaluations), 3)}


def main() -> None:
    """Measures every model of an experiment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--epochs", type=int, default=7)
    chosen = parser.parse_args()
    best: dict[str, list[int]] = defaultdict(list)
    for row in read_rows(chosen.experiment):
        if row["state"] == "finished" and "best_epoch" in row:
            best[row["model"]].append(row["best_epoch"])
    first: dict[str, Job] = {}
    for job in read_plan(chosen.experiment / PLAN, chosen.experiment).jobs():
        if not job.model.endswith(f".{PERMUTED}"):  # those take as long as with the right texts
            first.setdefault(job.model, job)
    rows = []
    for model, job in first.items():
        row: dict[str, Any] = {"model": model, **alone(job, chosen.epochs)}
        if best[model]:
            row["best_epochs"] = best[model]
            of_an_epoch = row["epoch"] + row["evaluation"] / job.config.training.evaluate_every
            row["to_best"] = round(statistics.mean(best[model]) * of_an_epoch, 1)
        rows.append(row)
        print(row, flush=True)
    result = {
        "dataset": first[next(iter(first))].dataset,
        "processor": f"{get_cpu_info().get('brand_raw', 'unknown')}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rows": rows,
    }
    path = RESULTS / f"time-to-best-{result['dataset']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
