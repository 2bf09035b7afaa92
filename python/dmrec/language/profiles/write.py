"""Writes the profiles of a dataset: one row for every item and user, with a text or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from ...data.dataset import Dataset, check_name
from ...errors import DmrecError
from .prompts import SIDES, Prompt
from .requests import ProfileRequest, Sampling, iterate_requests
from .writer import Outcome, Writer


@dataclass(frozen=True)
class WrittenProfiles:
    """What a run has written.

    Attributes:
        name: the name of the profiles in the dataset.
        counts: for "items" and "users" the number of rows that are "done", "failed", "not asked" and "empty".
        missing: the outcomes without a text, failed requests before those that were never made.
    """

    name: str
    counts: dict[str, dict[str, int]]
    missing: list[Outcome]


def write_profiles(
    dataset: Dataset,
    writer: Writer,
    prompts: Mapping[str, Prompt],
    sampling: Sampling,
    *,
    name: str | None = None,
    force: bool = False,
    progress: Callable[[Outcome], None] = lambda outcome: None,
) -> WrittenProfiles:
    """Writes profiles of all items and users and stores them in the dataset.

    Every row is stored: with a text, empty because there is nothing to write from, or with the reason of the failure.

    Args:
        dataset: an opened dataset.
        writer: a `TemplateWriter`, an `LlmWriter` or any other `Writer`.
        prompts: the prompts of this kind of writer, see `read_prompts`.
        sampling: what a user's prompt shows of the history.
        name: the name of the profiles; default: the writer's.
        force: replace profiles of that name even if they have more texts.
        progress: called with each outcome.

    Raises:
        DmrecError: profiles of that name have more texts, or the writer cannot write any.
    """
    name = check_name(name or writer.name)
    rows = {side: [{"id": entity.id, "text": ""} for entity in getattr(dataset, side)] for side in SIDES}
    counts = {side: {"done": 0, "failed": 0, "not asked": 0, "empty": len(of_side)} for side, of_side in rows.items()}
    missing: list[Outcome] = []

    def requests() -> Iterator[ProfileRequest]:
        for request in iterate_requests(dataset, prompts, sampling):
            rows[request.side][request.row]["failed"] = "no answer came"
            counts[request.side]["empty"] -= 1
            counts[request.side]["failed"] += 1
            yield request

    with closing(writer.write(requests())) as outcomes:
        for outcome in outcomes:
            row = rows[outcome.side][outcome.row]
            del row["failed"]
            row |= {"text": outcome.text} if not outcome.reason else {"failed": outcome.reason}
            counts[outcome.side]["failed"] -= 1
            counts[outcome.side]["done" if not outcome.reason else "failed" if outcome.attempted else "not asked"] += 1
            if outcome.reason:
                missing.append(outcome)
            progress(outcome)
    before = _count_texts(dataset.manifest.get("profiles", {}).get(name, {}).get("made", {}).get("counts", {}))
    now = _count_texts(counts)
    if now < before and not force:
        raise DmrecError(
            f"the profiles '{name}' of {dataset.folder} have {before} texts and are kept, as this run has {now}: "
            "run it again until it is complete, choose another name (--name) or replace them (--force)"
        )
    made: dict[str, Any] = {
        **writer.describe(),
        "prompts": {side: prompt.sha256 for side, prompt in prompts.items()},
        "sample": sampling.size,
        "seed": sampling.seed,
        "counts": counts,
    }
    dataset.add_profiles(name, dict(rows), made)
    return WrittenProfiles(name, counts, sorted(missing, key=lambda outcome: not outcome.attempted))


def _count_texts(counts: Mapping[str, Mapping[str, int]]) -> int:
    """The number of rows with a text on both sides."""
    return sum(int(of_side["done"]) for of_side in counts.values())
