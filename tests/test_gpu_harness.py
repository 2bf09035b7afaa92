"""The benchmarks and checks of a GPU, as far as they run without one: the same code on the CPU, with small sizes."""

import json
import subprocess
import sys

import pytest
import torch

from benchmarks import events, gpu, on_device
from benchmarks.dmrec import bench_step

CPU = torch.device("cpu")
RATES = {"copy, GB/s": 10.0, "float32 product, TFLOP/s": 0.1}


class FakeClock(events.HostClock):
    """Seconds that a test decides: each contender has its own, and a step is only counted."""

    def __init__(self, seconds):
        self.of, self.calls = seconds, []

    def seconds(self, step, rounds, copies):
        self.calls += [step(number % copies) for number in range(rounds)]
        return self.of[self.calls[-1]]


def test_contenders_take_turns_and_inputs_rotate():
    seen = {"ours": [], "peer": []}

    def step(name):
        return lambda number: seen[name].append(number) or name

    clock = FakeClock({"ours": 0.02, "peer": 0.04})
    times = events.race({name: step(name) for name in seen}, 3, clock, passes=2)
    assert times == {"ours": [0.02] * 2, "peer": [0.04] * 2}
    measured = clock.calls[4 * events.WARM_UP :]
    order = [name for i, name in enumerate(measured) if i == 0 or measured[i - 1] != name]
    assert order == ["ours", "peer", "ours", "peer"]
    assert seen["ours"][:4] == [0, 1, 2, 0]
    assert len(seen["ours"]) == 2 * events.WARM_UP + 2 * 5, "0.2 seconds over two passes"


@pytest.mark.parametrize(
    ("n_bytes", "cache", "copies"), [(10, 100, 20), (100, 50, 1), (3, 7, 5), (1, 10**9, 64), (0, 5, 10)]
)
def test_copies_are_twice_the_cache(n_bytes, cache, copies):
    assert events.copies_of(n_bytes, cache) == copies


def test_events_of_a_gpu_are_read_after_the_last(monkeypatch):
    order = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            order.append("record")

        def synchronize(self):
            order.append("synchronize")

        def elapsed_time(self, other):
            order.append("read")
            return 30.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert events.EventClock().seconds(lambda number: order.append(number), 3, 2) == pytest.approx(0.01)
    assert order == ["record", 0, 1, 0, "record", "synchronize", "read"]


def test_notes_say_why_they_are_absent(monkeypatch):
    monkeypatch.setattr(events.shutil, "which", lambda name: None)
    assert events.notes() == {"absent": "nvidia-smi is not installed"}
    monkeypatch.setattr(events.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    done = subprocess.CompletedProcess([], 0, "A GPU, 580.1, 1410 MHz, 2619 MHz, 41, 71.20 W, 0x0\n", "")
    monkeypatch.setattr(events.subprocess, "run", lambda *arguments, **options: done)
    assert events.notes()["temperature.gpu"] == "41"
    assert events.notes()["clocks_throttle_reasons.active"] == "0x0"
    done.returncode, done.stderr = 9, "NVIDIA-SMI has failed\nno driver"
    assert events.notes() == {"absent": "no driver"}


def test_floors_are_rates():
    found = events.floors(CPU, events.HostClock(), size=64, n_bytes=1 << 16)
    assert set(found) == {"copy, GB/s", *(f"{name} product, TFLOP/s" for name in ("float32", "tf32", "bfloat16"))}
    assert found["copy, GB/s"] > 0
    assert torch.get_float32_matmul_precision() == "highest"


WORKLOADS = [
    *on_device.rows(CPU, {"(8, 16)": (8, 16)}),
    *on_device.reduced(CPU, {"(8, 16)": (8, 16)}),
    *on_device.sparse(CPU, {"small": (6, 3, 8, 40)}),
    *on_device.sampled(CPU, {"small": (6, 3, 8, 40)}),
    *on_device.ranking(CPU, {"small": (4, 60, 8)}, k=5),
    *on_device.softmax(CPU, {"small": (4, 60, 8, 3)}),
]


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.parametrize("work", WORKLOADS, ids=lambda work: work.group)
def test_contenders_of_a_workload_compute_the_same(work):
    torch.manual_seed(0)
    inputs = work.make()
    ours = _tensors(work.contenders["ours"](inputs))
    for name, function in work.contenders.items():
        if name in ("ours", "compile", "product"):
            continue
        theirs = _tensors(function(inputs))
        tolerance = 0.05 if "bf16" in name else 1e-4
        assert len(theirs) == len(ours), name
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    assert work.n_bytes or work.flops


def _tensors(value):
    return list(value) if isinstance(value, tuple) else [value]


def test_rows_of_results_have_ratios_floors_and_errors(monkeypatch, capsys):
    monkeypatch.setattr(events, "LEAST_SECONDS", 0.0)

    def failing(inputs):
        raise RuntimeError("no such kernel")

    (work,) = on_device.ranking(CPU, {"small": (4, 60, 8)}, k=5)
    work = work._replace(contenders={**work.contenders, "broken": failing})
    rows = on_device.measure(CPU, iter([work]), RATES, passes=2)
    of = {row["contender"]: row for row in rows}
    assert of["broken"]["error"] == "RuntimeError: no such kernel"
    assert of["ours"]["times_ours"] == 1
    assert (
        of["ours"]["floor_ms"] == pytest.approx(1e3 * 1e-12 * work.flops / 0.1, abs=1e-4)
        or of["ours"]["floor_ms"] is None
    )
    assert of["ours"]["copies"] == 64
    assert len(capsys.readouterr().out.splitlines()) == len(work.contenders) - 1


def test_the_training_step_is_that_of_the_models(monkeypatch):
    for name, value in {"USERS": 32, "ITEMS": 60, "WIDTH": 8, "HIDDEN": 6, "LATENT": 3}.items():
        monkeypatch.setattr(bench_step, name, value)
    bench_step.made.cache_clear()
    bench_step._data.cache_clear()
    (work,) = on_device.training_step(CPU)
    for name, step in work.contenders.items():
        step(None)
        step(None), name
    bench_step.made.cache_clear()
    bench_step._data.cache_clear()


@pytest.mark.parametrize("command", [["-m", "benchmarks", "--device", "cuda"], ["-m", "benchmarks.gpu"]])
def test_without_a_gpu_one_line_says_so(command):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    done = subprocess.run([sys.executable, *command], cwd=gpu.ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "needs a GPU: torch" in done.stdout + done.stderr
    assert len((done.stdout + done.stderr).strip().splitlines()) == 1


def test_the_report_survives_a_failing_step(tmp_path):
    report = gpu.Report(tmp_path / "gpu.json")
    report.step("good", lambda: {"ok": True, "figure": 3})
    report.step("broken", lambda: 1 / 0)
    assert not report.passed
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert written["machine"]["torch"] == torch.__version__
    good, broken = written["steps"]
    assert (good["step"], good["ok"], good["figure"]) == ("good", True, 3)
    assert broken["error"] == "ZeroDivisionError: division by zero"
    assert {"seconds", "gpu"} <= good.keys()


def test_the_steps_of_the_report_on_the_cpu(monkeypatch):
    """A few of the tests and one recipe, with the device under test set to the CPU."""
    monkeypatch.setenv("DMREC_TEST_DEVICE", "cpu")
    found = gpu.tests("-k", "test_csr_on_the_device or test_no_call_waits")
    assert found["ok"]
    assert found["passed"] == 1
    assert found["skipped"] > 10
    assert found["failed"] == []
    assert any("a real GPU is needed" in reason for reason in found["reasons"])
    monkeypatch.setattr(gpu, "EPOCHS", 1)
    trained = gpu.training("cpu", ["mult-vae"], users=60, items=40)
    assert trained["ok"], trained
    assert [row["precision"] for row in trained["rows"]] == ["float32", "bf16"]
    assert all(row["seconds_per_epoch"] > 0 for row in trained["rows"])
    assert not gpu.training("cpu", ["no-such-recipe"], users=60, items=40)["ok"]
