"""Runs over several machines, played by torchrun's agents on this one: one of them is lost, another takes its place."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dmrec.runs.run import LOG
from test_sharded_runs import COMMON, _lines, _outcome, undisturbed  # noqa: F401


def _free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def _machine(port, data, out):
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}", "--max-restarts", "3"]
    command += ["-m", "dmrec", "train", "dmrec-m", "--data", str(data), "--out", str(out), "--seed", "3", "--force"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return subprocess.Popen(
        [*command, *COMMON],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        text=True,
    )


def _lose(machine):
    """Kills torchrun and the processes that it has started, which have sessions of their own."""
    if machine.poll() is None:
        workers = Path(f"/proc/{machine.pid}/task/{machine.pid}/children").read_text().split()
        for process in (machine.pid, *map(int, workers)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        machine.communicate()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_another_machine_takes_the_place_of_a_lost_one(tiny_folder, tmp_path, undisturbed):  # noqa: F811
    folder, port = tmp_path / "tiny/dmrec-m/seed-3", _free_port()
    first = _machine(port, tiny_folder, tmp_path)
    time.sleep(2)  # it has the store of the rendezvous
    machines = [first, _machine(port, tiny_folder, tmp_path)]
    try:
        deadline = time.monotonic() + 120
        while _lines(folder) < 4:
            assert time.monotonic() < deadline, "training has not begun"
            assert all(machine.poll() is None for machine in machines), machines[0].communicate()[0]
            time.sleep(0.01)
        _lose(machines[1])
        machines.append(_machine(port, tiny_folder, tmp_path))
        printed = [machine.communicate(timeout=180)[0] for machine in (first, machines[2])]
    finally:
        for machine in machines:
            _lose(machine)
    assert first.returncode == 0, printed[0]
    assert machines[2].returncode == 0, printed[1]
    assert _outcome(folder)[:4] == _outcome(undisturbed)[:4]
    starts = [line["event"] for line in map(json.loads, (folder / LOG).read_text().splitlines())].count("start")
    assert starts == 1, "--force did not remove what the same job had begun"
