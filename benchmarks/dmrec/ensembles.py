"""Whether ensembles are better than the runs they are made of: ``python -m benchmarks.dmrec.ensembles EXPERIMENT
ease+dmrec-m ..``.

EXPERIMENT is the folder of a finished experiment on one dataset; ``ease+dmrec-m`` is an ensemble of two of its models,
made for each seed, with weights chosen on validation (`dmrec.models.ensemble`). Every ensemble is compared with every
model of the experiment over users: each user's mean over seeds, paired t-tests, p-values by Holm's method over all
lines of a metric. Written to ``results/ensembles-DATASET.json``.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from dmrec.config import build_config
from dmrec.data.dataset import open_dataset
from dmrec.errors import DmrecError
from dmrec.experiment.comparisons import Cell, collect
from dmrec.experiment.statistics import holm, paired_test
from dmrec.options import deep_merge
from dmrec.recipes import recipe
from dmrec.runs.resolve import resolve
from dmrec.runs.run import USERS
from dmrec.training.trainer import train

RESULTS = Path(__file__).parents[1] / "results"
METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")


def fitted(members: list[Cell], seed: int, folder: Path) -> dict[str, Any]:
    """The result of an ensemble of the runs of one seed; of a model without anything random, of its only one."""
    runs = [str(cell.folders[seed if seed in cell.folders else min(cell.folders)].resolve()) for cell in members]
    values = deep_merge(recipe("ensemble"), {"model": {"runs": runs}, "evaluation": {"per_user": True}})
    data = members[0].config.data
    assert data is not None, "a resolved configuration names its dataset"
    dataset = open_dataset(data)
    return train(resolve(build_config(values), dataset), dataset, folder)


def values_of_users(folders: list[Path], metric: str) -> np.ndarray:
    """(number of tested users,) means over runs."""
    return np.mean([np.load(folder / USERS)[metric] for folder in folders], axis=0)


def _rounded(value: float) -> float | None:
    """With three digits; None where there is none."""
    return None if math.isnan(value) else float(f"{value:.3g}")


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description="Whether ensembles are better than the runs they are made of.")
    parser.add_argument("experiment", type=Path)
    parser.add_argument("ensembles", nargs="+", help="names of models with + between them")
    given = parser.parse_args()
    cells = {cell.model: cell for cell in collect(given.experiment)[0]}
    found, tests = [], []
    with tempfile.TemporaryDirectory() as work:
        for name in given.ensembles:
            if missing := [each for each in name.split("+") if each not in cells]:
                raise DmrecError(f"{given.experiment} has no finished run of {', '.join(missing)}")
            members = [cells[each] for each in name.split("+")]
            random = [cell for cell in members if cell.config.model.is_random] or members[:1]
            seeds = sorted(set.intersection(*(set(cell.rows) for cell in random)))
            folders = [Path(work) / name / str(seed) for seed in seeds]
            results = [fitted(members, seed, folder) for seed, folder in zip(seeds, folders, strict=True)]
            row: dict[str, Any] = {"ensemble": name, "seeds": seeds, "weights": [each["weights"] for each in results]}
            for split in ("valid", "test"):
                of_split = {metric: [each[split][metric] for each in results] for metric in METRICS}
                row[split] = {metric: round(statistics.mean(values), 5) for metric, values in of_split.items()}
            if len(seeds) > 1:
                row["deviation"] = {metric: round(statistics.stdev(v), 5) for metric, v in of_split.items()}
            row["seconds"] = round(statistics.mean(each["seconds"] for each in results), 1)
            found.append(row)
            print(json.dumps(row), flush=True)
            for model, cell in cells.items():
                for metric in METRICS:
                    runs = [cell.folders[s] for s in seeds if s in cell.folders] or list(cell.folders.values())
                    test = paired_test(values_of_users(runs, metric), values_of_users(folders, metric))
                    tests.append((name, model, metric, test))
    for metric in METRICS:
        lines = [each for each in tests if each[2] == metric]
        for (name, model, _, test), p in zip(lines, holm([each[3].p_t for each in lines]), strict=True):
            row = next(each for each in found if each["ensemble"] == name)
            values = {"difference": test.difference, "low": test.low, "high": test.high, "p": p}
            row.setdefault("over", {}).setdefault(model, {})[metric] = {k: _rounded(v) for k, v in values.items()}
    dataset = next(iter(cells.values())).dataset
    RESULTS.joinpath(f"ensembles-{dataset}.json").write_text(
        json.dumps({"dataset": dataset, "ensembles": found}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
