"""Whether probabilities of items are what they say: ``python -m benchmarks.dmrec.reliability runs/DATASET/tiger``.

For a trained generative model whose probabilities sum to 1 over the items. All items are scored for some users of
validation and of test. A temperature, fitted to the likelihood of the validation targets, divides the logarithms. For
test, before and after: the negative log-likelihood of the targets, and of the ten most probable items of each user the
mean probability and the share of targets among them, by bins of equal numbers; their mean absolute difference is the
expected calibration error. Written to ``results/reliability-DATASET-MODEL.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from dmrec.models.base import evaluating
from dmrec.models.sequential.search import all_scores
from dmrec.models.sequential.tiger import Tiger
from dmrec.runs.load import load_run, test_data
from torch import Tensor

RESULTS = Path(__file__).parents[1] / "results"
K, BINS, BLOCK = 10, 10, 128


def fitted_temperature(scores: Tensor, target: Tensor) -> float:
    """The T that maximises the likelihood of targets (B,) under softmax(scores / T), scores (B, N); convex in 1 / T."""
    low, high = 0.1, 10.0
    for _ in range(60):
        inner = [low + (high - low) * share for share in (0.382, 0.618)]
        losses = [nll(scores / each, target) for each in inner]
        low, high = (low, inner[1]) if losses[0] < losses[1] else (inner[0], high)
    return (low + high) / 2


def nll(scores: Tensor, target: Tensor) -> float:
    """Mean over users, in nats."""
    return -float(torch.log_softmax(scores, 1).gather(1, target[:, None]).mean())


def reliability(scores: Tensor, target: Tensor) -> dict[str, Any]:
    """Figures of one set of scores."""
    log_p, items = torch.log_softmax(scores, 1).topk(K)
    probability, hit = log_p.exp().flatten(), (items == target[:, None]).flatten().double()
    bins = [
        {"probability": round(float(probability[part].mean()), 5), "share of hits": round(float(hit[part].mean()), 5)}
        for part in probability.argsort().tensor_split(BINS)
    ]
    error = sum(abs(each["probability"] - each["share of hits"]) for each in bins) / BINS
    return {"nll": round(nll(scores, target), 4), "expected calibration error": round(error, 5), "bins": bins}


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--users", type=int, default=1000, help="of validation, and of test, at most")
    chosen = parser.parse_args()
    run, dataset, model, data = load_run(chosen.run, chosen.data)
    assert isinstance(model, Tiger), "a model whose probabilities of items sum to 1"
    scores, targets = {}, {}
    for split, of_split in (("valid", data), ("test", test_data(run.config, dataset, data))):
        held_out = dataset.split(split)
        users = held_out.crow.diff().nonzero().squeeze(1)
        users = users[:: -(-len(users) // chosen.users)]
        targets[split], parts = held_out.col[held_out.crow[users]].long(), []
        with evaluating(model):
            for block in users.split(BLOCK):
                batch = of_split.users(block)
                assert batch.sequences is not None
                parts.append(all_scores(model.behind(batch.ids, batch.sequences), model.trie))
        scores[split] = torch.cat(parts).double()
    sums = scores["test"].exp().sum(1)
    temperature = fitted_temperature(scores["valid"], targets["valid"])
    result = {
        "users": len(sums),
        "largest difference of the sum of probabilities from 1": float((sums - 1).abs().max()),
        "temperature": round(temperature, 4),
        "as trained": reliability(scores["test"], targets["test"]),
        "with the temperature": reliability(scores["test"] / temperature, targets["test"]),
    }
    print(json.dumps(result, indent=1))
    name = f"reliability-{dataset.name}-{run.config.name}.json"
    (RESULTS / name).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
