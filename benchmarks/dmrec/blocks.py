"""Encoding a batch in parts by length: ``python -m benchmarks.dmrec.blocks data/amazon-scientific --codes letter``.

A training step of TIGER with the histories of a batch in 1, 2, 4, 8 and 16 parts, each with little padding; the steps
of all take turns in one process. Seconds of an epoch are the median step times the number of steps. Written to
``results/blocks-DATASET-SIZE.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from pathlib import Path

import torch
from dmrec.build import build_model
from dmrec.config import build_config
from dmrec.data.dataset import open_dataset
from dmrec.models.base import Step
from dmrec.options import apply_overrides
from dmrec.recipes import recipe
from dmrec.runs.load import training_data
from dmrec.runs.resolve import resolve
from dmrec.training.optimiser import optimiser_of
from torch import nn

RESULTS = Path(__file__).parents[1] / "results"
BLOCKS = (1, 2, 4, 8, 16)


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--codes")
    parser.add_argument("--size", default="small")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=7)
    chosen = parser.parse_args()
    dataset = open_dataset(chosen.data)
    options = [f"model.size={chosen.size}", *([f"model.codes={chosen.codes}"] if chosen.codes else [])]
    config = resolve(build_config(apply_overrides(recipe("tiger"), options)), dataset)
    model = build_model(config, training_data(config, dataset)).train()
    optimiser = optimiser_of(model, config.training)
    random = torch.Generator().manual_seed(0)
    seconds = defaultdict(list)
    for step in range(chosen.steps + 1):
        index = torch.randint(model.n_examples, (chosen.batch_size,), generator=random)
        for blocks in BLOCKS:
            model.options = model.options.model_copy(update={"blocks": blocks})
            started = time.perf_counter()
            loss = model.loss(model.batch(index), Step())["loss"]
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            if step:  # the first one warms up
                seconds[blocks].append(time.perf_counter() - started)
    steps = model.n_examples / chosen.batch_size
    rows = []
    for blocks in BLOCKS:
        tokens = sum(block.history.numel() for block in _batch(model, blocks, index)) * model.levels
        there = sum(int((block.history >= 0).sum()) for block in _batch(model, blocks, index)) * model.levels
        median = statistics.median(seconds[blocks])
        rows.append(
            {
                "parts": blocks,
                "padding": round(1 - there / tokens, 3),
                "seconds of a step": round(median, 3),
                "seconds of an epoch": round(median * steps, 1),
            }
        )
    found = {"dataset": dataset.name, "size": chosen.size, "batch size": chosen.batch_size}
    found |= {"threads": torch.get_num_threads(), "rows": rows}
    print(json.dumps(found, indent=1))
    (RESULTS / f"blocks-{dataset.name}-{chosen.size}.json").write_text(json.dumps(found, indent=1) + "\n")


def _batch(model, blocks, index):
    model.options = model.options.model_copy(update={"blocks": blocks})
    return model.batch(index)


if __name__ == "__main__":
    main()
