"""The searches of an experiment that come before its runs, each in a process of its own and a folder of its own.

All models get as many trials, the first of which has the options of the plan; every trial trains with the search's
seed, which is none of those that models are tested with, and is measured on validation. What was found is in
``tuned.json``, the trials are in ``study.db``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..config import build_config, read_config
from ..data.dataset import open_dataset
from ..files import read_json, write_atomically, write_json
from ..options import deep_merge
from ..runs.provenance import fingerprint
from ..runs.resolve import resolve
from .plan import TUNED, Search
from .tuning import default_space, read_trials, search, sections

SEARCH = "search.yaml"


def pending_searches(searches: Sequence[Search]) -> list[Search]:
    """Those that have not ended with as many trials, the same options and the same data."""
    return [each for each in searches if _written(each.folder).get("digest") != _digest(each)]


def write_search(given: Search) -> None:
    """Writes down in its folder what a worker is to search."""
    given.folder.mkdir(parents=True, exist_ok=True)
    (given.folder / TUNED).unlink(missing_ok=True)
    asked = {"values": given.values, "data": str(given.dataset.folder), "trials": given.trials, "seed": given.seed}
    asked["digest"] = _digest(given)
    write_atomically(given.folder / SEARCH, yaml.safe_dump(asked, sort_keys=False).encode())


def search_or_continue(folder: Path, report: Callable[[str], None]) -> None:
    """Searches what `write_search` has written in ``folder``, with what was found there before, and writes what came of
    it.

    Raises:
        DmrecError: the folder has a search of other options or other data, or no trial has completed.
    """
    asked = read_config(folder / SEARCH)
    values = deep_merge(asked["values"], {"training": {"seed": asked["seed"]}})
    space = default_space(build_config(values))
    best = search(values, space, open_dataset(Path(asked["data"])), folder, asked["trials"], asked["seed"], report)
    trials = list(read_trials(folder, values["name"]))
    found = {"options": sections(best), "digest": asked["digest"], "seed": asked["seed"], "space": space}
    found["trials"] = [{key: trial[key] for key in ("state", "score", "seconds")} for trial in trials]
    write_json(folder / TUNED, found)


def _written(folder: Path) -> dict[str, Any]:
    return dict(read_json(folder / TUNED)) if (folder / TUNED).exists() else {}


def _digest(given: Search) -> str:
    """Of all that decides what a search finds."""
    config = build_config(given.values)
    data = fingerprint(resolve(config, given.dataset, given.seed), given.dataset)
    decides = [given.values, default_space(config), data, given.trials, given.seed]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
