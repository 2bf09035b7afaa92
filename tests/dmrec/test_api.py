"""The Python interface: external ids in and out, the same figures and items as the command line."""

import gc
import inspect
import json
import os
import signal

import dmrec
import numpy as np
import pytest
import safetensors.numpy
import tiny
import torch
from dmrec.cli.main import main
from dmrec.models.base import ClosedFormModel
from dmrec.models.linear.popularity import Popularity
from dmrec.recipes import RECIPES
from dmrec.training.observer import Observer

FAST = {"epochs": 12, "learning_rate": 0.01, "batch_size": 40, "progress": False}
SIZES = {"model.hidden": 24, "model.latent": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.make(tmp_path_factory.mktemp("api") / "data")


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    options = {**SIZES, "language.hidden": 24}
    return dmrec.train("dmrec-m", data, out=tmp_path_factory.mktemp("runs"), options=options, **FAST)


def test_a_run_from_python_is_the_run_of_the_command_line(model, data, tmp_path):
    settings = [f"{name}={value}" for name, value in {**SIZES, "language.hidden": 24}.items()]
    settings += [f"training.{name}={value}" for name, value in FAST.items() if name != "progress"]
    command = ["train", "dmrec-m", "--no-baselines", "--data", str(data.folder), "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as stopped:
        main([*command, *(part for setting in settings for part in ("--set", setting))])
    assert not stopped.value.code
    folder = tmp_path / "tiny/dmrec-m/seed-0"
    assert (folder / "model.safetensors").read_bytes() == (model.folder / "model.safetensors").read_bytes()
    assert json.loads((folder / "result.json").read_text())["test"] == model.result["test"]
    assert model.folder.parts[-3:] == ("tiny", "dmrec-m", "seed-0")


def test_recommendations_are_a_table_of_ids(model, data):
    table = model.recommend(users=["u7", "u3"], k=4)
    assert table.columns == ["user", "item", "score", "rank"]
    assert table["user"].tolist() == ["u7"] * 4 + ["u3"] * 4
    assert table["rank"].tolist() == [1, 2, 3, 4] * 2
    assert all(a >= b for a, b in zip(table["score"][:3], table["score"][1:4], strict=True))
    known = {f"i{i}" for split in ("train", "valid", "test") for i in data.matrix(split)[7].indices}
    assert known.isdisjoint(table["item"][:4])
    assert len(model.recommend(k=2)) == 2 * data.n_users
    assert model.recommend("u7", 1)["item"].tolist() == [table["item"][0]]


def test_what_is_left_out_and_chosen_from(model, data):
    best = model.recommend("u7", k=6)["item"].tolist()
    without = model.recommend("u7", k=6, exclude=best[:2])["item"].tolist()
    assert without[:4] == best[2:]
    few = ["i1", "i2", "i5", "i9"]
    among = model.recommend("u7", k=10, among=few, seen="nothing")
    assert sorted(among["item"]) == sorted(few)
    assert model.recommend("u7", k=10, among=np.array(few), exclude=["i1"], seen="nothing")["item"].tolist() == [
        item for item in among["item"] if item != "i1"
    ]
    train = {f"i{i}" for i in data.matrix("train")[7].indices}
    held_out = {f"i{i}" for split in ("valid", "test") for i in data.matrix(split)[7].indices}
    everything = set(model.recommend("u7", k=48, seen="nothing")["item"])
    assert everything == {f"i{i}" for i in range(48)}
    assert set(model.recommend("u7", k=48, seen="train")["item"]) == everything - train
    assert set(model.recommend("u7", k=48)["item"]) == everything - train - held_out


def test_new_users_are_described_by_words_and_items(model):
    table = model.recommend(profile="a guitar and every chord of it", k=8)
    assert table.columns == ["item", "score", "rank"]
    assert sum(int(item[1:]) % 4 == 1 for item in table["item"]) >= 6
    liked = model.recommend(likes=["i2", "Item 6"], k=6, exclude=["i10"])["item"].tolist()
    assert not {"i2", "i6", "i10"} & set(liked)
    assert len(model.recommend(likes="i2", profile="tea", k=3)) == 3


def test_similar_items_have_similar_vectors(model):
    table = model.similar_items("i5", k=5)
    vectors = model.item_vectors().vectors
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit[5]
    cosine[5] = -np.inf
    order = np.argsort(-cosine)[:5]
    assert table["item"].tolist() == [f"i{i}" for i in order]
    np.testing.assert_allclose(table["score"], cosine[order], rtol=1e-4)
    assert set(table["target_item"]) == {"i5"}
    assert len(model.similar_items(["i5", "Item 6"], k=3)) == 6


def test_posteriors(model):
    found = model.posterior(["u3", "u9"])
    assert found.users == ["u3", "u9"]
    q = model.model.posteriors(model.data.users(torch.tensor([3, 9])))
    np.testing.assert_allclose(found.mean, q.fused.mu.detach(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.logvar, q.fused.logvar.detach(), rtol=1e-5, atol=1e-6)
    assert model.posterior().mean.shape == (120, 8)


def test_item_vectors_are_written_for_an_index(model, tmp_path):
    found = model.item_vectors()
    assert found.items[5] == "i5"
    assert found.vectors.dtype == np.float32
    found.save(tmp_path / "v.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), found.vectors)
    found.save(str(tmp_path / "v.safetensors"))
    np.testing.assert_array_equal(safetensors.numpy.load_file(tmp_path / "v.safetensors")["vectors"], found.vectors)
    assert (tmp_path / "v.npy.ids.txt").read_text().splitlines() == found.items
    with pytest.raises(dmrec.DmrecError, match=r"v.txt: item vectors are written as .npy or .safetensors"):
        found.save(tmp_path / "v.txt")


def test_evaluation(model, data):
    means = dmrec.evaluate(model, metrics=["recall@10", "ndcg@5"])
    assert means["recall@10"] == model.result["test"]["recall@10"]
    assert dmrec.evaluate(model, data, ["recall@10"], split="valid") == {
        "recall@10": pytest.approx(model.result["valid"]["recall@10"])
    }
    table = dmrec.evaluate(model, metrics=["recall@10"], per_user=True)
    assert table.columns == ["user", "held_out", "recall@10"]
    assert np.mean(table["recall@10"]) == pytest.approx(means["recall@10"])
    assert table["held_out"].sum() == data.split("test").nnz


def test_a_run_is_loaded_again(model, data, tmp_path):
    for again in (
        dmrec.load(model.folder),
        dmrec.load(str(model.folder.parent), data),
        dmrec.load(model.folder, data.folder),
    ):
        assert again.result["test"] == model.result["test"]
        assert again.recommend("u7")["item"].tolist() == model.recommend("u7")["item"].tolist()
    assert repr(again) == "Recommender(dmrec-m on tiny, 120 users, 48 items)"
    other = tiny.make(tmp_path / "other", seed=5)
    with pytest.raises(dmrec.DmrecError, match="was trained on another version of"):
        dmrec.load(model.folder, other)
    with pytest.raises(dmrec.DmrecError, match="was trained on another version of"):
        dmrec.evaluate(model, other)


def test_without_a_folder_nothing_is_left(data):
    found = dmrec.train("popularity", data, progress=False)
    folder = found.folder
    assert (folder / "result.json").exists()
    assert found.recommend("u1", 3)["rank"].tolist() == [1, 2, 3]
    del found
    gc.collect()
    assert not folder.exists()


def test_configurations_and_observers(data, tmp_path):
    class Seen(Observer):
        def __init__(self):
            self.calls = []

        def on_start(self, run, config, first_epoch):
            self.calls.append(("start", config.name, first_epoch))

        def on_epoch(self, epoch, values):
            assert values["loss"] > 0
            self.calls.append(("epoch", epoch))

        def on_evaluation(self, epoch, metrics, score, best):
            assert score == metrics["recall@20"] <= best
            self.calls.append(("evaluation", epoch))

        def on_end(self):
            self.calls.append(("end",))

    seen = Seen()
    values = {"name": "mine", "model": {"kind": "mult-vae", "hidden": 8, "latent": 4}}
    found = dmrec.train(values, data.folder, epochs=3, observers=[seen], progress=False, out=tmp_path, seed=4)
    assert seen.calls == [("start", "mine", 1), *(("epoch", e) for e in (1, 2, 3)), ("evaluation", 3), ("end",)]
    assert found.config.training.seed == 4
    with pytest.raises(dmrec.DmrecError, match="a finished run; name another folder"):
        dmrec.train(found.config, data, progress=False, out=tmp_path)
    again = dmrec.train(found.config, data, progress=False, out=tmp_path, replace=True)
    assert again.result["test"] == found.result["test"]


class Unpopular(Popularity):
    """A closed-form model of one's own."""

    def fit(self, data, score):
        super().fit(data, score)
        values = {}
        for sign in (-1.0, 1.0):
            self.scores = sign * self.scores.abs()
            values[sign] = score(self, sign=sign)
        best = max(values, key=values.get)
        self.scores = best * self.scores.abs()
        return {"sign": best}


def test_a_model_object_is_fitted(data):
    found = dmrec.train(Unpopular(data.n_items), data)
    assert isinstance(found.model, ClosedFormModel)
    popularity = dmrec.train("popularity", data, progress=False)
    scores = {sign: found.model.scores.abs() * sign for sign in (-1.0, 1.0)}
    values = {}
    for sign, of_sign in scores.items():
        popularity.model.scores = of_sign
        values[sign] = dmrec.evaluate(popularity, metrics=["recall@20"], split="valid")["recall@20"]
    assert values[-1.0] != values[1.0]
    assert found.result["sign"] == max(values, key=values.get)
    assert found.result["valid"]["recall@20"] == max(values.values())
    assert found.result["test"] == dmrec.evaluate(found)
    popularity.model.scores = scores[found.result["sign"]]
    assert found.recommend("u1")["item"].tolist() == popularity.recommend("u1")["item"].tolist()
    with pytest.raises(dmrec.DmrecError, match="a model object has its own options"):
        dmrec.train(Unpopular(data.n_items), data, epochs=3)
    liked = found.recommend(likes=["i1"], k=47)["item"].tolist()
    assert "i1" not in liked
    assert len(liked) == 47
    with pytest.raises(dmrec.DmrecError, match="Unpopular was trained without language and cannot read a profile"):
        found.recommend(profile="tea")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, d: m.recommend("nobody"), r"tiny has no user 'nobody' \(ids look like 'u0'\)"),
        (lambda m, d: m.recommend(2.5), "users must be an id or several, got float 2.5"),
        (lambda m, d: m.recommend("u1", exclude=None), "exclude must be an id or several, got NoneType None"),
        (lambda m, d: dmrec.train("mult-vae", d, options=["x"]), "options must be a dictionary such as"),
        (lambda m, d: m.recommend("u1", k=0), "k must be a whole number of at least 1, got 0"),
        (lambda m, d: m.recommend("u1", exclude=["x"]), r"exclude: tiny has no item 'x' \(1 unknown\)"),
        (lambda m, d: m.recommend("u1", among=["i1", "y", "z"]), r"among: tiny has no item 'y' \(2 unknown\)"),
        (lambda m, d: m.recommend("u1", seen="all"), "seen must be known, train or nothing, got 'all'"),
        (lambda m, d: m.recommend("u1", profile="tea"), "give one or the other"),
        (lambda m, d: m.recommend(likes=["Itm 5"]), "has no item 'Itm 5'; did you mean"),
        (lambda m, d: m.similar_items("i99"), "has no item 'i99'"),
        (lambda m, d: dmrec.evaluate(m, metrics=["recal@5"]), "'recal' is not a metric; did you mean 'recall'"),
        (lambda m, d: dmrec.evaluate(m, metrics=[]), "metrics must name at least one"),
        (lambda m, d: dmrec.evaluate("runs"), "model must be what dmrec.train or dmrec.load returns, got str"),
        (lambda m, d: dmrec.evaluate(m, metrics="coverage@5", per_user=True), "coverage@5 is a value of all users"),
        (lambda m, d: dmrec.evaluate(m, split="train"), "split must be valid or test, got 'train'"),
        (lambda m, d: dmrec.train("dmrec-n", d), "no recipe is called 'dmrec-n'; did you mean 'dmrec-m'"),
        (lambda m, d: dmrec.train("mult-vae", d, epoch=3), "unknown option 'training.epoch'; did you mean 'epochs'"),
        (lambda m, d: dmrec.train("mult-vae", d, options={"model.hiden": 3}), "unknown option 'model.hiden'"),
        (lambda m, d: dmrec.train(3, d), "got int"),
        (lambda m, d: dmrec.train(m.model, d), "Dmrec is trained over epochs: register its options"),
        (lambda m, d: dmrec.open_dataset("nowhere"), "nowhere is"),
        (lambda m, d: dmrec.load("nowhere"), "nowhere is not a run"),
        (lambda m, d: dmrec.train("ease", d, progress=False).posterior(), "Ease has no posterior"),
        (lambda m, d: dmrec.train("ease", d, progress=False).item_vectors(), "does not represent items by vectors"),
    ],
)
def test_what_cannot_be_done_is_an_error_in_words(model, data, call, message):
    with pytest.raises(dmrec.DmrecError, match=message):
        call(model, data)


def test_from_a_data_frame_to_recommendations_by_words(tmp_path):
    """Everything from Python: a frame with whole numbers as ids, profiles, vectors, training, a new user."""
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    rng = np.random.default_rng(0)
    pairs = [(u, i) for u in range(60) for i in range(24) if rng.random() < (0.7 if u % 3 == i % 3 else 0.08)]
    frame = pandas.DataFrame(pairs, columns=["user_id", "item_id"])
    kinds = ["garden spade", "music guitar", "kitchen kettle"]
    items = pandas.DataFrame({"item_id": range(24), "title": [f"{kinds[i % 3]} {i}" for i in range(24)]})
    shop = dmrec.dataset(frame, items=items, folder=tmp_path / "shop", k_core=2)
    assert repr(shop).startswith(f"Dataset(shop: {shop.n_users} users, 24 items, ")
    profiles = dmrec.profile(shop, sample=4)
    assert dmrec.embed(shop, profiles=profiles, width=6) == "tfidf-svd-template"
    with pytest.raises(dmrec.DmrecError, match="has vectors 'tfidf-svd-template'"):
        dmrec.embed(shop, profiles=profiles, width=6)
    with pytest.raises(dmrec.DmrecError, match="an encoder object has its own options: leave out width"):
        dmrec.embed(shop, dmrec.language.encoders.make_encoder("tfidf-svd"), width=6)
    model = dmrec.train("dmrec-m", shop, options={**SIZES, "language.hidden": 8}, **FAST)
    assert model.recommend(7, k=2)["item"].tolist() == model.recommend("7", k=2)["item"].tolist()
    likes = model.recommend(profile="kitchen kettle", likes=5, k=3)
    assert [int(item) % 3 for item in likes["item"]] == [2, 2, 2]
    assert dmrec.evaluate(model, metrics="recall@5").keys() == {"recall@5"}


def test_vectors_are_copies(model):
    before = model.recommend("u1", k=3)["item"].tolist()
    vectors = model.item_vectors()
    vectors.vectors[:] = 0
    assert model.recommend("u1", k=3)["item"].tolist() == before
    assert model.item_vectors().vectors.any()


def test_a_visitor_with_nothing_is_not_everybody(model):
    for nothing in ({"profile": ""}, {"likes": []}, {"profile": "", "likes": []}):
        with pytest.raises(dmrec.DmrecError, match="name an item that the user likes"):
            model.recommend(**nothing)
    for bad, message in (({"profile": 3}, "profile must be a text, got int"), ({"seen": "x"}, "seen must be known")):
        with pytest.raises(dmrec.DmrecError, match=message):
            model.recommend(**{"likes": "i1", **bad})


@pytest.mark.parametrize("limit", [1, 100, 1 << 26])
def test_what_everybody_is_spared_does_not_depend_on_blocks(model, data, limit, monkeypatch):
    monkeypatch.setattr("dmrec.inference.recommend.MAX_EXCLUDED", limit)
    allowed = ["i3", "i5", "i17", "i40"]
    table = model.recommend(k=10, among=allowed)
    scores = model.recommend(k=48)
    full = [(u, i) for u, i in zip(scores["user"], scores["item"], strict=True) if i in allowed]
    assert list(zip(table["user"], table["item"], strict=True)) == full
    rest = model.recommend(k=48, exclude=allowed)
    assert set(rest["item"]).isdisjoint(allowed)
    assert len(rest) + len(table) == len(scores)


class Stop(Observer):
    def on_epoch(self, *arguments, **named):
        raise KeyboardInterrupt


def test_an_interrupted_run_is_continued_and_a_temporary_one_leaves_nothing(data, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    options = {"options": SIZES, **FAST, "checkpoint_minutes": 0}
    with pytest.raises(KeyboardInterrupt):
        dmrec.train("mult-vae", data, observers=[Stop()], **options)
    assert not list(temporary.iterdir())
    whole = dmrec.train("mult-vae", data, out=tmp_path / "whole", **options)

    class After(Observer):
        def on_epoch(self, epoch, *arguments, **named):
            if epoch == 7:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        dmrec.train("mult-vae", data, out=tmp_path / "runs", observers=[After()], **options)
    epochs = []

    class Count(Observer):
        def on_epoch(self, epoch, *arguments, **named):
            epochs.append(epoch)

    again = dmrec.train("mult-vae", data, out=tmp_path / "runs", observers=[Count()], **options)
    assert 1 not in epochs
    assert again.result["test"] == whole.result["test"]
    other = dmrec.train("mult-vae", data, out=tmp_path / "runs", replace=True, **{**options, "epochs": 3})
    assert other.result["epochs"] == 3


def test_folders_and_names_of_datasets(tmp_path):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame([(u, i) for u in range(9) for i in range(9)], columns=["user", "item"])
    dmrec.embed(
        dmrec.dataset(frame, items=_described(pandas), users=_described(pandas), folder=tmp_path / "d"), width=2
    )
    with pytest.raises(dmrec.DmrecError, match="holds a dataset; .*replace=True"):
        dmrec.dataset(frame, folder=tmp_path / "d")
    assert dmrec.open_dataset(tmp_path / "d").vector_names == ["tfidf-svd"]
    assert dmrec.dataset(frame, folder=tmp_path / "d", replace=True).vector_names == []
    (tmp_path / "items.jsonl.gz").write_text("mine")
    with pytest.raises(dmrec.DmrecError, match="is not a dataset but holds items.jsonl.gz, which would"):
        dmrec.dataset(frame, folder=tmp_path)
    for name in ("../x", "a/b", "..", "."):
        with pytest.raises(dmrec.DmrecError, match="cannot name a folder"):
            dmrec.dataset(frame, name=name)
    with pytest.raises(dmrec.DmrecError, match="data must be a dataset or its folder, got DataFrame"):
        dmrec.train("ease", frame)


def _described(pandas):
    return pandas.DataFrame({"id": range(9), "text": [f"a thing {'of' * n} {n}" for n in range(9)]})


def test_an_unknown_item_among_many_is_a_short_error():
    from dmrec.errors import did_you_mean

    assert did_you_mean("x", map(str, range(100_000))) == "; known are 100000, such as '0'"
    assert did_you_mean("zzz", [f"name{n}" for n in range(100)]).endswith(", ..")
    assert did_you_mean("x", []) == ""


def test_tables_keep_their_types(model):
    polars, pyarrow = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    for table in (model.recommend(["u1"], k=2), model.recommend([]), model.similar_items("i1", k=1)):
        assert table.to_polars().schema["score"] == polars.Float32
        assert table.to_polars().schema["item"] == polars.String
        assert table.to_arrow().schema.field("item").type == pyarrow.string()
        assert table.to_arrow().schema.field("score").type == pyarrow.float32()


def test_tables_go_to_other_libraries(model):
    table = model.recommend(["u1", "u2"], k=2)
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    assert table.to_arrow().to_pylist() == list(table.rows())
    assert arrow.table(table).num_rows == 4
    text = repr(table).splitlines()
    assert text[0].split() == ["user", "item", "score", "rank"]
    assert text[-1] == "4 rows"


def test_a_table_in_a_notebook_escapes_its_texts():
    table = dmrec.Table({"<b>": ["<script>", "b"] * 20, "n": np.arange(40)})
    page = table._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<tr>") == 1 + 10 + 1 + 10
    assert repr(table).splitlines()[11] == ".."
    with pytest.raises(ValueError, match="columns must have one length, got {'a': 1, 'b': 2}"):
        dmrec.Table({"a": [1], "b": [1, 2]})
    assert len(dmrec.Table({})) == 0


def test_everything_public_is_annotated_and_documented():
    for name in dmrec.__all__:
        thing = getattr(dmrec, name)
        assert inspect.getdoc(thing), name
        functions = [f for _, f in inspect.getmembers(thing, inspect.isfunction) if f.__module__.startswith("dmrec")]
        for function in (f for f in functions if not f.__name__.startswith("_")):
            assert "return" in function.__annotations__, f"{name}.{function.__name__}"
            assert function.__doc__, f"{name}.{function.__name__}"
    assert dmrec.list_recipes().keys() == RECIPES.keys()


def test_scores_of_a_subset_do_not_depend_on_who_else_is_asked(model):
    """Users are ranked in blocks, so their scores may differ in the last bits, their items may not."""
    everybody = model.recommend(k=5)
    alone = model.recommend("u40", k=5)
    mine = everybody["user"] == "u40"
    assert everybody["item"][mine].tolist() == alone["item"].tolist()
    np.testing.assert_allclose(everybody["score"][mine], alone["score"], rtol=1e-5)
