"""Profiles: a short text of every item, from its title, tags and description, and of every user, from their history.

A user's history is a sample of their training interactions. What is held out reaches no prompt, nor do the users' own
texts, which may have been written from all that they did.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ...data.dataset import Dataset, check_name
from ...data.entities import Entity, clean
from ...errors import DmrecError
from .prompts import SIDES, Prompt

LONGEST = 4_000  # characters of a profile
LONGEST_TITLE = 300
LONGEST_DESCRIPTION = 2_000
LONGEST_IN_HISTORY = 400  # of a description or a review there
LONGEST_QUOTE = 200  # of a review in a list of reviews, of a description in place of a title
MOST_TAGS = 6


@dataclass(frozen=True)
class Request:
    """What is to be written: a profile of one row of ``items`` or ``users``."""

    side: str
    row: int
    prompt: Prompt
    text: str


@dataclass(frozen=True)
class Outcome:
    """What became of a request: a text, or the reason why there is none. ``asked`` is false where nobody tried."""

    side: str
    row: int
    text: str = ""
    reason: str = ""
    asked: bool = True


class Writer(Protocol):
    """Turns requests into profiles."""

    @property
    def name(self) -> str:
        """What its profiles are called in a dataset."""
        ...

    def describe(self) -> dict[str, Any]:
        """How the profiles are made, for the manifest."""
        ...

    def write(self, requests: Iterable[Request]) -> Generator[Outcome, None, None]:
        """One outcome for each request, in any order."""
        ...


class TemplateWriter:
    """The filled prompt is the profile."""

    name = "template"

    def describe(self) -> dict[str, Any]:
        """No more than its name."""
        return {"writer": self.name}

    def write(self, requests: Iterable[Request]) -> Generator[Outcome, None, None]:
        """One outcome for each request, in their order."""
        for request in requests:
            yield Outcome(request.side, request.row, clean(request.text, LONGEST))


@dataclass(frozen=True)
class Sampling:
    """How many of a user's training interactions a prompt shows; drawn for each user alone."""

    size: int = 8
    seed: int = 0

    def draw(self, user: int, items: list[int]) -> list[int]:
        """Some of ``items``, in their order."""
        if len(items) <= self.size:
            return items
        random = np.random.default_rng(np.random.SeedSequence([self.seed, user]))
        return [items[i] for i in sorted(random.choice(len(items), self.size, replace=False))]


def write_profiles(
    dataset: Dataset,
    writer: Writer,
    prompts: Mapping[str, Prompt],
    sampling: Sampling,
    *,
    name: str | None = None,
    force: bool = False,
    watch: Callable[[Outcome], None] = lambda outcome: None,
) -> dict[str, Any]:
    """Writes profiles of all items and users, stores them and returns what the manifest says of how they were made.

    Every row is stored: with a text, empty because there is nothing to write from, or with the reason why it failed.
    Profiles of that name with more texts are replaced with ``force`` alone.
    """
    name = check_name(name or writer.name)
    rows = {side: [{"id": entity.id, "text": ""} for entity in getattr(dataset, side)] for side in SIDES}
    counts = {side: {"done": 0, "failed": 0, "not asked": 0, "empty": len(of_side)} for side, of_side in rows.items()}

    def noted() -> Iterator[Request]:
        for request in iterate_requests(dataset, prompts, sampling):
            rows[request.side][request.row]["failed"] = "no answer came"
            counts[request.side]["empty"] -= 1
            counts[request.side]["failed"] += 1
            yield request

    with closing(writer.write(noted())) as outcomes:
        for outcome in outcomes:
            row = rows[outcome.side][outcome.row]
            del row["failed"]
            row |= {"text": outcome.text} if not outcome.reason else {"failed": outcome.reason}
            counts[outcome.side]["failed"] -= 1
            counts[outcome.side]["done" if not outcome.reason else "failed" if outcome.asked else "not asked"] += 1
            watch(outcome)
    before, now = _texts(dataset.manifest.get("profiles", {}).get(name, {}).get("made", {})), _texts({"counts": counts})
    if now < before and not force:
        raise DmrecError(
            f"the profiles '{name}' of {dataset.folder} have {before} texts and stay: this run has {now}. "
            "Run it again to its end, call these otherwise (--name) or replace those (--force)"
        )
    made = {
        **writer.describe(),
        "prompts": {side: prompt.sha256 for side, prompt in prompts.items()},
        "sample": sampling.size,
        "seed": sampling.seed,
        "counts": counts,
    }
    dataset.add_profiles(name, dict(rows), made)
    return made


def _texts(made: dict[str, Any]) -> int:
    """How many texts profiles have, by what the manifest says of how they were made."""
    return sum(int(of_side["done"]) for of_side in made.get("counts", {}).values())


def iterate_requests(dataset: Dataset, prompts: Mapping[str, Prompt], sampling: Sampling) -> Iterator[Request]:
    """A request for every item and user that there is something to say about."""
    for row, item in enumerate(dataset.items):
        description = _description(item, LONGEST_DESCRIPTION)
        fields = {"title": _title(item), "tags": list(item.tags), "description": description}
        if text := prompts["items"].fill(fields):
            yield Request("items", row, prompts["items"], text)
    for row in range(dataset.n_users):
        if text := prompts["users"].fill(_history(dataset, row, sampling)):
            yield Request("users", row, prompts["users"], text)


def _history(dataset: Dataset, user: int, sampling: Sampling) -> dict[str, Any]:
    """The fields of a user's prompt, all from interactions in train with items that are more than an id."""
    row = dataset.train.indices[dataset.train.indptr[user] : dataset.train.indptr[user + 1]]
    told = [int(i) for i in row if _name(dataset.items[i]) or dataset.items[i].tags]
    sampled = sampling.draw(user, told)
    tags = Counter(tag for i in told for tag in dataset.items[i].tags)
    history = [
        {
            "title": _title(dataset.items[i]),
            "tags": list(dataset.items[i].tags),
            "description": _description(dataset.items[i], LONGEST_IN_HISTORY),
            "review": clean(dataset.reviews.get((user, i), ""), LONGEST_IN_HISTORY),
        }
        for i in sampled
    ]
    return {
        "titles": [name for i in sampled if (name := _name(dataset.items[i]))],
        "history": [{name: value for name, value in each.items() if value} for each in history],
        "frequent_tags": sorted(tags, key=lambda tag: (-tags[tag], tag))[:MOST_TAGS],
        "reviews": [each["review"][:LONGEST_QUOTE] for each in history if each["review"]],
    }


def _name(item: Entity) -> str:
    return _title(item) or _description(item, LONGEST_QUOTE)


def _title(item: Entity) -> str:
    return clean(item.title, LONGEST_TITLE)


def _description(item: Entity, limit: int) -> str:
    """What is told of an item beside title and tags; its text, where a source does not keep them apart."""
    apart = item.description or ("" if item.tags else item.text.removeprefix(item.title).lstrip(". "))
    return clean(apart, limit)
