"""What an import did, in words, from what the manifest of the dataset records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..dataset import SPLITS

COUNTS = {
    "user_ids_cleaned": "{count} id{s} of users {were} cleaned (spaces or quotes around them, or '.0' at their end)",
    "item_ids_cleaned": "{count} id{s} of items {were} cleaned (spaces or quotes around them, or '.0' at their end)",
    "rows_without_user": "{count} row{s} without a user {were} left out",
    "rows_without_item": "{count} row{s} without an item {were} left out",
    "repeated_headers": "the header was found {count} more time{s} among the rows and left out",
}
FILTERS = {
    "rows_without_rating": "{count} row{s} without a rating {were} left out",
    "below_min_rating": "{count} row{s} {have} a rating below {min_rating:g} and {were} left out (--min-rating)",
    "repeated": "{count} row{s} that repeat a user and an item {were} left out",
    "outside_core": "{count} interaction{s} of users or items with fewer than {k_core} {were} left out (--k-core)",
    "moved_to_train": "{count} held-out interaction{s} went back to training, which otherwise lacks the items",
    "users_not_tested": "{count} user{s} {have} fewer than 3 interactions and {are} not tested",
}
ONE = {"s": "", "were": "was", "have": "has", "are": "is"}
MANY = {"s": "s", "were": "were", "have": "have", "are": "are"}
FORMATS = ("delimiter", "decimal", "encoding", "compression", "header", "lines before the header")


def describe_import(provenance: dict[str, Any]) -> list[str]:
    """A line for each fact that the user of `dmrec data import` should know."""
    read = provenance.get("read", {})
    tables = read if read and read.keys() <= set(SPLITS) else {"": read}
    lines = []
    for name, notes in tables.items():
        lines += [f"{name}: {line}" if name else line for line in _of_table(notes)]
    lines += list(_counted(provenance, FILTERS, provenance))
    for side in ("item", "user"):
        lines += list(_of_descriptions(provenance, side))
    return lines


def _of_table(notes: dict[str, Any]) -> Iterator[str]:
    columns = notes.get("columns", {})
    if columns:
        used = ", ".join(f"{role} = '{column}'" for role, column in columns.items())
        unused = ", ".join(f"'{column}'" for column in notes.get("unused_columns", ()))
        yield f"columns: {used}" + (f"; not used: {unused}" if unused else "")
        if "rating" not in columns:
            yield "no column of ratings: every row counts as an interaction"
    if found := [f"{name} {notes[name]!r}" for name in FORMATS if name in notes]:
        yield f"found out: {', '.join(found)}"
    yield from _counted(notes, COUNTS, {})


def _counted(facts: dict[str, Any], words: dict[str, str], values: dict[str, Any]) -> Iterator[str]:
    for name, text in words.items():
        if facts.get(name):
            fields = {"min_rating": values.get("min_rating") or 0, "k_core": values.get("k_core") or 0}
            number = ONE if facts[name] == 1 else MANY
            yield text.format(count=f"{facts[name]:,}", **number, **fields)


def _of_descriptions(provenance: dict[str, Any], side: str) -> Iterator[str]:
    if count := provenance.get(f"{side}s_not_described"):
        ids = provenance[f"{side}_ids_that_do_not_meet"]
        alone, strangers = (", ".join(map(repr, ids[name])) for name in ("interactions", "descriptions"))
        in_vain = provenance[f"{side}s_described_in_vain"]
        yield (
            f"{count:,} {side}s of the interactions are not described, such as {alone}; and {in_vain:,} descriptions "
            f"have ids that no interaction has, such as {strangers}"
        )
