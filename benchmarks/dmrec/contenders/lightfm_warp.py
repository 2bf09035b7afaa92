"""LightFM with its WARP loss, 64 components, and the fork that is maintained (rectools-lightfm).

It is no autoencoder: it is here to give the times of the others a scale.
"""

from __future__ import annotations

import argparse
import importlib.metadata

import common
import numpy as np
from lightfm import LightFM

BATCH = 1024


class Warp:
    """`fit_partial`, epoch by epoch; ranking by the product of its representations: its own takes a pair at a time."""

    version = importlib.metadata.version("rectools-lightfm")

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.train, self.valid = common.load(chosen.data)
        self.users = np.flatnonzero(np.diff(self.valid.indptr))
        self.model, self.threads = LightFM(no_components=64, loss="warp", random_state=0), chosen.threads

    def epoch(self) -> None:
        """All interactions once."""
        self.model.fit_partial(self.train, epochs=1, num_threads=self.threads)

    def evaluate(self) -> float:
        """Biases of items and the product with all of them."""
        item_bias, items = self.model.get_item_representations()
        _, users = self.model.get_user_representations()
        ranked = []
        for start in range(0, len(self.users), BATCH):
            batch = self.users[start : start + BATCH]
            ranked.append(common.best(users[batch] @ items.T + item_bias, self.train[batch]))
        return common.recall(np.concatenate(ranked), self.users, self.valid)


if __name__ == "__main__":
    common.run(Warp)
