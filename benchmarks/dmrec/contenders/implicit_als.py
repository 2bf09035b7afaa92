"""implicit's alternating least squares, with its default options but for 128 factors; an epoch is an iteration of it.

It is no autoencoder: it is here to give the times of the others a scale.
"""

from __future__ import annotations

import argparse

import common
import implicit
import numpy as np
from implicit.cpu.als import AlternatingLeastSquares


class ALS:
    """Its solver is run one iteration at a time; the factors continue from one to the next."""

    version = implicit.__version__

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.train, self.valid = common.load(chosen.data)
        self.users = np.flatnonzero(np.diff(self.valid.indptr))
        self.model = AlternatingLeastSquares(factors=128, iterations=1, num_threads=chosen.threads, random_state=0)

    def epoch(self) -> None:
        """Users and items once."""
        self.model.fit(self.train, show_progress=False)

    def evaluate(self) -> float:
        """Its own `recommend`, which leaves out what was taken."""
        ranked, _ = self.model.recommend(self.users, self.train[self.users], N=common.K)
        return common.recall(ranked, self.users, self.valid)


if __name__ == "__main__":
    common.run(ALS)
