"""The best items of users: of those that were in training, and of new ones described by a text or by items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dmrec_ext import Csr

from ..config import Config
from ..data.dataset import Dataset
from ..data.entities import clean
from ..errors import DmrecError, did_you_mean
from ..eval.ranking import blocks
from ..language.encoders import TextEncoder, load_encoder
from ..models.base import Model, TrainingData, UserBatch, evaluating
from ..runtime import move

MAX_EXCLUDED = 1 << 26  # pairs of user and item held at a time where items are excluded for everybody


class Ranking(NamedTuple):
    """Ranked items of a block of users, on the CPU; -inf and -1 where a user has fewer items."""

    users: Tensor  # (B,) int64
    scores: Tensor  # (B, k)
    items: Tensor  # (B, k) int64


def rank_users(
    model: Model, data: TrainingData, users: Tensor, k: int, seen: Csr, excluded: Tensor | None = None
) -> Iterator[Ranking]:
    """Ranks items for ``users`` (U,) int64, rows of the training data, block by block.

    ``seen`` (M, N): items that are not ranked for each user; ``excluded`` (n,) int64, ascending: for anybody.
    """
    with evaluating(model):
        limit = len(users) + 1 if excluded is None else max(MAX_EXCLUDED // max(len(excluded), 1), 1)
        for block in (part for each in blocks(users) for part in each.split(limit)):
            batch, out = move(data.users(block), model.device), seen.rows(block)
            if excluded is not None and len(excluded):
                out = with_columns(out, excluded)
            scores, items = model.rank(batch, k, exclude=move(out, model.device))
            yield Ranking(block, scores.cpu(), items.cpu())


def with_columns(x: Csr, columns: Tensor) -> Csr:
    """The pattern of ``x`` (B, N) with ``columns`` (n,) int64 in every row."""
    n = len(columns)
    place = torch.searchsorted(columns, x.col)  # how many of the columns come before an entry
    new = columns[place.clamp_max(n - 1)] != x.col
    row, col, place = x.row_of_entry()[new], x.col[new], place[new]
    count = torch.bincount(row, minlength=x.n_rows)
    before = count.cumsum(0) - count  # entries in earlier rows
    position = row * n + torch.arange(len(row)) + place
    crow = torch.cat([before + n * torch.arange(x.n_rows), torch.tensor([len(row) + n * x.n_rows])])
    merged = torch.empty(int(crow[-1]), dtype=torch.int64)
    of_columns = torch.ones(len(merged), dtype=torch.bool)
    merged[position], of_columns[position] = col, False
    merged[of_columns] = columns.repeat(x.n_rows)
    return Csr(crow, merged, None, x.n_cols)


def union(*parts: Csr) -> Csr:
    """The pattern of matrices of one shape, together."""
    n = parts[0].n_cols
    key = torch.unique(torch.cat([part.row_of_entry() * n + part.col for part in parts]))
    counts = torch.bincount(key // n, minlength=parts[0].n_rows)
    return Csr(torch.cat([counts.new_zeros(1), counts.cumsum(0)]), key % n, None, n)


def rank_new_user(
    model: Model,
    config: Config | None,
    dataset: Dataset,
    *,
    likes: Sequence[int] = (),
    profile: str = "",
    k: int = 10,
    excluded: Tensor | None = None,
    encoder: TextEncoder | None = None,
    key_variable: str | None = None,
    known: dict[str, TextEncoder] | None = None,
) -> Ranking:
    """Ranks items for one user who was not in training: one who likes items (columns), or whom a text describes.

    The order of ``likes``, oldest first, counts for models that read order.

    The profile is placed in the space of the run's text vectors by the encoder that made them, or by ``encoder`` where
    they were imported. Liked items are not ranked. ``key_variable``: see `load_encoder`. ``known``: encoders that are
    loaded already, by vectors; one that is loaded is added. ``config``: None for a model without a configuration.
    """
    if not likes and not profile:
        raise DmrecError("name an item that the user likes (--like ITEM) or describe the user (--profile TEXT)")
    liked = torch.tensor(sorted(set(likes)), dtype=torch.int64)
    x = Csr(torch.tensor([0, len(liked)]), liked, None, dataset.n_items)
    vectors, language = None, None if config is None else config.language
    name = type(model).__name__ if config is None else config.name
    if config is not None and language is not None:
        loaded = {} if known is None else known
        vectors = torch.from_numpy(_text_vector(config, dataset, likes, profile, encoder, key_variable, loaded))[None]
    elif profile:
        raise DmrecError(f"{name} was trained without language and cannot read a profile: name items (--like, likes)")
    if profile and not likes and language is not None and language.fusion == "collaborative":
        raise DmrecError(
            f"{name} decodes from interactions alone (fusion: collaborative) and cannot use a profile: "
            "name items (--like, likes)"
        )
    out = x if excluded is None else with_columns(x, excluded)
    with evaluating(model):
        reads_order = config is None or config.model.reads_sequences
        order = torch.tensor([list(dict.fromkeys(likes))]) if reads_order else None
        batch = move(UserBatch(None, x, vectors, order), model.device)
        scores, items = model.rank(batch, k, exclude=move(out, model.device))
    return Ranking(torch.zeros(1, dtype=torch.int64), scores.cpu(), items.cpu())


def item_named(dataset: Dataset, name: str) -> int:
    """The column of the item with this id, or with this title."""
    by_id = dataset.item_columns
    if name in by_id:
        return by_id[name]
    wanted = clean(name).lower()
    titled = [column for column, item in enumerate(dataset.items) if item.title.lower() == wanted]
    if len(titled) == 1:
        return titled[0]
    if titled:
        listed = ", ".join(dataset.items[column].id for column in titled[:5])
        raise DmrecError(f"{len(titled)} items of {dataset.name} are called '{name}': give an id ({listed}, ..)")
    within = [item for item in dataset.items if wanted and wanted in item.title.lower()]
    if within:
        listed = "; ".join(f"{item.id}: {item.title}" for item in within[:5])
        raise DmrecError(f"no item of {dataset.name} is called '{name}'; {len(within)} titles contain it: {listed}")
    titles = [item.title for item in dataset.items if item.title]
    raise DmrecError(f"{dataset.name} has no item '{name}'{did_you_mean(name, [*by_id, *titles])}")


def user_named(dataset: Dataset, name: str) -> int:
    """The row of the user with this id."""
    rows = dataset.user_rows
    if name in rows:
        return rows[name]
    near = did_you_mean(name, rows) if len(rows) <= 20 else f" (ids look like '{next(iter(rows))}')"
    raise DmrecError(f"{dataset.name} has no user '{name}'{near}")


def vector_of_likes(item_vectors: np.ndarray, likes: Sequence[int]) -> np.ndarray:
    """The direction (E,) of the sum of the items' text vectors, used in place of a profile."""
    total = np.asarray(item_vectors[list(likes)], dtype=np.float32).sum(axis=0)
    return np.asarray(total / max(float(np.linalg.norm(total)), 1e-9), dtype=np.float32)


def _text_vector(
    config: Config,
    dataset: Dataset,
    likes: Sequence[int],
    profile: str,
    encoder: TextEncoder | None,
    key_variable: str | None,
    known: dict[str, TextEncoder],
) -> np.ndarray:
    assert config.language is not None
    vectors = dataset.vectors(config.language.vectors)
    if not profile:
        return vector_of_likes(vectors.items, likes)
    if encoder is not None and dataset.manifest["vectors"][vectors.name]["made"].get("encoder"):
        raise DmrecError(
            f"the encoder of the vectors '{vectors.name}' is known, and another one cannot be used: leave out --encoder"
        )
    if encoder is None and vectors.name not in known:
        known[vectors.name] = load_encoder(dataset, vectors.name, key_variable)
    (vector,) = (encoder or known[vectors.name]).encode([clean(profile)])
    if vector.shape != vectors.items.shape[1:]:
        raise DmrecError(
            f"the vectors '{vectors.name}' are {vectors.items.shape[1]} wide, the encoder's {len(vector)}: "
            "they were made by another encoder"
        )
    if not vector.any():
        raise DmrecError("the encoder knows no word of the profile: describe the user in the words of the items' texts")
    return np.asarray(vector, dtype=np.float32)
