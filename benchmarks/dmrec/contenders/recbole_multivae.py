"""RecBole's MultiVAE, by its own trainer and evaluation, with the published sizes, 500 users in a batch of training.

Its evaluation ranks 500 users at a time, too, or with ``--default-ranking`` as many as by default: 4,096 scores, which
is a user or a few.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path

import common
import numpy as np
import recbole
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.general_recommender import MultiVAE
from recbole.trainer import Trainer
from recbole.utils import init_seed

BATCH = 500


class RecBole:
    """One `Trainer`, epoch by epoch."""

    version = recbole.__version__

    def __init__(self, chosen: argparse.Namespace) -> None:
        torch.set_num_threads(chosen.threads)
        logging.disable(logging.WARNING)
        train, valid = common.load(chosen.data)
        folder = tempfile.mkdtemp()
        (Path(folder) / "data").mkdir()
        for part, matrix in (("train", train), ("valid", valid), ("test", valid)):
            pairs = np.column_stack(matrix.nonzero())
            path = Path(folder) / "data" / f"data.{part}.inter"
            np.savetxt(path, pairs, fmt="%d", delimiter="\t", header="user_id:token\titem_id:token", comments="")
        settings = {
            "data_path": folder,
            "checkpoint_dir": folder,
            "benchmark_filename": ["train", "valid", "test"],
            "load_col": {"inter": ["user_id", "item_id"]},
            "use_gpu": False,
            "seed": 0,
            "train_neg_sample_args": None,
            "mlp_hidden_size": [600],
            "latent_dimension": 400,  # RecBole's is the width of mean and log variance together
            "dropout_prob": 0.5,
            "anneal_cap": 0.2,
            "total_anneal_steps": 200_000,
            "learning_rate": 1e-3,
            "train_batch_size": BATCH,
            "eval_batch_size": 4096 if chosen.default_ranking else BATCH * (train.shape[1] + 1),  # counted in scores
            "metrics": ["Recall", "NDCG"],
            "topk": [common.K],
            "valid_metric": f"Recall@{common.K}",
            "metric_decimal_place": 8,
            "show_progress": False,
        }
        config = Config(model="MultiVAE", dataset="data", config_dict=settings)
        init_seed(0, reproducibility=False)
        dataset = create_dataset(config)
        self.train, self.valid, _ = data_preparation(config, dataset)
        self.trainer = Trainer(config, MultiVAE(config, self.train.dataset))
        self.epochs = 0

    def epoch(self) -> None:
        """Its own."""
        self.trainer._train_epoch(self.train, self.epochs)
        self.epochs += 1

    def evaluate(self) -> float:
        """Its own: recall and NDCG of the first 20."""
        return float(self.trainer.evaluate(self.valid, load_best_model=False)[f"recall@{common.K}"])


if __name__ == "__main__":
    common.run(RecBole)
