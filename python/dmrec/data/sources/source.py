"""What a reader of a source returns, and what a dataset is made from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from ..entities import Entity
from .descriptions import Review
from .interactions import Interactions


@dataclass(frozen=True)
class Source:
    """Interactions, and what was found with them.

    Fields:
        interactions: one table, which will be filtered and split; or three tables or three matrices by split.
        files: the files that were read; their checksums go into the manifest.
        items, users: descriptions. They are matched to tables by id. With matrices an id is the number of a column or
            row; if the ids are not such numbers, the descriptions must be in the order of columns or rows. A path is
            read once it is known which ids are needed.
        vectors: of items and of users, each (rows, width): a row for each description with tables, for each column
            and row with matrices.
        reviews: read once, in order.
        codes: by name, the codes of each item by its id.
        columns: the names of the columns of user, item, rating, where the caller gave them.
    """

    interactions: Interactions | dict[str, Interactions] | dict[str, sp.csr_matrix]
    files: Sequence[Path]
    items: Sequence[Entity] | Path | None = None
    users: Sequence[Entity] | Path | None = None
    vectors: tuple[np.ndarray, np.ndarray] | None = None
    reviews: Iterable[Review] = ()
    columns: dict[str, str] = field(default_factory=dict)
    codes: dict[str, dict[str, tuple[int, ...]]] = field(default_factory=dict)

    @property
    def has_row_ids(self) -> bool:
        """Whether users and items are known by the rows and columns of matrices alone."""
        return isinstance(self.interactions, dict) and not isinstance(self.interactions["train"], Interactions)

    @property
    def tables(self) -> list[Interactions]:
        """The tables of interactions, that of training first; empty if the source has matrices."""
        parts = self.interactions.values() if isinstance(self.interactions, dict) else (self.interactions,)
        return [part for part in parts if isinstance(part, Interactions)]

    @property
    def names(self) -> dict[str, str]:
        """The names of the columns of user, item and rating: as given, else as in the interactions."""
        return {**(self.tables[0].columns if self.tables else {}), **self.columns}
