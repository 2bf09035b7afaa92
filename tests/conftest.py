"""Fixtures for the whole suite."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # before torch is imported; for children, too
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, processors // int(workers))))

import pytest
import torch

import dmrec_ext

sys.path.insert(0, str(Path(__file__).parent))  # op_testing, tiny


@pytest.fixture
def native() -> None:
    """Marks a test of what only the native library promises."""
    if dmrec_ext.NATIVE_ABSENT:
        pytest.skip(f"no native library: {dmrec_ext.NATIVE_ABSENT}")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _registries_as_before():
    """What a test registers, itself or by an executed example, is unknown to the tests that follow it."""
    from dmrec.eval.metrics import METRICS
    from dmrec.language.encoders import ENCODERS
    from dmrec.models.base import MODELS

    before = [(registry, dict(registry)) for registry in (ENCODERS, MODELS, METRICS)]
    yield
    for registry, entries in before:
        registry.clear()
        registry.update(entries)


@pytest.fixture(scope="session")
def lazy_device() -> torch.device:
    """A second device type, which computes on the CPU but cannot be combined with tensors on the CPU."""
    backend = pytest.importorskip("torch._lazy.ts_backend", reason="torch has no lazy device in this version")
    backend.init()  # once in a process
    return torch.device("lazy")


@pytest.fixture(scope="session")
def math_module():
    """The host side of csrc/math, bound for Python; built on first use."""
    pybind11 = pytest.importorskip("pybind11", reason="pybind11 is not installed")
    from building import built

    options = [f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", f"-DPython_EXECUTABLE={sys.executable}"]
    build = built("_math", "math", "-DDMREC_MATH_TEST=ON", *options)
    sys.path.insert(0, str(build))
    import _math

    return _math


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """The folder of a small dataset with structure to learn; not to be written to."""
    import tiny

    return tiny.make(tmp_path_factory.mktemp("data") / "tiny").folder


@pytest.fixture
def dataset(tiny_folder):
    """The dataset in `tiny_folder`."""
    from dmrec.data.dataset import open_dataset

    return open_dataset(tiny_folder)


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A stand-in for RecBole's wheel in the cache."""
    import zipfile

    from dmrec.data.sources import download

    monkeypatch.setenv("DMREC_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "cache" / download.WHEEL
    path.parent.mkdir()
    inter = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    inter += "".join(f"{u}\t{i}\t{4 if i % 2 else 2}\t0\n" for u in range(1, 9) for i in range(1, 21))
    item = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    kinds = ("Drama War", "Drama War", "Comedy Romance", "Comedy Romance")
    item += "".join(f"{i}\tFilm {i}\t1995\t{kinds[i % 4]}\n" for i in range(1, 21))
    user = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    user += "".join(f"{u}\t24\tF\twriter\t1\n" for u in range(1, 9))
    with zipfile.ZipFile(path, "w") as archive:
        for kind, text in (("inter", inter), ("item", item), ("user", user)):
            archive.writestr(f"{download.INSIDE}.{kind}", text)
    return path


@pytest.fixture(scope="session")
def rank_pool():
    """Calls functions in several processes that compute together, see `RankPool`."""
    from rank_pool import RankPool

    pool = RankPool()
    yield pool
    pool.close()
