"""Folders as others lay them out: RecBole's atomic files, MovieLens, the pickles of RLMRec and DMRec."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import DmrecError
from .dataset import SPLITS, read_matrix, read_vectors
from .entities import Entity, clean
from .importing import Source
from .movielens import read_csv, read_dat, read_u_data
from .pickles import LARGEST, read_pickle
from .readers import read_interactions
from .records import read_rows


def read_layout(folder: Path) -> Source:
    """What ``folder`` holds, by the names of its files."""
    there = [first_file for first_file in LAYOUTS if any(folder.glob(first_file))]
    if len(there) == 1:
        return LAYOUTS[there[0]](folder)
    known = ", ".join(LAYOUTS)
    how = f"several ways: it holds {' and '.join(there)}" if there else f"no known way: it holds none of {known}"
    raise DmrecError(f"{folder} is laid out in {how}; name a table, or see docs/data.md")


def _atomic(folder: Path) -> Source:
    """RecBole: NAME.inter, or NAME.train.inter, NAME.valid.inter and NAME.test.inter; NAME.item, NAME.user."""
    there = sorted(folder.glob("*.inter"))
    parts = [path for split in SPLITS for path in there if path.name.endswith(f".{split}.inter")]
    endings = [f".{split}.inter" for split in SPLITS] if parts else [".inter"]
    files = parts or there
    names = {path.name.removesuffix(ending) for path, ending in zip(files, endings, strict=False)}
    if len(files) != len(endings) or len(names) != 1:
        raise DmrecError(
            f"{folder} must hold one NAME.inter, or NAME.train.inter, NAME.valid.inter and NAME.test.inter; "
            f"it holds {', '.join(path.name for path in there)}"
        )
    (name,) = names
    described = {side: folder / f"{name}.{side}" for side in ("item", "user") if (folder / f"{name}.{side}").exists()}
    entities = {side: _described(path, side) for side, path in described.items()}
    read = [read_interactions(path) for path in files]
    interactions = read[0] if len(files) == 1 else dict(zip(SPLITS, read, strict=True))
    return Source(interactions, [*files, *described.values()], entities.get("item"), entities.get("user"))


def _described(path: Path, side: str) -> list[Entity]:
    """A text of every field but vectors: ``Title. class: Drama War; release year: 1995``."""
    rows = read_rows(path)
    header = [name.strip().partition(":") for name in next(rows)]
    names = [name for name, _, _ in header]
    if f"{side}_id" not in names:
        raise DmrecError(f"{path} has no column {side}_id (columns: {', '.join(names)})")
    identity = names.index(f"{side}_id")
    title = next((i for i, name in enumerate(names) if "title" in name or name in ("name", f"{side}_name")), None)
    others = [i for i, (_, _, kind) in enumerate(header) if i not in (identity, title) and kind != "float_seq"]
    entities = []
    for row in rows:
        shown = clean(row[title]) if title is not None else ""
        fields = "; ".join(f"{names[i].replace('_', ' ')}: {row[i]}" for i in others if row[i])
        entities.append(Entity(row[identity], shown, clean(". ".join(part for part in (shown, fields) if part))))
    return entities


def _pickles(folder: Path) -> Source:
    """RLMRec and DMRec: trn_mat.pkl, val_mat.pkl, tst_mat.pkl; {usr,itm}_prf.pkl; {usr,itm}_emb_np.pkl."""
    paths = [folder / f"{split}_mat.pkl" for split in ("trn", "val", "tst")]
    matrices = {split: read_matrix(path) for split, path in zip(SPLITS, paths, strict=True)}
    profiles = {side: folder / f"{side}_prf.pkl" for side in ("itm", "usr") if (folder / f"{side}_prf.pkl").exists()}
    entities = {side: _profiles(path) for side, path in profiles.items()}
    embedded = [path for side in ("itm", "usr") if (path := folder / f"{side}_emb_np.pkl").exists()]
    if len(embedded) == 1:
        raise DmrecError(f"{folder} holds {embedded[0].name} alone: vectors of items and of users go together")
    vectors = (read_vectors(embedded[0]), read_vectors(embedded[1])) if embedded else None
    return Source(matrices, [*paths, *profiles.values(), *embedded], entities.get("itm"), entities.get("usr"), vectors)


def _profiles(path: Path) -> list[Entity]:
    """By number: dictionaries with a ``profile``. Those whose request failed are not there."""
    found = read_pickle(path)
    if not isinstance(found, dict | list):
        raise DmrecError(f"{path} must hold a dictionary or a list of profiles, not {type(found).__name__}")
    numbered: Sequence[tuple[Any, Any]] = list(found.items() if isinstance(found, dict) else enumerate(found))
    entities: list[Entity] = []
    for number, profile in numbered:
        values = profile if isinstance(profile, dict) else {"profile": profile}
        text, title = values.get("profile"), values.get("title")
        if not isinstance(number, int) or not 0 <= number < LARGEST or not isinstance(text, str):
            raise DmrecError(f"{path}: the entry after {len(entities)} others has no number or no text under 'profile'")
        entities.append(Entity(str(number), clean(title) if isinstance(title, str) else "", clean(text)))
    return entities


LAYOUTS: dict[str, Callable[[Path], Source]] = {
    "*.inter": _atomic,
    "trn_mat.pkl": _pickles,
    "u.data": read_u_data,
    "ratings.dat": read_dat,
    "ratings.csv": read_csv,
}
"""By the file that tells a layout."""
