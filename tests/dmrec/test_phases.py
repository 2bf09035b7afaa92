"""A tokenizer that learns with its recommender: what learns when, what codes do, and that a run is resumed exactly."""

import copy
import json
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
import tiny
import torch
from dmrec import load
from dmrec.build import build_model
from dmrec.cli.main import main
from dmrec.config import build_config
from dmrec.errors import DmrecError
from dmrec.models.base import Step, evaluating
from dmrec.models.phases import Phase
from dmrec.models.sequential.alignment import info_nce
from dmrec.models.sequential.code_distributions import code_logits
from dmrec.options import apply_overrides
from dmrec.recipes import recipe
from dmrec.runs.checkpoint import load_checkpoint
from dmrec.runs.load import training_data
from dmrec.runs.resolve import resolve
from dmrec.runtime import move
from dmrec.tokenizers.tokenize import make_tokenizer, tokenize_dataset
from dmrec.training.loop import learning_rate_factor
from dmrec.training.optimiser import optimiser_of

SMALL = [
    "model.blocks=2",
    "model.transformer={layers: 1, width: 16, feed_forward: 32, heads: 2, head_width: 8}",
    "training.batch_size=64",
    "training.learning_rate=0.005",
    "alignment.distinct_targets=true",
    "alignment.perplexity=2",
]
ALTERNATE = "{mode: alternate, epochs: 4, cycle: 2, alignment_from: 2, tokenizer_learning_rate: 0.01}"
FROZEN = "{mode: frozen, epochs: 2, learning_rate: 0.002}"
JOINT = "{mode: joint, epochs: 2, tokenizer_learning_rate: 0.01}"


@pytest.fixture(scope="module")
def walks(tmp_path_factory):
    """Users who walk round sixteen clusters of four items; codes from vectors of co-occurrence."""
    data = tiny.round_walks(tmp_path_factory.mktemp("walks") / "walks", 200)
    tokenize_dataset(data, make_tokenizer("rk-means", levels=2, size=8), vectors="svd", name="rk")
    options = {"epochs": 30, "latent": 4, "hidden": [16], "levels": 2, "size": 8}
    tokenize_dataset(data, make_tokenizer("rq-vae", **options), vectors="svd", name="rq", collisions="token")
    tokenize_dataset(data, make_tokenizer("letter-rq-vae", **options), vectors="svd", name="letter", collisions="token")
    return data


def made(data, *overrides, name="etegrec", codes="rq", phases=(ALTERNATE, FROZEN)):
    settings = [*SMALL, f"model.codes={codes}", f"phases=[{', '.join(phases)}]", *overrides]
    config = resolve(build_config(apply_overrides(recipe(name), settings)), data)
    torch.manual_seed(0)
    return config, build_model(config, training_data(config, data))


def steps(model, phase, epoch, count=3, rate=5e-3):
    """An epoch of ``count`` steps; returns the losses of the last."""
    model.begin_phase(phase)
    optimiser = torch.optim.AdamW(model.parameter_groups(rate), lr=rate, weight_decay=0.01)
    model.train()
    model.begin_epoch(epoch)
    for number in range(count):
        batch = model.batch(torch.arange(100 * number, 100 * (number + 1)))
        losses = model.loss(batch, Step(number, epoch))
        optimiser.zero_grad(set_to_none=True)
        losses["loss"].backward()
        optimiser.step()
    return losses


def learned(model, before):
    now = model.state_dict()
    return {name.split(".")[0] for name, value in before.items() if not torch.equal(value, now[name])}


@pytest.mark.parametrize("codes", ["rk", "rq", "letter"])
def test_who_learns_when(codes, walks):
    """Frozen: codebooks equal to the bit; in turns, one of the two; jointly, both."""
    model = made(walks, codes=codes, name="etegrec-soda")[1]
    before = copy.deepcopy(model.state_dict())
    losses = steps(model, Phase(epochs=2), 1)
    assert set(losses) == {"loss", "nll", "alignment", "psa"}
    assert learned(model, before) == {"model", "to_latent", "to_vector"}

    phase = Phase(mode="alternate", epochs=4, tokenizer_learning_rate=0.01)
    before = copy.deepcopy(model.state_dict())
    losses = steps(model, phase, 1)
    assert set(losses) == {"loss", "quantization", "alignment", "psa"}
    assert learned(model, before) == {"tokenizer"}
    before = copy.deepcopy(model.state_dict())
    assert "nll" in steps(model, phase, 2)
    assert learned(model, before) == {"model", "to_latent", "to_vector"}

    before = copy.deepcopy(model.state_dict())
    losses = steps(model, Phase(mode="joint", epochs=2, tokenizer_learning_rate=0.01), 1)
    assert set(losses) == {"loss", "nll", "quantization", "alignment", "psa"}
    assert learned(model, before) == {"model", "tokenizer", "to_latent", "to_vector"}


def test_before_the_alignment_each_learns_alone(walks):
    model = made(walks)[1]
    phase = Phase(mode="alternate", epochs=4, alignment_from=3)
    assert set(steps(model, phase, 1)) == {"loss", "quantization"}
    assert set(steps(model, phase, 2)) == {"loss", "nll"}
    assert set(steps(model, phase, 3)) == {"loss", "quantization", "alignment", "psa"}


def test_an_epoch_of_the_tokenizer_is_what_reading_every_batch_would_be(walks):
    """Histories are read once: the same loss and gradients as with the recommender run in each step."""
    model = made(walks, name="etegrec-soda", phases=(ALTERNATE,))[1]
    phase = Phase(mode="alternate", epochs=4, tokenizer_learning_rate=0.01)
    model.begin_phase(phase)
    model.train()
    model.begin_epoch(1)
    index = torch.randperm(model.n_examples)[:90]
    batch = model.batch(index)
    assert batch.inputs is None
    cached = model.loss(batch, Step())
    cached["loss"].backward()
    gradients = [parameter.grad.clone() for parameter in model.tokenizer.parameters()]
    model.zero_grad(set_to_none=True)

    with evaluating(model):
        reading = model.model.reading(model.model.batch(index))
        latents, preference = model.history_latents(reading.history), model.to_vector(reading.first)
    options, own = model.options, model.model.targets(index)
    items, inverse = own.unique(return_inverse=True)
    first = torch.tensor([(inverse == k).nonzero()[0].item() for k in range(len(items))])
    found = model.tokenizer.quantize(model.vectors[items])
    y = code_logits(found.latents, model.tokenizer.codebooks, model.temperature, soft=True).log_softmax(-1)
    p = code_logits(latents[first], model.tokenizer.codebooks, model.temperature, soft=True).log_softmax(-1)
    log_n = p.logsumexp(0) - np.log(len(items))
    delta = (y.exp() * (p - log_n)).sum((1, 2))
    alignment = torch.nn.functional.softplus(-delta).mean()
    psa = info_nce(preference[first], model.tokenizer.decoded(found.quantized), 0.07)
    total = found.loss.mean() + options.weight * alignment + options.psa_weight * psa
    total.backward()
    assert cached["loss"].item() == pytest.approx(total.item(), rel=1e-6)
    for wanted, parameter in zip(gradients, model.tokenizer.parameters(), strict=True):
        torch.testing.assert_close(wanted, parameter.grad, rtol=1e-4, atol=1e-6)


def test_codes_change_where_an_epoch_of_the_tokenizer_ends(walks):
    _, model = made(walks)
    phase = Phase(mode="alternate", epochs=4, tokenizer_learning_rate=0.03)
    before = model.model.codes.clone()
    steps(model, phase, 1, count=4)
    assert torch.equal(model.model.codes, before), "not within it"
    values = model.end_epoch(1)
    now = model.model.codes
    assert values["churn"] == pytest.approx((before != now).any(1).double().mean().item())
    assert values["churn"] > 0
    assert values["items_in_collisions"] == 0, "their rule, a further token, tells all apart"
    assert torch.equal(model.item_codes, now)
    assert 1 <= values["codes_used_1"] <= 8
    with evaluating(model):
        every = torch.arange(len(now))[None]
        leaves = model.model.trie.items_of(torch.arange(model.model.trie.n_nodes(model.model.levels - 1)))[0]
        assert torch.equal(leaves.reshape(-1).sort().values, every[0]), "the tree is of the new codes"
    assert model.end_epoch(2 - 1)["churn"] == 0
    steps(model, phase, 2)
    assert "churn" not in model.end_epoch(2)
    again = made(walks)[1]
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.model.codes, now)
    assert torch.equal(again.model.trie.items, model.model.trie.items)


def test_a_collapsed_tokenizer_ends_the_run(walks):
    model = made(walks)[1]
    steps(model, Phase(mode="alternate", epochs=4), 1)
    with torch.no_grad():
        model.tokenizer.codebooks.zero_()
    with pytest.raises(DmrecError, match="all items have the same code on level 1: the tokenizer has collapsed"):
        model.end_epoch(1)


@pytest.mark.parametrize("codes", ["rk", "rq", "letter"])
@pytest.mark.parametrize("mode", ["alternate", "joint"])
def test_a_step_reads_no_value(mode, codes, walks):
    """On the meta device, where reading one fails, as on a GPU it would wait."""
    model = made(walks, codes=codes)[1].to("meta").train()
    model.begin_phase(Phase(mode=mode, epochs=2))
    for epoch in (1, 2):
        model.begin_epoch(epoch)
        losses = model.loss(move(model.batch(torch.arange(40)), torch.device("meta")), Step())
        losses["loss"].backward()
        assert {value.device.type for value in (*losses.values(), *model.metrics().values())} == {"meta"}
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_information_nce():
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    cosines = torch.stack([torch.stack([torch.cosine_similarity(a, b, 0) for b in y]) for a in x]) / 0.07
    one_way = -(cosines.log_softmax(1).diagonal().mean() + cosines.log_softmax(0).diagonal().mean()) / 2
    assert info_nce(x, y, 0.07).item() == pytest.approx(one_way.item())
    assert info_nce(x[:1], y[:1], 0.07).item() == pytest.approx(0)


def test_the_fault_of_released_code_makes_the_farthest_code_the_likeliest(walks):
    right, wrong = made(walks)[1], made(walks, "alignment.likeliest=farthest")[1]
    latents = right.tokenizer.latents(right.vectors)
    logits = wrong._logits(latents, wrong.tokenizer.codebooks)
    torch.testing.assert_close(logits, -right._logits(latents, right.tokenizer.codebooks))
    distance = (latents[:, None] - right.tokenizer.codebooks[0]).square().sum(2)
    assert torch.equal(right._logits(latents, right.tokenizer.codebooks)[:, 0].argmax(1), distance.argmin(1))
    assert torch.equal(logits[:, 0].argmax(1), distance.argmax(1))


def test_groups_have_rates_schedules_and_clips_of_their_own(walks):
    config, model = made(walks, "training.schedule=cosine")
    phase, settings = config.schedule[0]
    model.begin_phase(phase)
    optimiser = optimiser_of(model, settings)
    assert [(group["name"], group["lr"]) for group in optimiser.param_groups] == [
        ("recommender", 0.005),
        ("recommender", 0.005),
        ("tokenizer", 0.01),
    ]
    assert [model.learning(epoch) for epoch in (1, 2, 3)] == [("tokenizer",), ("recommender",), ("tokenizer",)]
    assert config.schedule[1][1].learning_rate == 0.002
    assert config.epochs == 6
    constant = settings.model_copy(update={"schedule": "constant", "warmup": 0.5})
    assert learning_rate_factor(constant, 0, 8) == pytest.approx(0.2)
    assert learning_rate_factor(constant, 4, 8) == 1


def run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code or 0


def command(data, out, *, phases=(ALTERNATE, FROZEN), codes="rq", name="etegrec-soda", more=()):
    found = ["train", name, "--no-baselines", "--data", data.folder, "--out", out]
    for setting in (*SMALL, f"model.codes={codes}", f"phases=[{', '.join(phases)}]", *more):
        found += ["--set", setting]
    return found


def bits(folder):
    """All that a finished run is, but times."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    clocks = {"time", "seconds", "phases"}
    events = [{key: value for key, value in line.items() if key not in clocks} for line in lines]
    kept = [event for event in events if event["event"] in ("epoch", "evaluation")]
    return (folder / "model.safetensors").read_bytes(), kept


def test_a_run_of_several_phases(walks, tmp_path, capsys):
    assert run(*command(walks, tmp_path / "whole")) == 0
    folder = tmp_path / "whole/walks/etegrec-soda/seed-0"
    events = bits(folder)[1]
    epochs = [event for event in events if event["event"] == "epoch"]
    assert [event["phase"] for event in epochs] == [1, 1, 1, 1, 2, 2]
    assert [("churn" in event, "nll" in event) for event in epochs] == [(True, False), (False, True)] * 2 + [
        (False, True)
    ] * 2
    assert [event["epoch"] for event in events if event["event"] == "evaluation"] == [2, 4, 6]
    result = json.loads((folder / "result.json").read_text())
    assert len(result["best_in_phases"]) == 2
    capsys.readouterr()
    assert run("evaluate", folder, "--json") == 0
    assert json.loads(capsys.readouterr().out)["recall@10"] == result["test"]["recall@10"]
    assert len(load(folder).recommend("u3", k=5)) == 5
    assert run("train", "--final", folder, "--out", tmp_path / "final") == 0
    config = load(next((tmp_path / "final").rglob("config.yaml")).parent).config
    assert [phase.epochs for phase in config.phases] == [epochs for epochs in result["best_in_phases"] if epochs]


def test_a_phase_ends_when_codes_stand_still(walks, tmp_path):
    still = "{mode: alternate, epochs: 4, until_churn: 0.5, tokenizer_learning_rate: 1.0e-9}"
    assert run(*command(walks, tmp_path, phases=(still, FROZEN))) == 0
    events = bits(tmp_path / "walks/etegrec-soda/seed-0")[1]
    assert [event["phase"] for event in events if event["event"] == "epoch"] == [1, 2, 2]
    assert [event["epoch"] for event in events if event["event"] == "evaluation"] == [1, 3], "wherever a phase ends"
    assert run(*command(walks, tmp_path / "alone", phases=(still,))) == 0
    assert load(tmp_path / "alone/walks/etegrec-soda/seed-0").recommend("u3", k=2)


@pytest.mark.parametrize("phases", [(ALTERNATE, FROZEN), (JOINT, FROZEN)], ids=["alternate", "joint"])
@pytest.mark.parametrize("codes", ["rk", "rq", "letter"])
def test_runs_are_resumed_bit_for_bit_from_any_batch(phases, codes, walks, tmp_path, monkeypatch):
    """Stopped by a signal in several steps of every phase, among them the last and first of epochs and phases."""
    from dmrec.training import loop

    assert run(*command(walks, tmp_path / "whole", phases=phases, codes=codes)) == 0
    wanted = bits(tmp_path / "whole/walks/etegrec-soda/seed-0")
    config = load(tmp_path / "whole/walks/etegrec-soda/seed-0").config
    per_epoch = -(-load(tmp_path / "whole/walks/etegrec-soda/seed-0").model.n_examples // 64)
    total = per_epoch * config.epochs
    step, calls = loop.train_step, []
    stops = {1, per_epoch - 1, per_epoch, per_epoch + 1, 2 * per_epoch + 3, total - 2 * per_epoch, total - 1, total}

    def stopping(*args, **options):
        calls.append(1)
        if len(calls) in stops:
            signal.raise_signal(signal.SIGTERM)
        return step(*args, **options)

    monkeypatch.setattr(loop, "train_step", stopping)
    folder = tmp_path / "stopped/walks/etegrec-soda/seed-0"
    code = run(*command(walks, tmp_path / "stopped", phases=phases, codes=codes))
    resumed = 0
    while code == 130:
        code, resumed = run("resume", folder), resumed + 1
    assert code == 0
    assert resumed == len(stops)
    assert len(calls) == total
    assert bits(folder) == wanted


DYING = """
import resource, signal, sys
from dmrec.cli.main import main
from dmrec.training import loop
save, left, n_bytes = loop.save_checkpoint, int(sys.argv[1]), int(sys.argv[2])
def saving(*arguments):
    global left
    left -= 1
    if left == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    save(*arguments)
loop.save_checkpoint = saving
main(sys.argv[3:])
"""


@pytest.mark.slow
def test_twenty_kills_at_random_bytes(walks, tmp_path):
    """The process dies with some byte of some checkpoint, in every phase; what is resumed ends as if it had not."""
    more = ["training.checkpoint_minutes=0"]
    assert run(*command(walks, tmp_path / "whole", more=more)) == 0
    wanted = bits(tmp_path / "whole/walks/etegrec-soda/seed-0")
    folder = tmp_path / "killed/walks/etegrec-soda/seed-0"
    draw, phases = random.Random(0), set()
    arguments = [str(part) for part in command(walks, tmp_path / "killed", more=more)]
    for _ in range(20):
        saves, n_bytes = draw.randrange(3, 8), draw.randrange(1, 60_000)
        done = subprocess.run([sys.executable, "-c", DYING, str(saves), str(n_bytes), *arguments], capture_output=True)
        assert done.returncode == -signal.SIGXFSZ, done.stderr.decode()
        phases.add(load_checkpoint(folder).values["place"]["phase"])
        arguments = ["resume", str(folder)]
    assert phases == {0, 1}
    assert run("resume", folder) == 0
    assert bits(folder) == wanted


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("phases=[{mode: alternate, epochs: 3}]", r"phases.0.epochs: must be a multiple of cycle \(2\), got 3"),
        ("phases=[{mode: alternately}]", "phases.0.mode"),
        ("phases=[joint]", "phases.0: Input should be a section of keys and values, got 'joint'"),
        ("phases=[{moda: joint}]", "unknown option 'phases.0.moda'; did you mean 'mode'"),
        (
            "phases=[{mode: frozen}, {mode: alternate, cycle: 4}]",
            "training.evaluate_every must be a multiple of phases.1",
        ),
        ("alignment=null", "phases.0.mode: alternate needs the section 'alignment'"),
        ("alignment.psa_weight=-1", "alignment.psa_weight"),
    ],
)
def test_what_cannot_be_a_schedule(setting, message):
    with pytest.raises(DmrecError, match=message):
        build_config(apply_overrides(recipe("etegrec"), [setting]))
