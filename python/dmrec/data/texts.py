"""Texts beside interactions: descriptions of items and users, and reviews, found by ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import scipy.sparse as sp

from ..errors import DmrecError
from .entities import Entity, clean, entity_of, fault_of_id
from .fields import IDS, INTERACTION, REVIEW, description_of, first_of, id_of
from .records import iterate_records

LONGEST_REVIEW = 2_000
PEEK = 1_000  # records, some of which lack the text of a review


def read_all(path: Path, kind: str, *, ids_required: bool) -> list[Entity]:
    """Every item or user ("item", "user") in order. Without an id, unless ``ids_required``, its number stands in."""
    entities = []
    for number, record in enumerate(iterate_records(path)):
        if not ids_required and first_of(record, IDS[kind]) is None:
            record["id"] = number
        identity = id_of(path, number + 1, record, kind, IDS[kind])
        if (fault := fault_of_id(identity)) is not None:
            raise DmrecError(f"{path}, record {number + 1}: {fault}")
        entities.append(entity_of(identity, description_of(record)))
    return entities


def read_those(path: Path, kind: str, ids: Sequence[str]) -> tuple[list[Entity], dict[str, int]]:
    """The items or users with these ids: of several descriptions the first with a title. And how many others were not
    used: of the same id, or without one.
    """
    wanted, found = set(ids), dict[str, Entity]()
    unused = {f"{kind}s_described_again": 0, f"{kind}s_described_without_id": 0}
    example = None
    for record in iterate_records(path):
        identity = first_of(record, IDS[kind])
        if identity is None:
            unused[f"{kind}s_described_without_id"] += 1
            continue
        example, identity = example or str(identity), str(identity)
        if identity not in wanted:
            continue
        known = found.get(identity)
        unused[f"{kind}s_described_again"] += known is not None
        if known is None or not known.title:
            entity = entity_of(identity, description_of(record))
            if known is None or entity.title:
                found[identity] = entity
    if example is None:
        raise DmrecError(f"{path} describes no {kind} with an id (one of {', '.join(IDS[kind])})")
    if not found:
        raise no_common_id(kind, ids[0], example)
    return list(found.values()), {name: count for name, count in unused.items() if count}


def no_common_id(kind: str, of_interactions: str, described: str) -> DmrecError:
    """Descriptions and interactions do not go together."""
    return DmrecError(
        f"no described {kind} has an id of the interactions: they look like {of_interactions!r}, the described like "
        f"{described!r}"
    )


def has_reviews(path: Path) -> bool:
    """Whether a file of interactions holds what users wrote, too."""
    return any(first_of(record, REVIEW) is not None for record in islice(iterate_records(path), PEEK))


def read_reviews(path: Path, columns: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """User, item and text of each record. ``columns`` may map ``user`` and ``item`` to other names than the usual."""
    chosen = {role: (columns[role].lower(),) if role in columns else () for role in ("user", "item")}
    names = {role: (*chosen[role], *INTERACTION[role]) for role in chosen}
    for number, record in enumerate(iterate_records(path), start=1):
        user, item = (id_of(path, number, record, role, names[role]) for role in names)
        yield user, item, clean(first_of(record, REVIEW) or "", LONGEST_REVIEW)


def reviews_of(
    train: sp.csr_matrix, user_ids: Sequence[str], item_ids: Sequence[str], reviews: Iterable[tuple[str, str, str]]
) -> Iterator[tuple[int, int, str]]:
    """Row, column and text of those reviews whose interaction is in ``train``; without ids, they are numbers."""
    rows, columns = (
        {name: number for number, name in enumerate(ids or map(str, range(count)))}
        for ids, count in zip((user_ids, item_ids), train.shape, strict=True)
    )
    pair, met = None, False
    for user, item, text in reviews:
        pair = pair or (user, item)
        if user in rows and item in columns:
            met = True
            row, column = rows[user], columns[item]
            if column in train.indices[train.indptr[row] : train.indptr[row + 1]]:
                yield row, column, text
    if pair is not None and not met:
        raise DmrecError(
            f"no review is by a user and of an item of the interactions; the first is by {pair[0]!r}, of {pair[1]!r}, "
            f"and the interactions have users like {next(iter(rows))!r}, items like {next(iter(columns))!r}"
        )
