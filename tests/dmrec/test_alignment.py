"""SODA around a generative recommender: what its loss is, what it teaches, and that a run is a run."""

import json
import math

import numpy as np
import pytest
import tiny
import torch
from dmrec import load
from dmrec.build import build_model
from dmrec.cli.main import main
from dmrec.config import build_config
from dmrec.errors import DmrecError
from dmrec.models.base import Step, TrainingData
from dmrec.models.sequential.alignment import Aligned
from dmrec.models.sequential.code_distributions import code_logits, perplexity_of
from dmrec.options import apply_overrides
from dmrec.recipes import recipe
from dmrec.runs.load import training_data
from dmrec.runs.resolve import resolve
from dmrec.tokenizers.tokenize import import_codes, make_tokenizer, restored_tokenizer, tokenize_dataset
from dmrec.training import loop

SMALL = [
    "model.blocks=2",
    "model.transformer={layers: 1, width: 16, feed_forward: 32, heads: 2, head_width: 8}",
    "training.batch_size=64",
    "training.learning_rate=0.005",
]


@pytest.fixture(scope="module")
def walks(tmp_path_factory):
    """Users who walk round sixteen clusters of four items; codes from vectors of co-occurrence."""
    data = tiny.round_walks(tmp_path_factory.mktemp("walks") / "walks", 300)
    tokenize_dataset(data, make_tokenizer("rk-means", levels=2, size=8), vectors="svd", name="codes")
    return data


def made(data, *overrides, name="tiger-soda"):
    config = resolve(build_config(apply_overrides(recipe(name), [*SMALL, *overrides])), data)
    torch.manual_seed(0)
    return config, build_model(config, training_data(config, data))


def test_the_loss_is_that_of_the_recommender_and_the_alignment(walks):
    config, model = made(walks, "alignment.weight=0.3", "alignment.residual=hard")
    model.eval()
    index = torch.arange(0, model.n_examples, 7)
    found = model.loss(model.batch(index), Step())
    alone = model.model.loss(model.model.batch(index), Step())
    assert found["nll"].item() == pytest.approx(alone["loss"].item())
    assert found["loss"].item() == pytest.approx(alone["loss"].item() + 0.3 * found["alignment"].item())

    predictions = model.model.predictions(model.model.batch(index))
    latents = model.tokenizer.latents(model.vectors[model.model.targets(index)])
    y = code_logits(latents, model.tokenizer.codebooks, model.temperature).softmax(-1)
    latents = model.history_latents(predictions.reading.history)
    p = code_logits(latents, model.tokenizer.codebooks, model.temperature).softmax(-1)
    delta = (y * (p.log() - p.mean(0).log())).sum((1, 2))
    assert found["alignment"].item() == pytest.approx(torch.log1p(torch.exp(-delta)).mean().item(), rel=1e-5)
    base = made(walks, name="tiger")[1].eval()
    for mine, other in zip(model.model.parameters(), base.parameters(), strict=True):
        assert torch.equal(mine, other), "the recommender starts as it does without"
    assert config.alignment.strategy == "soda"


def test_history_is_the_mean_of_what_is_there(walks):
    """Padding, parts by length and the order of examples change nothing."""
    model = made(walks)[1].model.eval()
    index = torch.randperm(model.n_examples)[:40]
    found, alone = model.predictions(model.batch(index)), model.reading(model.batch(index))
    torch.testing.assert_close(alone, found.reading)
    users, history, _ = model.examples.rows(index)
    for example in range(0, 40, 9):
        items = history[example][history[example] >= 0][None]
        states, there = model.encoded(users[example : example + 1], items)
        assert there.all()
        torch.testing.assert_close(found.reading.history[example], states[0].mean(0), rtol=1e-4, atol=1e-5)


def test_temperatures_are_calibrated_and_kept(walks):
    model = made(walks, "alignment.perplexity=3")[1]
    logits = code_logits(
        model.tokenizer.latents(model.vectors), model.tokenizer.codebooks, model.temperature, soft=True
    )
    assert perplexity_of(logits).mean(0).tolist() == pytest.approx([3, 3], abs=0.01)
    assert "temperature" in model.state_dict()
    assert "vectors" not in model.state_dict()
    assert made(walks, "alignment.temperature=0.5")[1].temperature.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("kind", ["rk-means", "rq-vae"])
def test_tokenizers_come_back_as_they_were(kind, walks):
    options = {} if kind == "rk-means" else {"epochs": 20, "latent": 4, "hidden": [16]}
    name = f"again-{kind}"
    tokenize_dataset(
        walks, make_tokenizer(kind, levels=2, size=8, **options), vectors="svd", collisions="keep", name=name
    )
    fitted = restored_tokenizer(walks, name).fitted
    latents, codebooks = fitted.encode(restored_tokenizer(walks, name).vectors), fitted.codebooks
    codes = code_logits(
        torch.from_numpy(latents).double(), torch.from_numpy(codebooks).double(), torch.ones(2, dtype=torch.float64)
    ).argmax(-1)
    assert np.array_equal(codes.numpy(), walks.codes(name).codes)
    state = walks.folder / f"tokenizer.{name}.safetensors"
    state.write_bytes(state.read_bytes()[:-1] + b"x")
    with pytest.raises(DmrecError, match="differs from its checksum"):
        restored_tokenizer(walks, name)
    walks._note("codes", name, None)


@pytest.mark.parametrize(
    "option", ["strategy=sia", "strategy=soft-ce", "anchor=history", "levels=mean", "residual=hard", "residual=target"]
)
def test_options(option, walks):
    model = made(walks, f"alignment.{option}")[1].eval()
    found = model.loss(model.batch(torch.arange(30)), Step())
    plain = made(walks)[1].eval().loss(model.batch(torch.arange(30)), Step())
    assert torch.isfinite(found["loss"])
    assert found["nll"].item() == pytest.approx(plain["nll"].item())
    assert found["alignment"].item() != pytest.approx(plain["alignment"].item(), rel=1e-6)
    found["loss"].backward()
    assert model.to_latent[0].weight.grad.abs().sum() > 0
    assert model.model.encoder.layers[0].attention.v.weight.grad.abs().sum() > 0
    assert model.tokenizer.codebooks.grad is None, "the tokenizer is frozen"


def test_levels_of_histories_after_the_codes_of_the_target(walks):
    """On the first level as with the nearest code; then of what the target's codes leave."""
    model = made(walks, "alignment.residual=target")[1].eval()
    index = torch.arange(20)
    model.loss(model.batch(index), Step())
    found = model._last["prediction"]
    books, items = model.tokenizer.codebooks, model.model.targets(index)
    latents = model.history_latents(model.model.predictions(model.model.batch(index)).reading.history)
    left = latents - books[0][torch.from_numpy(walks.codes("codes").codes.astype(int))[items, 0]]
    for level, r in enumerate((latents, left)):
        wanted = -(r[:, None] - books[level]).square().sum(2) / model.temperature[level]
        torch.testing.assert_close(found[:, level].softmax(-1), wanted.softmax(-1), rtol=1e-3, atol=1e-5)


def test_sia_of_equal_distributions_is_0(walks):
    model = made(walks, "alignment.strategy=sia")[1]
    logits = torch.randn(4, 2, 8)
    assert model._alignment(logits, logits).abs().max() < 1e-6
    y, p = logits.softmax(-1), logits.flip(0).softmax(-1)
    right = ((y * (y / p).log()).sum(-1) + (p * (p / y).log()).sum(-1)).sum(-1)
    torch.testing.assert_close(model._alignment(logits, logits.flip(0)), right)


def test_it_learns_and_the_alignment_falls(walks):
    config, model = made(walks, "alignment.perplexity=2")
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    first = last = math.nan
    for step in range(60):
        index = torch.randint(model.n_examples, (128,), generator=torch.Generator().manual_seed(step))
        found = model.loss(model.batch(index), Step())
        optimiser.zero_grad()
        found["loss"].backward()
        optimiser.step()
        first, last = (found["alignment"].item() if step == 0 else first), found["alignment"].item()
    assert first == pytest.approx(math.log(2), abs=0.1), "at first a history says what the batch says"
    assert last < 0.8 * first
    shares = model.metrics()
    assert shares["same_code_1"] > 0.3
    assert 1 <= shares["perplexity_target_1"] <= 8
    assert config.name == "tiger-soda"


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code or 0


def test_runs_are_resumed_bit_for_bit(walks, tmp_path, capsys):
    command = ["train", "tiger-soda", "--no-baselines", "--data", walks.folder]
    for setting in (*SMALL, "model.codes=codes", "training.epochs=3", "training.evaluate_every=1"):
        command += ["--set", setting]
    assert run(*command, "--out", tmp_path / "whole") == 0
    whole = tmp_path / "whole/walks/tiger-soda/seed-0"
    calls, step, patch = [], loop.train_step, pytest.MonkeyPatch()

    def stopping(*args, **options):
        calls.append(1)
        if len(calls) == 31:
            raise KeyboardInterrupt
        return step(*args, **options)

    patch.setattr(loop, "train_step", stopping)
    assert run(*command, "--out", tmp_path / "stopped", "--set", "training.checkpoint_minutes=0") == 130
    patch.undo()
    folder = tmp_path / "stopped/walks/tiger-soda/seed-0"
    assert run("resume", folder) == 0
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    capsys.readouterr()
    assert run("evaluate", whole, "--json") == 0
    test = json.loads((whole / "result.json").read_text())["test"]
    assert json.loads(capsys.readouterr().out)["recall@10"] == test["recall@10"]
    events = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    epoch = next(event for event in events if event["event"] == "epoch")
    assert {"nll", "alignment", "perplexity_target_1", "perplexity_history_2", "same_code_1"} <= set(epoch)
    loaded = load(whole)
    assert isinstance(loaded.model, Aligned)
    assert len(loaded.recommend("u3", k=5)) == 5


def test_what_cannot_be_aligned(walks):
    import_codes(walks, walks.codes("codes").codes, "elsewhere", collisions="keep")
    with pytest.raises(DmrecError, match="were made elsewhere, and their tokenizer is not there"):
        made(walks, "model.codes=elsewhere")
    walks._note("codes", "elsewhere", None)
    with pytest.raises(DmrecError, match="model 'sasrec' has no codes to align: leave out 'alignment'"):
        build_config({**recipe("sasrec"), "alignment": {}})
    with pytest.raises(DmrecError, match="alignment.perplexity: perplexity must lie between 1 and"):
        made(walks, "alignment.perplexity=9")
    config, _ = made(walks)
    with pytest.raises(DmrecError, match="an alignment needs the tokenizer of the codes"):
        Aligned(config.model.build(training_data(config, walks)), TrainingData(None), config.alignment)
