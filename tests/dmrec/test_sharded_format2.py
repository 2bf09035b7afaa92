"""Models whose items are cut, on data that stays on disk: used like the same models on data in memory."""

import csv

import pytest
import tiny
import torch
from commands import done
from dmrec.config import build_config
from dmrec.data.dataset import SPLITS, open_dataset
from dmrec.data.sources.visitors import read_history
from dmrec.errors import DmrecError
from dmrec.eval.activity import activity_of
from dmrec.eval.ranking import evaluate
from dmrec.inference.recommend import items_named, users_named
from dmrec.inference.recommender import Recommender
from dmrec.language.embed import embed_dataset
from dmrec.language.encoders.tfidf import TfidfSvd
from dmrec.models.base import TrainingData
from dmrec.models.vae.backbone import ShardedDecoded
from dmrec.options import apply_overrides
from dmrec.recipes import recipe
from dmrec.runs.load import held_out_split, load_run, rows_of
from dmrec.runs.resolve import resolve
from dmrec.training import trainer

SETTINGS = (
    "sharding.shards=8",
    "model.latent=8",
    "training.batch_size=40",
    "training.learning_rate=0.01",
    "training.epochs=2",
)
OF_MODELS = {
    "mult-vae": ("model.hidden=24",),
    "dmrec-m": ("model.hidden=24", "language.hidden=24"),
    "cvga-m": ("language.hidden=24",),
}


def train(ranks, name, data, folder):
    dataset = open_dataset(data)
    config = resolve(build_config(apply_overrides(recipe(name), [*SETTINGS, *OF_MODELS[name]])), dataset, 3)
    trainer.train(config, dataset, folder, ranks=ranks)


@pytest.fixture(scope="module")
def folders(tiny_folder, tmp_path_factory):
    """The same data in both formats, and where runs on it lie."""
    folder = tmp_path_factory.mktemp("formats")
    large = tiny.as_format2(open_dataset(tiny_folder), folder / "large", part_size=300)
    embed_dataset(large, TfidfSvd(8))
    return {1: tiny_folder, 2: large.folder}, folder


@pytest.fixture(scope="module")
def runs(folders, rank_pool):
    """The folder of a run of a model on a format: of one process on format 1, of two on format 2."""
    data, folder = folders
    made = {}

    def run(name, form):
        if (name, form) not in made:
            made[name, form] = folder / f"{name}-{form}"
            rank_pool(form, train, name, data[form], made[name, form])
        return made[name, form]

    return run


def _recommender(folder):
    run, dataset, model, data = load_run(folder)
    return Recommender(model, data, dataset, run.config, run.folder)


HISTORY = {"u3": ["i5", "i0", "i5", "Item 9"], "u70": ["i1"]}


def _methods(recommender):
    """What a recommender says of users, by every way that reads interactions."""
    excluded = recommender.excluded(["i4", "i40"])
    known = {"of users": {"users": ["u3", "u0", "u119"]}, "of all": {}}
    ways = {"history": {"history": HISTORY}, "feed": {"feed": "known", "history": HISTORY}}
    ways |= {"seen": {"seen": "train", "history": HISTORY}, "nothing": {"seen": "nothing"}, "plain": {}}
    ways |= {"few": {"exclude": ["i4"], "among": [f"i{i}" for i in range(20)], "distinct_titles": True}}
    found = {
        f"{of}, {way}": recommender.recommend(k=7, **users, **options)
        for of, users in known.items()
        for way, options in ways.items()
    }
    found["liked"] = recommender.recommend(likes=["i2", "Item 6"], k=5)
    found["popular"] = recommender.popular(5)
    found["others popular"] = recommender.popular(5, excluded, recommender.title_groups)
    found["similar"] = recommender.similar_items(["i3", "Item 4"], k=3)
    if recommender.data.item_text_vectors is not None:
        found["profile"] = recommender.recommend(profile="tea in a cup", k=5)
        found["texts"] = recommender.recommend(["u3", "u8"], k=5, popularity=0.3)
    return {name: list(table.rows()) for name, table in found.items()}


@pytest.mark.parametrize("name", OF_MODELS)
def test_recommendations_do_not_depend_on_the_format(runs, name):
    of_memory, of_disk = (_recommender(runs(name, form)) for form in (1, 2))
    states = (each.model.state_dict() for each in (of_memory, of_disk))
    for (entry, wanted), (same, found) in zip(*(sorted(state.items()) for state in states), strict=True):
        assert entry == same
        assert torch.equal(wanted, found), entry
    wanted, found = _methods(of_memory), _methods(of_disk)
    assert found == wanted
    for user in HISTORY:
        told = {item.removeprefix("Item ").removeprefix("i") for item in HISTORY[user]}
        shown = {row["item"][1:] for row in found["of all, history"] if row["user"] == user}
        assert len(shown) == 7
        assert not told & shown
    assert found["of all, history"] != found["of all, plain"]
    posteriors = (each.posterior(["u1", "u5"]) for each in (of_memory, of_disk))
    assert len({each.mean.tobytes() for each in posteriors}) == 1


@pytest.mark.parametrize("name", OF_MODELS)
def test_figures_do_not_depend_on_the_format(runs, name):
    found = []
    for form in (1, 2):
        loaded = load_run(runs(name, form))
        held_out = held_out_split(loaded.run.config, loaded.dataset, "test")
        metrics = ["recall@10", "novelty@10", "diversity@5", "coverage@10"]
        measured = evaluate(loaded.model, loaded.data, held_out, metrics, n_users=50)
        found.append((loaded.run.result["test"], measured.means, activity_of(loaded.model, loaded.data)))
    assert found[0] == found[1]
    assert found[0][1]["recall@10"] > 0


def rank_here(ranks, folder):
    """What a process of several says, of users with later interactions too."""
    run, dataset, model, data = load_run(folder, ranks=ranks)
    recommender = Recommender(model, data, dataset, run.config, run.folder)
    rows = torch.arange(dataset.n_users)
    blocks = recommender.ranked_rows(rows, 6, None, "known", feed="known", history=HISTORY, block_size=50)
    return [[part.tolist() for part in block] for block in blocks]


@pytest.mark.parametrize("name", OF_MODELS)
def test_rankings_on_parts_do_not_depend_on_the_number_of_processes(rank_pool, runs, name):
    (alone,) = rank_pool(1, rank_here, runs(name, 2))
    assert rank_pool(2, rank_here, runs(name, 2)) == [alone] * 2
    assert rank_pool(1, rank_here, runs(name, 1)) == [alone]


def test_items_of_all_splits_are_counted_alike(folders):
    of_memory, of_disk = (TrainingData(rows_of(open_dataset(folders[0][form]), *SPLITS)) for form in (1, 2))
    assert torch.equal(of_memory.item_counts(), of_disk.item_counts())
    for first, end in ((0, 6), (6, 12), (42, 48), (48, 48)):
        assert torch.equal(of_memory.item_counts(first, end), of_disk.item_counts(first, end))


@pytest.fixture
def table_of_history(tmp_path):
    """New interactions of users of training and of others."""
    with (tmp_path / "history.csv").open("w", newline="") as file:
        rows = [("u3", "i5"), ("u3", "i0"), ("new", "i2"), ("new", "i6"), ("nobody", "unknown")]
        csv.writer(file).writerows([("user", "item"), *rows])
    return tmp_path / "history.csv"


@pytest.mark.parametrize("name", ["mult-vae", "dmrec-m"])
def test_the_command_recommends_alike(runs, name, table_of_history, tmp_path, capsys):
    printed = []
    for form in (1, 2):
        run, out = runs(name, form), tmp_path / f"{form}.csv"
        done("recommend", run, "--history", table_of_history, "--out", out, "-k", 4)
        assert "the most popular items" in capsys.readouterr().err
        done("recommend", run, "--user", "u3", "--user", "new", "-k", 3, "--history", table_of_history)
        done("recommend", run, "--like", "Item 6", "-k", 3)
        if name == "dmrec-m":
            done("recommend", run, "--profile", "guitar chord", "-k", 3, "--popularity", 0.5)
        printed.append((out.read_text(), capsys.readouterr().out))
    assert printed[0] == printed[1]
    assert len(printed[0][0].splitlines()) == 1 + 4 * 122
    assert "interacted with Item " in printed[0][1]


def test_ids_of_format_2_are_found_without_a_list_of_all(runs, table_of_history, monkeypatch):
    recommender = _recommender(runs("mult-vae", 2))
    of_memory = _recommender(runs("mult-vae", 1))
    wanted = of_memory.excluded(["i4", "i40"], ["i4", "i7"])
    rows = list(of_memory.recommend(["u3", "u9"], k=4, history=HISTORY).rows())
    alike = list(of_memory.similar_items("i3", k=3).rows())
    storage = type(recommender.dataset.storage)
    monkeypatch.setattr(storage, "entities", lambda self, side: pytest.fail(f"all {side} were listed"))
    assert recommender.excluded(["i4", "i40"], ["i4", "i7"]).tolist() == wanted.tolist()
    with pytest.raises(DmrecError, match="among: tiny has no item 'i48' .1 unknown"):
        recommender.excluded(["i4"], ["i48"])
    assert items_named(recommender.dataset, ["i9", "i2", "i9"]) == [9, 2, 9]
    assert users_named(recommender.dataset, ["u119", "u0"]) == [119, 0]
    assert list(recommender.similar_items("i3", k=3).rows()) == alike
    told = {"u3": ["i5", "i0", "i9"], "u70": ["i1"]}
    assert list(recommender.recommend(["u3", "u9"], k=4, history=told).rows()) == rows, "titles need all of them"
    later = read_history(table_of_history, recommender.dataset)
    assert (later.of_users, set(later.of_new_users)) == ({"u3": ("i5", "i0")}, {"new", "nobody"})


def test_rows_of_shards_are_joined_once_for_rankings_by_texts(runs, monkeypatch):
    recommender, joined = _recommender(runs("dmrec-m", 2)), []
    whole = ShardedDecoded.whole
    monkeypatch.setattr(ShardedDecoded, "whole", lambda decoded: joined.append(1) or whole(decoded))
    blocks = list(recommender.ranked_rows(torch.arange(9), 3, None, "known", popularity=0.5, block_size=3))
    assert (len(blocks), len(joined)) == (3, 1)


def test_interactions_of_format_2_are_not_read_whole(runs, monkeypatch, capsys):
    """What is recommended to few users reads their rows."""
    recommender = _recommender(runs("dmrec-m", 2))
    storage = type(recommender.dataset.storage)
    monkeypatch.setattr(storage, "csr", lambda self, split: pytest.fail(f"{split} was read whole"))
    recommender.recommend(["u3"], history=HISTORY, feed="known", popularity=0.5)
    recommender.popular(3)
    done("recommend", runs("dmrec-m", 2), "--user", "u3")
    assert "interacted with Item " in capsys.readouterr().out
