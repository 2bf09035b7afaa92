"""What all contenders share. Each is a script that an environment without this repository runs: numpy and scipy alone.

A contender trains one epoch, ranks all items for the users of the validation part, and says its recall@20, as often as
the arguments ask for. Its record is printed as the last line, in JSON.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp

K = 20


class Contender(Protocol):
    """A model in training. ``evaluate`` ranks for all users with validation items, without their training items."""

    version: str

    def epoch(self) -> None:
        """One pass over the training interactions."""

    def evaluate(self) -> float:
        """recall@20 on validation, of a full ranking."""


class Record:
    """Seconds of epochs and rankings, and the recall@20 of each ranking; ``enough`` when it has not risen for long."""

    def __init__(self, patience: int) -> None:
        self.epochs: list[float] = []
        self.evaluations: list[dict[str, float]] = []
        self.patience = patience

    def enough(self) -> bool:
        """Whether the best ranking is ``patience`` rankings ago."""
        scores = [each["recall"] for each in self.evaluations]
        return bool(scores) and len(scores) - 1 - int(np.argmax(scores)) >= self.patience

    def to_json(self, version: str) -> str:
        """With the peak resident memory of this process so far, interpreter and libraries included."""
        found = {"version": version, "epochs": self.epochs, "evaluations": self.evaluations}
        return json.dumps({**found, "peak_mib": peak_mib()})


def peak_mib() -> int:
    """Linux's VmHWM. Not ru_maxrss, which a process inherits from the one that started it."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) // 1024


def arguments() -> argparse.Namespace:
    """The folder of the data, and how long to train."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--every", type=int, required=True, help="epochs from one ranking to the next")
    parser.add_argument("--patience", type=int, required=True, help="rankings without a better one until the end")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--default-ranking", action="store_true", help="of RecBole")
    return parser.parse_args()


def load(folder: Path) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Training and validation interactions, (U, N) with ones."""
    train, valid = (sp.load_npz(folder / f"{part}.npz").tocsr().astype(np.float32) for part in ("train", "valid"))
    return train, valid


def recall(ranked: np.ndarray, users: np.ndarray, valid: sp.csr_matrix) -> float:
    """Mean over ``users`` of the share of their validation items among the 20 ranked (U, 20)."""
    hits = np.array([np.isin(valid[user].indices, row).mean() for user, row in zip(users, ranked, strict=True)])
    return float(hits.mean())


def best(scores: np.ndarray, seen: sp.csr_matrix) -> np.ndarray:
    """(B, 20) items with the highest ``scores`` (B, N), best first, without those ``seen`` (B, N). Changes scores."""
    scores[seen.nonzero()] = -np.inf
    top = np.argpartition(-scores, K, axis=1)[:, :K]
    order = np.argsort(-np.take_along_axis(scores, top, axis=1), axis=1)
    return np.take_along_axis(top, order, axis=1)


def run(make: Callable[[argparse.Namespace], Contender]) -> None:
    """Trains a contender and prints its record."""
    chosen = arguments()
    record, contender = Record(chosen.patience), make(chosen)
    for epoch in range(1, chosen.epochs + 1):
        record.epochs.append(_seconds(contender.epoch)[0])
        if epoch % chosen.every == 0:
            seconds, score = _seconds(contender.evaluate)
            record.evaluations.append({"epoch": epoch, "seconds": seconds, "recall": score})
            if record.enough():
                break
    print(record.to_json(contender.version))


def _seconds(step: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = step()
    return round(time.perf_counter() - start, 5), result
