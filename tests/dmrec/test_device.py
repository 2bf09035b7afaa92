"""A device other than the CPU, without having one: steps on the meta device, where a value cannot be read."""

import pytest
import torch
from dmrec.build import build_model
from dmrec.config import build_config
from dmrec.errors import DmrecError
from dmrec.models.base import Step, TrainedModel, UserBatch, evaluating
from dmrec.options import apply_overrides
from dmrec.recipes import RECIPES, recipe
from dmrec.runs.load import training_data
from dmrec.runs.resolve import resolve
from dmrec.runtime import Runtime, limit_threads, move, resolve_device, usable_processors
from dmrec.training.loop import train_step
from dmrec.training.optimiser import optimiser_of
from dmrec.training.state import TrainState
from dmrec.training.timing import PhaseTimer
from torch.optim import Adam

from dmrec_ext import Csr

META = torch.device("meta")


def _model(name, dataset, *settings):
    settings = (*settings, *(["model.embedding_dim=8"] if name == "llm-init" else []))
    config = resolve(build_config(apply_overrides(recipe(name), settings)), dataset)
    return build_model(config, training_data(config, dataset))


CLOSED_FORM = ("popularity", "ease", "l3ae", "markov", "text-gcn", "ensemble")
DEPENDS_ON_VALUES = ("tiger", "letter", "etegrec", "tiger-soda", "letter-soda", "etegrec-soda")  # how far a search goes
TRAINED = [name for name, make in RECIPES.items() if make()["model"]["kind"] not in CLOSED_FORM]
VARIANTS = [
    *((name, ()) for name in TRAINED),
    ("dmrec-m", ("matching.strategy=none",)),
    ("dmrec-m", ("language.fusion=collaborative",)),
    ("dmrec-m", ("language.alone=0.5",)),
    ("dmrec-m", ("matching.strategy=kl", "language.aggregate=false")),
    ("dmrec-c", ("matching.beta_concentration=0.4", "matching.interpolation=moment")),
    ("l-diffrec", ("model.clusters=3",)),
    ("cvga", ("model.hidden=[7, 5]",)),
    ("mult-vae", ("model.item_text={encoder: true}",)),
    ("rlmrec-c", ("model.item_pool=all", "model.edge_dropout=symmetric")),
    ("alpharec", ("model.negatives=batch", "model.user_input=sum")),
    ("alpharec", ("model.negatives=all", "model.user_input=concat")),
    ("kar", ("model.place=after",)),
    ("cvga-m", ("model.item_text={map: two-layer, rank: 3}",)),
    ("l-diffrec-m", ("model.item_text={map: low-rank, rank: 3}",)),
]


@pytest.mark.parametrize(("name", "settings"), VARIANTS, ids=lambda value: str(value))
def test_a_step_reads_no_value_and_no_tensor_is_left_on_the_cpu(name, settings, dataset):
    """Batch, loss, backward, optimiser and what is kept for the log: on the meta device each of these would fail."""
    model = _model(name, dataset, *settings)
    assert isinstance(model, TrainedModel)
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    model.to(META).train()
    runtime, state = Runtime(META), TrainState()
    optimiser = optimiser_of(model, build_config(recipe(name)).training)
    assert isinstance(optimiser, Adam)
    model.begin_epoch(1)
    for number in range(2):
        batch = runtime.move(model.batch(torch.arange(40 * number, 40 * (number + 1))))
        step = Step(number, 1, 0.5)
        state.add(train_step(model, batch, step, optimiser, runtime, PhaseTimer(state.spent)))
        state.terms = model.metrics()
    model.end_epoch(1)
    assert state.sums["loss"].device == META
    assert all(value.device == META for value in (*state.sums.values(), *state.terms.values()))
    for parameter in (each for each in model.parameters() if each.requires_grad):
        assert parameter.grad is not None
        assert parameter.grad.device == META
    assert {key: value.shape for key, value in model.state_dict().items()} == shapes
    assert all(buffer.device == META for buffer in model.buffers())


@pytest.mark.parametrize("name", [*(name for name in TRAINED if name not in DEPENDS_ON_VALUES), "popularity", "ease"])
def test_ranking_leaves_no_tensor_on_the_cpu(name, dataset):
    model = _model(name, dataset).to(META)
    assert model.device == META
    data = training_data(resolve(build_config(recipe(name)), dataset), dataset)
    batch = move(data.users(torch.arange(5)), META)
    with evaluating(model):
        scores, items = model.rank(batch, 4, exclude=batch.interactions)
    assert scores.shape == items.shape == (5, 4)
    assert scores.device == items.device == META


def test_moving_a_batch():
    x = Csr(torch.tensor([0, 1]), torch.tensor([2]), torch.ones(1), 3)
    moved = move(UserBatch(torch.tensor([4]), x, None), META)
    assert isinstance(moved, UserBatch)
    assert isinstance(moved.interactions, Csr)
    assert moved.ids.device == moved.interactions.col.device == moved.interactions.values.device == META
    assert moved.text_vectors is None
    assert move((x, (torch.ones(1), 3)), META)[1][0].device == META


def test_names_of_devices(monkeypatch):
    assert resolve_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    for bad, message in (
        ("cuda", "device 'cuda' cannot be used: torch .*; choose cpu or auto"),
        ("cuda:1", "device 'cuda' cannot be used"),
        ("gpu", "unknown device 'gpu'; did you mean 'cpu'"),
        ("cpu:1", "unknown device 'cpu:1'"),
        ("cuda:x", "unknown device 'cuda:x'"),
    ):
        with pytest.raises(DmrecError, match=message):
            resolve_device(bad)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(DmrecError, match="device 'cuda:2' does not exist: torch finds 2 GPUs"):
        resolve_device("cuda:2")


def test_every_generator_is_in_a_checkpoint(monkeypatch):
    cpu, gpu = Runtime(torch.device("cpu")), Runtime(torch.device("cuda"))
    torch.manual_seed(5)
    state = cpu.random_state()
    drawn = torch.rand(3)
    cpu.set_random_state(state)
    assert torch.equal(torch.rand(3), drawn)
    of_gpu = {}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.tensor([7], dtype=torch.uint8))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda value, device: of_gpu.update({str(device): value}))
    found = gpu.random_state()
    assert found["random.cuda"].tolist() == [7]
    gpu.set_random_state(found)
    assert of_gpu["cuda"].tolist() == [7]
    gpu.set_random_state(state)  # of a run that began on the CPU


def test_precision_is_autocast_on_the_device():
    with Runtime(torch.device("cpu"), "bf16").autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with Runtime(torch.device("cpu")).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_batches_go_to_a_gpu_from_pinned_memory_without_waiting(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: calls.append("pinned") or self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *place, **how: calls.append((place, how)) or self)
    move((torch.ones(2), 5), torch.device("cuda"))
    assert calls == ["pinned", ((torch.device("cuda"),), {"non_blocking": True})]


@pytest.mark.parametrize(
    ("content", "expected"), [("max 100000", 8), ("150000 100000", 2), ("50000 100000", 1), ("", 8)]
)
def test_processors_of_a_container(content, expected, tmp_path, monkeypatch):
    (tmp_path / "cpu.max").write_text(content)
    monkeypatch.setattr("dmrec.runtime.CGROUP", tmp_path / "cpu.max")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert usable_processors() == expected
    monkeypatch.setattr("dmrec.runtime.CGROUP", tmp_path / "none")
    assert usable_processors() == 8


def test_threads_are_those_of_the_environment_or_the_container(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    monkeypatch.setattr("dmrec.runtime.usable_processors", lambda: 3)
    monkeypatch.setenv("OMP_NUM_THREADS", "16")
    limit_threads()
    assert chosen == []
    monkeypatch.delenv("OMP_NUM_THREADS")
    limit_threads()
    assert chosen == [3]
