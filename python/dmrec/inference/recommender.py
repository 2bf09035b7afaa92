"""A model together with its data: what `dmrec.train` and `dmrec.load` return. External ids go in and come out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmrec_ext import Csr, rank_topk

from ..config import Config
from ..data.dataset import SPLITS, Dataset
from ..data.sources.new_items import NewItems, read_new_items
from ..errors import DmrecError
from ..eval.ranking import USERS_PER_BLOCK
from ..language.encoders import TextEncoder
from ..models.base import Model, TrainingData, evaluating
from ..models.vae.item_text import unit_vectors
from ..models.vae.model import Vae
from ..runs.load import histories_of, interactions_of, rows_of
from ..runs.provenance import user_text_of
from ..runtime import move
from ..table import Table
from .blend import Blended, fit_temperature
from .history import with_history
from .new_items import grow
from .recommend import (
    Ranking,
    Share,
    items_named,
    rank_new_user,
    rank_popular,
    rank_users,
    users_named,
)
from .unlike_items import unlike_items
from .vectors import ItemVectors, Posterior

Ids = str | int | Iterable[str] | Iterable[int]
"""Ids of users or items, or one of them. A dataset's ids are strings; 7 is the id ``"7"``."""


class Recommender:
    """A trained model, its data and its configuration.

    Attributes:
        model: the `torch.nn.Module`, in evaluation mode.
        dataset: what it was trained on.
        config: the resolved configuration; None for a model object that was fitted without one.
        folder: the run's folder; None where the model is in memory alone.
        result: the figures of the run.
    """

    def __init__(
        self,
        model: Model,
        data: TrainingData,
        dataset: Dataset,
        config: Config | None,
        folder: Path | None = None,
        result: dict[str, Any] | None = None,
    ) -> None:
        self.model, self.data, self.dataset, self.config, self.folder = model.eval(), data, dataset, config, folder
        self.result = result or {}
        self.n_new = 0  # items behind the others that were not in training
        self._encoders: dict[str, TextEncoder] = {}
        self._blended: Blended | None = None  # the last one

    def __repr__(self) -> str:
        sizes = f"{self.dataset.n_users} users, {self.dataset.n_items} items"
        return f"Recommender({self.name} on {self.dataset.name}, {sizes})"

    @property
    def name(self) -> str:
        """The name of the model."""
        return type(self.model).__name__ if self.config is None else self.config.name

    def recommend(
        self,
        users: Ids | None = None,
        k: int = 10,
        *,
        profile: str | None = None,
        likes: Ids | None = None,
        exclude: Ids = (),
        among: Ids | None = None,
        seen: str = "known",
        feed: str = "learned",
        history: Mapping[Any, Ids] | None = None,
        distinct_titles: bool = False,
        new_items: Any = None,
        only_new: bool = False,
        new_share: float = 0.0,
        popularity: float = 1.0,
        encoder: TextEncoder | None = None,
        key_variable: str | None = None,
    ) -> Table:
        """The k best items of each user.

        Args:
            users: ids of users who were in training, or one id; None for all. Not with ``profile`` or ``likes``.
            k: items for each user.
            profile: a text that describes one new user.
            likes: ids or titles of items that one new user likes, oldest first.
            exclude: ids of items that are recommended to nobody.
            among: ids of the items to choose from; None for all.
            feed: which interactions of a user the model reads: ``"learned"`` for those that it was trained on, as in
                evaluation, ``"known"`` for all, held-out ones included.
            history: by the id of a user, ids of further items that came after training, oldest first: the model reads
                them too, and they are not recommended again.
            distinct_titles: of items with one title, recommend the best alone.
            new_items: items that were not in training, see `with_new_items`; known and new items are in one ranking.
            only_new: recommend new items alone.
            new_share: at least this share of the k places, rounded up, goes to new items, from 0 to 1.
            popularity: how much of the ranking is the model's, which knows what is popular, from 0 to 1; the rest is
                that of the texts, by the cosine of the user's and the item's (see `inference.blend`).
            seen: what is not recommended to a user again: ``"known"`` for all of the user's interactions, ``"train"``
                for those in training, as in evaluation on held-out items, ``"nothing"`` to recommend seen items too.
            encoder: makes the vectors of ``profile`` and ``new_items`` where the run's text vectors were imported.
            key_variable: environment variable with the key of a server that makes these vectors.

        Returns:
            A table with columns ``user``, ``item``, ``score`` (float32) and ``rank`` (from 1), best items first; for a
            new user without ``user``. A user has fewer than k rows where fewer items are left.

        Raises:
            DmrecError: an id is unknown, or the model cannot recommend to new users, or does not know new items.
        """
        check_k(k)
        if new_items is not None:
            grown = self.with_new_items(new_items, encoder=encoder, key_variable=key_variable)
            return grown.recommend(
                users,
                k,
                profile=profile,
                likes=likes,
                exclude=exclude,
                among=among,
                seen=seen,
                feed=feed,
                history=history,
                distinct_titles=distinct_titles,
                only_new=only_new,
                new_share=new_share,
                popularity=popularity,
                encoder=encoder,
                key_variable=key_variable,
            )
        excluded, groups = self.excluded(exclude, among, only_new=only_new), None
        if distinct_titles:
            groups = self.title_groups
        share, model = self.share(new_share, int(k)), self.blended(popularity)
        data, out = self.fed(feed, history), self._seen(seen, history)
        if profile is not None or likes is not None:
            if users is not None:
                raise DmrecError("users are known users; profile and likes describe a new one: give one or the other")
            if not isinstance(profile, str | None):
                raise DmrecError(f"profile must be a text, got {type(profile).__name__}")
            ranking = rank_new_user(
                model,
                self.config,
                self.dataset,
                likes=items_named(self.dataset, _listed("likes", likes or ())),
                profile=profile or "",
                k=int(k),
                excluded=excluded,
                groups=groups,
                encoder=encoder,
                key_variable=key_variable,
                known=self._encoders,
                share=share,
            )
            table = self._table([ranking])
            return Table({name: table[name] for name in table.columns if name != "user"})
        return self._table(rank_users(model, data, self._rows(users), int(k), out, excluded, groups, share))

    def with_new_items(
        self, items: Any, *, encoder: TextEncoder | None = None, key_variable: str | None = None
    ) -> Recommender:
        """The same model with items that were not in training, known by their texts: it recommends them, finds items
        similar to them, and reads them in histories. Items that are known already are left out, and items without a
        text.

        Args:
            items: a file (.jsonl, .csv, .parquet ..), a data frame, or a list of dictionaries: ``id``, and ``title``,
                ``tags``, ``description`` or ``text``; or ``vector``, a vector in the space of the run's text vectors.
            encoder: encodes the texts where the run's text vectors were imported.
            key_variable: environment variable with the key of a server that encodes the texts.

        Raises:
            DmrecError: the model does not know items by their texts (``model.item_text``), or no item is new.
        """
        new = items if isinstance(items, NewItems) else read_new_items(items, self.dataset)
        model, data, dataset = grow(self.model, self.config, self.dataset, new, encoder, key_variable, self._encoders)
        grown = Recommender(model, data, dataset, self.config, self.folder, self.result)
        grown._encoders = self._encoders
        grown.n_new = self.n_new + len(new.items)
        return grown

    def is_unlike_items(
        self, profile: str, *, encoder: TextEncoder | None = None, key_variable: str | None = None
    ) -> bool:
        """Whether a text is unlike those of all items: nonsense, or about what is not on offer. What is recommended by
        it is then little more than what is popular.

        Raises:
            DmrecError: the run has no language posterior, or the text cannot be encoded.
        """
        name = None if self.config is None else user_text_of(self.config)
        if name is None:
            raise DmrecError(f"{self.name} was trained without language and cannot read a profile")
        return unlike_items(self.dataset, name, [profile], encoder, key_variable, self._encoders)[0]

    @property
    def new_items(self) -> list[str]:
        """The ids of items that were not in training, see `with_new_items`."""
        return [item.id for item in self.dataset.items[self.dataset.n_items - self.n_new :]]

    def share(self, share: float, k: int) -> Share | None:
        """The places for new items, rounded up; None for a share of 0."""
        if not isinstance(share, int | float) or not 0 <= share <= 1:
            raise DmrecError(f"new_share must be a number from 0 to 1, got {share!r}")
        if not share:
            return None
        self._check_new("new_share")
        return Share(math.ceil(share * k), torch.arange(self.dataset.n_items - self.n_new))

    def _check_new(self, argument: str) -> None:
        if not self.n_new:
            raise DmrecError(f"{argument} is for new items: give some (new_items, --new-items)")

    def rankings(
        self,
        users: Ids | None,
        k: int,
        excluded: Tensor | None = None,
        seen: str = "known",
        *,
        feed: str = "learned",
        history: Mapping[Any, Ids] | None = None,
        groups: Tensor | None = None,
        share: Share | None = None,
        popularity: float = 1.0,
    ) -> Iterator[Ranking]:
        """What `recommend` makes a table of, block by block and with row and column numbers: for very many users."""
        return self.ranked_rows(
            self._rows(users),
            k,
            excluded,
            seen,
            feed=feed,
            history=history,
            groups=groups,
            share=share,
            popularity=popularity,
        )

    def ranked_rows(
        self,
        rows: Tensor,
        k: int,
        excluded: Tensor | None,
        seen: str,
        *,
        feed: str = "learned",
        history: Mapping[Any, Ids] | None = None,
        groups: Tensor | None = None,
        share: Share | None = None,
        popularity: float = 1.0,
        block_size: int = USERS_PER_BLOCK,
    ) -> Iterator[Ranking]:
        """`rankings` of users by their rows (U,) int64 in the dataset, ``block_size`` of them together."""
        check_k(k)
        data, out = self.fed(feed, history), self._seen(seen, history)
        model = self.blended(popularity)
        return rank_users(model, data, rows, int(k), out, excluded, groups, share, block_size)

    def blended(self, popularity: float) -> Model:
        """The model itself for a ``popularity`` of 1, or one whose ranking is partly that of the texts.

        Raises:
            DmrecError: ``popularity`` is not between 0 and 1, or the run has no text vectors.
        """
        if not isinstance(popularity, int | float) or not 0 <= popularity <= 1:
            raise DmrecError(f"popularity must be a number from 0 to 1, got {popularity!r}")
        if popularity == 1:
            return self.model
        items, temperature = self._text_scores
        assert isinstance(self.model, Vae), "others have no text vectors"
        if self._blended is None or self._blended.weight != popularity:
            self._blended = Blended(self.model, items, temperature, float(popularity)).eval()
        return self._blended

    @cached_property
    def _text_scores(self) -> tuple[Tensor, float]:
        """(N, E) unit text vectors of the items on the model's device, and the temperature of the texts' scores."""
        vectors = self.data.item_text if self.data.item_text_vectors is None else self.data.item_text_vectors
        if self.config is None or vectors is None or not isinstance(self.model, Vae):
            raise DmrecError(
                f"popularity: {self.name} has no text vectors to rank by: train dmrec-m or another with them"
            )
        items = unit_vectors(vectors)
        learned_all = self.config.training.interactions == "all"
        wanted = self.data.interactions if learned_all else self._read("valid")
        return items.to(self.model.device), fit_temperature(self.data, wanted, items)

    def popular(self, k: int, excluded: Tensor | None = None, groups: Tensor | None = None) -> Table:
        """The k items with the most interactions that the model was trained on, as for a new user."""
        table = self._table([rank_popular(self.data.item_counts(), k, excluded, groups)])
        return Table({name: table[name] for name in table.columns if name != "user"})

    def fed(self, feed: str, history: Mapping[Any, Ids] | None) -> TrainingData:
        """What the model reads of users; see `recommend`."""
        if feed not in ("learned", "known"):
            raise DmrecError(f"feed must be learned or known, got '{feed}'")
        if (feed == "known" or history) and not self.model.reads_interactions:
            raise DmrecError(
                f"{self.name} keeps a vector of each user from training and reads no interactions: train it again to "
                "use new ones, or recommend with another model"
            )
        data = self.data
        if feed == "known":
            histories = None if data.histories is None else histories_of(self.dataset, *SPLITS)
            data = data._replace(interactions=self.known, histories=histories)
        return data if not history else with_history(data, self._pairs(history))

    def _pairs(self, history: Mapping[Any, Ids]) -> list[tuple[int, int]]:
        """Rows and columns of interactions by users' ids."""
        named = [(str(user), item) for user, items in history.items() for item in _listed("history", items)]
        users, items = ([pair[side] for pair in named] for side in (0, 1))
        return list(zip(users_named(self.dataset, users), items_named(self.dataset, items), strict=True))

    @cached_property
    def title_groups(self) -> Tensor:
        """(N,) int64: the same number for items with the same title; of its own for one without."""
        known: dict[str, int] = {}
        titles = (item.title.casefold() or f"\0{column}" for column, item in enumerate(self.dataset.items))
        return torch.tensor([known.setdefault(title, len(known)) for title in titles], dtype=torch.int64)

    def _rows(self, users: Ids | None) -> Tensor:
        """(U,) int64: the rows of these users, each once, in the order of the ids."""
        if users is None:
            return torch.arange(self.dataset.n_users)
        rows = users_named(self.dataset, _listed("users", users))
        return torch.tensor(list(dict.fromkeys(rows)), dtype=torch.int64)

    def similar_items(self, items: Ids, k: int = 10) -> Table:
        """The k items whose vectors have the largest cosine with those of ``items`` (ids or titles).

        Returns:
            A table with columns ``target_item``, ``item``, ``score`` (cosine) and ``rank``.
        """
        check_k(k)
        columns = torch.tensor(items_named(self.dataset, _listed("items", items)), dtype=torch.int64)
        vectors = torch.nn.functional.normalize(self._vectors(), dim=1)
        scores, found = rank_topk(vectors[columns], vectors, k + 1)
        other = (found != columns[:, None]) & (found >= 0)
        rank = other.cumsum(1)
        chosen = other & (rank <= k)
        target = columns[:, None].expand_as(found)
        return Table(
            {
                "target_item": self.dataset.ids_at("items", target[chosen].numpy()),
                "item": self.dataset.ids_at("items", found[chosen].numpy()),
                "score": scores[chosen].numpy(),
                "rank": rank[chosen].numpy(),
            }
        )

    def item_vectors(self) -> ItemVectors:
        """The vectors that the model ranks items by: output rows of an autoencoder, propagated embeddings of LightGCN.

        Raises:
            DmrecError: the model does not represent items by vectors.
        """
        return ItemVectors([item.id for item in self.dataset.items], self._vectors().numpy())

    def posterior(self, users: Ids | None = None) -> Posterior:
        """The Gaussian that is decoded for each user: with language the fused one.

        Raises:
            DmrecError: the model is not a variational autoencoder.
        """
        names = [user.id for user in self.dataset.users] if users is None else _listed("users", users)
        rows = torch.tensor(users_named(self.dataset, names), dtype=torch.int64)
        means, logvars = [], []
        with evaluating(self.model):
            for block in rows.split(1024):
                mu, logvar = self.model.posterior(move(self.data.users(block), self.model.device))
                means.append(mu.cpu())
                logvars.append(logvar.cpu())
        return Posterior(names, torch.cat(means).numpy(), torch.cat(logvars).numpy())

    def _seen(self, which: str, history: Mapping[Any, Ids] | None = None) -> Csr:
        """(M, N): what is not recommended to a user again."""
        if which == "train":
            return self.data.interactions
        if which == "known" and history:
            known = TrainingData(self.known)
            return with_history(known, self._pairs(history)).interactions
        if which == "known":
            return self.known
        if which == "nothing":
            empty = torch.zeros(self.dataset.n_users + 1, dtype=torch.int64)
            return Csr(empty, empty[:0], None, self.dataset.n_items)
        raise DmrecError(f"seen must be known, train or nothing, got '{which}'")

    @cached_property
    def known(self) -> Csr:
        """(M, N): all interactions."""
        return self._read(*SPLITS)

    def _read(self, *splits: str) -> Csr:
        """(M, N): the interactions of these splits, of which only rows need be read where items are cut."""
        return (interactions_of if self.data.shards is None else rows_of)(self.dataset, *splits)

    def _vectors(self) -> Tensor:
        with evaluating(self.model):
            return self.model.item_vectors().to("cpu", torch.float32, copy=True)  # never the model's own memory

    def excluded(self, exclude: Ids = (), among: Ids | None = None, *, only_new: bool = False) -> Tensor | None:
        """The ascending columns (n,) of items that are recommended to nobody: those of ``exclude``, all that are not
        ``among`` these, and with ``only_new`` all that were in training. None if there are none.
        """
        out_names, in_names = _listed("exclude", exclude), None if among is None else _listed("among", among)
        if not (out_names or only_new) and in_names is None:
            return None  # the ids of a large catalogue need not be read
        columns = self.dataset.rows_named("items", [*out_names, *(in_names or [])])
        for argument, names in (("exclude", out_names), ("among", in_names or [])):
            if unknown := [name for name in names if name not in columns]:
                raise DmrecError(f"{argument}: {self.dataset.name} has no item '{unknown[0]}' ({len(unknown)} unknown)")
        out = torch.zeros(self.dataset.n_items, dtype=torch.bool)
        if in_names is not None:
            out[:] = True
            out[[columns[name] for name in in_names]] = False
        out[[columns[name] for name in out_names]] = True
        if only_new:
            self._check_new("only_new")
            out[: self.dataset.n_items - self.n_new] = True
        return out.nonzero().squeeze(1) if bool(out.any()) else None

    def _table(self, rankings: Iterator[Ranking] | list[Ranking]) -> Table:
        parts: list[list[np.ndarray]] = [[np.zeros(0, kind)] for kind in (np.int64, np.int64, np.float32, np.int64)]
        for users, scores, items in rankings:
            there = items >= 0
            rank = torch.arange(1, items.shape[1] + 1).expand_as(items)
            row = users[:, None].expand_as(items)
            for part, values in zip(parts, (row, items, scores, rank), strict=True):
                part.append(values[there].numpy())
        row_, item, score, rank_ = (np.concatenate(part) for part in parts)
        named = {"user": self.dataset.ids_at("users", row_), "item": self.dataset.ids_at("items", item)}
        return Table({**named, "score": score, "rank": rank_})


def _listed(argument: str, names: Ids) -> list[str]:
    """Ids as strings: one, or a list, an array or a column of them; 7 is the id "7"."""
    if isinstance(names, str | int | np.integer):
        return [str(names)]
    if isinstance(names, Iterable):
        return [str(name) for name in names]
    raise DmrecError(f"{argument} must be an id or several, got {type(names).__name__} {names!r}")


def check_k(k: int) -> None:
    """Raises an error unless ``k`` is a number of items."""
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or k < 1:
        raise DmrecError(f"k must be a whole number of at least 1, got {k!r}")
