"""Exact search against beams: ``python -m benchmarks.dmrec.search runs/amazon-scientific/tiger``.

For a trained TIGER on all test users: the share of users for whom a beam of width 2 k alone is proven, expanded
prefixes and seconds for each search, how many of the exact first ten a beam finds, and recall@10. ``--all`` scores
every item for some users and counts differences from exact search. Written to ``results/search-DATASET-MODEL.json``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from dmrec.models.base import evaluating
from dmrec.models.sequential.search import TopK, all_scores, beam_topk, exact_topk
from dmrec.runs.load import load_run, test_data
from torch import Tensor

from dmrec_ext import rank_scores

RESULTS = Path(__file__).parents[1] / "results"
K, BLOCK = 10, 128
BEAMS = (20, 50, 100)


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--all", type=int, default=500, help="users for whom every item is scored")
    chosen = parser.parse_args()
    run, dataset, model, data = load_run(chosen.run, chosen.data)
    data = test_data(run.config, dataset, data)
    held_out = dataset.split("test")
    users = held_out.crow.diff().nonzero().squeeze(1)
    target = held_out.col[held_out.crow[users]]

    def searched(search: Any, some: Tensor) -> tuple[TopK, float]:
        parts, started = [], time.perf_counter()
        with evaluating(model):
            for block in some.split(BLOCK):
                batch = data.users(block)
                parts.append(search(model.behind(batch.ids, batch.sequences)))
        return TopK(*map(torch.cat, zip(*parts, strict=True))), time.perf_counter() - started

    def row(name: str, found: TopK, seconds: float, exact: TopK) -> dict[str, Any]:
        shared = (found.items[:, :, None] == exact.items[:, None]).any(2).float().sum(1)
        return {
            "search": name,
            "of the exact first ten": round(float(shared.mean()) / K, 4),
            "all ten": round(float((shared == K).double().mean()), 4),
            "recall@10": round(float((found.items == target[:, None]).any(1).double().mean()), 5),
            "expanded prefixes": round(float(found.expanded.double().mean()), 1),
            "seconds per 1,000 users": round(1000 * seconds / len(users), 2),
        }

    trie = model.trie
    exact, seconds = searched(lambda behind: exact_topk(behind, trie, K), users)
    rows = [row("exact", exact, seconds, exact)]
    rows += [
        row(f"beam {width}", *searched(lambda b, w=width: beam_topk(b, trie, K, w), users), exact) for width in BEAMS
    ]
    some = users[torch.randperm(len(users), generator=torch.Generator().manual_seed(0))[: chosen.all]].sort().values
    started, differing, sums = time.perf_counter(), 0, []
    with evaluating(model):
        for block in some.split(16):
            batch = data.users(block)
            scores = all_scores(model.behind(batch.ids, batch.sequences), trie)
            sums.append(scores.double().exp().sum(1))
            ranked = rank_scores(scores, K)[0]
            place = torch.searchsorted(users, block)
            differing += int(((ranked - exact.scores[place]).abs() > 1e-3).any(1).sum())
    found = {
        "run": run.config.name,
        "dataset": dataset.name,
        "users": len(users),
        "certified by the beam": round(float(exact.certified.double().mean()), 4),
        "rows": rows,
        "all": {
            "users": len(some),
            "differing from exact": differing,
            "seconds per 1,000 users": round(1000 * (time.perf_counter() - started) / len(some), 1),
            "largest error of the sum of probabilities": float((torch.cat(sums) - 1).abs().max()),
        },
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(found, indent=1))
    (RESULTS / f"search-{dataset.name}-{run.config.name}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
