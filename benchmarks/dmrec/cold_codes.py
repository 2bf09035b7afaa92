"""New items by their codes: ``python -m benchmarks.dmrec.cold_codes DATA --vectors NAME``.

One item in twenty loses all its interactions before anything is fitted. Tokenizer and TIGER then learn from the others.
The new items get the tokenizer's codes of their vectors, moved to free codes of the last level where they collide, and
join the tree; nothing is trained again. Measured are recall@10 of users whose last item is new, among all items, next
to the cosine of the mean vector of the history; and that of all other users before and after they joined. Written to
``results/cold-codes-DATASET.json``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
import torch
from dmrec import dataset as from_frame
from dmrec.config import build_config
from dmrec.data.dataset import Dataset, open_dataset
from dmrec.eval.ranking import evaluate
from dmrec.models.base import UserBatch, evaluating
from dmrec.models.sequential.generative import GenerativeModel
from dmrec.options import apply_overrides
from dmrec.recipes import recipe
from dmrec.runs.load import load_run, test_data
from dmrec.runs.resolve import resolve
from dmrec.tokenizers.collisions import codes_of_new_items
from dmrec.tokenizers.tokenize import make_tokenizer, restored_tokenizer, tokenize_dataset
from dmrec.training.trainer import train
from torch import Tensor

from dmrec_ext import Csr, rank_topk

RESULTS = Path(__file__).parents[1] / "results"
K, BLOCK = 10, 128


def without(whole: Dataset, cold: np.ndarray, vectors: str, folder: Path) -> tuple[Dataset, np.ndarray]:
    """A dataset of the interactions with other items, and for each of its items the number that it had."""
    order = whole.sequence("train", "valid", "test")
    user, item = order.row_of_entry(), order.items
    kept = ~cold[item]
    names = [each.id for each in whole.items]
    frame = pa.table({"user": [f"u{u}" for u in user[kept]], "item": [names[i] for i in item[kept]]})
    data = from_frame(frame, split="leave-one-out", k_core=1, folder=folder, name=whole.name)
    number = {name: i for i, name in enumerate(names)}
    ids = np.array([number[each.id] for each in data.items])
    known = whole.vectors(vectors)
    data.add_vectors(vectors, np.asarray(known.items)[ids], np.zeros((data.n_users, known.items.shape[1]), "f4"), {})
    return open_dataset(folder), ids


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--vectors")
    parser.add_argument("--tokenizer", default="rk-means")
    parser.add_argument("--recipe", default="tiger")
    parser.add_argument("--set", nargs="*", dest="options", default=["training.epochs=20", "training.evaluate_every=5"])
    chosen = parser.parse_args()
    whole = open_dataset(chosen.data)
    name = whole.vectors(chosen.vectors).name
    cold = np.zeros(whole.n_items, dtype=bool)
    cold[np.random.default_rng(0).permutation(whole.n_items)[: whole.n_items // 20]] = True
    with tempfile.TemporaryDirectory() as folder:
        data, ids = without(whole, cold, name, Path(folder) / "data")
        tokenize_dataset(data, make_tokenizer(chosen.tokenizer), vectors=name, name="codes")
        config = resolve(build_config(apply_overrides(recipe(chosen.recipe), chosen.options)), data)
        train(config, data, Path(folder) / "run")
        run, data, model, of_model = load_run(Path(folder) / "run")
        assert isinstance(model, GenerativeModel), f"{chosen.recipe} writes no codes"
        of_test, wanted, metrics = test_data(run.config, data, of_model), data.split("test"), [f"recall@{K}"]
        before = evaluate(model, of_test, wanted, metrics, exclude_seen=False).means

        new = np.flatnonzero(cold)
        restored = restored_tokenizer(data, "codes")
        raw, residuals = restored.fitted.codes(np.asarray(whole.vectors(name).items, dtype=np.float32)[new])
        known = model.codes.numpy()
        joined = codes_of_new_items(known, raw, model.codebook_size, residuals, restored.fitted.codebooks[-1])
        model.add_items(torch.from_numpy(joined))
        after = evaluate(model, of_test, wanted, metrics, exclude_seen=False).means
        result: dict[str, Any] = {
            "dataset": whole.name,
            "vectors": name,
            "tokenizer": chosen.tokenizer,
            "recipe": chosen.recipe,
            "options": chosen.options,
            "new items": len(new),
            "of them with another code of the last level": int((joined != raw).any(1).sum()),
            "other users, before": before,
            "other users, after": after,
            **of_new(whole, np.concatenate([ids, new]), len(ids), model, name),
        }
    print(json.dumps(result, indent=1))
    (RESULTS / f"cold-codes-{whole.name}.json").write_text(json.dumps(result, indent=1) + "\n")


def of_new(whole: Dataset, ids: np.ndarray, n_known: int, model: Any, vectors: str) -> dict[str, Any]:
    """Users whose last item is new: the model, which calls the item ids[i] i, and the cosine of the history's mean."""
    number = np.empty(whole.n_items, dtype=np.int64)
    number[ids] = np.arange(len(ids))
    order = whole.sequence("train", "valid", "test")
    histories, targets = [], []
    for user in range(whole.n_users):
        items = number[order.items[order.indptr[user] : order.indptr[user + 1]]]
        earlier = items[:-1][items[:-1] < n_known]
        if len(items) and items[-1] >= n_known and len(earlier):
            histories.append(torch.from_numpy(earlier))
            targets.append(int(items[-1]))
    sequences = torch.nn.utils.rnn.pad_sequence(histories, batch_first=True, padding_value=-1)
    target = torch.tensor(targets)[:, None]
    found = []
    with evaluating(model):
        for rows in torch.arange(len(target)).split(BLOCK):
            nothing = Csr.from_scipy(sp.csr_matrix((len(rows), len(ids)), dtype=np.float32))
            found.append(model.rank(UserBatch(None, nothing, None, sequences[rows]), K)[1])
    x = torch.from_numpy(np.asarray(whole.vectors(vectors).items, dtype=np.float32)[ids])
    x = torch.nn.functional.normalize(x, dim=1)
    means = torch.stack([x[items].mean(0) for items in histories])
    by_cosine = rank_topk(means, x, K)[1]
    return {
        "users whose last item is new": len(target),
        f"recall@{K} of them": _recall(torch.cat(found), target),
        f"recall@{K} of them, cosine of texts": _recall(by_cosine, target),
        f"recall@{K} of them among new items, cosine of texts": _recall(
            n_known + rank_topk(means, x[n_known:], K)[1], target
        ),
    }


def _recall(items: Tensor, target: Tensor) -> float:
    return round(float((items == target).any(1).double().mean()), 5)


if __name__ == "__main__":
    main()
