"""What training over shards costs: memory of a rank, bytes that it sends, seconds of a step.

With N items, V shards, R ranks, a batch of B users, H_in and H_out the widths of the encoder's and the decoder's table,
E that of the items' text vectors and e the bytes of a number of theirs, all else in float32:

    memory   (N / R) (12 (H_in + H_out + 1) + E e) + 4 max(H_in, H_out) N / V + L / R + 8 B (H_in + H_out + E)
    sent     8 B (H_in + H_out + E) (R - 1) / R + 16 B (R - 1) bytes
    time     c B H_out N / R / F + (40 (H_in + H_out) [+ 28 B]) N / R / M + sent / W + collectives * t

Memory: weight and two moments of Adam, text vectors, the gradient of one table, kept logits (L of all ranks together),
and what is summed over ranks. Time: c = 6 with kept logits and 8 without; of each weight Adam reads and writes seven
numbers, its gradient is one, the products read two; 28 B where tiles of logits do not stay in caches.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from dmrec_ext import LOGITS_BUDGET

PROCESS = 400_000_000
"""Bytes of a process that trains on hardly any items: 0.43 GB were resident, 0.15 of them files that processes share.
Of a GPU's memory, the context is taken to need as much."""


class Sizes(NamedTuple):
    """What is trained."""

    items: int  # N
    shards: int  # V
    batch: int  # B
    input_width: int  # H_in
    output_width: int  # H_out
    text_width: int = 0  # E; 0 without language
    text_bytes: int = 2  # e


class Rates(NamedTuple):
    """What a rank can do."""

    products: float  # F, FLOP/s of matrix products
    memory: float  # M, bytes/s
    network: float  # W, bytes/s that a rank sends
    latency: float  # t, seconds of a collective
    tiles_in_cache: bool = True  # whether tiles of logits stay in caches, as on CPUs


class Memory(NamedTuple):
    """Bytes of a rank."""

    tables: float  # weights and moments
    texts: float
    gradient: float
    logits: float
    batch: float

    @property
    def total(self) -> float:
        """All of them."""
        return sum(self)


def keeps_logits(sizes: Sizes) -> bool:
    """Whether the logits of a shard are kept from the forward to the backward pass."""
    return 4 * sizes.batch * math.ceil(sizes.items / sizes.shards) <= LOGITS_BUDGET // sizes.shards


def memory_of(sizes: Sizes, ranks: int) -> Memory:
    """Bytes of a rank of so many."""
    of_rank, widths = sizes.items / ranks, sizes.input_width + sizes.output_width
    return Memory(
        tables=of_rank * 12 * (widths + 1),
        texts=of_rank * sizes.text_width * sizes.text_bytes,
        gradient=4 * max(sizes.input_width, sizes.output_width) * sizes.items / sizes.shards,
        logits=4 * sizes.batch * sizes.items / ranks if keeps_logits(sizes) else 0.0,
        batch=8 * sizes.batch * (widths + sizes.text_width),
    )


def sent_by(sizes: Sizes, ranks: int) -> float:
    """Bytes that a rank sends in a step."""
    widths = sizes.input_width + sizes.output_width + sizes.text_width
    return 8 * sizes.batch * widths * (ranks - 1) / ranks + 16 * sizes.batch * (ranks - 1)


def collectives(sizes: Sizes, ranks: int) -> int:
    """Collectives of a step: two for each sum over ranks, one for the loss, one for what was asked of any rank."""
    if ranks == 1:
        return 0
    return 8 if sizes.text_width else 6


def seconds_of_step(sizes: Sizes, ranks: int, rates: Rates) -> float:
    """Seconds of a step of training."""
    of_rank = sizes.items / ranks
    products = (6 if keeps_logits(sizes) else 8) * sizes.batch * sizes.output_width * of_rank
    touched = 40 * (sizes.input_width + sizes.output_width) + (0 if rates.tiles_in_cache else 28 * sizes.batch)
    network = sent_by(sizes, ranks) / rates.network + collectives(sizes, ranks) * rates.latency
    return products / rates.products + touched * of_rank / rates.memory + (network if ranks > 1 else 0.0)


def bytes_of_checkpoint(sizes: Sizes) -> float:
    """Bytes of a checkpoint, all ranks together."""
    return 12 * sizes.items * (sizes.input_width + sizes.output_width + 1)


def counts_of_ranks(shards: int) -> list[int]:
    """The numbers of ranks that can share so many shards with exact sums."""
    return [1 << i for i in range(shards.bit_length())]
