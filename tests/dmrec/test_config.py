"""Configuration: recipes, overlays, refusals with suggestions."""

import pytest
import yaml
from dmrec.config import build_config, dump_config, read_config, upgrade
from dmrec.errors import DmrecError
from dmrec.options import apply_overrides, deep_merge
from dmrec.recipes import RECIPES, compose, recipe
from dmrec.yaml12 import load_yaml


@pytest.mark.parametrize("name", list(RECIPES))
def test_recipes_are_valid_and_survive_yaml(name):
    config = build_config(recipe(name))
    assert config.name == name
    assert RECIPES[name].__doc__
    assert build_config(yaml.safe_load(dump_config(config))) == config


def test_settings_are_yaml_and_reach_any_depth():
    settings = ["training.epochs=7", "matching.beta_concentration=0.4", "language.aggregate=false", "data=null"]
    config = build_config(apply_overrides(recipe("dmrec-m"), settings))
    assert config.training.epochs == 7
    assert config.matching.beta_concentration == 0.4
    assert config.language.aggregate is False
    assert config.matching.strategy == "mddm"


def test_overlays_keep_what_they_do_not_name():
    assert deep_merge({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"c": 4}}) == {"a": {"b": 1, "c": 4}, "d": 3}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.epoch=3", "unknown option 'training.epoch'; did you mean 'epochs'"),
        ("trainig.epochs=3", "unknown option 'trainig'; did you mean 'training'"),
        ("model.dropuot=0.1", "unknown option 'model.dropuot'; did you mean 'dropout'"),
        ("training.annealing.capp=1", "unknown option 'training.annealing.capp'; did you mean 'cap'"),
        ("training.zzzzz=3", "unknown option 'training.zzzzz'; known: annealing, batch_size"),
        ("training.epochs=0", "training.epochs: Input should be greater than or equal to 1, got 0"),
        ("training.epochs=many", "training.epochs: must be a number, got 'many'"),
        ("model.dropout=1", "model.dropout: Input should be less than 1, got 1"),
        ("matching.strategy=mdm", "matching.strategy: Input should be 'godm', 'cpdm', 'mddm', 'kl' or 'none'"),
        ("model.kind=mult-va", "model.kind: no model is called 'mult-va'; did you mean 'mult-vae'"),
        ("training.monitor=recal@20", "'recal' is not a metric; did you mean 'recall'"),
        ("evaluation.metrics=[recall]", "'recall' is not a metric; write it like recall@20"),
        ("matching.beta=1.5", "beta weighs two divergences against each other in 'mddm': at most 1, got 1.5"),
        ("evaluation.metrics=[]", "evaluation.metrics: List should have at least 1 item"),
        ("evaluation.metrics=3", "evaluation.metrics: Input should be a list, got 3"),
        ("training.epochs=[", "--set training.epochs=.: the value is not valid YAML; quote it"),
        ("matching=null", "'language' and 'matching' go together"),
        ("name=../up", "name: String should match pattern"),
        ("training", "--set takes key=value, like --set training.epochs=50, got 'training'"),
    ],
)
def test_refusals_name_the_key(setting, message):
    with pytest.raises(DmrecError, match=message):
        build_config(apply_overrides(recipe("dmrec-m"), [setting]))


def test_baselines_take_no_language():
    with pytest.raises(DmrecError, match="model 'ease' has no posterior to match"):
        build_config({**recipe("ease"), "language": {}, "matching": {}})


def test_unknown_recipe():
    with pytest.raises(DmrecError, match="no recipe is called 'dmrec-n'; did you mean 'dmrec-m'"):
        recipe("dmrec-n")


@pytest.mark.parametrize(("content", "message"), [("a: [", "not valid YAML"), ("- 1", "must hold keys and values")])
def test_bad_files(tmp_path, content, message):
    path = tmp_path / "c.yaml"
    path.write_text(content)
    with pytest.raises(DmrecError, match=message):
        read_config(path)
    with pytest.raises(DmrecError, match="does not exist"):
        read_config(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("name", "beta", "dropout"),
    [("dmrec-g.steam", 1.0, 0.2), ("dmrec-c.yelp", 0.9, 0.3), ("dmrec-m.amazon-book", 0.6, 0.3)],
)
def test_recipes_as_published_for_a_dataset(name, beta, dropout):
    config = build_config(recipe(name))
    assert (config.name, config.matching.beta, config.model.dropout) == (name, beta, dropout)


def test_recipes_published_for_no_such_dataset():
    assert build_config(recipe("l-diffrec-m.yelp")).model.noise_scale == 0.01
    with pytest.raises(DmrecError, match="for recipe 'dmrec-m' nothing is published on 'yelpp'; did you mean 'yelp'"):
        recipe("dmrec-m.yelpp")
    with pytest.raises(DmrecError, match="for recipe 'cvga' nothing is published on 'yelp'; for none"):
        recipe("cvga.yelp")


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        ("lightgcn", {"width": 32, "decay": 0.5}, {"embedding_dim": 32, "l2": 0.5}),
        ("l-diffrec", {"vectors": "minilm", "lightgcn": None}, {"item_embeddings": "minilm"}),
        ("l-diffrec", {"vectors": "minilm", "lightgcn": "runs/lightgcn"}, {"item_embeddings": "runs/lightgcn"}),
        (
            "l-diffrec",
            {"scale": 0.2, "minimum": 0.01, "maximum": 0.02},
            {"noise_scale": 0.2, "noise_min": 0.01, "noise_max": 0.02, "item_embeddings": None},
        ),
    ],
)
def test_options_of_version_0_1_are_read_under_their_new_names(kind, old, new):
    upgraded = upgrade({"name": "x", "model": {"kind": kind, **old}, "training": {"board": True, "epochs": 3}})
    assert upgraded["model"] == {"kind": kind, **new}
    config = build_config(upgraded)
    assert config.training.tensorboard is True
    assert config.training.epochs == 3
    with pytest.raises(DmrecError, match=r"option 'model\.\w+' is called 'model\.\w+' since version 0.2"):
        build_config({"name": "x", "model": {"kind": kind, **old}})


@pytest.mark.parametrize(("old", "new"), [("add", "none"), ("unmixed", "kl"), ("mddm", "mddm")])
def test_ablations_of_version_0_1_have_new_names(old, new):
    values = recipe("dmrec-m")
    values["matching"]["strategy"] = old
    assert build_config(upgrade(values)).matching.strategy == new
    assert upgrade(recipe("mult-vae")) == recipe("mult-vae")


def test_options_go_to_the_recipes_that_have_them():
    base, variant = compose(["mult-vae", "dmrec-m"], {"matching": {"beta": 0.1}}, ["language.hidden=7"])
    assert base.language is None
    assert (variant.matching.beta, variant.language.hidden) == (0.1, 7)
    with pytest.raises(DmrecError, match="dmrec-m: unknown option 'language.hiden'; did you mean 'hidden'"):
        compose(["mult-vae", "dmrec-m"], {}, ["language.hiden=7"])
    with pytest.raises(DmrecError, match="name a recipe .* or give --config"):
        compose([], {}, [])
    with pytest.raises(DmrecError, match="two recipes cannot have one name"):
        compose(["mult-vae", "dmrec-m"], {"name": "same"}, [])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("-7", -7),
        ("1e-4", 1e-4),
        (".5", 0.5),
        ("1:30", "1:30"),
        ("1_0", "1_0"),
        ("on", "on"),
        ("no", "no"),
        ("2026-11-25", "2026-11-25"),
        ("null", None),
        ("~", None),
        ("True", True),
        ("'010'", "010"),
        ("٤", "٤"),
    ],
)
def test_yaml_is_that_of_version_1_2(text, value):
    found = load_yaml(text)
    assert found == value
    assert isinstance(found, type(value))
    assert yaml.safe_load(yaml.safe_dump(found)) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {seed: 1:30}", "training.seed: must be a number, got '1:30'"),
        ("training: {seed: 1_0}", "training.seed: must be a number, got '1_0'"),
        ("training: {epochs: ten}", "training.epochs: must be a number, got 'ten'"),
        (f"training: {{seed: {2**64}}}", "training.seed: Input should be less than or equal to 9223372036854775807"),
        ("training: {seed: 1}\nmodel: {hidden: 8}\ntraining: {epochs: 2}", "the key 'training' is given in line 1 and"),
        ("model:\n  hidden: 8\n  hidden: 9", "the key 'hidden' is given in line 2 and again"),
    ],
)
def test_settings_that_mean_something_else_elsewhere(text, message, tmp_path):
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(DmrecError, match=message):
        build_config(deep_merge(recipe("mult-vae"), read_config(tmp_path / "t.yaml")))


def test_texts_that_look_like_numbers_stay_texts(tmp_path):
    for written in ("2024", "1.0", "010", "1e3"):
        config = build_config(apply_overrides(recipe("dmrec-m"), [f"language.vectors={written}", f"name={written}"]))
        assert (config.language.vectors, config.name) == (written, written)
    (tmp_path / "t.yaml").write_bytes("# Größe\ntraining: {seed: 010}\nname: 2024\n".encode("utf-8-sig"))
    config = build_config(deep_merge(recipe("mult-vae"), read_config(tmp_path / "t.yaml")))
    assert (config.training.seed, config.name) == (10, "2024")
    assert type(config.training.seed) is int
    assert build_config(yaml.safe_load(dump_config(config))) == config
