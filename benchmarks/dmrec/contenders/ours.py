"""This repository's Mult-VAE with the published options (recipe ``mult-vae-original``), by ``dmrec``'s own training."""

from __future__ import annotations

import tempfile
from pathlib import Path

import common
import dmrec
import torch
from dmrec.config import build_config
from dmrec.data.create import create_dataset
from dmrec.options import deep_merge
from dmrec.recipes import recipe
from dmrec.runs.resolve import resolve
from dmrec.runs.run import Run
from dmrec.training.trainer import train

METRIC = f"recall@{common.K}"


def main() -> None:
    """Trains, and reads the record from the log of the run."""
    chosen = common.arguments()
    torch.set_num_threads(chosen.threads)
    training = {"epochs": chosen.epochs, "patience": chosen.patience, "evaluate_every": chosen.every, "monitor": METRIC}
    values = deep_merge(recipe("mult-vae-original"), {"training": training, "evaluation": {"metrics": [METRIC]}})
    record = common.Record(chosen.patience)
    with tempfile.TemporaryDirectory() as temporary:
        parts = dict(zip(("train", "valid"), common.load(chosen.data), strict=True))
        dataset = create_dataset(Path(temporary) / "data", "data", {**parts, "test": parts["valid"]}, provenance={})
        config = resolve(build_config({**values, "data": str(dataset.folder)}), dataset, 0)
        train(config, dataset, Path(temporary) / "run")
        for event in Run(Path(temporary) / "run").events("epoch"):
            phases = event["phases"].items()
            record.epochs.append(sum(seconds for phase, seconds in phases if phase != "evaluation"))
        for event in Run(Path(temporary) / "run").events("evaluation"):
            record.evaluations.append({"epoch": event["epoch"], "seconds": event["seconds"], "recall": event[METRIC]})
    print(record.to_json(dmrec.__version__))


if __name__ == "__main__":
    main()
