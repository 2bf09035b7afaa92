"""Rankings made elsewhere have the figures of the model that made them."""

import json

import dmrec
import numpy as np
import pytest
import tiny
from dmrec.cli.main import main


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A dataset, a fitted model, and its lists of ten as a table."""
    folder = tmp_path_factory.mktemp("rankings")
    data = tiny.make(folder / "data")
    model = dmrec.train("ease", data, out=folder / "run")
    table = model.recommend(None, 10, seen="train")
    return folder, data, model, table


def evaluate(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", *map(str, arguments)])
    printed = capsys.readouterr()
    return stopped.value.code or 0, printed.out, " ".join(printed.err.split())


def rows_of(table):
    columns = [table[name] for name in ("user", "item", "score")]
    return list(zip(*columns, strict=True))


def test_figures_are_those_of_the_model(made, tmp_path, capsys):
    folder, data, model, table = made
    metrics = ["recall@10", "ndcg@10", "novelty@10", "coverage@10"]
    rows = rows_of(table)
    np.random.default_rng(0).shuffle(rows)
    path = tmp_path / "theirs.csv"
    path.write_text("user,item,score\n" + "".join(f"{u},{i},{float(s)!r}\n" for u, i, s in rows))
    asked = [part for metric in metrics for part in ("--metric", metric)]
    status, out, err = evaluate(capsys, "--rankings", path, "--data", folder / "data", "--json", *asked)
    assert status == 0
    assert "lists for 120 of 120 users" in err
    printed = json.loads(out)
    right = dmrec.evaluate(model, data, metrics)
    assert {metric: printed[metric] for metric in metrics} == pytest.approx(right)


def test_rows_in_order_need_no_score_and_missing_users_are_misses(made, tmp_path, capsys):
    folder, data, model, table = made
    path = tmp_path / "theirs.jsonl"
    rows = [(user, item) for user, item, _ in rows_of(table) if user != "u3"]
    path.write_text("".join(json.dumps({"user": user, "item": item}) + "\n" for user, item in rows))
    arguments = ("--rankings", path, "--data", folder / "data", "--json", "--metric", "recall@10", "--score", "none")
    status, out, err = evaluate(capsys, *arguments)
    assert status == 0
    assert "lists for 119 of 120 users; those without one count as misses" in err
    of_users = dmrec.evaluate(model, data, "recall@10", per_user=True)
    expected = np.where(np.array(of_users["user"]) == "u3", 0, of_users["recall@10"])
    assert json.loads(out)["recall@10"] == pytest.approx(expected.mean())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("u1,i1,1\nu1,i2,1\nnobody,i2,1\n", "has no user 'nobody' (1 are unknown)"),
        ("u1,i1,1\nu1,i999,1\n", "has no item 'i999'"),
        ("u1,i1,1\nu2,i1,2\nu1,i1,2\n", "ranks item 'i1' twice for user 'u1'"),
    ],
)
def test_bad_rankings(made, tmp_path, capsys, rows, message):
    path = tmp_path / "theirs.csv"
    path.write_text("user,item,score\n" + rows)
    status, _, err = evaluate(capsys, "--rankings", path, "--data", made[0] / "data")
    assert status == 1
    assert message in err


def test_either_a_run_or_rankings(made, tmp_path, capsys):
    assert "name either the folder of a run or --rankings" in evaluate(capsys)[2]
    (tmp_path / "theirs.csv").write_text("user,item,score\nu1,i1,1\n")
    assert "--rankings needs --data" in evaluate(capsys, "--rankings", tmp_path / "theirs.csv")[2]


def test_groups_with_equal_shares(made, tmp_path, capsys):
    folder, data, _, table = made
    path = tmp_path / "theirs.csv"
    path.write_text("user,item,score\n" + "".join(f"{u},{i},{float(s)!r}\n" for u, i, s in rows_of(table)))
    arguments = ("--rankings", path, "--data", folder / "data", "--json", "--metric", "recall@10")
    status, out, _ = evaluate(capsys, *arguments, "--groups", "equal:3")
    assert status == 0
    groups = json.loads(out)["groups"]
    lengths = data.split("train").crow.diff().numpy()
    shares = []
    for label, group in groups.items():
        low, _, high = label.partition(" to ")
        chosen = lengths[(lengths >= int(low.split()[0])) & (lengths <= (int(high) if high else 10**9))]
        shares.append(chosen.sum() / lengths.sum())
        assert group["users"] <= len(chosen)
    assert len(groups) == 3
    assert sum(shares) == pytest.approx(1)
    assert max(shares) < 0.5
