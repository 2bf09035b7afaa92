"""From the texts of a dataset to its vectors.

The vectors are computed in shards, which lie in the folder ``.NAME.embedding`` of the dataset until all are there. An
interrupted run continues with the first shard that is missing; a shard depends on its own texts alone, so the vectors
are the same bit for bit. Memory holds one shard, whatever the number of texts, and what an encoder learns from all of
them, which ``tfidf-svd`` alone does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from ..data.dataset import PERMUTED, Dataset, check_name
from ..errors import DmrecError
from ..files import locked, sha256_of, write_atomically
from .encoders import TextEncoder
from .shards import Shards, digest_of

SIDES = ("items", "users")


def embed_dataset(
    dataset: Dataset,
    encoder: TextEncoder,
    *,
    profiles: str | None = None,
    name: str | None = None,
    force: bool = False,
    state: Path | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> str:
    """Encodes the texts of all items and users of a dataset and stores their vectors in it, float16 and of unit length.

    Args:
        dataset: an opened dataset.
        encoder: what turns texts into vectors; it is fitted to the texts where it has to be.
        profiles: the name of profiles to encode in place of the dataset's own texts.
        name: the name of the vectors; default: `vectors_name`.
        force: replace vectors of that name.
        state: a file with what the encoder has learned from other texts; it is then not fitted to these.
        progress: called with the number of texts that are done, after each shard.

    Returns:
        The name of the vectors. The row of an item or user without a text is zeros.

    Raises:
        DmrecError: there are vectors of that name, there are no texts, or the encoder returns what is not a vector
            for each text.
    """
    name = vectors_name(encoder, profiles, name)
    _check_new(dataset, name, force=force)
    for side in SIDES:
        if not any(dataset.texts(side, profiles)):
            how = (
                f"; it has profiles: --profiles {dataset.profile_names[0]}"
                if dataset.profile_names and profiles is None
                else f"; write them first: dmrec profile {dataset.folder}, then --profiles template"
            )
            raise DmrecError(f"dataset {dataset.folder} does not have texts of its {side} to make vectors from{how}")
    folder = dataset.folder / f".{name}.embedding"
    with locked(folder.with_suffix(".lock"), f"another process makes the vectors '{name}' of {dataset.folder}"):
        shards = Shards(folder, _metadata(dataset, encoder, profiles, state))
        if encoder.requires_fit:
            if state is not None:
                write_atomically(shards.state, state.read_bytes())
            shards.fit(encoder, (text for side in SIDES for text in dataset.texts(side, profiles) if text))
        made: dict[str, Any] = {"encoder": encoder.describe(), "profiles": profiles}
        done, vectors = 0, []
        for side in SIDES:
            files, empty = [], 0
            for number, texts in enumerate(batched(dataset.texts(side, profiles), encoder.shard_size)):
                file = f"{side}-{number:08d}.npy"
                if not shards.has(file, texts):
                    shards.add(file, texts, _encode(encoder, texts))
                files.append(file)
                done, empty = done + len(texts), empty + texts.count("")
                progress(done)
            made[f"{side}_without_text"] = empty
            vectors.append(shards.concatenate(files, f"{side}.npy"))
        items, users = vectors
        dataset.add_vectors(name, items, users, made, shards.state if encoder.requires_fit else None)
        shards.remove()
    return name


def permute_vectors(
    dataset: Dataset, vectors: str, *, name: str | None = None, seed: int = 0, force: bool = False
) -> str:
    """Stores vectors of a dataset again, each for another item or user at random: what a model gains with these is not
    what texts say.

    Args:
        dataset: an opened dataset.
        vectors: the name of its vectors.
        name: the name of the new ones; default: ``permuted``, which recipes such as ``dmrec-m.permuted`` read.
        seed: decides which item gets which vector.
        force: replace vectors of that name.

    Returns:
        The name of the new vectors.

    Raises:
        DmrecError: there are no vectors of this name, or there are some of the new one.
    """
    found, name = dataset.vectors(vectors), name or PERMUTED
    _check_new(dataset, name, force=force)
    random = np.random.default_rng(seed)
    items, users = (np.asarray(side)[random.permutation(len(side))] for side in (found.items, found.users))
    dataset.add_vectors(name, items, users, {"permuted": vectors, "seed": seed})
    return name


def _check_new(dataset: Dataset, name: str, *, force: bool) -> None:
    if name in dataset.vector_names and not force:
        raise DmrecError(
            f"dataset {dataset.name} has vectors '{name}', and models may have been trained with them: choose another "
            "name (--name) or replace them (--force)"
        )


def vectors_name(encoder: TextEncoder, profiles: str | None = None, name: str | None = None) -> str:
    """The name of vectors in a dataset: ``name``, or else the encoder's name followed by that of the profiles."""
    return check_name(name or "-".join(filter(None, (encoder.name, profiles))))


def batched(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """Lists of ``size`` texts; the last may be shorter."""
    remaining = iter(texts)
    while batch := list(islice(remaining, size)):
        yield batch


def _metadata(dataset: Dataset, encoder: TextEncoder, profiles: str | None, state: Path | None) -> dict[str, Any]:
    """What the content of shards depends on; the name of a key's variable is not part of it."""
    metadata = {key: value for key, value in encoder.describe().items() if key != "key_variable"}
    metadata |= {"profiles": profiles, "shard": encoder.shard_size}
    if encoder.device != "cpu":
        metadata["device"] = encoder.device
    if encoder.requires_fit and state is not None:
        metadata["state"] = sha256_of(state)
    elif encoder.requires_fit:
        metadata["texts"] = digest_of(chain(*(dataset.texts(side, profiles) for side in SIDES)))
    return metadata


def _encode(encoder: TextEncoder, texts: Sequence[str]) -> np.ndarray:
    """(len(texts), width) float16; zeros where a text is empty."""
    rows = [row for row, text in enumerate(texts) if text]
    vectors = encoder.encode([texts[row] for row in rows] or [" "])
    if len(vectors) != max(len(rows), 1) or not np.isfinite(vectors).all():
        raise DmrecError(f"the encoder {encoder.name} returned {vectors.shape}, NaN or infinity for {len(rows)} texts")
    padded = np.zeros((len(texts), vectors.shape[1]), dtype=np.float16)
    padded[rows] = vectors[: len(rows)]
    return padded
