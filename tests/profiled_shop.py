"""A small shop whose profiles are written, and what tests of that have in common."""

import gzip
import json

import numpy as np
import pytest
import scipy.sparse as sp
from dmrec.cli.main import main
from dmrec.data.create import create_dataset
from dmrec.data.entities import Entity
from dmrec.language.profiles.llm_writer import LlmWriter
from dmrec.language.profiles.prompts import read_prompts
from dmrec.language.profiles.rate_limiter import Limits
from dmrec.language.profiles.requests import Sampling
from dmrec.language.profiles.write import write_profiles

KEY = "sk-a-secret-that-nobody-may-see"
EAGER = Limits(attempts=6, timeout=20.0, concurrency=12, backoff=0.001)


def make_shop(folder, n_users=30, n_items=20, items=None):
    """Users x items at random; every item has a title, every interaction a review that nothing else has."""
    rng = np.random.default_rng(0)
    part = np.where(rng.random((n_users, n_items)) < 0.8, rng.integers(0, 5, (n_users, n_items)), 5)
    values = {"train": (0, 1, 2), "valid": (3,), "test": (4,)}
    splits = {name: sp.csr_matrix(np.isin(part, of_split)) for name, of_split in values.items()}
    items = items or [
        Entity(f"i{i}", f"Title-{i}-", "", ("red" if i % 2 else "blue", f"kind {i % 5}"), f"What {i} is.")
        for i in range(n_items)
    ]
    reviews = [(int(u), int(i), f"review {u}/{i}!") for u, i in np.argwhere(part < 5)]
    return create_dataset(folder, "shop", splits, items=items, reviews=reviews, provenance={})


def writer_for(server, dataset, limits=EAGER, **options):
    cache = options.pop("cache", dataset.folder / "answers.sqlite")
    return LlmWriter("some/model", cache, base_url=server.url, limits=limits, **options)


def write(dataset, writer, prompts=None, **options):
    return write_profiles(dataset, writer, prompts or read_prompts("llm"), Sampling(), **options).counts


def rows_of(dataset, name):
    paths = {side: dataset.folder / f"{side}.{name}.jsonl.gz" for side in ("items", "users")}
    return {side: [json.loads(line) for line in gzip.open(path, "rt")] for side, path in paths.items()}


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code or 0


def total(counts, what):
    return sum(of_side[what] for of_side in counts.values())
