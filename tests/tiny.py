"""A dataset of seconds: users of four tastes over items of four kinds, with texts that tell the kinds apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dmrec
import numpy as np
import pyarrow
import scipy.sparse as sp
from dmrec.data.create import create_dataset
from dmrec.data.create_parts import create_large_dataset, descriptions_of
from dmrec.data.dataset import SPLITS, Dataset, open_dataset
from dmrec.data.entities import Entity
from dmrec.data.interactions import Block
from dmrec.data.sequences import Sequences
from dmrec.data.splits import split_per_user
from dmrec.language.embed import embed_dataset
from dmrec.language.encoders.tfidf import TfidfSvd
from dmrec.tokenizers.tokenize import make_tokenizer, tokenize_dataset

KINDS = ("garden spade soil", "guitar string chord", "kettle tea cup", "bicycle chain wheel")


def make(folder: Path, *, n_users: int = 120, n_items: int = 48, seed: int = 0) -> Dataset:
    """Users mostly take items of their own kind; vectors ``tfidf-svd`` included."""
    rng = np.random.default_rng(seed)
    taste, kind = np.arange(n_users) % 4, np.arange(n_items) % 4
    likely = np.where(taste[:, None] == kind[None, :], 0.7, 0.03)
    splits, _ = split_per_user(sp.csr_matrix(rng.random((n_users, n_items)) < likely), seed)
    items = [Entity(f"i{i}", f"Item {i}", f"{KINDS[k]} number{i % 5}") for i, k in enumerate(kind)]
    users = [Entity(f"u{u}", "", f"likes {KINDS[t]}") for u, t in enumerate(taste)]
    row, column = np.nonzero(sum(split.toarray() for split in splits.values()))
    order = np.lexsort((rng.random(len(row)), row))
    sequences = Sequences.from_log(row[order], column[order], None, n_users, n_items)
    described = {"items": items, "users": users, "sequences": sequences}
    dataset = create_dataset(folder, "tiny", splits, **described, provenance={"seed": seed})
    embed_dataset(dataset, TfidfSvd(8))
    tokenize_dataset(dataset, make_tokenizer("rk-means", levels=3, size=8), vectors="tfidf-svd", name="letter")
    return open_dataset(folder)  # nothing read yet: files are checked when they are


def as_format2(dataset: Dataset, folder: Path, *, block: int = 50, **options: Any) -> Dataset:
    """The same data in format 2, without vectors, written ``block`` users at a time."""
    described = {side: descriptions_of(getattr(dataset, side)) for side in ("items", "users")}
    options = {**described, "provenance": {"seed": 0}, **options}
    return create_large_dataset(folder, "tiny", _blocks(dataset, block), dataset.n_items, **options)


def _blocks(dataset: Dataset, size: int) -> Iterator[dict[str, Block]]:
    for first in range(0, dataset.n_users, size):
        rows = {split: dataset.matrix(split)[first : first + size] for split in SPLITS}
        yield {split: Block(m.indptr.astype(np.int64), m.indices) for split, m in rows.items()}


def round_walks(folder: Path, n_users: int) -> Dataset:
    """Users who walk round sixteen clusters of four items, in their order, split by leaving the last two out."""
    draw = np.random.default_rng(0)
    rows = []
    for user in range(n_users):
        cluster = int(draw.integers(16))
        items = dict.fromkeys(4 * ((cluster + step) % 16) + int(draw.integers(4)) for step in range(8))
        rows += [(f"u{user}", str(item)) for item in items]
    frame = pyarrow.table({"user": [user for user, _ in rows], "item": [item for _, item in rows]})
    return dmrec.dataset(frame, split="leave-one-out", k_core=1, folder=folder)
