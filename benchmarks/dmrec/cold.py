"""What words are worth where interactions are missing: ``python -m benchmarks.dmrec.cold data/amazon-scientific``.

Two parts, each with models trained for it (seed 0), written to ``results/cold-DATASET-VECTORS.json``:

- cold users: a tenth of the users (at random) is left out of training altogether. Each is then ranked by a profile, by
  the first 1, 2 or 5 of its training interactions (in random order, all where there are fewer), by both. Its validation
  and test interactions are to be found among all items but its training items, whichever of them were shown;
- cold items: a tenth of the items loses its interactions of all splits before training. Those of validation and test
  are to be found among all items that the user has no other interaction with, and among cold items alone.

A model called NAME+text is the recipe NAME with `model.item_text`, whose decoder reads the texts of items; with +alone,
too, 3 of 10 users of a step are known by their texts alone (`language.alone`), and with +encoder the encoder reads the
texts of items as well. A model with language ranks by profiles alone at several values of ``popularity``
(`dmrec.inference.blend`). Held-out test interactions with warm items are measured, too: among all items, and among warm
ones, as if there were no others.
Rows of models that are not measured again stay in the file.

Profiles are the texts' vectors that the dataset holds. Where those texts were made from training interactions, "by
profile" knows of these: "all items", the whole of a cold user's training interactions, knows as much.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dmrec
import numpy as np
import scipy.sparse as sp
import torch
from dmrec.config import build_config
from dmrec.data.arrays import as_interactions
from dmrec.data.create import create_dataset
from dmrec.data.dataset import Dataset, open_dataset
from dmrec.eval.ranking import evaluate
from dmrec.inference.recommend import vector_of_likes
from dmrec.inference.recommender import Recommender
from dmrec.models.base import Model, TrainingData, UserBatch
from dmrec.options import apply_overrides
from dmrec.recipes import recipe
from dmrec.runs.resolve import resolve
from dmrec.training.trainer import train
from torch import Tensor

from dmrec_ext import Csr, rank_topk

RESULTS = Path(__file__).parents[1] / "results"
METRICS = ("recall@20", "ndcg@20")
WEIGHTS = (0.75, 0.5, 0.25)
SHOWN = {"1 item": 1, "2 items": 2, "5 items": 5, "all items": None}
Rank = Callable[[Tensor, int, Csr | None], tuple[Tensor, Tensor]]


class Ranked(Model):
    """A way to rank, for `evaluate`."""

    def __init__(self, rank: Rank) -> None:
        super().__init__()
        self._rank = rank
        self.register_buffer("on_the_cpu", torch.zeros(0))

    def rank(self, batch: UserBatch, k: int, exclude: Csr | None = None) -> tuple[Tensor, Tensor]:
        return self._rank(batch.ids, k, exclude)


def figures(rank: Rank, known: sp.csr_matrix, wanted: sp.csr_matrix) -> dict[str, float]:
    return evaluate(Ranked(rank), TrainingData(Csr.from_scipy(known)), Csr.from_scipy(wanted), METRICS).means


def values_of(model: str) -> dict[str, Any]:
    """The values of the recipe NAME, or of NAME+text or NAME+text+alone."""
    name, *added = model.split("+")
    options = {"text": "model.item_text={}", "alone": "language.alone=0.3", "encoder": "model.item_text.encoder=true"}
    return apply_overrides(recipe(name), [options[each] for each in added])


def trained(name: str, dataset: Dataset, folder: Path, options: list[str]) -> Recommender:
    """A finished run, its model in evaluation mode."""
    train(resolve(build_config(apply_overrides(values_of(name), options)), dataset), dataset, folder)
    return dmrec.load(folder)


def part_of(
    dataset: Dataset, folder: Path, splits: dict[str, sp.csr_matrix], rows: np.ndarray, vectors: str
) -> Dataset:
    """A dataset of these users."""
    made = create_dataset(folder, dataset.name, {s: as_interactions(m[rows]) for s, m in splits.items()}, provenance={})
    whole = dataset.vectors(vectors)
    made.add_vectors(vectors, np.asarray(whole.items), np.asarray(whole.users)[rows], {})
    return open_dataset(folder)


def splits_of(dataset: Dataset) -> dict[str, sp.csr_matrix]:
    return {split: dataset.matrix(split) for split in ("train", "valid", "test")}


def cold_users(dataset: Dataset, name: str, models: list[str], options: list[str], work: Path) -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    cold = np.sort(random.permutation(dataset.n_users)[: dataset.n_users // 10])
    warm = np.setdiff1d(np.arange(dataset.n_users), cold)
    data = part_of(dataset, work / "warm", splits_of(dataset), warm, name)
    known, wanted = (
        dataset.matrix("train")[cold],
        as_interactions(dataset.matrix("valid")[cold] + dataset.matrix("test")[cold]),
    )
    order = [random.permutation(known[row].indices) for row in range(len(cold))]
    shown = {told: [sorted(items[:n]) for items in order] for told, n in SHOWN.items()}
    items = np.asarray(dataset.vectors(name).items, dtype=np.float32)
    profiles = torch.from_numpy(np.asarray(dataset.vectors(name).users[cold], dtype=np.float32))
    likes = {n: np.stack([vector_of_likes(items, of_user) for of_user in shown[n]]) for n in SHOWN}
    nothing = Csr.from_scipy(sp.csr_matrix(known.shape, dtype=np.float32))
    rows: list[dict[str, Any]] = []

    def add(model: str, by: str, rank: Rank) -> None:
        rows.append({"model": model, "by": by, **figures(rank, known, wanted)})
        print(rows[-1], flush=True)

    def cosine(vectors: Tensor) -> Rank:
        return lambda users, k, seen: rank_topk(vectors[users], torch.from_numpy(items), k, exclude=seen)

    add("cosine of texts", "profile", cosine(profiles))
    for n in SHOWN:
        add("cosine of texts", n, cosine(torch.from_numpy(likes[n])))
    for model in ["popularity", "ease", *models]:
        run = trained(model, data, work / model, options if model in models else [])
        language = "language" in values_of(model)

        def by(x: Csr, vectors: Tensor | None, ranker: Model = run.model) -> Rank:
            return lambda u, k, seen: ranker.rank(
                UserBatch(None, x.rows(u), None if vectors is None else vectors[u]), k, seen
            )

        if model == "popularity":
            add(model, "nothing", by(nothing, None))
            continue
        if language:
            add(model, "profile", by(nothing, profiles))
            for weight in WEIGHTS:
                add(model, f"profile, popularity {weight:g}", by(nothing, profiles, run.blended(weight)))
        for n in SHOWN:
            columns = np.concatenate([np.array(of_user, dtype=np.int64) for of_user in shown[n]])
            crow = np.cumsum([0, *map(len, shown[n])])
            x = Csr(torch.from_numpy(crow), torch.from_numpy(columns), None, dataset.n_items)
            if language:
                add(model, f"{n}, no text", by(x, torch.zeros_like(profiles)))
                add(model, n, by(x, torch.from_numpy(likes[n])))
                add(model, f"{n} and profile", by(x, profiles))
            else:
                add(model, n, by(x, None))
    return rows


def cold_items(dataset: Dataset, name: str, models: list[str], options: list[str], work: Path) -> list[dict[str, Any]]:
    random = np.random.default_rng(1)
    cold = np.zeros(dataset.n_items, dtype=bool)
    cold[random.permutation(dataset.n_items)[: dataset.n_items // 10]] = True
    keep, only = sp.diags((~cold).astype(np.float32)), sp.diags(cold.astype(np.float32))
    splits = {s: as_interactions(m @ keep) for s, m in splits_of(dataset).items()}
    data = part_of(dataset, work / "items", splits, np.arange(dataset.n_users), name)
    wanted = as_interactions((dataset.matrix("valid") + dataset.matrix("test")) @ only)
    known = as_interactions(sum(splits_of(dataset).values()) - wanted)
    warm = np.flatnonzero(~cold)
    known_warm = as_interactions(dataset.matrix("train") @ keep)
    wanted_warm = as_interactions(dataset.matrix("test") @ keep)
    vectors = dataset.vectors(name)
    items = torch.from_numpy(np.asarray(vectors.items, dtype=np.float32))
    users = torch.from_numpy(np.asarray(vectors.users, dtype=np.float32))
    rows: list[dict[str, Any]] = []

    def but_cold(users: Tensor) -> Csr:
        """All warm items, and those cold ones that the users are known to have."""
        seen = sp.lil_matrix(known[users.numpy()])
        seen[:, warm] = 1
        return Csr.from_scipy(as_interactions(seen))

    def and_cold(users: Tensor) -> Csr:
        """What the users are known to have of warm items, and all cold ones."""
        seen = sp.lil_matrix(known_warm[users.numpy()])
        seen[:, np.flatnonzero(cold)] = 1
        return Csr.from_scipy(as_interactions(seen))

    def add(model: str, rank: Rank) -> None:
        alone = figures(lambda u, k, seen: rank(u, k, but_cold(u)), known, wanted)
        of_warm = figures(rank, known_warm, wanted_warm)
        warm_alone = figures(lambda u, k, seen: rank(u, k, and_cold(u)), known_warm, wanted_warm)
        of_warm = {"warm items": of_warm, "warm items among warm": warm_alone}
        rows.append({"model": model, **figures(rank, known, wanted), "among cold items": alone, **of_warm})
        print(rows[-1], flush=True)

    chance = {metric: 20 / int(cold.sum()) for metric in METRICS[:1]}
    rows.append({"model": "chance", "recall@20": 20 / dataset.n_items, "among cold items": chance})
    add("cosine of texts", lambda u, k, seen: rank_topk(users[u], items, k, exclude=seen))
    of_model = TrainingData(data.split("train"), vectors.items, vectors.users)
    for model in models:
        ranker = trained(model, data, work / f"items-{model}", options).model
        add(model, lambda u, k, seen, ranker=ranker: ranker.rank(of_model.users(u), k, seen))
    return rows


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--vectors")
    parser.add_argument("--models", nargs="+", default=["mult-vae", "dmrec-m", "cvga-m"])
    parser.add_argument("--parts", nargs="+", choices=("users", "items"), default=["users", "items"])
    parser.add_argument("--set", nargs="*", dest="options", default=["training.precision=bf16"])
    chosen = parser.parse_args()
    dataset = open_dataset(chosen.data)
    name = dataset.vectors(chosen.vectors).name
    path = RESULTS / f"cold-{dataset.name}-{name}.json"
    found = json.loads(path.read_text()) if path.exists() else {"dataset": dataset.name, "vectors": name}
    for part, measure in (("users", cold_users), ("items", cold_items)):
        if part in chosen.parts:
            with tempfile.TemporaryDirectory() as folder:
                rows = measure(dataset, name, chosen.models, chosen.options, Path(folder))
            again = {row["model"] for row in rows}
            rows = [{**row, "options": chosen.options} for row in rows]
            kept = [row for row in found.get(f"cold {part}", []) if row["model"] not in again]
            found[f"cold {part}"] = [*kept, *rows]
    path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
