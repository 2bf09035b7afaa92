"""What share of a training step the alignment of codes is: ``python -m benchmarks.dmrec.alignment_share DATA``.

Steps of TIGER with SODA under torch's profiler: the time inside `code_alignment`, forward and backward, over the time
of the whole step. The median over steps, written to ``results/alignment-share-DATASET.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from dmrec.build import build_model
from dmrec.config import build_config
from dmrec.data.dataset import Dataset, open_dataset
from dmrec.models.base import Step, TrainedModel
from dmrec.options import apply_overrides
from dmrec.recipes import recipe
from dmrec.runs.load import training_data
from dmrec.runs.resolve import resolve
from dmrec.training.loop import seed_of, shuffled_batches
from dmrec.training.optimiser import optimiser_of
from torch.profiler import ProfilerActivity, profile

RESULTS = Path(__file__).parents[1] / "results"
WARM = 3  # steps before the first that counts


def shares(dataset: Dataset, codes: str | None, steps: int) -> tuple[list[float], list[float], int]:
    """Of each step: the alignment's share, and seconds; and the examples of a step."""
    settings = [] if codes is None else [f"model.codes={codes}"]
    config = resolve(build_config(apply_overrides(recipe("tiger-soda"), settings)), dataset)
    torch.manual_seed(0)
    model = build_model(config, training_data(config, dataset))
    assert isinstance(model, TrainedModel)
    optimiser = optimiser_of(model, config.training)
    shuffle = torch.Generator().manual_seed(seed_of("shuffle", 0))
    model.train().begin_epoch(1)
    found, seconds = [], []
    for step, index in enumerate(shuffled_batches(model.n_examples, config.training.batch_size, shuffle)):
        if step == WARM + steps:
            break
        batch = model.batch(index)
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            started = time.perf_counter()
            loss = model.loss(batch, Step(step, 1))["loss"]
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            elapsed = time.perf_counter() - started
        if step >= WARM:
            spent = sum(each.self_cpu_time_total for each in profiled.key_averages() if "code_alignment" in each.key)
            found.append(spent / 1e6 / elapsed)
            seconds.append(elapsed)
    return found, seconds, config.training.batch_size


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--codes")
    parser.add_argument("--steps", type=int, default=10)
    given = parser.parse_args()
    dataset = open_dataset(given.data)
    found, seconds, batch = shares(dataset, given.codes, given.steps)
    result = {
        "dataset": dataset.name,
        "examples of a step": batch,
        "threads": torch.get_num_threads(),
        "share of code_alignment": round(statistics.median(found), 5),
        "seconds of a step": round(statistics.median(seconds), 4),
    }
    print(json.dumps(result))
    RESULTS.joinpath(f"alignment-share-{dataset.name}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
