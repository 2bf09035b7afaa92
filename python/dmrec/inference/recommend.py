"""The best items of users: of those that were in training, and of new ones described by a text or by items."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dmrec_ext import Csr, rank_scores

from ..config import Config
from ..data.dataset import Dataset
from ..data.entities import clean
from ..errors import DmrecError, did_you_mean
from ..eval.ranking import USERS_PER_BLOCK
from ..language.encoders import TextEncoder, encoder_of
from ..models.base import Model, TrainingData, UserBatch, evaluating
from ..runs.provenance import user_text_of
from ..runtime import move

MAX_EXCLUDED = 1 << 26  # pairs of user and item held at a time where items are excluded for everybody


class Ranking(NamedTuple):
    """Ranked items of a block of users, on the CPU; -inf and -1 where a user has fewer items."""

    users: Tensor  # (B,) int64
    scores: Tensor  # (B, k)
    items: Tensor  # (B, k) int64


class Share(NamedTuple):
    """Places of each ranking that are kept for new items: ``places`` of k, where the best items are others."""

    places: int
    others: Tensor  # (n,) int64, ascending: the items that are not new


class NothingKnownError(DmrecError):
    """Nothing is known of a new user that the model can read."""


def rank_users(
    model: Model,
    data: TrainingData,
    users: Tensor,
    k: int,
    seen: Csr,
    excluded: Tensor | None = None,
    groups: Tensor | None = None,
    share: Share | None = None,
    block_size: int = USERS_PER_BLOCK,
) -> Iterator[Ranking]:
    """Ranks items for ``users`` (U,) int64, rows of the data, which the model is fed with, block by block.

    ``seen`` (M, N): items that are not ranked for each user; ``excluded`` (n,) int64, ascending: for anybody;
    ``groups``: see `distinct_topk`; ``share``: places for new items; ``block_size``: users who are ranked together.
    """
    with evaluating(model):
        columns = (0 if excluded is None else len(excluded)) + (0 if share is None else len(share.others))
        limit = max(MAX_EXCLUDED // columns, 1) if columns else len(users) + 1
        for block in (part for each in users.split(block_size) for part in each.split(limit)):
            batch, out = move(data.users(block), model.device), seen.rows(block)
            yield Ranking(block, *_ranked(model, batch, k, out, excluded, groups, share))


def _ranked(
    model: Model,
    batch: UserBatch,
    k: int,
    out: Csr,
    excluded: Tensor | None,
    groups: Tensor | None,
    share: Share | None,
) -> tuple[Tensor, Tensor]:
    """Scores and items (B, k) of a batch on the model's device. ``out`` (B, N), on the CPU, and ``excluded`` are not
    ranked.
    """
    if excluded is not None and len(excluded):
        out = with_columns(out, excluded)

    def rank(depth: int, exclude: Csr) -> tuple[Tensor, Tensor]:
        scores, items = model.rank(batch, depth, exclude=move(exclude, model.device))
        return scores.cpu(), items.cpu()

    def best(depth: int, exclude: Csr) -> tuple[Tensor, Tensor]:
        ranked = partial(rank, exclude=exclude)
        return ranked(depth) if groups is None else distinct_topk(ranked, depth, groups)

    if share is None or not share.places:
        return best(k, out)
    return with_share(best(k, out), best(share.places, with_columns(out, share.others)), share)


def with_share(best: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], share: Share) -> tuple[Tensor, Tensor]:
    """The k best (B, k), of which at least ``share.places`` are new where there are so many: for the best new items
    (B, share.places) the last of the others make room. Scores are descending.
    """
    scores, items = best
    is_new = (items >= 0) & ~torch.isin(items, share.others)
    other = (items >= 0) & ~is_new
    enough = is_new.sum(1, keepdim=True) >= share.places
    left = items.shape[1] - (new[1] >= 0).sum(1, keepdim=True)
    kept = (enough & (items >= 0)) | (other & (other.cumsum(1) <= left))
    added = ~enough & (new[1] >= 0)
    together = torch.cat([scores.masked_fill(~kept, -torch.inf), new[0].masked_fill(~added, -torch.inf)], 1)
    of_items = torch.cat([items.masked_fill(~kept, -1), new[1].masked_fill(~added, -1)], 1)
    together, order = together.sort(dim=1, descending=True, stable=True)
    k = items.shape[1]
    return together[:, :k], of_items.gather(1, order)[:, :k]


def distinct_topk(ranked: Callable[[int], tuple[Tensor, Tensor]], k: int, groups: Tensor) -> tuple[Tensor, Tensor]:
    """The k best items (B, k) of which no two are of one group: of each, the best.

    ``ranked(depth)`` ranks so many; ``groups`` (N,) int64.
    """
    depth = 2 * k
    while True:
        scores, items = ranked(depth)
        there = items >= 0
        group = torch.where(there, groups[items.clamp_min(0)], -1)
        by_group, order = group.sort(dim=1, stable=True)
        again = torch.zeros_like(there)
        again[:, 1:] = by_group[:, 1:] == by_group[:, :-1]
        kept = there & ~torch.zeros_like(there).scatter(1, order, again)
        if depth >= len(groups) or bool((kept.sum(1) >= k).logical_or(~there.all(1)).all()):
            break
        depth *= 2
    first = (~kept).to(torch.int8).argsort(dim=1, stable=True)[:, :k]
    kept = kept.gather(1, first)
    return scores.gather(1, first).masked_fill(~kept, -torch.inf), items.gather(1, first).masked_fill(~kept, -1)


def rank_popular(counts: Tensor, k: int, excluded: Tensor | None = None, groups: Tensor | None = None) -> Ranking:
    """The items with the most interactions, ``counts`` (N,) of them: for a user of whom nothing is known."""
    out = None if excluded is None else Csr(torch.tensor([0, len(excluded)]), excluded, None, len(counts))
    ranked = partial(rank_scores, counts.float()[None], exclude=out)
    scores, items = ranked(k) if groups is None else distinct_topk(ranked, k, groups)
    return Ranking(torch.zeros(1, dtype=torch.int64), scores, items)


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


def rank_new_user(
    model: Model,
    config: Config | None,
    dataset: Dataset,
    *,
    likes: Sequence[int] = (),
    profile: str = "",
    k: int = 10,
    excluded: Tensor | None = None,
    groups: Tensor | None = None,
    encoder: TextEncoder | None = None,
    key_variable: str | None = None,
    known: dict[str, TextEncoder] | None = None,
    share: Share | None = None,
) -> Ranking:
    """Ranks items for one user who was not in training: one who likes items (columns), or whom a text describes.

    The order of ``likes``, oldest first, counts for models that read order.

    The profile is placed in the space of the run's text vectors by the encoder that made them, or by ``encoder`` where
    they were imported. Liked items are not ranked. ``key_variable``: see `load_encoder`. ``known``: encoders that are
    loaded already, by vectors; one that is loaded is added. ``config``: None for a model without a configuration.

    Raises:
        NothingKnownError: nothing is given that the model can read.
        DmrecError: the model or the encoder cannot be used for this.
    """
    if not likes and not profile:
        raise NothingKnownError("name an item that the user likes (--like ITEM) or describe the user (--profile TEXT)")
    liked = torch.tensor(sorted(set(likes)), dtype=torch.int64)
    x = Csr(torch.tensor([0, len(liked)]), liked, None, dataset.n_items)
    vectors, language = None, None if config is None else config.language
    name = type(model).__name__ if config is None else config.name
    of_text = None if config is None else user_text_of(config)
    if of_text is not None:
        loaded = {} if known is None else known
        vectors = torch.from_numpy(_text_vector(of_text, dataset, likes, profile, encoder, key_variable, loaded))[None]
    elif profile:
        raise NothingKnownError(
            f"{name} was trained without language and cannot read a profile: name items (--like, likes)"
        )
    if profile and not likes and language is not None and language.fusion == "collaborative":
        raise NothingKnownError(
            f"{name} decodes from interactions alone (fusion: collaborative) and cannot use a profile: "
            "name items (--like, likes)"
        )
    with evaluating(model):
        reads_order = config is None or config.model.reads_sequences
        order = torch.tensor([list(dict.fromkeys(likes))]) if reads_order else None
        batch = move(UserBatch(None, x, vectors, order), model.device)
        scores, items = _ranked(model, batch, k, x, excluded, groups, share)
    return Ranking(torch.zeros(1, dtype=torch.int64), scores, items)


def items_named(dataset: Dataset, names: Sequence[str]) -> list[int]:
    """The columns of the items with these ids, or with these titles."""
    by_id = dataset.rows_named("items", names)
    return [by_id[name] if name in by_id else _item_titled(dataset, name) for name in names]


def item_named(dataset: Dataset, name: str) -> int:
    """The column of the item with this id, or with this title."""
    return items_named(dataset, [name])[0]


def _item_titled(dataset: Dataset, name: str) -> int:
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
    raise DmrecError(f"{dataset.name} has no item '{name}'{did_you_mean(name, [*dataset.item_columns, *titles])}")


def users_named(dataset: Dataset, names: Sequence[str]) -> list[int]:
    """The rows of the users with these ids."""
    found = dataset.rows_named("users", names)
    if unknown := [name for name in names if name not in found]:
        raise _unknown_user(dataset, unknown[0])
    return [found[name] for name in names]


def _unknown_user(dataset: Dataset, name: str) -> DmrecError:
    rows = dataset.user_rows
    near = did_you_mean(name, rows) if len(rows) <= 20 else f" (ids look like '{next(iter(rows))}')"
    return DmrecError(f"{dataset.name} has no user '{name}'{near}")


def vector_of_likes(item_vectors: np.ndarray, likes: Sequence[int]) -> np.ndarray:
    """The direction (E,) of the sum of the items' text vectors, used in place of a profile."""
    total = np.asarray(item_vectors[list(likes)], dtype=np.float32).sum(axis=0)
    return np.asarray(total / max(float(np.linalg.norm(total)), 1e-9), dtype=np.float32)


def _text_vector(
    name: str,
    dataset: Dataset,
    likes: Sequence[int],
    profile: str,
    encoder: TextEncoder | None,
    key_variable: str | None,
    known: dict[str, TextEncoder],
) -> np.ndarray:
    vectors = dataset.vectors(name)
    if not profile:
        return vector_of_likes(vectors.items, likes)
    (vector,) = encoder_of(dataset, vectors.name, encoder, key_variable, known).encode([clean(profile)])
    if vector.shape != vectors.items.shape[1:]:
        raise DmrecError(
            f"the vectors '{vectors.name}' are {vectors.items.shape[1]} wide, the encoder's {len(vector)}: "
            "they were made by another encoder"
        )
    if not vector.any():
        raise NothingKnownError(
            "the encoder knows no word of the profile: describe the user in the words of the items' texts"
        )
    return np.asarray(vector, dtype=np.float32)
