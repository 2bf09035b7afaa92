"""Whether an alignment teaches anything: the norm of its gradient next to that of the likelihood, while a model trains.

``python -m benchmarks.dmrec.gradients DATA [--codes NAME] [--epochs N]``: TIGER with SODA, once with calibrated
temperatures and once with a temperature of 1. Every 20 steps both gradients are formed apart, with respect to the
weights of the recommender's encoder, which both terms reach. Norms are of the terms before their weights.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from dmrec.build import build_model
from dmrec.config import build_config
from dmrec.data.dataset import Dataset, open_dataset
from dmrec.models.base import Step
from dmrec.models.sequential.alignment import Aligned
from dmrec.options import apply_overrides
from dmrec.recipes import recipe
from dmrec.runs.load import training_data
from dmrec.runs.resolve import resolve
from dmrec.training.loop import seed_of, shuffled_batches
from dmrec.training.optimiser import optimiser_of

RESULTS = Path(__file__).parents[1] / "results"
EVERY = 20  # steps between readings


def measure(dataset: Dataset, codes: str | None, epochs: int, temperature: str) -> dict[str, Any]:
    """By epoch: means over readings of both norms, of their ratio, and of the terms themselves."""
    settings = [f"alignment.temperature={temperature}", *([] if codes is None else [f"model.codes={codes}"])]
    config = resolve(build_config(apply_overrides(recipe("tiger-soda"), settings)), dataset)
    torch.manual_seed(0)
    model = build_model(config, training_data(config, dataset))
    assert isinstance(model, Aligned)
    optimiser = optimiser_of(model, config.training)
    shuffle = torch.Generator().manual_seed(seed_of("shuffle", 0))
    encoder = [weight for weight in model.model.get_submodule("encoder").parameters() if weight.requires_grad]
    model.train()
    found = []
    for epoch in range(1, epochs + 1):
        model.begin_epoch(epoch)
        readings = []
        for step, index in enumerate(shuffled_batches(model.n_examples, config.training.batch_size, shuffle)):
            losses = model.loss(model.batch(index), Step(step, epoch))
            if step % EVERY == 0:
                norms = [_norm(losses[name], encoder) for name in ("nll", "alignment")]
                readings.append([*norms, norms[1] / norms[0], losses["nll"].item(), losses["alignment"].item()])
            optimiser.zero_grad(set_to_none=True)
            losses["loss"].backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.training.clip or torch.inf)
            optimiser.step()
        means = torch.tensor(readings).mean(0).tolist()
        names = ("norm of nll", "norm of alignment", "ratio", "nll", "alignment")
        found.append({"epoch": epoch, **{name: round(value, 5) for name, value in zip(names, means, strict=True)}})
        print(temperature, json.dumps(found[-1]), flush=True)
    return {"temperature": model.temperature.tolist(), "weight": model.options.weight, "epochs": found}


def _norm(loss: torch.Tensor, weights: list[torch.nn.Parameter]) -> float:
    gradients = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    return float(torch.stack([gradient.norm() for gradient in gradients if gradient is not None]).norm())


def main() -> None:
    """Writes gradients-DATASET.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--codes")
    parser.add_argument("--epochs", type=int, default=6)
    given = parser.parse_args()
    dataset = open_dataset(given.data)
    result = {each: measure(dataset, given.codes, given.epochs, each) for each in ("calibrated", "1.0")}
    RESULTS.joinpath(f"gradients-{dataset.name}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
