"""The pickles of RLMRec and DMRec: matrices by split, profiles, vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import DmrecError
from ..dataset import SPLITS
from ..entities import Entity, clean
from .matrices import read_matrix_file, read_vectors_file
from .pickles import LARGEST, read_pickle
from .source import Source


def read_folder(folder: Path, columns: dict[str, str] | None = None) -> Source:
    """Reads {trn,val,tst}_mat.pkl, with the profiles {usr,itm}_prf.pkl and the vectors {usr,itm}_emb_np.pkl."""
    paths = [folder / f"{split}_mat.pkl" for split in ("trn", "val", "tst")]
    matrices = {split: read_matrix_file(path) for split, path in zip(SPLITS, paths, strict=True)}
    profiles = {side: folder / f"{side}_prf.pkl" for side in ("itm", "usr") if (folder / f"{side}_prf.pkl").exists()}
    entities = {side: _profiles(path) for side, path in profiles.items()}
    embedded = [path for side in ("itm", "usr") if (path := folder / f"{side}_emb_np.pkl").exists()]
    if len(embedded) == 1:
        raise DmrecError(f"{folder} holds {embedded[0].name} alone: vectors of items and of users go together")
    vectors = (read_vectors_file(embedded[0]), read_vectors_file(embedded[1])) if embedded else None
    return Source(matrices, [*paths, *profiles.values(), *embedded], entities.get("itm"), entities.get("usr"), vectors)


def _profiles(path: Path) -> list[Entity]:
    """Entities from dictionaries with a ``profile``, by number; where a request failed, the number is missing."""
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
