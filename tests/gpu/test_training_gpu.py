"""One training run of every trained recipe on the device, by the command line: learns, ranks, repeats, resumes.

Each command is a process of its own, as people run it; torch's default device stays the CPU there.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import tiny
from dmrec.recipes import RECIPES

pytestmark = pytest.mark.cuda
DEVICE = os.environ.get("DMREC_TEST_DEVICE", "cuda")
CLOSED_FORM = ("popularity", "ease", "l3ae", "markov", "text-gcn", "ensemble")
TRAINED = [name for name, make in RECIPES.items() if make()["model"]["kind"] not in CLOSED_FORM]
FAST = {"training.epochs": 30, "training.learning_rate": 0.01, "training.batch_size": 40}
SIZES = {
    "mult-vae": {"model.hidden": 24, "model.latent": 8},
    "l-diffrec": {"model.hidden": 24, "model.latent": 8, "model.denoiser_rate": 0.01, "training.epochs": 60},
    "cvga": {"model.latent": 8},
    "lightgcn": {"training.batch_size": 400},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    import torch

    before = torch.get_default_device()
    torch.set_default_device("cpu")
    try:
        return tiny.make(tmp_path_factory.mktemp("gpu") / "data").folder
    finally:
        torch.set_default_device(before)


def dmrec(*arguments, check=True):
    command = [sys.executable, "-m", "dmrec", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert not check or done.returncode == 0, done.stderr
    return done


def training(name, data, out, *settings, device=DEVICE):
    values = RECIPES[name]()
    options = {**FAST, **SIZES[values["model"]["kind"]], **({"language.hidden": 24} if "language" in values else {})}
    listed = [*(f"{key}={value}" for key, value in options.items()), *settings]
    command = ["train", name, "--no-baselines", "--data", data, "--out", out, "--device", device]
    return [*command, *(part for setting in listed for part in ("--set", setting))]


def result_of(out, name):
    return json.loads((out / "tiny" / name / "seed-0/result.json").read_text())


@pytest.mark.parametrize("name", TRAINED)
def test_every_model_learns_on_the_device(name, data, tmp_path):
    """Well above popularity's .19, near the CPU's figure (other random numbers), and the same once more."""
    for out, device in ((tmp_path / "device", DEVICE), (tmp_path / "again", DEVICE), (tmp_path / "cpu", "cpu")):
        dmrec(*training(name, data, out, device=device))
    found, again, cpu = (result_of(tmp_path / out, name) for out in ("device", "again", "cpu"))
    assert found["environment"]["device"].startswith(DEVICE)
    assert found["test"]["recall@10"] > 0.28
    assert found["test"]["recall@10"] == pytest.approx(cpu["test"]["recall@10"], abs=0.08)
    assert again["test"] == found["test"]
    folder = "tiny/" + name + "/seed-0/model.safetensors"
    assert (tmp_path / "device" / folder).read_bytes() == (tmp_path / "again" / folder).read_bytes()


@pytest.mark.parametrize("name", ["mult-vae", "dmrec-m", "cvga-g", "l-diffrec-c"])
def test_bfloat16_trains_on_the_device(name, data, tmp_path):
    dmrec(*training(name, data, tmp_path, "training.precision=bf16"))
    assert result_of(tmp_path, name)["test"]["recall@10"] > 0.28


@pytest.mark.parametrize("name", ["dmrec-m", "l-diffrec", "lightgcn", "ease", "popularity"])
def test_a_run_of_the_device_is_evaluated_and_recommends_anywhere(name, data, tmp_path):
    """Ids are those of the CPU: the same weights, products that only filter."""
    if name in ("ease", "popularity"):
        dmrec("train", name, "--no-baselines", "--data", data, "--out", tmp_path, "--device", DEVICE)
    else:
        dmrec(*training(name, data, tmp_path))
    run, items = tmp_path / "tiny" / name, {}
    for device in (DEVICE, "cpu"):
        figures = json.loads(dmrec("evaluate", run, "--device", device, "--metric", "recall@10", "--json").stdout)
        assert figures["recall@10"] == pytest.approx(result_of(tmp_path, name)["test"]["recall@10"], abs=2e-3)
        dmrec("recommend", run, "--device", device, "-k", 5, "--out", tmp_path / f"{device}.jsonl")
        rows = [json.loads(line) for line in (tmp_path / f"{device}.jsonl").read_text().splitlines()]
        items[device] = [row["item"] for row in rows]
    same = sum(a == b for a, b in zip(items[DEVICE], items["cpu"], strict=True))
    assert same > 0.98 * len(items["cpu"]), "encoders' products round differently: neighbours may change places"


@pytest.mark.parametrize("name", ["dmrec-m", "l-diffrec-m", "lightgcn"])
def test_a_stopped_run_is_resumed_bit_for_bit(name, data, tmp_path):
    options = ["training.epochs=120", "training.patience=1000", "training.checkpoint_minutes=0.002"]
    dmrec(*training(name, data, tmp_path / "whole", *options))
    folder = tmp_path / "stopped/tiny" / name / "seed-0"
    process = subprocess.Popen(
        [sys.executable, "-m", "dmrec", *map(str, training(name, data, tmp_path / "stopped", *options))],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    while not any(folder.glob("state-*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert not (folder / "result.json").exists(), "it was too fast to be stopped"
    dmrec("resume", folder)
    whole = tmp_path / "whole/tiny" / name / "seed-0"
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_grid_and_a_search_run_on_the_device(data, tmp_path):
    (tmp_path / "grid.yaml").write_text(
        f"datasets: [{data}]\nseeds: [0, 1]\nmodels: [mult-vae]\ntraining: {{epochs: 3, device: {DEVICE}}}\n"
    )
    dmrec("experiment", tmp_path / "grid.yaml", "--out", tmp_path / "grid")
    rows = [json.loads(line) for line in (tmp_path / "grid/rows.jsonl").read_text().splitlines()]
    assert [row["state"] for row in rows] == ["finished", "finished"]
    pytest.importorskip("optuna", reason="optuna is not installed")
    settings = ["--set", "training.epochs=3", "--set", f"training.device={DEVICE}", "--trials", 2]
    dmrec("tune", "mult-vae", "--data", data, "--out", tmp_path / "tuned", *settings)
    assert (tmp_path / "tuned/best.yaml").exists()
