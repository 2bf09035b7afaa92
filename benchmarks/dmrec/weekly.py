"""What starting from last week's model saves: ``python -m benchmarks.dmrec.weekly DATA [--model dmrec-m]``.

Last week's data are a dataset without a random tenth of its items and a tenth of its users. A model is trained on
them; then, on the whole dataset, one from random weights and one from last week's (``training.initial``). The splits
are those of the dataset, so that nothing held out this week was learned last week. Written to
``results/weekly-DATASET.json``: the epochs and seconds until either first reached the best validation score of the
fresh training, and figures on test.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from dmrec.config import build_config
from dmrec.data.arrays import as_interactions
from dmrec.data.create import create_dataset
from dmrec.data.dataset import SPLITS, Dataset, open_dataset
from dmrec.options import apply_overrides
from dmrec.recipes import recipe
from dmrec.runs.resolve import resolve
from dmrec.runs.run import LOG
from dmrec.training.trainer import train

RESULTS = Path(__file__).parents[1] / "results"


def last_week(dataset: Dataset, folder: Path, vectors: str) -> Dataset:
    """Without a tenth of the users and of the items."""
    random = np.random.default_rng(0)
    rows = np.sort(random.permutation(dataset.n_users)[dataset.n_users // 10 :])
    columns = np.sort(random.permutation(dataset.n_items)[dataset.n_items // 10 :])
    splits = {split: as_interactions(dataset.matrix(split)[rows][:, columns]) for split in SPLITS}
    users, items = [dataset.users[row] for row in rows], [dataset.items[column] for column in columns]
    made = create_dataset(folder, dataset.name, splits, items=items, users=users, provenance={})
    whole = dataset.vectors(vectors)
    made.add_vectors(vectors, np.asarray(whole.items)[columns], np.asarray(whole.users)[rows], {})
    return open_dataset(folder)


def run(model: str, dataset: Dataset, folder: Path, settings: list[str]) -> dict[str, Any]:
    """Trains, and returns the figures with validation scores by epoch and the seconds until then."""
    config = resolve(build_config(apply_overrides(recipe(model), settings)), dataset)
    result = train(config, dataset, folder)
    events = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    start = events[0]["time"]
    monitor = config.training.monitor
    curve = [(each["epoch"], each["time"] - start, each[monitor]) for each in events if each["event"] == "evaluation"]
    return {"best epoch": result["best_epoch"], "test": result["test"], "valid": result["valid"], "curve": curve}


def reached(curve: list[tuple[int, float, float]], score: float) -> dict[str, Any] | None:
    """The first evaluation with at least this score; None if there is none."""
    return next(({"epoch": e, "seconds": round(s, 1)} for e, s, value in curve if value >= score), None)


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="dmrec-m")
    parser.add_argument("--vectors")
    parser.add_argument("--set", nargs="*", dest="settings", default=["model.item_text={}"])
    given = parser.parse_args()
    dataset = open_dataset(given.data)
    vectors = dataset.vectors(given.vectors).name
    found: dict[str, Any] = {"dataset": dataset.name, "model": given.model, "options": given.settings}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        before = last_week(dataset, root / "data", vectors)
        run(given.model, before, root / "before", given.settings)
        fresh = run(given.model, dataset, root / "fresh", given.settings)
        start = [*given.settings, f"training.initial={root / 'before'}"]
        later = run(given.model, dataset, root / "later", start)
    best = max(value for _, _, value in fresh["curve"])
    for name, each in (("fresh", fresh), ("from last week", later)):
        found[name] = {
            "until the best of fresh": reached(each["curve"], best),
            "until 99 % of it": reached(each["curve"], 0.99 * best),
            "best epoch": each["best epoch"],
            "best on validation": max(value for _, _, value in each["curve"]),
            "test": each["test"],
        }
    print(json.dumps(found, indent=1))
    RESULTS.joinpath(f"weekly-{dataset.name}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
