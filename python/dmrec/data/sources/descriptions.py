"""Texts in addition to interactions: descriptions of items and users, and reviews, found by ids."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import scipy.sparse as sp

from ...errors import DmrecError
from ..entities import Entity, clean, entity_of, fault_of_id, without_markup
from .columns import IDS, INTERACTION, REVIEW, ColumnResolver, description_of, first_of, plain_name
from .records import JSON_LINES, iterate_records, kind_of
from .values import clean_ids, id_text, number_of

LONGEST_REVIEW = 2_000
EXAMPLES = 3  # ids that are shown
SAMPLE = 1000  # records by which the field with the ids is chosen
Review = tuple[str, str, str, float | None]
"""User, item, text, and the rating that came with it."""


def read_all(
    path: Path, kind: str, columns: Mapping[str, str] = MappingProxyType({}), *, ids_required: bool
) -> list[Entity]:
    """Every item or user ("item", "user") in order. Without an id, unless ``ids_required``, its number is used.

    ``columns``: names of columns by role; that of ``kind`` is where the id is looked for first.
    """
    return entities_of(iterate_records(path), path, kind, columns, ids_required=ids_required)


def entities_of(
    records: Iterable[dict[str, Any]],
    place: object,
    kind: str,
    columns: Mapping[str, str],
    *,
    ids_required: bool = True,
) -> list[Entity]:
    """`read_all` of records with names in lower case. ``place``: where they come from, for errors."""
    resolver = ColumnResolver(place, kind, IDS[kind], columns.get(kind))
    entities, fields = [], dict[str, None]()
    for number, record in enumerate(records):
        there = ids_required or resolver.find(record) is not None
        identity = resolver.required(number + 1, record) if there else str(number)
        if (fault := fault_of_id(identity)) is not None:
            raise DmrecError(f"{place}, record {number + 1}: {fault}")
        entities.append(entity_of(identity, description_of(record, columns)))
        fields.update(dict.fromkeys(record) if number < EXAMPLES else {})
    check_described(entities, place, kind, fields, columns)
    return entities


def read_those(
    path: Path, kind: str, ids: Sequence[str], columns: Mapping[str, str] = MappingProxyType({})
) -> tuple[list[Entity], dict[str, Any]]:
    """The items or users with these ids: of several descriptions the first with a title. And what was not used, for the
    manifest: descriptions of the same id, without an id, of an id that no interaction has; and if ids of both sides are
    left over, some of each.

    ``columns``: names of columns by role. Of several that may hold the id, the one whose values are most often ids of
    the interactions is taken.
    """
    wanted, found = set(ids), dict[str, Entity]()
    unused: dict[str, Any] = dict.fromkeys(
        (f"{kind}s_described_{how}" for how in ("again", "without_id", "in_vain")), 0
    )
    records = iterate_records(path)
    sample = list(islice(records, SAMPLE))
    resolver = ColumnResolver(
        path, kind, IDS[kind], columns.get(kind), field=field_of_ids(sample, kind, wanted, columns)
    )
    strangers = list[str]()
    for number, record in enumerate(chain(sample, records), start=1):
        (identity,) = clean_ids([resolver.identity(number, record)], f"{path}, record {number}")
        if identity is None:
            unused[f"{kind}s_described_without_id"] += 1
            continue
        if identity not in wanted:
            strangers += [identity] if len(strangers) < EXAMPLES and identity not in strangers else []
            unused[f"{kind}s_described_in_vain"] += 1
            continue
        known = found.get(identity)
        unused[f"{kind}s_described_again"] += known is not None
        if known is None or not known.title:
            entity = entity_of(identity, description_of(record, columns))
            if known is None or entity.title:
                found[identity] = entity
    if not found and not strangers:
        raise DmrecError(f"{path} describes no {kind} with an id ({resolver.known})")
    if not found:
        raise no_common_id(kind, ids[0], strangers[0])
    check_described(found.values(), path, kind, dict.fromkeys(sample[0]), columns)
    if strangers and (alone := list(islice((name for name in ids if name not in found), EXAMPLES))):
        unused[f"{kind}s_not_described"] = len(wanted) - len(found)
        unused[f"{kind}_ids_that_do_not_meet"] = {"interactions": alone, "descriptions": strangers}
    return list(found.values()), {name: count for name, count in unused.items() if count}


def field_of_ids(
    sample: Sequence[dict[str, Any]], kind: str, wanted: set[str], columns: Mapping[str, str]
) -> str | None:
    """The field whose values are most often among the wanted ids; None if that of no field is."""
    names = [plain_name(columns[kind])] if kind in columns else []
    known = {*names, *IDS[kind], *(f"{name}s" for name in IDS[kind])}
    fields = [name for name in dict.fromkeys(name for record in sample for name in record) if plain_name(name) in known]
    met = {name: sum(_is_id(record.get(name), wanted) for record in sample) for name in fields}
    best = max(met, key=lambda name: (met[name], plain_name(name) in names), default=None)
    return best if best is not None and met[best] else None


def _is_id(value: Any, wanted: set[str]) -> bool:
    with contextlib.suppress(DmrecError):
        return clean_ids([id_text(value, "")], "")[0] in wanted
    return False


def check_described(
    entities: Collection[Entity], place: object, kind: str, fields: Iterable[str], columns: Mapping[str, str]
) -> None:
    """Refuses descriptions none of whose fields is known, which would leave all without a text."""
    described = any(each.title or each.text or each.tags or each.description for each in entities)
    others = [name for name in fields if plain_name(name) not in IDS[kind] and name != columns.get(kind, "").lower()]
    if entities and not described and others:
        raise DmrecError(
            f"{place}: no column is known as a title, tags, a description or a text (columns: {', '.join(fields)}); "
            "name them: --title-column, --tags-column, --description-column, --text-column"
        )


def no_common_id(kind: str, of_interactions: str, described: str) -> DmrecError:
    """Descriptions and interactions do not go together."""
    return DmrecError(
        f"no described {kind} has an id of the interactions: they look like {of_interactions!r}, the described like "
        f"{described!r}"
    )


def may_have_reviews(path: Path) -> bool:
    """Whether a file of interactions may hold what users wrote, too: of JSON lines any may have a text, of tables the
    header tells.
    """
    return kind_of(path) in JSON_LINES or not set(REVIEW).isdisjoint(next(iterate_records(path), {}))


def read_reviews(path: Path, columns: Mapping[str, str]) -> Iterator[Review]:
    """What each record holds. ``columns`` may map ``user``, ``item`` and ``rating`` to other names than the usual."""
    user, item, rating = (
        ColumnResolver(path, role, INTERACTION[role], columns.get(role)) for role in ("user", "item", "rating")
    )
    for number, record in enumerate(iterate_records(path), start=1):
        text = clean(without_markup(str(first_of(record, REVIEW) or "")), LONGEST_REVIEW)
        yield user.required(number, record), item.required(number, record), text, _rating(rating.find(record))


def _rating(value: object) -> float | None:
    return number_of(value.replace(",", ".") if isinstance(value, str) else value)


def reviews_of(
    train: sp.csr_matrix,
    user_ids: Sequence[str],
    item_ids: Sequence[str],
    reviews: Iterable[Review],
    min_rating: float | None = None,
) -> Iterator[tuple[int, int, str]]:
    """Row, column and text of those reviews whose interaction is in ``train``; without ids, they are numbers.

    One with a rating of its own below ``min_rating`` is passed over: it is of an interaction that was dropped.
    """
    rows, columns = (
        {name: number for number, name in enumerate(ids or map(str, range(count)))}
        for ids, count in zip((user_ids, item_ids), train.shape, strict=True)
    )
    pair, met = None, False
    for user, item, text, rating in reviews:
        pair = pair or (user, item)
        if user in rows and item in columns:
            met = True
            row, column = rows[user], columns[item]
            dropped = min_rating is not None and rating is not None and rating < min_rating
            if not dropped and column in train.indices[train.indptr[row] : train.indptr[row + 1]]:
                yield row, column, text
    if pair is not None and not met:
        raise DmrecError(
            f"no review is by a user and of an item of the interactions; the first is by {pair[0]!r}, of {pair[1]!r}, "
            f"and the interactions have users like {next(iter(rows))!r}, items like {next(iter(columns))!r}"
        )
