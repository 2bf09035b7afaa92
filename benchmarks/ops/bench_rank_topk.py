"""Exact top 20 of a full ranking, compared with the product alone, product and topk, faiss and implicit.

Then few queries of items that are prepared once, as for a shop's pages; faiss has its index, too.

Floor: the bare product `Q @ W.T` into memory that is there already. It writes all scores, which rank_topk does not:
with narrow vectors it is the slower one.
"""

import functools

import pytest
import torch

from benchmarks.race import race
from benchmarks.sizes import FEW_QUERIES, RANKING
from dmrec_ext import prepare_items, rank_topk

WORKLOADS = RANKING
CONTENDERS = ["ours", "ours, float32", "ours, bf16", "product", "product + topk", "faiss", "implicit", "floor"]
K = 20


@functools.lru_cache(maxsize=1)
def _made(workload):
    users, items, width = (WORKLOADS | FEW_QUERIES)[workload]
    return torch.randn(users, width), torch.randn(items, width), torch.empty(users, items)


def _faiss(items):
    import faiss

    index = faiss.IndexFlatIP(items.shape[1])
    index.add(items.numpy())
    return index


def test_rank_topk(benchmark, contender, workload, number):
    query, items, out = _made(workload)
    contenders = {
        "ours": lambda: rank_topk(query, items, K),
        "ours, float32": lambda: rank_topk(query, items, K, precision="float32"),
        "ours, bf16": lambda: rank_topk(query, items, K, precision="bf16"),
        "product": lambda: query @ items.T,
        "product + topk": lambda: (query @ items.T).topk(K),
        "floor": lambda: torch.mm(query, items.T, out=out),
    }
    if contender == "faiss":
        index, rows = _faiss(items), query.numpy()
        contenders["faiss"] = lambda: index.search(rows, K)
    elif contender == "implicit":
        from implicit.cpu.topk import topk

        arrays = items.numpy(), query.numpy()
        contenders["implicit"] = lambda: topk(*arrays, K)
    race(benchmark, f"rank_topk, {workload}", contender, number, contenders[contender], rounds=3, warmup_rounds=1)


@pytest.mark.parametrize("contender", ["ours", "product + topk", "faiss", "floor"])
@pytest.mark.parametrize("workload", list(FEW_QUERIES))
def test_few_queries(benchmark, contender, workload, number):
    query, items, out = _made(workload)
    contenders = {
        "product + topk": lambda: (query @ items.T).topk(K),
        "floor": lambda: torch.mm(query, items.T, out=out),
    }
    if contender == "ours":
        prepared = prepare_items(items)
        contenders["ours"] = lambda: rank_topk(query, prepared, K)
    elif contender == "faiss":
        index, rows = _faiss(items), query.numpy()
        contenders["faiss"] = lambda: index.search(rows, K)
    race(benchmark, f"rank_topk, prepared, {workload}", contender, number, contenders[contender], rounds=30)
