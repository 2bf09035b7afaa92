"""What profiles are written from: for each item its title, tags and description, for each user a sample of a history.

A user's history is a sample of the user's training interactions. A prompt never contains what is held out, nor the
users' own texts, which may have been written from everything that they did.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...data.dataset import Dataset
from ...data.entities import Entity, clean
from .prompts import Prompt

MAX_TITLE = 300  # characters, as all of these
MAX_DESCRIPTION = 2_000
MAX_IN_HISTORY = 400  # description or review of an item in a history
MAX_QUOTE = 200  # review in a list of reviews, or description in place of a title
MAX_TAGS = 6  # number of frequent tags of a user


@dataclass(frozen=True)
class ProfileRequest:
    """A profile to be written, of one row of ``side`` ("items" or "users"); ``text`` is the filled prompt."""

    side: str
    row: int
    prompt: Prompt
    text: str


@dataclass(frozen=True)
class Sampling:
    """How many of a user's training interactions a prompt shows. Each user's sample depends on that user alone."""

    size: int = 8
    seed: int = 0

    def draw(self, user: int, items: list[int]) -> list[int]:
        """At most ``size`` of ``items``, in their order."""
        if len(items) <= self.size:
            return items
        random = np.random.default_rng(np.random.SeedSequence([self.seed, user]))
        return [items[i] for i in sorted(random.choice(len(items), self.size, replace=False))]


def iterate_requests(dataset: Dataset, prompts: Mapping[str, Prompt], sampling: Sampling) -> Iterator[ProfileRequest]:
    """A request for every item and then every user whose prompt has at least one field to fill in.

    Args:
        dataset: an opened dataset.
        prompts: a prompt for "items" and one for "users", see `read_prompts`.
        sampling: what a user's prompt shows of the history.
    """
    for row, item in enumerate(dataset.items):
        description = _description(item, MAX_DESCRIPTION)
        fields = {"title": _title(item), "tags": list(item.tags), "description": description}
        if text := prompts["items"].fill(fields):
            yield ProfileRequest("items", row, prompts["items"], text)
    for row in range(dataset.n_users):
        if text := prompts["users"].fill(_history(dataset, row, sampling)):
            yield ProfileRequest("users", row, prompts["users"], text)


def _history(dataset: Dataset, user: int, sampling: Sampling) -> dict[str, Any]:
    """The fields of a user's prompt, all from training interactions with items that have more than an id."""
    train = dataset.matrix("train")
    row = train.indices[train.indptr[user] : train.indptr[user + 1]]
    described = [int(i) for i in row if _name(dataset.items[i]) or dataset.items[i].tags]
    sample = sampling.draw(user, described)
    tags = Counter(tag for i in described for tag in dataset.items[i].tags)
    history = [
        {
            "title": _title(dataset.items[i]),
            "tags": list(dataset.items[i].tags),
            "description": _description(dataset.items[i], MAX_IN_HISTORY),
            "review": clean(dataset.reviews.get((user, i), ""), MAX_IN_HISTORY),
        }
        for i in sample
    ]
    return {
        "titles": [name for i in sample if (name := _name(dataset.items[i]))],
        "history": [{field: value for field, value in entry.items() if value} for entry in history],
        "frequent_tags": sorted(tags, key=lambda tag: (-tags[tag], tag))[:MAX_TAGS],
        "reviews": [entry["review"][:MAX_QUOTE] for entry in history if entry["review"]],
    }


def _name(item: Entity) -> str:
    return _title(item) or _description(item, MAX_QUOTE)


def _title(item: Entity) -> str:
    return clean(item.title, MAX_TITLE)


def _description(item: Entity, limit: int) -> str:
    """The description; where a source does not keep it apart from title and tags, the text without the title."""
    description = item.description or ("" if item.tags else item.text.removeprefix(item.title).lstrip(". "))
    return clean(description, limit)
