"""Whether words matter: ``python -m benchmarks.dmrec.words RUN ..``, runs of models with text vectors on one dataset.

What a new user gets who is described by a profile and nothing else, at several values of ``popularity``: of 100 random
pairs of the dataset's profiles, how many of ten recommendations are shared; how many of ten are among the 20 most
popular items; how many different items the 200 profiles are recommended; and recall@20 on the held-out test items of
all users by their profiles alone, seen items left out. At a popularity of 0 the texts rank alone. Written to
``results/words-DATASET.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import dmrec
import numpy as np
import torch
from dmrec.eval.ranking import evaluate
from dmrec.inference.recommender import Recommender
from dmrec.models.base import Model, TrainingData, UserBatch, evaluating
from torch import Tensor

from dmrec_ext import Csr

RESULTS = Path(__file__).parents[1] / "results"
PAIRS, K, POPULAR = 100, 10, 20
WEIGHTS = (1.0, 0.75, 0.5, 0.25, 0.0)


class ByProfile(Model):
    """A model that is given nothing but the users' texts."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def rank(self, batch: UserBatch, k: int, exclude: Csr | None = None) -> tuple[Tensor, Tensor]:
        """The k best items by the texts."""
        nothing = torch.zeros(batch.size + 1, dtype=torch.int64)
        empty = Csr(nothing, nothing[:0], None, batch.interactions.n_cols)
        return self.model.rank(batch._replace(ids=None, interactions=empty), k, exclude)


def figures(model: Model, data: TrainingData, wanted: Csr) -> dict[str, float]:
    """Of a model that ranks by profiles."""
    ranker = ByProfile(model)
    draw = np.random.default_rng(0)
    users = torch.from_numpy(draw.permutation(data.n_users)[: 2 * PAIRS])
    with evaluating(ranker):
        items = ranker.rank(data.users(users), K)[1]
    popular = torch.bincount(data.interactions.col, minlength=data.n_items).topk(POPULAR).indices
    first, second = items[:PAIRS], items[PAIRS:]
    shared = (first[:, :, None] == second[:, None, :]).any(2).sum(1).double().mean()
    return {
        "shared of 10": round(float(shared), 2),
        "popular of 10": round(float(torch.isin(items, popular).sum(1).double().mean()), 2),
        "different items": len(items.unique()),
        "recall@20 by profile": round(evaluate(ranker, data, wanted, ["recall@20"]).means["recall@20"], 4),
    }


def rows_of(folder: Path) -> tuple[Recommender, list[dict[str, Any]]]:
    """The figures of a run at each of `WEIGHTS`; at 0 they are those of the texts alone."""
    run = dmrec.load(folder)
    wanted, rows = run.dataset.split("test"), []
    for weight in WEIGHTS:
        rows.append({"model": run.name, "popularity": weight, **figures(run.blended(weight), run.data, wanted)})
        print(rows[-1], flush=True)
    return run, rows


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    rows: list[dict[str, Any]] = []
    for folder in parser.parse_args().runs:
        run, found = rows_of(folder)
        rows += found
    result = {"dataset": run.dataset.name, "rows": rows}
    RESULTS.joinpath(f"words-{run.dataset.name}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
