"""A dataset is a folder. Of format 1, described here, or of format 2 for large ones (`format2`):

``manifest.json``                    counts, checksums, how it was made; written last, so a folder with it is whole
``train.npz valid.npz test.npz``     scipy CSR matrices, users x items, ones
``sequences.npz``                    optional: the order of all interactions, see `Sequences`
``items.jsonl.gz users.jsonl.gz``    optional: one JSON object a line in row order: ``id``, ``title``, ``text``
``reviews.jsonl.gz``                 optional: of interactions in train: ``user`` (row), ``item`` (column), ``text``
``items.NAME.jsonl.gz users.NAME.jsonl.gz``    optional: the profiles called NAME, likewise
``items.NAME.npy users.NAME.npy``    optional: one vector a row, the texts' vectors called NAME
``items.NAME.codes.npy``             optional: a tuple of codes a row, the codes (semantic IDs) called NAME
``tokenizer.NAME.safetensors``       optional: the codebooks and weights that made them
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from dmrec_ext import Csr

from ..errors import DmrecError, did_you_mean
from ..files import locked, read_json, replace_file, sha256_of, write_array, write_atomically, write_json, write_lines
from . import format1, format2
from .arrays import check_codes, check_vectors
from .entities import Entity
from .interactions import Interactions
from .sequences import Sequences, check_order, read_sequences
from .storage import MANIFEST as MANIFEST
from .storage import SPLITS as SPLITS
from .storage import Storage

REVIEWS = "reviews.jsonl.gz"
SEQUENCES = "sequences.npz"
PERMUTED = "permuted"
"""The usual name of vectors that are each another item's or user's, a control."""
FILES = (MANIFEST, *(f"{split}.npz" for split in SPLITS), "items.jsonl.gz", "users.jsonl.gz", REVIEWS, SEQUENCES)
FORMATS: dict[int, Callable[[Path, dict[str, Any]], Storage]] = {
    format1.FORMAT: format1.MatrixFiles.open,
    format2.FORMAT: format2.PartFiles.open,
}


@dataclass(frozen=True)
class TextVectors:
    """Vectors of all items and users under one name; float16 or float32, one row each, mapped from disk.

    In format 2 they may be `vectors.VectorParts`, which read like arrays: slices and rows by number, or ``np.asarray``.
    """

    name: str
    items: np.ndarray
    users: np.ndarray


class ItemCodes(NamedTuple):
    """Codes of all items under one name."""

    name: str
    codes: np.ndarray  # (N, levels) int16 or int32, from 0
    size: int  # codes of a level


@dataclass(frozen=True, repr=False)
class Dataset:
    """An opened dataset folder: interactions, texts and vectors, read on request.

    Whatever is read or checked on request is kept, so that a second use costs nothing. `open_dataset` makes it.
    """

    folder: Path
    manifest: dict[str, Any]
    storage: Storage
    _splits: dict[str, Csr] = field(default_factory=dict)
    _matrices: dict[str, sp.csr_matrix] = field(default_factory=dict)
    _interactions: dict[str, Interactions] = field(default_factory=dict)
    _vectors: dict[str, TextVectors] = field(default_factory=dict)

    def __repr__(self) -> str:
        interactions = sum(self.manifest["interactions"].values())
        sizes = f"{self.n_users} users, {self.n_items} items, {interactions} interactions"
        return f"Dataset({self.name}: {sizes}, in {self.folder})"

    @property
    def name(self) -> str:
        """The dataset's name."""
        return str(self.manifest["name"])

    @property
    def provenance(self) -> dict[str, Any]:
        """How the dataset was made: source, filters, split, seed, terms of use."""
        return dict(self.manifest.get("made", {}))

    @property
    def n_users(self) -> int:
        """Number of users."""
        return self.storage.n_users

    @property
    def n_items(self) -> int:
        """Number of items."""
        return self.storage.n_items

    def interactions(self, split: str) -> Interactions:
        """The interactions of a split ("train", "valid" or "test"), of which rows can be read.

        Of a dataset of format 2 they stay on disk, so that a batch of users costs what its rows cost. Of format 1 this
        is `split`.

        Raises:
            DmrecError: ``split`` is not a split.
        """
        if split not in self._interactions:
            on_disk = self.storage.interactions(_checked(split))
            self._interactions[split] = self.split(split) if on_disk is None else on_disk
        return self._interactions[split]

    def split(self, name: str) -> Csr:
        """The interactions of a split ("train", "valid" or "test"), users x items, all of them ones, in memory.

        The matrix is built at the first call and kept: every caller gets the same tensors.

        Raises:
            DmrecError: ``name`` is not a split.
        """
        if name not in self._splits:
            self._splits[name] = self.storage.csr(_checked(name))
        return self._splits[name]

    def matrix(self, name: str) -> sp.csr_matrix:
        """`split` as a scipy matrix: float32 ones, columns sorted.

        Raises:
            DmrecError: ``name`` is not a split.
        """
        if name not in self._matrices:
            self._matrices[name] = self.storage.matrix(_checked(name))
        return self._matrices[name]

    @property
    def matrices(self) -> dict[str, sp.csr_matrix]:
        """The `matrix` of each split."""
        return {split: self.matrix(split) for split in SPLITS}

    @cached_property
    def item_counts(self) -> np.ndarray:
        """(items,) int64: how many training interactions each item has."""
        return self.storage.item_counts()

    def verify(self, files: Iterable[str] | None = None, *, rank: int = 0, ranks: int = 1) -> None:
        """Compares the contents of files with their checksums. Opening a dataset of format 2 compares sizes alone.

        Args:
            files: names as in the manifest; default: all files of interactions, descriptions and vectors.
            rank, ranks: of these, process ``rank`` of ``ranks`` checks every ``ranks``-th, so that together they check
                all.

        Raises:
            DmrecError: a file is missing or its content has changed; the message names it.
        """
        noted = dict(self.manifest["files"])
        for vectors in self.manifest.get("vectors", {}).values():
            noted |= vectors.get("files", {})
        chosen = sorted(noted) if files is None else list(files)
        if unknown := [name for name in chosen if name not in noted]:
            raise DmrecError(f"{self.folder / MANIFEST} has no file '{unknown[0]}'{did_you_mean(unknown[0], noted)}")
        format2.check_contents(self.folder, {name: noted[name] for name in chosen[rank::ranks]})

    @cached_property
    def sequences(self) -> Sequences | None:
        """The order of all interactions of each user, held-out ones included; None if the dataset has no order.

        A model that learns from an order must take `sequence`, which leaves out what is held out.

        Raises:
            DmrecError: the file does not hold each interaction of the splits once.
        """
        if SEQUENCES not in self.manifest["files"]:
            return None
        sequences = read_sequences(self.folder / SEQUENCES, self.n_users, self.n_items)
        check_order(sequences, list(self.matrices.values()), SEQUENCES)
        return sequences

    def sequence(self, *splits: str) -> Sequences:
        """The interactions of these splits, each user's oldest first.

        ``sequence("train")`` is what a model may learn from. ``sequence("train", "valid")`` is the history of each user
        before the test interactions.

        Raises:
            DmrecError: the dataset has no order, or a name is not a split.
        """
        chosen = [self.matrix(name) for name in splits]
        if self.sequences is None and self.manifest["format"] == format2.FORMAT:
            raise DmrecError(f"dataset {self.folder} has no order of interactions, as all of format 2 (docs/data.md)")
        if self.sequences is None:
            raise DmrecError(
                f"dataset {self.folder} has no {SEQUENCES}; import it from a source with times, or with an ordered "
                "split (--split leave-one-out)"
            )
        return self.sequences.where(np.any([self.sequences.is_in(matrix) for matrix in chosen], axis=0))

    @cached_property
    def items(self) -> list[Entity]:
        """All items in column order; without a file, their numbers."""
        return self.storage.entities("items")

    @cached_property
    def users(self) -> list[Entity]:
        """All users in row order; without a file, their numbers."""
        return self.storage.entities("users")

    def names(self, side: str, *, titles: bool = False, rows: range | None = None) -> Any:
        """An Arrow table with the columns ``id`` and, with ``titles``, ``title`` of the items or users in ``rows``, by
        default of all; None without descriptions, where ids are the numbers of the rows.
        """
        if not self.describes(side):
            return None
        return self.storage.names(side, ["id", *(["title"] if titles else [])], rows)

    def rows_named(self, side: str, ids: Sequence[str]) -> dict[str, int]:
        """The rows of those of a few ids that items or users (``side``) have; of format 2 without a list of all."""
        found = self.storage.find(side, ids)
        if found is None:
            known = self.item_columns if side == "items" else self.user_rows
            found = {each: known[each] for each in ids if each in known}
        return found

    def ids_at(self, side: str, rows: np.ndarray) -> np.ndarray:
        """(n,) objects: the ids of rows (n,) of items or users (``side``); of format 2 without a list of all."""
        if (found := self.storage.ids_at(side, rows)) is None:
            entities = self.items if side == "items" else self.users
            found = [entities[row].id for row in rows.tolist()]
        return np.array(found, dtype=object)

    @cached_property
    def item_columns(self) -> dict[str, int]:
        """The column of each item by its external id."""
        return {item.id: column for column, item in enumerate(self.items)}

    @cached_property
    def user_rows(self) -> dict[str, int]:
        """The row of each user by its external id."""
        return {user.id: row for row, user in enumerate(self.users)}

    @cached_property
    def reviews(self) -> dict[tuple[int, int], str]:
        """What users (rows) wrote of items (columns) that they have in train."""
        path = self.folder / REVIEWS
        if REVIEWS not in self.manifest["files"]:
            return {}
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        return {(row["user"], row["item"]): row["text"] for row in rows}

    @property
    def profile_names(self) -> list[str]:
        """Names of the profiles that the folder holds."""
        return sorted(self.manifest.get("profiles", {}))

    def texts(self, side: str, profiles: str | None = None) -> Iterator[str]:
        """The texts of ``side`` ("items" or "users") in row order, one at a time: their own, or the profiles called so.

        Empty where there is none.
        """
        if profiles is None:
            return self.storage.texts(side)
        if profiles not in self.profile_names:
            raise DmrecError(
                f"dataset {self.folder} has no profiles '{profiles}'{did_you_mean(profiles, self.profile_names)}"
                "; write some: dmrec profile"
            )
        path = self.folder / f"{side}.{check_name(profiles)}.jsonl.gz"
        if sha256_of(path) != self.manifest["profiles"][profiles]["sha256"][side]:
            raise DmrecError(f"{path} differs from its checksum in {MANIFEST}: damaged or edited; write it again")
        return format1.texts_in(path, side, self.n_items if side == "items" else self.n_users)

    def describes(self, side: str) -> bool:
        """Whether the folder has descriptions of ``side`` ("items" or "users")."""
        files = self.manifest["files"]
        return f"{side}.jsonl.gz" in files or any(name.startswith(f"{side}/") for name in files)

    def add_profiles(self, name: str, rows: dict[str, Iterable[dict[str, Any]]], provenance: dict[str, Any]) -> None:
        """Stores profiles under ``name``: for "items" and "users" a row each, in order, ``id`` and ``text`` in it."""
        check_name(name)
        self._note("profiles", name, None)  # while its files are being replaced it does not exist
        checksums = {}
        for side, of_side in rows.items():
            path = self.folder / f"{side}.{name}.jsonl.gz"
            replace_file(path, partial(write_lines, rows=of_side))
            checksums[side] = sha256_of(path)
        self._note("profiles", name, {"sha256": checksums, "made": provenance})

    def _note(self, kind: str, name: str, value: dict[str, Any] | None) -> None:
        """Sets or removes an entry of the manifest as it is on disk: another process may have written to it."""
        with locked(self.folder / ".lock"):
            manifest = read_json(self.folder / MANIFEST)
            known = manifest.setdefault(kind, {})
            if value is not None or known.pop(name, None) is not None:
                known.update({} if value is None else {name: value})
                write_json(self.folder / MANIFEST, manifest)
        self.manifest.clear()
        self.manifest.update(manifest)

    @property
    def vector_names(self) -> list[str]:
        """Names of the text vectors that the folder holds."""
        return sorted(self.manifest.get("vectors", {}))

    @property
    def unpermuted_vector_names(self) -> list[str]:
        """Names of those whose rows belong to the texts of these items and users; of all, if there are no such ones."""
        known = self.manifest.get("vectors", {})
        return [
            name for name in self.vector_names if "permuted" not in known[name].get("made", {})
        ] or self.vector_names

    def vectors(self, name: str | None = None, option: str = "language.vectors") -> TextVectors:
        """The vectors called ``name``, or the only ones of the dataset that are not permuted; ``option`` is what names
        them, for messages.

        Their checksums are compared at the first call; later calls return the same arrays.
        """
        known = self.vector_names
        if not known:
            described = [side for side in ("items", "users") if any(self.texts(side))]
            if self.profile_names or described:
                how = f"; make some: dmrec embed {self.folder}, or dmrec.embed in Python"
            elif self.describes("items") and any(item.title for item in self.items):
                how = f"; write profiles first, then make some: dmrec profile {self.folder}, dmrec embed {self.folder}"
            else:
                how = " and no texts to make them from: import it with --items (titles, tags, descriptions)"
            raise DmrecError(f"dataset {self.folder} has no text vectors{how}")
        if name is None:
            if len(self.unpermuted_vector_names) > 1:
                raise DmrecError(
                    f"dataset {self.folder} has several text vectors ({', '.join(known)}); "
                    f"choose: --set {option}={self.unpermuted_vector_names[0]}"
                )
            name = self.unpermuted_vector_names[0]
        if name not in known:
            how = f"; make them: dmrec embed {self.folder} --permute {known[0]}" if name == PERMUTED else ""
            raise DmrecError(f"dataset {self.folder} has no vectors '{name}'{how or did_you_mean(name, known)}")
        if name not in self._vectors:
            self._vectors[name] = self._read_vectors(name)
        return self._vectors[name]

    def without_text(self, vectors: str) -> str:
        """In words, how many items and users had no text when these vectors were made, whose rows are zeros; "" if all
        had one.
        """
        made = self.manifest["vectors"][vectors].get("made", {})
        counts = {side: int(made.get(f"{side}_without_text", 0)) for side in ("items", "users")}
        missing = " and ".join(f"{count} {side}" for side, count in counts.items() if count)
        return f"vectors '{vectors}': {missing} had no text, and their vectors are zeros" if missing else ""

    def _read_vectors(self, name: str) -> TextVectors:
        items, users = self.storage.read_vectors(check_name(name), self.manifest["vectors"][name])
        return TextVectors(name, items, users)

    def add_vectors(
        self, name: str, items: np.ndarray, users: np.ndarray, provenance: dict[str, Any], state: Path | None = None
    ) -> None:
        """Stores vectors under ``name``, float16 or float32 as they come (float16 in format 2), and notes how they were
        made.

        ``state``: a file with what their encoder has learned, kept with them.
        """
        check_name(name)
        check_vectors(items, users, self.n_items, self.n_users)
        self._vectors.pop(name, None)
        self._note("vectors", name, None)  # while its files are being replaced it does not exist
        if state is not None:
            path = self.folder / f"encoder.{name}.npz"
            write_atomically(path, state.read_bytes())
            encoder = {**provenance["encoder"], "state": sha256_of(path)}
            provenance = {**provenance, "encoder": encoder}
        files = self.storage.write_vectors(name, {"items": items, "users": users})
        self._note("vectors", name, {"width": int(items.shape[1]), **files, "made": provenance})

    @property
    def code_names(self) -> list[str]:
        """Names of the codes that the folder holds."""
        return sorted(self.manifest.get("codes", {}))

    def codes(self, name: str | None = None) -> ItemCodes:
        """The codes called ``name``, or the only ones of the dataset.

        Raises:
            DmrecError: there are none of this name, several and no name, or the file is damaged.
        """
        known = self.code_names
        if not known:
            raise DmrecError(
                f"dataset {self.folder} has no codes of its items; make some: dmrec tokenize {self.folder}"
            )
        if name is None and len(known) > 1:
            raise DmrecError(
                f"dataset {self.folder} has several codes ({', '.join(known)}); choose: --set model.codes={known[0]}"
            )
        name = known[0] if name is None else name
        if name not in known:
            raise DmrecError(f"dataset {self.folder} has no codes '{name}'{did_you_mean(name, known)}")
        path, noted = self.folder / f"items.{check_name(name)}.codes.npy", self.manifest["codes"][name]
        if not path.exists() or sha256_of(path) != noted["sha256"]:
            raise DmrecError(f"{path} is missing or differs from its checksum in {MANIFEST}: make it again")
        codes = np.load(path, allow_pickle=False)
        check_codes(codes, self.n_items, noted["size"], str(path))
        return ItemCodes(name, codes, noted["size"])

    def add_codes(
        self, name: str, codes: np.ndarray, size: int, provenance: dict[str, Any], state: bytes | None = None
    ) -> None:
        """Stores codes (N, levels) of all items under ``name``, each below ``size``, and notes how they were made.

        ``state``: the content of ``tokenizer.NAME.safetensors``, from which new items can be given codes.
        """
        check_name(name)
        check_codes(codes, self.n_items, size, f"codes '{name}'")
        self._note("codes", name, None)  # while its files are being replaced it does not exist
        path = self.folder / f"items.{name}.codes.npy"
        kind = np.int16 if size <= np.iinfo(np.int16).max else np.int32
        replace_file(path, partial(write_array, array=np.ascontiguousarray(codes, dtype=kind)))
        of_state = self.folder / f"tokenizer.{name}.safetensors"
        of_state.unlink(missing_ok=True)
        if state is not None:
            write_atomically(of_state, state)
            provenance = {**provenance, "state": sha256_of(of_state)}
        noted = {"levels": int(codes.shape[1]), "size": int(size), "sha256": sha256_of(path), "made": provenance}
        self._note("codes", name, noted)

    def fingerprint_of_codes(self, name: str, *, tokenizer: bool = False) -> dict[str, Any]:
        """The checksum of the codes called ``name``, and with ``tokenizer`` that of what made them."""
        if name not in self.code_names:
            raise DmrecError(f"dataset {self.folder} has no codes '{name}'{did_you_mean(name, self.code_names)}")
        noted = self.manifest["codes"][name]
        of_tokenizer = {f"tokenizer.{name}.safetensors": noted["made"].get("state")} if tokenizer else {}
        return {f"items.{name}.codes.npy": noted["sha256"], **of_tokenizer}

    def fingerprint(self, vectors: str | None, *, order: bool = False) -> dict[str, Any]:
        """Checksums of what a trained model depends on: the interactions, the vectors called so, and with ``order`` the
        order of interactions.
        """
        files = self.storage.fingerprint()
        if order and SEQUENCES in self.manifest["files"]:
            files[SEQUENCES] = self.manifest["files"][SEQUENCES]["sha256"]
        if vectors is None:
            return files
        known = self.manifest.get("vectors", {})
        if vectors not in known:
            raise DmrecError(f"dataset {self.folder} has no vectors '{vectors}'{did_you_mean(vectors, known)}")
        return {**files, vectors: known[vectors]["sha256"]}


def _checked(split: str) -> str:
    if split not in SPLITS:
        raise DmrecError(f"'{split}' is not a split; the splits are {', '.join(SPLITS)}")
    return split


def open_dataset(folder: Path) -> Dataset:
    """Opens a dataset folder; refuses one that is incomplete, or whose matrices or texts differ from the manifest.

    Of format 2 only the sizes of files are compared; `Dataset.verify` reads them.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        raise DmrecError(f"{folder} is not a folder; a small dataset to start with: dmrec data fetch ml-100k")
    if not (folder / MANIFEST).exists():
        raise DmrecError(
            f"{folder} is not a dataset (no {MANIFEST}); make one with dmrec data import or dmrec data fetch"
        )
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") not in FORMATS:
        found = manifest.get("format") if isinstance(manifest, dict) else manifest
        raise DmrecError(
            f"{folder / MANIFEST}: format {found} is not known here, only {' and '.join(map(str, FORMATS))}"
        )
    if missing := {"name", "files", "interactions"} - manifest.keys():
        raise DmrecError(f"{folder / MANIFEST} lacks {', '.join(sorted(missing))}; make the dataset again")
    return Dataset(folder, manifest, FORMATS[manifest["format"]](folder, manifest))


def check_name(name: str) -> str:
    """``name`` if it can be part of a file's name."""
    if name.lower() in ("null", "true", "false"):
        raise DmrecError(f"'{name}' cannot name vectors or profiles: configurations read it as another value")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise DmrecError(
            f"'{name}' cannot name vectors or profiles: use letters, digits, dots, dashes and underscores, at most 64"
        )
    return name
