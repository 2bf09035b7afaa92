"""The example of docs/python.md on MovieLens-100K, and the same work with implicit, measured alike.

``python -m benchmarks.dmrec.three_lines DATA`` prints one JSON object: recall and NDCG on the test split.
implicit's ALS has its own defaults (64 factors, 15 iterations) but for the regularisation, which is chosen on
validation among four values as EASE's is; its recommendations are measured by the functions that measure ours.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import dmrec
import implicit
import numpy as np
import torch
from dmrec.eval.metrics import METRICS, hits, parse_metric
from implicit.als import AlternatingLeastSquares

NAMES = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
REGULARISATION = (0.01, 0.1, 1.0, 10.0)


def ours(name: str, data: dmrec.Dataset, **options: Any) -> dict[str, Any]:
    """Three lines: open, train, recommend."""
    model = dmrec.train(name, data, progress=False, **options)
    model.recommend(k=20)
    return {"model": name, **dmrec.evaluate(model, metrics=NAMES)}


def als(data: dmrec.Dataset) -> dict[str, Any]:
    """The same in implicit, whose rows and columns are ours."""
    train = data.split("train").to_scipy()
    best: tuple[float, float, Any] | None = None
    for regularisation in REGULARISATION:
        model = AlternatingLeastSquares(regularization=regularisation, random_state=0)
        model.fit(train, show_progress=False)
        score = measure(model, data, "valid")["recall@20"]
        if best is None or score > best[0]:
            best = (score, regularisation, model)
    assert best is not None
    figures = measure(best[2], data, "test")
    return {"model": "implicit ALS", "regularisation": best[1], **figures}


def measure(model: Any, data: dmrec.Dataset, split: str) -> dict[str, float]:
    """Means over the users with held-out items, without their training items."""
    held_out = data.split(split)
    users = held_out.crow.diff().nonzero().squeeze(1)
    train = data.split("train").to_scipy()[users.numpy()]
    ids, _ = model.recommend(users.numpy(), train, N=20, filter_already_liked_items=True)
    wanted = held_out.rows(users)
    hit, count = hits(torch.from_numpy(np.asarray(ids, dtype=np.int64)), wanted), wanted.crow.diff()
    return {name: float(METRICS[parse_metric(name)[0]](hit, count, parse_metric(name)[1]).mean()) for name in NAMES}


def main() -> None:
    """Prints the figures."""
    data = dmrec.open_dataset(sys.argv[1])
    rows = [ours("ease", data), ours("dmrec-m", data, epochs=100), als(data)]
    print(json.dumps({"dataset": data.name, "implicit": implicit.__version__, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
