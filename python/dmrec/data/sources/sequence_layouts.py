"""Sequences of users as programs for generative recommendation publish them: LETTER and BLOGER, ETEGRec, P5 and S3-Rec.

The interactions come in the order of the source, which ``--split leave-one-out`` follows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DmrecError
from ..entities import Entity
from .descriptions import entities_of
from .encoding import open_text
from .interactions import InteractionBuilder, Interactions
from .matrices import read_vectors_file
from .records import check_file
from .source import Source

LONGEST = 50  # items of a history: longer ones are cut at their beginning
CODE = re.compile(r"<([a-z]+)_(\d+)>")


def read_lines(path: Path) -> Source:
    """A line for each user: the user, then the items, oldest first, with spaces or tabs between."""
    check_file(path)
    builder = InteractionBuilder(path.name)
    seen: set[str] = set()
    with open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            user, *items = line.split() or [""]
            if not user:
                continue
            if user in seen:
                raise DmrecError(
                    f"{path}, line {number}: the user '{user}' had a line before; a line holds a whole user"
                )
            if not items:
                raise DmrecError(f"{path}, line {number}: the user '{user}' has no items")
            seen.add(user)
            for item in items:
                builder.add(user, item)
    return Source(_of(builder, path), [path])


def read_letter(folder: Path, columns: dict[str, str] | None = None) -> Source:
    """NAME.inter.json with {user: [items]}, NAME.index.json with {item: ["<a_12>", ..]}, NAME.item.json with texts."""
    path = _only(folder, "*.inter.json")
    name = path.name.removesuffix(".inter.json")
    histories = _object(path, list)
    builder = InteractionBuilder(path.name)
    for user, items in histories.items():
        for item in items:
            builder.add(user, str(item))
    files = [path]
    codes = described = None
    if (index := folder / f"{name}.index.json").exists():
        codes = {"given": _codes(index)}
        files.append(index)
    if (texts := folder / f"{name}.item.json").exists():
        rows = ({"id": item, **fields} for item, fields in _object(texts, dict).items())
        described = entities_of(rows, texts.name, "item", columns or {})
        files.append(texts)
    return Source(_of(builder, path), files, described, codes=codes or {})


def read_etegrec(folder: Path, columns: dict[str, str] | None = None) -> Source:
    """NAME.{train,valid,test}.jsonl with ``inter_history`` and ``target_id``, NAME.emb_map.json, NAME_emb_W.npy.

    The rows have no users: a row of test is one, and its history with the target the user's sequence. Each row of valid
    with its target must be the history of a row of test, and each of train the beginning of one.
    """
    del columns
    test = _only(folder, "*.test.jsonl")
    name = test.name.removesuffix(".test.jsonl")
    paths = {split: folder / f"{name}.{split}.jsonl" for split in ("train", "valid", "test")}
    map_path = folder / f"{name}.emb_map.json"
    known = _object(map_path, int) if map_path.exists() else None
    rows = {split: list(_rows(path, known, map_path)) for split, path in paths.items() if path.exists()}
    builder = InteractionBuilder(test.name)
    beginnings: set[tuple[str, ...]] = set()
    for user, (history, target, _) in enumerate(rows["test"]):
        for item in (*history, target):
            builder.add(str(user), item)
        beginnings |= {history[:length] for length in range(1, len(history) + 1)}
    for split in ("train", "valid"):
        for history, target, line in rows.get(split, []):
            if (*history, target) not in beginnings and len(history) < LONGEST:
                raise DmrecError(
                    f"{paths[split]}, line {line}: its history and target are not the beginning of a history in "
                    f"{test.name}: the files do not belong together"
                )
    files = [*(path for path in paths.values() if path.exists()), *([map_path] if known else [])]
    items = vectors = None
    found = sorted(folder.glob(f"{name}_emb_*.npy"))
    if found and known:
        matrix = read_vectors_file(found[0])
        first = 1 if len(matrix) == len(known) else 0 if len(matrix) == len(known) + 1 else None
        if first is None:
            raise DmrecError(f"{found[0]} has {len(matrix)} rows, but {map_path.name} numbers {len(known)} items")
        used = {item for history, target, _ in rows["test"] for item in (*history, target)}
        listed = [item for item in known if item in used]
        items = [Entity(item) for item in listed]
        vectors = (matrix[[known[item] - first for item in listed]], np.zeros((len(rows["test"]), matrix.shape[1])))
        files.append(found[0])
    users = [Entity(str(user)) for user in range(len(rows["test"]))]
    return Source(_of(builder, test), files, items, users, vectors)


def _rows(path: Path, known: dict[str, int] | None, map_path: Path) -> Iterator[tuple[tuple[str, ...], str, int]]:
    with open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                history, target = tuple(map(str, record["inter_history"])), str(record["target_id"])
            except (ValueError, KeyError, TypeError):
                raise DmrecError(f"{path}, line {number}: must be an object with inter_history and target_id") from None
            for item in (*history, target):
                if known is not None and item not in known:
                    raise DmrecError(f"{path}, line {number}: the item '{item}' is not in {map_path.name}")
            yield history, target, number


def _codes(path: Path) -> dict[str, tuple[int, ...]]:
    """The codes of each item; level after level must have one letter."""
    found: dict[str, tuple[int, ...]] = {}
    letters: tuple[str, ...] | None = None
    for item, tokens in _object(path, list).items():
        matches = [CODE.fullmatch(str(token)) for token in tokens]
        if not matches or not all(matches):
            wrong = next((token for token, match in zip(tokens, matches, strict=True) if match is None), "nothing")
            raise DmrecError(f"{path}: item '{item}' has the code '{wrong}', which is not like <a_12>")
        parts = [match.groups() for match in matches if match]
        if letters is None:
            letters = tuple(letter for letter, _ in parts)
        if tuple(letter for letter, _ in parts) != letters:
            raise DmrecError(f"{path}: item '{item}' has the codes {tokens}; all items must have the levels {letters}")
        found[item] = tuple(int(number) for _, number in parts)
    return found


def _object(path: Path, kind: Callable[[Any], Any]) -> dict[str, Any]:
    """A JSON object whose values are lists, objects or numbers, as ``kind`` says."""
    check_file(path)
    try:
        with open_text(path) as file:
            found = json.load(file)
    except ValueError as error:
        raise DmrecError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(found, dict) or not found:
        raise DmrecError(f"{path} must hold an object by the ids of users or items, got {type(found).__name__}")
    for name, value in found.items():
        if not isinstance(value, kind):  # type: ignore[arg-type]
            raise DmrecError(f"{path}: the value of '{name}' is {type(value).__name__}, which is not expected there")
    return found


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise DmrecError(f"{folder} holds {len(found)} files {pattern}; one is expected")
    return found[0]


def _of(builder: InteractionBuilder, path: Path) -> Interactions:
    made = builder.interactions()
    if len(made) == 0:
        raise DmrecError(f"{path} holds no interactions")
    return made
