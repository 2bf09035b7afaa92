"""Datasets from data frames."""

import gc

import dmrec
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from dmrec.cli.main import main

ROWS = [(u, i, 3.0 + (u + i) % 3, 1_700_000_000 + 60 * i) for u in range(20) for i in range(12) if (u * i) % 5 != 1]
COLUMNS = {
    "user": [f"u{row[0]}" for row in ROWS],
    "item": [row[1] for row in ROWS],
    "rating": [row[2] for row in ROWS],
    "timestamp": [row[3] for row in ROWS],
}
ITEMS = {"id": list(range(12)), "title": [f"Thing {i}" for i in range(12)], "genres": ["red|blue", "green"] * 6}
FRAMES = [pd.DataFrame, pl.DataFrame, pa.table]


@pytest.mark.parametrize("frame", FRAMES)
def test_every_kind_of_frame_makes_the_dataset_of_the_file(frame, tmp_path):
    dataset = dmrec.dataset(frame(COLUMNS), items=frame(ITEMS), split="leave-one-out", k_core=2)
    pd.DataFrame(COLUMNS).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(SystemExit):
        main(
            [
                "data",
                "import",
                str(tmp_path / "t.csv"),
                "--out",
                str(tmp_path / "d"),
                "--split",
                "leave-one-out",
                "--k-core",
                "2",
            ]
        )
    other = dmrec.open_dataset(tmp_path / "d")
    for split in ("train", "valid", "test"):
        assert (dataset.matrix(split) != other.matrix(split)).nnz == 0
    np.testing.assert_array_equal(dataset.sequences.items, other.sequences.items)
    np.testing.assert_array_equal(dataset.sequences.times, other.sequences.times)
    assert dataset.user_rows == other.user_rows
    assert dataset.item_columns == other.item_columns
    assert dataset.items[3].title == "Thing 3"
    assert dataset.items[4].tags == ("red", "blue")
    assert dmrec.train("popularity", dataset, progress=False).recommend("u3", 2, seen="train").columns[0] == "user"


def test_a_temporary_folder_goes_with_its_dataset():
    dataset = dmrec.dataset(pd.DataFrame(COLUMNS))
    folder = dataset.folder
    assert (folder / "manifest.json").exists()
    del dataset
    gc.collect()
    assert not folder.exists()


def test_a_folder_of_ones_own_stays(tmp_path):
    dataset = dmrec.dataset(pl.DataFrame(COLUMNS), folder=tmp_path / "shop", seed=3)
    assert dataset.name == "shop"
    del dataset
    gc.collect()
    assert dmrec.open_dataset(tmp_path / "shop").provenance["seed"] == 3


def test_columns_by_other_names_and_types():
    frame = pd.DataFrame(COLUMNS).rename(columns={"user": "customer", "timestamp": "bought"})
    frame["customer"] = frame["customer"].astype("category")
    frame["bought"] = pd.to_datetime(frame["bought"], unit="s", utc=True)
    dataset = dmrec.dataset(frame, user_column="customer", time_column="bought", split="time")
    assert dataset.sequences.times.min() == 1_700_000_000
    assert dataset.provenance["order"]["unit"] == "timestamps"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dmrec.dataset([1, 2]), "frame must be a pandas or polars data frame or an Arrow table, got list"),
        (lambda: dmrec.dataset(pd.DataFrame({"a": [1]})), r"frame has no column for the user \(columns: a\)"),
        (
            lambda: dmrec.dataset(pd.DataFrame(COLUMNS), user_column="usr"),
            "frame has no column 'usr'; did you mean 'user'",
        ),
        (lambda: dmrec.dataset(pd.DataFrame(COLUMNS), split="times"), "did you mean 'time'"),
        (lambda: dmrec.dataset(pd.DataFrame(COLUMNS), k_core=99), "no interaction is left"),
        (lambda: dmrec.dataset(pd.DataFrame(COLUMNS), items=pd.DataFrame({"x": [1]})), "items, record 1: has no id"),
        (
            lambda: dmrec.dataset(pd.DataFrame({**COLUMNS, "rating": ["good"] * len(ROWS)})),
            "frame, column rating: 'good' in row 1 is not a number",
        ),
        (
            lambda: dmrec.dataset(pd.DataFrame({**COLUMNS, "user": [None] * len(ROWS)})),
            "frame, column user: row 1 has no id .*; fill them in, drop these rows",
        ),
    ],
)
def test_bad_frames_are_refused_in_words(call, message):
    with pytest.raises(dmrec.DmrecError, match=message):
        call()
