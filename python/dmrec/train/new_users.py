"""Recommendations for somebody who was not there in training: from words, from a few items, or from both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from dmrec_ext import Csr

from ..config import Config
from ..data.dataset import Dataset
from ..data.entities import clean
from ..errors import DmrecError, did_you_mean
from ..eval.ranking import Ranker
from ..language.encoders import TextEncoder, load_encoder


@runtime_checkable
class RanksNewUsers(Protocol):
    """A model that needs nothing of a user but interactions, and the vector of a text if it knows language."""

    def rank_new(self, x: Csr, vectors: Tensor | None, k: int, exclude: Csr | None) -> tuple[Tensor, Tensor]:
        """Scores and ids (B, k) for users with interactions ``x`` (B, N) and text vectors (B, E)."""
        ...


def recommend_to_new_user(
    ranker: Ranker,
    config: Config,
    dataset: Dataset,
    *,
    likes: Sequence[int] = (),
    profile: str = "",
    k: int = 10,
    encoder: TextEncoder | None = None,
    key_variable: str | None = None,
) -> list[tuple[int, float]]:
    """The best items (column, score) for a user who likes items (columns) and whom ``profile`` describes, or either.

    The profile is placed in the space of the run's text vectors by the encoder that made them, or by ``encoder`` where
    they were imported. Items liked are left out. ``key_variable``: see `load_encoder`.
    """
    if not isinstance(ranker, RanksNewUsers):
        raise DmrecError(f"{config.model.kind} knows only the users it was trained on; recommend with another model")
    if not likes and not profile:
        raise DmrecError("name an item (--like ITEM) or describe the user (--profile TEXT)")
    x = Csr(
        torch.tensor([0, len(set(likes))]), torch.tensor(sorted(set(likes)), dtype=torch.int64), None, dataset.n_items
    )
    vectors = None
    if config.language is not None:
        vectors = torch.from_numpy(_text_vector(config, dataset, likes, profile, encoder, key_variable))[None]
    elif profile:
        raise DmrecError(
            f"{config.name} was trained without language, so a profile tells it nothing: name items (--like)"
        )
    if profile and not likes and config.language is not None and config.language.fusion == "collaborative":
        raise DmrecError(
            f"{config.name} decodes from interactions alone (fusion: collaborative), so a profile tells it nothing: "
            "name items (--like)"
        )
    scores, ids = ranker.rank_new(x, vectors, k, exclude=x)
    return [(item, score) for item, score in zip(ids[0].tolist(), scores[0].tolist(), strict=True) if item >= 0]


def item_named(dataset: Dataset, name: str) -> int:
    """The column of the item with this id, or with this title."""
    by_id = {item.id: column for column, item in enumerate(dataset.items)}
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
        raise DmrecError(
            f"no item of {dataset.name} is called '{name}'; {len(within)} titles have it in them: {listed}"
        )
    titles = [item.title for item in dataset.items if item.title]
    raise DmrecError(f"{dataset.name} has no item '{name}'{did_you_mean(name, [*by_id, *titles])}")


def vector_of_likes(item_vectors: np.ndarray, likes: Sequence[int]) -> np.ndarray:
    """The direction of the sum of their texts' vectors (E,): stands in for a profile that nobody wrote."""
    total = np.asarray(item_vectors[list(likes)], dtype=np.float32).sum(axis=0)
    return np.asarray(total / max(float(np.linalg.norm(total)), 1e-9), dtype=np.float32)


def _text_vector(
    config: Config,
    dataset: Dataset,
    likes: Sequence[int],
    profile: str,
    encoder: TextEncoder | None,
    key_variable: str | None,
) -> np.ndarray[Any, Any]:
    assert config.language is not None
    vectors = dataset.vectors(config.language.vectors)
    if not profile:
        return vector_of_likes(vectors.items, likes)
    if encoder is not None and dataset.manifest["vectors"][vectors.name]["made"].get("encoder"):
        raise DmrecError(f"what made the vectors '{vectors.name}' is known, and no other will do: leave out --encoder")
    (vector,) = (encoder or load_encoder(dataset, vectors.name, key_variable)).encode([clean(profile)])
    if vector.shape != vectors.items.shape[1:]:
        raise DmrecError(
            f"the vectors '{vectors.name}' are {vectors.items.shape[1]} wide, the encoder's {len(vector)}: "
            "another one made them"
        )
    if not vector.any():
        raise DmrecError("the encoder knows no word of the profile: describe the user in the words of the items' texts")
    return np.asarray(vector, dtype=np.float32)
