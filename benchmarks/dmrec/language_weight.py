"""Whether profiles should weigh more where histories are short: ``python -m benchmarks.dmrec.language_weight RUN ..``.

The mean of the language posterior of finished DMRec runs (with additive fusion) is multiplied by several weights, and
recall@20 and ndcg@20 are measured for quarters of the users by the length of their training histories. The weight of a
quarter that is best on validation is what a rule by length could gain at most. Written to
``results/language-weight-DATASET.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import dmrec
import numpy as np
from dmrec.eval.ranking import evaluate
from dmrec.models.base import Model, UserBatch
from torch import Tensor

from dmrec_ext import Csr, rank_topk

RESULTS = Path(__file__).parents[1] / "results"
WEIGHTS = (0.5, 0.75, 1.0, 1.25, 1.5)
METRICS = ("recall@20", "ndcg@20")


class Weighted(Model):
    """A DMRec model whose language posterior has another weight."""

    def __init__(self, model: Model, weight: float) -> None:
        super().__init__()
        self.model, self.weight = model, weight

    def rank(self, batch: UserBatch, k: int, exclude: Csr | None = None) -> tuple[Tensor, Tensor]:
        """The k best items by the sum of the collaborative mean and ``weight`` times that of language."""
        q = self.model.posteriors(batch)
        mean = q.collaborative.mu + self.weight * q.language.mu
        decoded = self.model.backbone.decode(mean)
        return rank_topk(decoded.hidden, decoded.weight, k, bias=decoded.bias, exclude=exclude)


def rows_of(folder: Path) -> tuple[str, list[dict[str, Any]]]:
    """The figures of a run for each weight, in all and by quarter of users."""
    run = dmrec.load(folder)
    length = run.data.interactions.crow.diff().numpy()
    quarter = np.searchsorted(np.quantile(length, [0.25, 0.5, 0.75]), length)
    rows = []
    for weight in WEIGHTS:
        row: dict[str, Any] = {"model": run.name, "weight": weight}
        for split in ("valid", "test"):
            found = evaluate(Weighted(run.model, weight), run.data, run.dataset.split(split), METRICS)
            for metric in METRICS:
                of_users = found.values[metric].numpy()
                row[f"{split} {metric}"] = round(found.means[metric], 5)
                row[f"{split} {metric} by quarter"] = [
                    round(float(np.mean(of_users[quarter[found.users.numpy()] == number])), 5) for number in range(4)
                ]
        rows.append(row)
        print(json.dumps(row), flush=True)
    return run.dataset.name, rows


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    rows: list[dict[str, Any]] = []
    for folder in parser.parse_args().runs:
        name, found = rows_of(folder)
        rows += found
    path = RESULTS / f"language-weight-{name}.json"
    path.write_text(json.dumps({"dataset": name, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
