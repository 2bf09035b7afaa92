"""The training loop: it learns, stops, restores its best state, repeats itself bit for bit; runs and seeds."""

import copy
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from dmrec.build import build_model
from dmrec.config import AnnealingConfig, build_config
from dmrec.data.create import create_dataset
from dmrec.errors import DmrecError
from dmrec.eval.ranking import evaluate
from dmrec.language.embed import embed_dataset
from dmrec.language.encoders.tfidf import TfidfSvd
from dmrec.models.dmrec.matching import PriorKL
from dmrec.models.vae.model import Vae
from dmrec.models.vae.mult_vae import MultVae
from dmrec.options import apply_overrides
from dmrec.recipes import BASELINES, RECIPES, recipe
from dmrec.runs.load import load_run, training_data
from dmrec.runs.resolve import resolve
from dmrec.runs.run import Run
from dmrec.runtime import Runtime
from dmrec.training import loop
from dmrec.training.trainer import train

SMALL = [
    "model.hidden=24",
    "model.latent=8",
    "training.batch_size=40",
    "training.learning_rate=0.01",
    "training.epochs=24",
]
SIZES = {
    "mult-vae": ("hidden", "latent"),
    "l-diffrec": ("hidden", "latent"),
    "cvga": ("latent",),
    "lightgcn": (),
    "rlmrec-c": (),
    "rlmrec-g": (),
    "alpharec": ("hidden",),
    "kar": ("hidden",),
    "promax": (),
    "llmrec": (),
    "sasrec": (),
    "tiger": (),
}
CLOSED_FORM = (*BASELINES, "l3ae", "markov", "text-gcn", "cosine")
LANGUAGE = ["language.hidden=24"]


def _train(name, dataset, out, *settings, seed=0):
    values = recipe(name)
    if name in CLOSED_FORM:
        sizes = []
    else:
        foreign = {f"model.{size}" for size in ("hidden", "latent")} - {
            f"model.{s}" for s in SIZES[values["model"]["kind"]]
        }
        sizes = [option for option in SMALL if option.split("=")[0] not in foreign]
    options = [*sizes, *(LANGUAGE if "language" in values else []), *settings]
    config = resolve(build_config(apply_overrides(recipe(name), options)), dataset, seed)
    return train(config, dataset, out)


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in (*BASELINES, "ensemble")])
def test_models_learn(name, dataset, tmp_path):
    settings = ["training.annealing.steps=50"] if name == "mult-vae-original" else []
    if name.startswith("l-diffrec"):
        settings = ["model.denoiser_rate=0.01", "model.denoiser_dropout=0.1", "training.epochs=60"]
    if name.startswith(("tiger", "letter", "etegrec")):
        sizes = "{layers: 1, width: 24, feed_forward: 32, heads: 2, head_width: 12}"
        settings = [f"model.transformer={sizes}", "model.blocks=1"]
    if name == "llm-init":
        settings = ["model.embedding_dim=8"]
    if name.startswith("etegrec"):
        settings += ["phases=[{mode: alternate, epochs: 24}, {mode: frozen, epochs: 12}]"]
    result = _train(name, dataset, tmp_path, *settings)
    popularity = _train("popularity", dataset, tmp_path / "popularity")
    assert result["test"]["recall@10"] > 1.5 * popularity["test"]["recall@10"]
    if name in CLOSED_FORM:
        return
    epochs = Run(tmp_path).events("epoch")
    of_codes = dict.fromkeys(("tiger", "letter", "etegrec"), "nll")
    by_pairs = ("lightgcn", "lightgcn-rlmrec", "rlmrec-c", "rlmrec-g", "kar", "llmrec", "promax", "llm-init")
    of_pairs = dict.fromkeys(by_pairs, "bpr")
    of_pairs |= dict.fromkeys(("alpharec", "alpharec-star"), "contrast")
    fit = {"sasrec": "nll", **of_pairs, **of_codes}.get(name.removesuffix("-soda"), "reconstruction")
    epochs = [epoch for epoch in epochs if fit in epoch]  # in others a tokenizer learns
    assert epochs[-1][fit] < 0.95 * epochs[0][fit]
    if name in ("mult-vae", "dmrec-m", "cvga-m"):  # nothing annealed, no further loss
        divergence = epochs[-1]["kl" if name == "mult-vae" else "matching"]
        assert epochs[-1]["loss"] == pytest.approx(epochs[-1]["reconstruction"] + divergence, rel=1e-3)


@pytest.mark.parametrize(
    ("setting", "found", "wanted"),
    [
        ("language.aggregate=false", lambda m: m.meta_network.aggregate, False),
        ("language.fusion=collaborative", lambda m: (m.fusion, m.matching.fusion), ("collaborative", "collaborative")),
        ("language.hidden=7", lambda m: m.meta_network.network[0].out_features, 7),
        ("language.initialisation=xavier", lambda m: float(m.meta_network.network[0].bias.detach().abs().max()), 0.0),
        ("model.initialisation=xavier", lambda m: float(m.backbone.encoder_input.bias.detach().abs().max()), 0.0),
        ("model.hidden=9", lambda m: m.backbone.encoder_input.weight.shape[1], 9),
        ("model.latent=5", lambda m: (m.backbone.latent, m.backbone.decoder_input.in_features), (5, 5)),
        ("model.dropout=0.45", lambda m: m.backbone.input_dropout, 0.45),
        ("model.normalise=true", lambda m: m.backbone.normalise, True),
        ("matching.strategy=none", lambda m: type(m.matching), PriorKL),
        ("matching.strategy=kl", lambda m: m.matching.options.strategy, "kl"),
        ("matching.beta=0.25", lambda m: m.matching.options.beta, 0.25),
        ("matching.beta_concentration=0.5", lambda m: m.matching.options.beta_concentration, 0.5),
        ("matching.alpha=0.75", lambda m: m.matching.options.alpha, 0.75),
        ("matching.interpolation=moment", lambda m: m.matching.options.interpolation, "moment"),
        ("matching.squared=true", lambda m: m.matching.options.squared, True),
        ("matching.eps=0.125", lambda m: m.matching.options.eps, 0.125),
    ],
)
def test_every_option_reaches_what_it_configures(setting, found, wanted, dataset):
    built = []
    for settings in ([], [setting]):
        config = resolve(build_config(apply_overrides(recipe("dmrec-m"), settings)), dataset)
        built.append(found(build_model(config, training_data(config, dataset))))
    assert built[1] == wanted
    assert built[0] != wanted


@pytest.mark.parametrize("name", ["dmrec-g", "dmrec-c", "dmrec-m"])
def test_fused_and_reference_kernels_train_alike(name, dataset, tmp_path, native):
    """The same curve: sums run in another order, nothing else differs."""
    curves = {}
    for kernels in ("fused", "reference"):
        _train(name, dataset, tmp_path / kernels, f"training.kernels={kernels}", "training.epochs=6")
        run = Run(tmp_path / kernels)
        curves[kernels] = [
            *([e["loss"], e["reconstruction"], e["matching"]] for e in run.events("epoch")),
            *([e["recall@20"], e["ndcg@20"]] for e in run.events("evaluation")),
        ]
        operators = json.loads((tmp_path / kernels / "result.json").read_text())["environment"]["native_operators"]
        assert ("matching_loss" in operators and "csr_aggregate" in operators) == (kernels == "fused")
    assert len(curves["fused"]) == 8
    for fused, plain in zip(curves["fused"], curves["reference"], strict=True):
        assert fused == pytest.approx(plain, rel=1e-4)


def _one_step(dataset, tmp_path, *settings):
    """Recommender before and after one step on the whole dataset, and the run's log of it."""
    options = [*SMALL, *LANGUAGE, "training.batch_size=1000", "training.epochs=1", *settings]
    config = resolve(build_config(apply_overrides(recipe("dmrec-m"), options)), dataset, 0)
    torch.manual_seed(0)
    data = training_data(config, dataset)
    model = build_model(config, data)
    before = copy.deepcopy(model)
    runtime = Runtime(torch.device("cpu"), config.training.precision)
    torch.manual_seed(1)
    loop.fit(model, config, data, dataset.split("valid"), Run.create(tmp_path, config), {}, runtime)
    return config, before, model, Run(tmp_path).events("epoch")[0]


@pytest.mark.parametrize(
    "settings",
    [[], ["training.annealing.steps=10", "training.annealing.cap=0.5"], ["training.precision=bf16"]],
    ids=["plain", "annealed", "bf16"],
)
def test_a_step_of_the_loop_is_the_step_written_out(settings, dataset, tmp_path):
    """Loss, noise, dropout, precision, annealing and Adam, from the same random numbers."""
    config, model, trained, logged = _one_step(dataset, tmp_path, *settings)
    torch.manual_seed(1)
    order = torch.randperm(dataset.n_users, generator=torch.Generator().manual_seed(loop.seed_of("shuffle", 0)))
    batch = model.batch(order)
    x = batch.interactions
    model.train()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    with torch.autocast("cpu", torch.bfloat16, enabled="training.precision=bf16" in settings):
        dropped = x._replace(values=torch.empty(x.nnz).bernoulli_(0.7) / 0.7)
        collaborative, language = model.backbone.encode(x, dropped), model.meta_network(dropped, batch.text_vectors)
        mu, logvar = collaborative.mu + language.mu, collaborative.logvar + language.logvar
        z = mu + torch.randn_like(mu) * torch.exp(logvar / 2)
        hidden, weight, bias = model.backbone.decode(z)
        logits = torch.nn.functional.linear(hidden, weight, bias).float()
    nll = -(x.to_dense() * torch.log_softmax(logits, 1)).sum(1).mean()
    kl_prior = 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(1)
    difference = (logvar.exp() + (mu - language.mu) ** 2) / language.logvar.exp()
    kl_language = 0.5 * (language.logvar - logvar + difference - 1).sum(1)
    divergence = (0.5 * kl_prior + 0.5 * kl_language).mean()
    weight_of_divergence = 0.0 if config.training.annealing.steps else 1.0  # at step 0
    loss = nll + weight_of_divergence * divergence
    loss.backward()
    optimiser.step()
    tolerance = 1e-3 if "training.precision=bf16" in settings else 1e-5  # bf16 logits: bits follow the product
    assert logged["loss"] == pytest.approx(loss.item(), rel=tolerance)
    assert logged["reconstruction"] == pytest.approx(nll.item(), rel=tolerance)
    assert logged["matching"] == pytest.approx(divergence.item(), rel=tolerance)
    for (name, mine), right in zip(trained.named_parameters(), model.parameters(), strict=True):
        moved_alike = ((mine - right).abs() < 2e-4).float().mean()  # Adam's first step is a sign: noise near 0 flips it
        assert moved_alike > 0.98, name


def test_every_parameter_is_trained(dataset, tmp_path):
    _, before, after, _ = _one_step(dataset, tmp_path)
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        assert not torch.equal(old, new), name


def test_bf16_is_not_float32(dataset, tmp_path):
    losses = {p: _one_step(dataset, tmp_path / p, f"training.precision={p}")[3]["loss"] for p in ("float32", "bf16")}
    assert losses["float32"] != losses["bf16"]
    assert losses["bf16"] == pytest.approx(losses["float32"], rel=1e-2)


def test_a_backbone_may_add_a_loss_of_its_own(dataset, tmp_path, monkeypatch):
    _, _, _, plain = _one_step(dataset, tmp_path / "plain")
    original = MultVae.reconstruct

    def with_auxiliary(self, posterior, step):
        assert (step.number, step.epoch) == (0, 1)
        return original(self, posterior, step)._replace(auxiliary=torch.tensor(7.0))

    monkeypatch.setattr(MultVae, "reconstruct", with_auxiliary)
    _, _, _, more = _one_step(dataset, tmp_path / "more")
    assert more["loss"] == pytest.approx(plain["loss"] + 7, rel=1e-6)


def test_ease_searches_lambda_on_validation(dataset, tmp_path):
    result = _train("ease", dataset, tmp_path, "model.regularisation=[1, 20, 100000]")
    scores = {e["regularisation"]: e["recall@20"] for e in Run(tmp_path).events("evaluation")}
    assert set(scores) == {1, 20, 100000}
    assert scores[result["regularisation"]] == max(scores.values()) == result["valid"]["recall@20"]


def test_ease_refuses_what_it_cannot_hold(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("dmrec.models.linear.item_item.MAX_ITEMS", 10)
    with pytest.raises(DmrecError, match="48 items are too many .limit 10."):
        _train("ease", dataset, tmp_path)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(precision, dataset, tmp_path):
    weights = []
    for number, seed in enumerate((3, 3, 4)):
        settings = [f"training.precision={precision}", "training.epochs=4"]
        _train("dmrec-m", dataset, tmp_path / str(number), *settings, seed=seed)
        weights.append(Run(tmp_path / str(number)).load()[0])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["backbone.decoder_output.weight"], weights[2]["backbone.decoder_output.weight"])


def test_the_best_state_is_what_is_kept(dataset, tmp_path):
    settings = ["training.epochs=60", "training.evaluate_every=2", "training.patience=3", "training.learning_rate=0.03"]
    result = _train("mult-vae", dataset, tmp_path, *settings)
    run, _, model, data = load_run(tmp_path)
    evaluations = {e["epoch"]: e["recall@20"] for e in run.events("evaluation")}
    assert result["best_epoch"] == max(evaluations, key=lambda epoch: (evaluations[epoch], -epoch))
    assert result["epochs"] == min(60, result["best_epoch"] + 2 * 3)
    valid, test = dataset.split("valid"), dataset.split("test")
    assert evaluate(model, data, valid, ["recall@20"]).means["recall@20"] == evaluations[result["best_epoch"]]
    assert evaluate(model, data, test, ["recall@20"]).means["recall@20"] == result["test"]["recall@20"]


def test_every_user_is_in_one_batch_of_each_epoch():
    generator = torch.Generator().manual_seed(0)
    first, second = (list(loop.shuffled_batches(10, 4, generator)) for _ in range(2))
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert sorted(torch.cat(first).tolist()) == list(range(10))
    assert not torch.equal(torch.cat(first), torch.cat(second))


def test_annealing():
    assert [AnnealingConfig(cap=0.2, steps=10).at(step) for step in (0, 5, 10, 99)] == [0, 0.1, 0.2, 0.2]
    assert AnnealingConfig().at(0) == 1.0


def test_the_best_state_so_far_survives_an_interruption(dataset, tmp_path, monkeypatch):
    calls = []

    def interrupting(*args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return evaluate(*args, **options)

    monkeypatch.setattr(loop, "evaluate", interrupting)
    with pytest.raises(KeyboardInterrupt):
        _train("mult-vae", dataset, tmp_path)
    run = load_run(tmp_path, unfinished=True).run
    scores = {e["epoch"]: e["recall@20"] for e in run.events("evaluation")}
    assert len(scores) == 2
    assert run.load()[1]["epoch"] == max(scores, key=lambda epoch: (scores[epoch], -epoch))


def test_a_run_stopped_before_its_first_evaluation_says_so(dataset, tmp_path, monkeypatch):
    def interrupting(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "evaluate", interrupting)
    with pytest.raises(KeyboardInterrupt):
        _train("mult-vae", dataset, tmp_path)
    with pytest.raises(DmrecError, match="has no model yet: the run was stopped before its first evaluation"):
        load_run(tmp_path, unfinished=True)


def test_nothing_to_measure_with_is_refused(dataset, tmp_path):
    dataset.manifest["interactions"]["valid"] = 0
    with pytest.raises(DmrecError, match="has no validation interactions to measure with"):
        _train("popularity", dataset, tmp_path)


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
    assert {"loss", "reconstruction", "matching", "kl_prior", "kl_language", "seconds", "phases"} <= set(epoch)
    assert set(epoch["phases"]) == {"data", "forward", "backward", "optimiser", "other"}
    assert all(seconds > 0 for seconds in epoch["phases"].values())
    assert epoch["seconds"] == pytest.approx(sum(epoch["phases"].values()), abs=1e-3)
    assert not any("vectors" in name for name in Run(tmp_path).load()[0]), "vectors belong to the dataset"


def test_damaged_and_missing_checkpoints_are_refused(dataset, tmp_path):
    _train("mult-vae", dataset, tmp_path, "training.epochs=3")
    path = tmp_path / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DmrecError, match="model.safetensors is missing or differs from its checksum"):
        load_run(tmp_path)
    with pytest.raises(DmrecError, match="is not a run .no config.yaml."):
        load_run(tmp_path / "nothing")


def test_a_run_refuses_another_dataset(dataset, tmp_path):
    import tiny

    _train("mult-vae", dataset, tmp_path / "run", "training.epochs=3")
    other = tiny.make(tmp_path / "other", n_items=44)
    with pytest.raises(DmrecError, match="trained on 120 users and 48 items, but .* has 120 and 44"):
        load_run(tmp_path / "run", other.folder)


def test_a_run_refuses_another_split_of_the_same_shape(tmp_path):
    """Or a model would be tested on what it was trained on."""
    import tiny

    first = tiny.make(tmp_path / "data")
    _train("dmrec-m", first, tmp_path / "run", "training.epochs=3")
    load_run(tmp_path / "run")
    swapped = {name: first.matrix(split) for name, split in (("train", "train"), ("valid", "test"), ("test", "valid"))}
    again = create_dataset(tmp_path / "data", "tiny", swapped, items=first.items, users=first.users, provenance={})
    embed_dataset(again, TfidfSvd(8))
    with pytest.raises(DmrecError, match=r"another version of .*data: valid.npz, test.npz changed since"):
        load_run(tmp_path / "run")
    embed_dataset(tiny.make(tmp_path / "data"), TfidfSvd(8, min_df=20), force=True)
    with pytest.raises(DmrecError, match=r"another version of .*data: tfidf-svd changed since"):
        load_run(tmp_path / "run")


def test_a_run_replaces_those_of_several_seeds(dataset, tmp_path):
    for seed in (5, 6):
        _train("mult-vae", dataset, tmp_path / f"seed-{seed}", "training.epochs=3", seed=seed)
    assert Run.open(tmp_path).result["seed"] == 5
    (tmp_path / "seed-6" / "notes.txt").write_text("mine")
    _train("mult-vae", dataset, tmp_path, "training.epochs=3", seed=2)
    assert Run.open(tmp_path).result["seed"] == 2
    assert not (tmp_path / "seed-5").exists()
    assert [p.name for p in (tmp_path / "seed-6").iterdir()] == ["notes.txt"]


def test_a_new_run_replaces_what_stood_there(dataset, tmp_path):
    _train("mult-vae", dataset, tmp_path, "training.epochs=3")
    with pytest.raises(FloatingPointError):
        _train("mult-vae", dataset, tmp_path, "training.learning_rate=1e30")
    assert not (tmp_path / "result.json").exists()
    assert not (tmp_path / "model.safetensors").exists()


def test_the_loop_never_reads_a_value_within_a_step(dataset, tmp_path, monkeypatch):
    """What it needs for the log stays a tensor until the epoch ends."""
    read = []

    def reading(original):
        def read_value(self):
            caller = Path(sys._getframe(1).f_code.co_filename).name
            if caller != "_rows.py":  # it asks on the CPU alone, where nothing is waited for
                read.append((original.__name__, caller))
            return original(self)

        return read_value

    for name in ("__float__", "__bool__", "__int__", "item", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, reading(getattr(torch.Tensor, name)))
    steps = []
    original_step = loop.train_step

    def counting(*args):
        before = len(read)
        losses = original_step(*args)
        steps.append(read[before:])
        return losses

    monkeypatch.setattr(loop, "train_step", counting)
    _one_step(dataset, tmp_path)
    assert steps == [[]]


def test_hooks_and_metrics_of_a_model(dataset, tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(Vae, "begin_epoch", lambda self, epoch: called.append(("begin", epoch)))
    monkeypatch.setattr(Vae, "end_epoch", lambda self, epoch: called.append(("end", epoch)) or {"nine": 9.0})
    monkeypatch.setattr(Vae, "metrics", lambda self: {"seven": torch.tensor(7.0)})
    _train("mult-vae", dataset, tmp_path, "training.epochs=2", "training.log_terms_every=1")
    assert called == [("begin", 1), ("end", 1), ("begin", 2), ("end", 2)]
    assert [(epoch["seven"], epoch["nine"]) for epoch in Run(tmp_path).events("epoch")] == [(7.0, 9.0)] * 2
