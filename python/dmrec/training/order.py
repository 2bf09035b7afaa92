"""The order of users in an epoch, for data that is read from disk: a function of the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ..sharding.items import keyed_seed

BLOCK = 4096  # consecutive users, which lie next to each other on disk
GROUP = 64  # blocks whose users are mixed


def batches_of_epoch(n_users: int, batch_size: int, seed: int, epoch: int) -> Iterator[Tensor]:
    """Each user once, in batches of int64 numbers; the last may be smaller.

    Blocks of consecutive users come in random order, and users are mixed within groups of blocks: nearly a sequence to
    read, whatever the number of users. Nothing has to be stored to begin in the middle.
    """
    generator = np.random.default_rng(keyed_seed("order", seed, epoch))
    blocks = generator.permutation(-(-n_users // BLOCK))
    rest = np.zeros(0, dtype=np.int64)
    for first in range(0, len(blocks), GROUP):
        chosen = blocks[first : first + GROUP, None] * BLOCK + np.arange(BLOCK)
        users = chosen[chosen < n_users]
        together = np.concatenate([rest, generator.permutation(users)])
        whole = len(together) - len(together) % batch_size
        for start in range(0, whole, batch_size):
            yield torch.from_numpy(together[start : start + batch_size])
        rest = together[whole:]
    if len(rest):
        yield torch.from_numpy(rest)
