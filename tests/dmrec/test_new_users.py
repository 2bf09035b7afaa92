"""Recommendations for people who were not there in training, in Python and by the command line."""

import numpy as np
import pytest
import tiny
import torch
from dmrec.cli.main import main
from dmrec.config import build_config
from dmrec.errors import DmrecError
from dmrec.inference.recommend import item_named, rank_new_user
from dmrec.language.encoders.tfidf import TfidfSvd
from dmrec.models.base import UserBatch
from dmrec.options import apply_overrides
from dmrec.recipes import recipe
from dmrec.runs.load import load_run
from dmrec.runs.resolve import resolve
from dmrec.training.trainer import train

FAST = ["training.epochs=25", "training.learning_rate=0.01", "training.batch_size=40"]
SIZES = ["model.hidden=24", "model.latent=8", "language.hidden=24"]
MODELS = {
    "dmrec-m": SIZES,
    "mult-vae": SIZES[:2],
    "kept-apart": [*SIZES, "language.fusion=collaborative"],
    "cvga-m": ["model.latent=8", "language.hidden=24"],
    "lightgcn": [],
    "ease": None,
    "popularity": None,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("new")
    dataset = tiny.make(folder / "data")
    for name, sizes in MODELS.items():
        options = [] if sizes is None else [*FAST, *sizes]
        values = apply_overrides(recipe("dmrec-m" if name == "kept-apart" else name), options)
        config = resolve(build_config({**values, "name": name}), dataset)
        train(config, dataset, folder / "runs" / name)
    return folder / "runs"


def ask(runs, name, **wanted):
    run, dataset, model, _ = load_run(runs / name)
    found = rank_new_user(model, run.config, dataset, **wanted)
    pairs = zip(found.items[0].tolist(), found.scores[0].tolist(), strict=True)
    return dataset, [(item, score) for item, score in pairs if item >= 0]


def kinds(found):
    return [item % 4 for item, _ in found]


@pytest.mark.parametrize("name", ["dmrec-m", "cvga-m"])
def test_words_alone_rank_the_catalogue(runs, name):
    _, found = ask(runs, name, profile="somebody with a guitar, fond of every chord", k=8)
    assert kinds(found).count(1) >= 6
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
    _, other = ask(runs, name, profile="soil and a spade for the garden", k=8)
    assert kinds(other).count(0) >= 6


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("lightgcn", "popularity")])
def test_liked_items_lead_to_their_like_and_are_left_out(runs, name):
    _, found = ask(runs, name, likes=[2, 6, 10], k=6)
    assert kinds(found).count(2) >= 4
    assert not {2, 6, 10} & {item for item, _ in found}


def test_somebody_like_a_user_of_training_gets_what_that_user_gets(runs):
    _, _, model, data = load_run(runs / "dmrec-m")
    batch = data.users(torch.arange(7))
    x = batch.interactions
    known = model.rank(batch, 9, exclude=x)
    new = model.rank(UserBatch(None, x, batch.text_vectors), 9, exclude=x)
    torch.testing.assert_close(new, known, rtol=0, atol=0)


def test_both_together_differ_from_either(runs):
    profile = "tea in a cup"
    _, words = ask(runs, "dmrec-m", profile=profile, k=10)
    _, likes = ask(runs, "dmrec-m", likes=[3], k=10)
    _, both = ask(runs, "dmrec-m", profile=profile, likes=[3], k=10)
    assert both not in (words, likes)
    assert {2, 3} <= set(kinds(both))


def test_popularity_is_the_same_for_everybody(runs):
    dataset, found = ask(runs, "popularity", likes=[0], k=3)
    counts = np.bincount(dataset.split("train").col, minlength=48).astype(float)
    counts[0] = -1
    assert [score for _, score in found] == sorted(counts, reverse=True)[:3]


@pytest.mark.parametrize(
    ("name", "wanted", "error"),
    [
        ("lightgcn", {"likes": [1]}, "lightgcn knows only the users it was trained on"),
        ("dmrec-m", {}, "name an item that the user likes .* or describe the user"),
        ("mult-vae", {"profile": "tea"}, "mult-vae was trained without language and cannot read a profile"),
        ("kept-apart", {"profile": "tea"}, "decodes from interactions alone"),
        ("dmrec-m", {"profile": "xylophone"}, "the encoder knows no word of the profile"),
    ],
)
def test_what_cannot_be_done_is_said(runs, name, wanted, error):
    with pytest.raises(DmrecError, match=error):
        ask(runs, name, **wanted)


def test_an_encoder_of_another_width(runs):
    narrow = TfidfSvd(2)
    narrow.fit(["tea cup", "tea kettle", "guitar cup", "guitar"])
    with pytest.raises(DmrecError, match="the encoder of the vectors 'tfidf-svd' is known, and another one cannot"):
        ask(runs, "dmrec-m", profile="tea", encoder=narrow)
    run, dataset, model, _ = load_run(runs / "dmrec-m")
    del dataset.manifest["vectors"]["tfidf-svd"]["made"]["encoder"]  # as if they had been imported
    with pytest.raises(DmrecError, match="the vectors 'tfidf-svd' are 8 wide, the encoder's 2"):
        rank_new_user(model, run.config, dataset, profile="tea", encoder=narrow)
    with pytest.raises(DmrecError, match="were imported, so their encoder is not known"):
        rank_new_user(model, run.config, dataset, profile="tea")


def test_items_go_by_id_or_title(runs):
    dataset = load_run(runs / "ease").dataset
    assert item_named(dataset, "i7") == item_named(dataset, "item 7") == 7
    with pytest.raises(DmrecError, match="no item of tiny is called 'item 1x'|has no item 'item 1x'; did you mean"):
        item_named(dataset, "item 1x")
    with pytest.raises(DmrecError, match="no item of tiny is called 'item'; 48 titles contain it: i0: Item 0; i1"):
        item_named(dataset, "item")


def command(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return stopped.value.code or 0, printed.out, printed.err


def test_by_the_command_line(runs, capsys):
    asked = ["recommend", runs / "dmrec-m", "--profile", "guitar [bold]chord", "--like", "Item 5", "-k", 4]
    code, out, _ = command(capsys, *asked)
    assert code == 0
    assert "guitar [bold]chord; likes Item 5" in out
    assert "4 recommendations" in out
    assert out.count("Item ") == 5
    code, _, err = command(capsys, "recommend", runs / "dmrec-m", "--like", "Itme 5")
    assert code == 1
    assert "has no item 'Itme 5'; did you mean 'Item 5'" in err
    code, _, err = command(capsys, "recommend", runs / "dmrec-m", "--like", "Item 5", "--user", "u1")
    assert code == 1
    assert "leave out --user, --out and --exclude" in err
    code, _, err = command(capsys, "recommend", runs / "dmrec-m", "--user", "u1", "--encoder", "minilm")
    assert code == 1
    assert "--encoder and --key-variable are for a --profile" in err
