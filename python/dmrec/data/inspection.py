"""Looks a dataset over: how interactions are spread, what leaks between splits, which texts and vectors there are."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp

from ..errors import counted
from .arrays import BLOCK
from .dataset import SPLITS, Dataset
from .entities import Entity

EDGES = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
TITLE_LENGTH = 8  # shorter titles are in texts by chance
ALIGNED = 1500  # items whose pairs are looked at
LEAK = 0.01  # of the held-out titles: a few have the title of another item


def inspect_dataset(dataset: Dataset) -> dict[str, Any]:
    """Everything as numbers that JSON can hold; shares are between 0 and 1."""
    texts = inspect_texts(dataset)
    return {
        **inspect_splits(dataset),
        **texts,
        "texts_that_name_held_out_items": _leaking_texts(dataset) if len(texts["texts"]) == 2 else {},
        "profiles": {name: _profiles(dataset, name) for name in dataset.profile_names},
        "vectors": {name: _vectors(dataset, name) for name in dataset.vector_names},
        "codes": {name: _codes(dataset, name) for name in dataset.code_names},
    }


def inspect_texts(dataset: Dataset) -> dict[str, Any]:
    """The part about texts: of items and users that are described, and reviews if there are any."""
    train = dataset.matrix("train")
    described = [side for side in ("items", "users") if dataset.describes(side)]
    of = {
        "items": np.bincount(train.indices, minlength=dataset.n_items),
        "users": np.diff(train.indptr),
    }
    return {
        "texts": {side: _texts(getattr(dataset, side), of[side]) for side in described},
        "reviews": _reviews(dataset),
    }


def inspect_splits(dataset: Dataset) -> dict[str, Any]:
    """The part about interactions and their order."""
    splits = {split: dataset.matrix(split) for split in SPLITS}
    degrees = {split: (np.diff(m.indptr), np.bincount(m.indices, minlength=m.shape[1])) for split, m in splits.items()}
    of_user, of_item = degrees["train"]
    counts = {}
    for split, (users, items) in degrees.items():
        counts[split] = {
            "interactions": int(users.sum()),
            "users": int((users > 0).sum()),
            "items": int((items > 0).sum()),
            "of unseen items": int(items[of_item == 0].sum()),
            "of unseen users": int(users[of_user == 0].sum()),
        }
    all_users, all_items = (np.sum([degrees[split][axis] for split in SPLITS], axis=0) for axis in (0, 1))
    return {
        "name": dataset.name,
        "users": dataset.n_users,
        "items": dataset.n_items,
        "density": int(all_users.sum()) / max(dataset.n_users * dataset.n_items, 1),
        "splits": counts,
        "users_by_interactions": _histogram(of_user),
        "items_by_interactions": _histogram(of_item),
        "users_without_any": int((all_users == 0).sum()),
        "items_without_any": int((all_items == 0).sum()),
        "overlap": {
            f"{a} and {b}": int(splits[a].multiply(splits[b]).nnz)
            for a, b in (("train", "valid"), ("train", "test"), ("valid", "test"))
        },
        "split": dataset.provenance.get("split", "not known"),
        "order": _order(dataset),
    }


def warnings(found: dict[str, Any]) -> list[str]:
    """What a person should know before training, in words; of the output of `inspect_dataset` or `inspect_splits`."""
    lines = [
        f"{numbers[f'of unseen {kind}']} of {numbers['interactions']} interactions in {split} are of {kind} that have "
        "none in train"
        for split, numbers in found["splits"].items()
        for kind in ("items", "users")
        if numbers[f"of unseen {kind}"]
    ]
    lines += [f"in both {pair}: {counted(count, 'interaction')}" for pair, count in found["overlap"].items() if count]
    for side in ("user", "item"):
        if without := found[f"{side}s_without_any"]:
            lines.append(f"{counted(without, side)} without an interaction")
    lines += _leaks_of_order(found["split"], found["order"])
    for side, texts in found.get("texts", {}).items():
        if 0 < texts["with text"] < 1:
            lines.append(f"{1 - texts['with text']:.1%} of the {side} have no text")
    leak = found.get("texts_that_name_held_out_items", {})
    if leak and leak["share of held-out titles named"] > max(LEAK, 2 * leak["share of other titles named"]):
        lines.append(
            f"texts of {leak['users']} users name titles of items held out for them, "
            f"{leak['share of held-out titles named']:.1%} of these, against {leak['share of other titles named']:.1%} "
            "of titles drawn at random: were they written from what is to be predicted?"
        )
    for name, vectors in found.get("vectors", {}).items():
        if zeros := vectors["items of zeros"] + vectors["users of zeros"]:
            lines.append(f"vectors '{name}': {zeros} rows are zeros")
        if vectors["of random order"] and vectors["alignment"] < 3 * vectors["of random order"]:
            lines.append(
                f"vectors '{name}': items that are bought together are not nearer than others (correlation "
                f"{vectors['alignment']:.3f}, in random order +-{vectors['of random order']:.3f}): "
                "are the rows those of the items?"
            )
    return lines


def _order(dataset: Dataset) -> dict[str, int]:
    """How often the splits go against the order of interactions, where it is known.

    ``within users``: interactions in a split that are later, in the sequence of their user, than one in the next split.
    ``in time``: those that are not earlier than the first interaction of all in the next split.
    """
    sequences = dataset.sequences
    if sequences is None:
        return {}
    part = {split: sequences.is_in(dataset.matrix(split)) for split in SPLITS}
    row, position = sequences.row_of_entry(), np.arange(len(sequences))
    found = {}
    for earlier, later in (("train", "valid"), ("valid", "test"), ("train", "test")):
        first = np.full(sequences.n_users, len(sequences))
        np.minimum.at(first, row[part[later]], position[part[later]])
        found[f"{earlier} after {later} within users"] = int((part[earlier] & (position > first[row])).sum())
        if sequences.times is not None and part[later].any():
            begins = sequences.times[part[later]].min()
            found[f"{earlier} after {later} in time"] = int((part[earlier] & (sequences.times >= begins)).sum())
    held_out = {split: np.bincount(row[part[split]], minlength=sequences.n_users) for split in ("valid", "test")}
    other = held_out["valid"] > 1
    if held_out["test"].any():
        other |= held_out["valid"] != held_out["test"]
    found["users with other than one held-out item"] = int(other.sum())
    return found


def _leaks_of_order(split: str, order: dict[str, int]) -> list[str]:
    """What a split promises of the order of interactions, and does not keep."""
    kept = {"leave-one-out": "within users", "time-per-user": "within users", "time": "in time"}.get(split)
    lines = [
        f"the split is called '{split}', but {counted(count, 'interaction')} against it ({name}): "
        "models would learn from the future; import the data again with --split"
        for name, count in order.items()
        if kept is not None and name.endswith(kept) and count
    ]
    users = order.get("users with other than one held-out item", 0)
    if split == "leave-one-out" and users:
        lines.append(f"the split is called 'leave-one-out', but {users} users have other than one held-out item")
    return lines


def _histogram(degrees: np.ndarray) -> dict[str, int]:
    """How many have how many interactions."""
    edges = [edge for edge in EDGES if edge <= degrees.max(initial=0)]
    counts, _ = np.histogram(degrees, bins=[*edges, np.inf])
    labels = [str(low) if high == low + 1 else f"{low}-{high - 1}" for low, high in pairwise(edges)]
    return dict(zip([*labels, f"{edges[-1]}-"], counts.tolist(), strict=True))


def _texts(entities: list[Entity], degrees: np.ndarray) -> dict[str, Any]:
    length = np.array([len(entity.text) for entity in entities], dtype=np.int64)
    there = length > 0
    return {
        "with title": float(np.mean([bool(entity.title) for entity in entities])),
        "with text": float(there.mean()),
        "of interactions": float(degrees[there].sum() / max(degrees.sum(), 1)),
        "median characters": int(np.median(length[there])) if there.any() else 0,
        "repeated": int(there.sum() - len({entity.text for entity in entities if entity.text})),
    }


def _reviews(dataset: Dataset) -> dict[str, Any]:
    length = [len(text) for text in dataset.reviews.values()]
    if not length:
        return {}
    return {
        "reviews": len(length),
        "of interactions": len(length) / dataset.matrix("train").nnz,
        "median characters": int(np.median(length)),
    }


def _leaking_texts(dataset: Dataset) -> dict[str, Any]:
    """How often users' texts name what is held out for them, and how often they name items drawn at random."""
    titles = [item.title.lower() if len(item.title) >= TITLE_LENGTH else "" for item in dataset.items]
    held_out = sp.csr_matrix(dataset.matrix("valid") + dataset.matrix("test"))
    random = np.random.default_rng(0)
    named, users, titled, by_chance = 0, 0, 0, 0
    for row, user in enumerate(dataset.users):
        text = user.text.lower()
        items = [i for i in held_out[row].indices if titles[i]] if text else []
        found = sum(titles[i] in text for i in items)
        others = random.integers(dataset.n_items, size=len(items))
        by_chance += sum(bool(titles[i]) and titles[i] in text for i in others)
        named, users, titled = named + found, users + bool(found), titled + len(items)
    return {
        "users": users,
        "share of held-out titles named": named / max(titled, 1),
        "share of other titles named": by_chance / max(titled, 1),
    }


def _profiles(dataset: Dataset, name: str) -> dict[str, float]:
    return {
        f"{side} with profile": float(np.mean([bool(text) for text in dataset.texts(side, name)]))
        for side in ("items", "users")
    }


def _codes(dataset: Dataset, name: str) -> dict[str, Any]:
    found = dataset.codes(name)
    _, counts = np.unique(found.codes, axis=0, return_counts=True)
    used, perplexity = [], []
    for level in found.codes.T:
        share = np.bincount(level)[np.unique(level)] / max(len(level), 1)
        used.append(len(share))
        perplexity.append(np.exp(-(share * np.log(share)).sum()))
    return {
        "levels": found.codes.shape[1],
        "codes used": " / ".join(map(str, used)),
        "of": found.size,
        "perplexity": " / ".join(f"{value:.0f}" for value in perplexity),
        "items in collisions": int(counts[counts > 1].sum()),
        "largest": int(counts.max()),
        **_first_code_of_neighbours(dataset, found.codes[:, 0].astype(np.int64)),
    }


def _first_code_of_neighbours(dataset: Dataset, code: np.ndarray) -> dict[str, float]:
    """How often items next to each other in a training history have the same first code, and how often that is so by
    chance, for pairs with the same first items and the same second items.
    """
    if dataset.sequences is None:
        return {}
    histories = dataset.sequence("train")
    items, row = histories.items.astype(np.int64), histories.row_of_entry()
    next_to = row[1:] == row[:-1]
    if not next_to.any():
        return {}
    first, second = code[items[:-1][next_to]], code[items[1:][next_to]]
    size = int(code.max()) + 1
    by_chance = np.bincount(first, minlength=size) @ np.bincount(second, minlength=size) / len(first) ** 2
    return {"neighbours with one first code": float((first == second).mean()), "by chance": float(by_chance)}


def alignment(matrix: sp.csr_matrix, vectors: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """How far the rows of ``vectors`` (items, E) follow the items: the correlation, over pairs of items, of the cosine
    of their columns in ``matrix`` (users x items) with the cosine of their vectors; and the standard deviation of the
    same for vectors in random order. Of at most `ALIGNED` items with interactions, drawn at random.
    """
    random = np.random.default_rng(seed)
    counts = np.bincount(matrix.indices, minlength=matrix.shape[1])
    known = np.flatnonzero(counts > 1)
    chosen = np.sort(random.permutation(known)[:ALIGNED])
    if len(chosen) < 20:
        return 0.0, 0.0
    columns = matrix[:, chosen].astype(np.float64)
    pairs = (columns.T @ columns).tocoo()
    together = np.zeros(pairs.shape)
    together[pairs.row, pairs.col] = pairs.data
    together /= np.sqrt(np.outer(counts[chosen], counts[chosen]))
    rows = np.asarray(vectors[chosen], dtype=np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    cosine = rows @ rows.T
    upper = np.triu_indices(len(chosen), 1)
    wanted = together[upper] - together[upper].mean()

    def correlation(order: np.ndarray) -> float:
        found = cosine[np.ix_(order, order)][upper]
        found = found - found.mean()
        scale = np.linalg.norm(wanted) * np.linalg.norm(found)
        return float(wanted @ found / scale) if scale > 0 else 0.0

    shuffled = [correlation(random.permutation(len(chosen))) for _ in range(10)]
    return correlation(np.arange(len(chosen))), float(np.std(shuffled))


def _vectors(dataset: Dataset, name: str) -> dict[str, Any]:
    vectors = dataset.vectors(name)
    found, deviation = alignment(dataset.matrix("train"), vectors.items)
    zeros = {side: _zeros(getattr(vectors, side)) for side in ("items", "users")}
    return {
        "width": int(vectors.items.shape[1]),
        "type": str(vectors.items.dtype),
        **{f"{side} of zeros": count for side, count in zeros.items()},
        "alignment": round(found, 4),
        "of random order": round(deviation, 4),
    }


def _zeros(vectors: np.ndarray) -> int:
    """The number of rows of zeros."""
    blocks = (vectors[first : first + BLOCK] for first in range(0, len(vectors), BLOCK))
    return sum(int((~block.any(axis=1)).sum()) for block in blocks)
