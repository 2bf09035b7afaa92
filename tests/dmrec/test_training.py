"""The training loop: it learns, stops, restores its best state, repeats itself to the bit; runs and seeds."""

import json
import math

import pytest
import torch
from dmrec.config import AnnealingConfig, build_config, with_settings
from dmrec.errors import DmrecError
from dmrec.eval.ranking import evaluate
from dmrec.recipes import recipe
from dmrec.train import loop
from dmrec.train.build import load_run
from dmrec.train.run import Run
from dmrec.train.train import train
from rich.console import Console

from dmrec_ext import Csr

SMALL = [
    "model.hidden=24",
    "model.latent=8",
    "training.batch_size=40",
    "training.learning_rate=0.01",
    "training.epochs=24",
]
LANGUAGE = ["language.hidden=24"]


def _train(name, dataset, out, *settings, seeds=(0,)):
    is_model = name not in ("popularity", "ease")
    options = [*(SMALL if is_model else []), *(LANGUAGE if name.startswith("dmrec") else []), *settings]
    config = build_config(with_settings(recipe(name), options))
    return train(config, dataset, out, seeds, Console(quiet=True))


@pytest.mark.parametrize("name", ["mult-vae", "dmrec-g", "dmrec-c", "dmrec-m", "mult-vae-original"])
def test_models_learn(name, dataset, tmp_path):
    settings = ["training.annealing.steps=50"] if name == "mult-vae-original" else []
    result = _train(name, dataset, tmp_path, *settings)
    popularity = _train("popularity", dataset, tmp_path / "popularity")
    assert result["test"]["recall@10"] > 1.5 * popularity["test"]["recall@10"]
    epochs = Run(tmp_path).events("epoch")
    assert epochs[-1]["reconstruction"] < 0.9 * epochs[0]["reconstruction"]
    assert epochs[-1]["loss"] == pytest.approx(epochs[-1]["reconstruction"] + epochs[-1]["matching"], rel=1e-3) or (
        name == "mult-vae-original"
    )


@pytest.mark.parametrize(
    "setting",
    ["language.aggregate=false", "matching.strategy=add", "matching.strategy=unmixed", "language.fusion=collaborative",
     "matching.beta_concentration=0.5", "model.initialisation=xavier", "training.precision=bf16"],
)  # fmt: skip
def test_ablations_and_options_train(setting, dataset, tmp_path):
    result = _train("dmrec-m", dataset, tmp_path, setting)
    popularity = _train("popularity", dataset, tmp_path / "popularity")
    assert result["test"]["recall@10"] > 1.3 * popularity["test"]["recall@10"]


def test_ease_searches_lambda_on_validation(dataset, tmp_path):
    result = _train("ease", dataset, tmp_path, "model.regularisation=[1, 20, 100000]")
    scores = {e["regularisation"]: e["recall@20"] for e in Run(tmp_path).events("evaluation")}
    assert set(scores) == {1, 20, 100000}
    assert scores[result["regularisation"]] == max(scores.values()) == result["valid"]["recall@20"]


def test_ease_refuses_what_it_cannot_hold(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("dmrec.train.train.EASE_ITEMS", 10)
    with pytest.raises(DmrecError, match="48 items are too many .limit 10."):
        _train("ease", dataset, tmp_path)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(precision, dataset, tmp_path):
    weights = []
    for number, seed in enumerate((3, 3, 4)):
        settings = [f"training.precision={precision}", "training.epochs=4"]
        _train("dmrec-m", dataset, tmp_path / str(number), *settings, seeds=(seed,))
        weights.append(Run(tmp_path / str(number)).load()[0])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["backbone.decoder_output.weight"], weights[2]["backbone.decoder_output.weight"])


def test_the_best_state_is_what_is_kept(dataset, tmp_path):
    settings = ["training.epochs=60", "training.evaluate_every=2", "training.patience=3", "training.learning_rate=0.03"]
    result = _train("mult-vae", dataset, tmp_path, *settings)
    run, _, ranker = load_run(tmp_path)
    evaluations = {e["epoch"]: e["recall@20"] for e in run.events("evaluation")}
    assert result["best_epoch"] == max(evaluations, key=lambda epoch: (evaluations[epoch], -epoch))
    assert result["epochs"] == min(60, result["best_epoch"] + 2 * 3)
    train_csr, valid, test = (Csr.from_scipy(m) for m in (dataset.train, dataset.valid, dataset.test))
    assert evaluate(ranker, train_csr, valid, ["recall@20"]).means["recall@20"] == evaluations[result["best_epoch"]]
    assert evaluate(ranker, train_csr, test, ["recall@20"]).means["recall@20"] == result["test"]["recall@20"]


def test_every_user_is_in_one_batch_of_each_epoch():
    generator = torch.Generator().manual_seed(0)
    first, second = (list(loop.shuffled_batches(10, 4, generator)) for _ in range(2))
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert sorted(torch.cat(first).tolist()) == list(range(10))
    assert not torch.equal(torch.cat(first), torch.cat(second))


def test_annealing():
    assert [loop.annealed(AnnealingConfig(cap=0.2, steps=10), step) for step in (0, 5, 10, 99)] == [0, 0.1, 0.2, 0.2]
    assert loop.annealed(AnnealingConfig(), 0) == 1.0


def test_divergence_stops_with_advice(dataset, tmp_path):
    with pytest.raises(FloatingPointError, match=r"became NaN or infinite in epoch \d+; lower training.learning_rate"):
        _train("mult-vae", dataset, tmp_path, "training.learning_rate=1e30")


def test_a_run_folder_says_what_it_was(dataset, tmp_path):
    _train("dmrec-m", dataset, tmp_path, "training.epochs=3")
    config = Run(tmp_path).config
    assert config.language.vectors == "tfidf-svd"
    assert config.data == dataset.folder
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["vectors"] == "tfidf-svd"
    assert result["environment"]["torch"] == torch.__version__
    assert all(math.isfinite(v) for v in result["test"].values())
    epoch = Run(tmp_path).events("epoch")[0]
    assert {"loss", "reconstruction", "matching", "kl_prior", "kl_language", "seconds"} <= set(epoch)
    assert not any("vectors" in name for name in Run(tmp_path).load()[0]), "vectors belong to the dataset"


def test_several_seeds_give_mean_and_deviation(dataset, tmp_path):
    summary = _train("mult-vae", dataset, tmp_path, "training.epochs=3", seeds=(0, 1, 2))
    figures = [Run(tmp_path / f"seed-{s}").result["test"]["recall@10"] for s in range(3)]
    assert summary["test"]["recall@10"] == pytest.approx(sum(figures) / 3)
    mean = sum(figures) / 3
    deviation = math.sqrt(sum((f - mean) ** 2 for f in figures) / 2)
    assert summary["test_deviation"]["recall@10"] == pytest.approx(deviation)
    assert Run.open(tmp_path).folder == tmp_path / "seed-0"


def test_damaged_and_missing_checkpoints_are_refused(dataset, tmp_path):
    _train("mult-vae", dataset, tmp_path, "training.epochs=3")
    path = tmp_path / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DmrecError, match="model.safetensors is missing or differs from its checksum"):
        load_run(tmp_path)
    with pytest.raises(DmrecError, match="is no run .no config.yaml."):
        load_run(tmp_path / "nothing")


def test_a_run_refuses_another_dataset(dataset, tmp_path):
    import tiny

    _train("mult-vae", dataset, tmp_path / "run", "training.epochs=3")
    other = tiny.make(tmp_path / "other", n_items=44)
    with pytest.raises(DmrecError, match="trained on 120 users and 48 items, but .* has 120 and 44"):
        load_run(tmp_path / "run", other.folder)


def test_a_new_run_replaces_what_stood_there(dataset, tmp_path):
    _train("mult-vae", dataset, tmp_path, "training.epochs=3")
    with pytest.raises(FloatingPointError):
        _train("mult-vae", dataset, tmp_path, "training.learning_rate=1e30")
    assert not (tmp_path / "result.json").exists()
    assert not (tmp_path / "model.safetensors").exists()
