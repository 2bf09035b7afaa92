"""Models by how much they read: ``python -m benchmarks.dmrec.short_histories runs/DATASET/A runs/DATASET/B ..``.

Test figures of trained models that read order, with the histories of all users cut to their last 1, 2, 3 and 5 items.
Written to ``results/short-histories-DATASET.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from dmrec.eval.ranking import evaluate
from dmrec.models.base import Histories
from dmrec.runs.load import load_run, test_data

RESULTS = Path(__file__).parents[1] / "results"
CUTS = (1, 2, 3, 5, None)
METRICS = ("recall@10", "ndcg@10")


def cut(histories: Histories, count: int | None) -> Histories:
    """The last ``count`` items of each user; None: all."""
    if count is None:
        return histories
    length = histories.indptr.diff()
    kept = length.clamp_max(count)
    place = torch.arange(len(histories.items)) - histories.indptr[:-1].repeat_interleave(length)
    of_user = (length - kept).repeat_interleave(length)
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), kept.cumsum(0)])
    return Histories(indptr, histories.items[place >= of_user])


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    rows, dataset_name = [], ""
    for folder in parser.parse_args().runs:
        run, dataset, model, data = load_run(folder)
        data = test_data(run.config, dataset, data)
        assert data.histories is not None, f"{folder} reads no order"
        dataset_name = dataset.name
        for count in CUTS:
            some = data._replace(histories=cut(data.histories, count))
            means = evaluate(model, some, dataset.split("test"), METRICS, exclude_seen=False).means
            rows.append({"model": run.config.name, "seed": run.config.training.seed, "last items": count, **means})
            print(json.dumps(rows[-1]), flush=True)
    (RESULTS / f"short-histories-{dataset_name}.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
