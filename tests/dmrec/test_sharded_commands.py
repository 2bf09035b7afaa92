"""Commands of several processes: what they refuse before these are started, what is printed, and who stands by."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import dmrec
import pytest
import torch
from commands import StopAfter, done, refused
from dmrec.cli import main as of_main
from dmrec.cli import train as of_train
from dmrec.errors import DmrecError
from dmrec.runs.run import Run, run_lock
from dmrec.sharding import launch
from dmrec.sharding.ranks import agreed
from dmrec.training import trainer
from torch.distributed.run import get_args_parser

OPTIONS = ("model.hidden=24", "model.latent=8", "training.epochs=4", "training.batch_size=40")
SMALL = [part for option in OPTIONS for part in ("--set", option)]
CUT = ["--set", "sharding.shards=8"]


def _train(data, out, *arguments):
    return ["train", "mult-vae", "--no-baselines", "--data", data, "--out", out, *SMALL, *arguments]


def _stopped(monkeypatch, data, out, *arguments):
    """The folder of a run that was stopped after a checkpoint."""
    command = [str(each) for each in _train(data, out, *arguments)]
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "GracefulInterrupt", lambda: StopAfter(4))
        with pytest.raises(SystemExit, match="130"):
            of_main.main(command)
    folder = out / "tiny/mult-vae/seed-0"
    assert Run(folder).is_resumable
    return folder


def _files(folder):
    """The contents of all files but locks."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.fixture
def never_started(monkeypatch):
    """Torchrun must not be started."""

    def start(ranks):
        raise AssertionError("torchrun was started")

    monkeypatch.setattr(of_train, "start", start)


def test_a_stopped_run_is_not_begun_anew_with_other_shards(tiny_folder, tmp_path, capsys, monkeypatch, never_started):
    folder = _stopped(monkeypatch, tiny_folder, tmp_path, *CUT)
    before = _files(tmp_path)
    for others, now in (((), 1), (("--ranks", 2), 64), (("--set", "sharding.shards=4", "--ranks", 2), 4)):
        said = refused(capsys, *_train(tiny_folder, tmp_path, *others))
        assert f"{folder}: sharding.shards is {now}, but the run was cut into 8 shards and stays so; train anew" in said
        assert "(dmrec train --force, or another --out)" in said
        assert _files(tmp_path) == before
    done(*_train(tiny_folder, tmp_path, "--force"))
    assert Run(folder).config.sharding.shards == 1


def test_a_run_of_one_process_is_not_begun_anew_in_shards(tiny_folder, tmp_path, capsys, monkeypatch, never_started):
    folder = _stopped(monkeypatch, tiny_folder, tmp_path)
    said = refused(capsys, *_train(tiny_folder, tmp_path, "--ranks", 2))
    assert "sharding.shards is 64, but the run was not cut into shards and stays so; train anew" in said
    assert Run(folder).is_resumable


def test_what_a_stopped_run_has_computed_is_kept_from_other_options(tiny_folder, tmp_path, capsys, monkeypatch):
    folder = _stopped(monkeypatch, tiny_folder, tmp_path)
    before = _files(folder)
    other = _train(tiny_folder, tmp_path, "--set", "training.epochs=5")
    said = refused(capsys, *other)
    assert f"{folder} holds a stopped run with other options or other data: continue it as it was (dmrec resume" in said
    assert _files(folder) == before
    done("resume", folder)
    said = refused(capsys, *other)  # finished, though no row of it was written
    assert f"{folder} holds a finished run with other options" in said
    done(*other, "--force")
    assert Run(folder).result["epochs"] == 5
    elsewhere = tmp_path / "elsewhere/tiny/mult-vae/seed-0"
    shutil.copytree(folder, elsewhere)
    (elsewhere / "job.sha256").unlink()  # as dmrec.train makes them
    said = refused(capsys, *_train(tiny_folder, tmp_path / "elsewhere"))
    assert f"{elsewhere} holds a finished run that another command has begun" in said


def test_python_does_not_begin_a_stopped_run_anew(tiny_folder, tmp_path, monkeypatch):
    folder = _stopped(monkeypatch, tiny_folder, tmp_path)
    before, config = _files(folder), Run(folder).config
    with pytest.raises(DmrecError, match=r"a stopped run with other options; continue it .*replace=True"):
        dmrec.train(config, tiny_folder, out=tmp_path, progress=False, epochs=5)
    assert _files(folder) == before
    dmrec.train(config, tiny_folder, out=tmp_path, progress=False, epochs=5, replace=True)
    assert Run(folder).result["epochs"] == 5


def test_a_changed_configuration_is_refused_before_processes_are_started(
    tiny_folder, tmp_path, capsys, monkeypatch, never_started
):
    folder = _stopped(monkeypatch, tiny_folder, tmp_path, *CUT)
    config = folder / "config.yaml"
    was = config.read_text()
    config.write_text(was.replace("hidden: 24", "hidden: 25"))
    said = refused(capsys, "resume", folder, "--ranks", 2)
    assert "config.yaml was changed since the run was started: model.hidden" in said
    config.write_text(re.sub("timeout_minutes: .*", "timeout_minutes: 60", was))
    trainer.check_resumable(folder)  # how long processes wait may change
    assert Run(folder).config.sharding.timeout_minutes == 60


@pytest.mark.parametrize("shards", [1, 4])
def test_a_changed_number_of_shards_is_the_reason_that_resume_gives(
    tiny_folder, tmp_path, capsys, monkeypatch, never_started, shards
):
    folder = _stopped(monkeypatch, tiny_folder, tmp_path, *CUT)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("shards: 8", f"shards: {shards}"))
    for others in ((), ("--ranks", 2)):
        said = refused(capsys, "resume", folder, *others)
        assert f"sharding.shards is {shards}, but the run was cut into 8 shards and stays so" in said
    assert "was cut into 8 shards" in refused(capsys, *_train(tiny_folder, tmp_path, *CUT)), "nor does train begin anew"
    assert Run(folder).is_resumable
    with pytest.raises(DmrecError, match=f"sharding.shards is {shards}, but the run was cut into 8"):
        trainer.resume_run(folder)


def test_other_options_are_refused_before_processes_are_started(tiny_folder, tmp_path, capsys, never_started):
    done(*_train(tiny_folder, tmp_path, *CUT))
    others = ("--ranks", 2, "--set", "training.epochs=5")
    said = refused(capsys, *_train(tiny_folder, tmp_path, *CUT, *others))
    assert "holds runs of mult-vae on tiny with other options or other data: name another folder" in said
    folder = tmp_path / "tiny/mult-vae/seed-0"
    assert f"{folder} is finished" in refused(capsys, "resume", folder, "--ranks", 2)
    with pytest.raises(AssertionError, match="torchrun was started"):
        of_main.main(["--debug", *map(str, _train(tiny_folder, tmp_path, *CUT, *others, "--force"))])
    assert (folder / "result.json").exists(), "it is replaced by the processes"


def test_a_run_that_is_being_trained_is_not_resumed_by_others(
    tiny_folder, tmp_path, capsys, monkeypatch, never_started
):
    folder = _stopped(monkeypatch, tiny_folder, tmp_path, *CUT)
    with run_lock(folder):
        assert "another process trains there" in refused(capsys, "resume", folder, "--ranks", 2)


def _environment(**values):
    return {**os.environ, "OMP_NUM_THREADS": "1", **values}


def _in_torchrun(*arguments, restarts=0):
    """A process as torchrun starts it, after so many restarts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    of_torchrun = {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    of_torchrun |= {"MASTER_PORT": str(port), "TORCHELASTIC_RESTART_COUNT": str(restarts)}
    of_torchrun |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    command = [sys.executable, "-m", "dmrec", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=_environment(**of_torchrun), check=False)


def test_a_restart_that_finds_the_run_finished_ends_with_success(tiny_folder, tmp_path):
    done(*_train(tiny_folder, tmp_path, *CUT))
    ended = _in_torchrun("resume", tmp_path / "tiny/mult-vae/seed-0")
    assert ended.returncode == 1
    assert "is finished: dmrec evaluate shows its figures" in ended.stderr
    ended = _in_torchrun("resume", tmp_path / "tiny/mult-vae/seed-0")  # by the same process, as torchrun would
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr
    assert "error" not in ended.stderr


def test_processes_beyond_a_power_of_two_stand_by(tiny_folder, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3", "-m", "dmrec"]
    command += map(str, _train(tiny_folder, tmp_path / "three", *CUT))
    # the store is that of rank 0 and ends with it
    environment = _environment(TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, text=True, start_new_session=True
    )
    try:
        printed, _ = process.communicate(timeout=200)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, printed
    line = f"rank 2 on {socket.gethostname()} stands by: with sharding.sums=exact a power of two of processes computes"
    assert printed.count(line) == 1
    assert printed.index(line) < printed.index("mult-vae seed 0: finished"), "before it waits, not after"
    assert printed.count("mult-vae seed 0: finished") == 1
    subprocess.run(
        [sys.executable, "-m", "dmrec", *map(str, _train(tiny_folder, tmp_path / "one", *CUT))],
        capture_output=True,
        env=_environment(),
        check=True,
    )
    one, three = (Run(tmp_path / name / "tiny/mult-vae/seed-0") for name in ("one", "three"))
    assert one.load_metadata()["files"] == three.load_metadata()["files"]


@pytest.mark.parametrize(
    ("rank", "wanted"),
    [
        (0, ["group [0, 1] 420.0", "computes", "set dmrec.done", "wait ['dmrec.done.2']"]),
        (1, ["group [0, 1] 420.0", "computes"]),
        (2, ["group [0, 1] 420.0", "said rank 2", "wait ['dmrec.done']", "set dmrec.done.2", "stood by"]),
    ],
)
def test_standing_by_is_said_before_waiting(monkeypatch, rank, wanted):
    """And the store, which may be rank 0's, lasts until all have heard that they can go."""
    events = []

    class Store:
        def wait(self, keys, timeout):
            events.append(f"wait {keys}")

        def set(self, key, value):
            events.append(f"set {key}")

    def new_group(ranks, timeout):
        events.append(f"group {ranks} {timeout.total_seconds()}")

    _join(monkeypatch, rank, 3)
    monkeypatch.setattr(launch, "PrefixStore", lambda *_: Store())
    monkeypatch.setattr(launch.dist, "new_group", new_group)
    with launch.joined("exact", 7.0, lambda line: events.append(f"said {line[:6]}")) as ranks:
        events.append("stood by" if ranks is None else "computes")
    assert events == wanted


def _join(monkeypatch, rank, size):
    """A process of so many, whose others are not there."""
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", size)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(launch, "rendezvous", lambda *_, **options: iter([(torch.distributed.HashStore(), rank, size)]))
    monkeypatch.setattr(launch.dist, "init_process_group", lambda *_, **options: None)


@pytest.mark.parametrize(("rank", "chosen"), [(0, [0]), (1, [1]), (2, [])])
def test_more_processes_than_gpus_take_none(monkeypatch, rank, chosen):
    taken = []
    _join(monkeypatch, rank, 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    with launch.joined("exact", 1.0, print) as ranks:
        assert (ranks.rank, ranks.size) == (rank, 4)
    assert taken == chosen


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_names_rank_and_machine_unless_all_have_it(monkeypatch, capsys, rank):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("RANK", str(rank))

    def said(error):
        def fail(arguments):
            raise error

        monkeypatch.setattr(of_main, "_run", fail)
        return refused(capsys)

    assert said(DmrecError("the disk is full")) == f"error: rank {rank} on {socket.gethostname()}: the disk is full"
    assert said(agreed(DmrecError("the disk is full"))) == ("error: the disk is full" if rank == 0 else "")


def fail_on_one(ranks, failing):
    def act():
        if ranks.rank == failing:
            raise OSError("no such folder")

    ranks.each_does(act)


def test_what_one_rank_meets_is_raised_everywhere_with_its_name(rank_pool):
    with pytest.raises(DmrecError, match=rf"^rank 1 on {socket.gethostname()}: no such folder"):
        rank_pool(2, fail_on_one, 1)
    with pytest.raises(OSError, match="^no such folder"):
        rank_pool(2, fail_on_one, 0)


@pytest.mark.parametrize(("rank", "ranks", "heard"), [(None, (), 1), (None, (2,), 0), ("0", (), 1), ("1", (), 0)])
def test_what_all_processes_find_is_said_once(tiny_folder, tmp_path, monkeypatch, capsys, rank, ranks, heard):
    if rank is not None:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
        monkeypatch.setenv("RANK", rank)

    def begin(*arguments):
        raise DmrecError("it begins")

    for name in ("start", "together", "experiment_lock"):
        monkeypatch.setattr(of_train, name, begin)
    monkeypatch.setattr(of_train, "slow_precision", lambda *_: "bf16 is slow here")
    said = refused(capsys, *_train(tiny_folder, tmp_path, *(f"--ranks={count}" for count in ranks)))
    assert "it begins" in said
    assert said.count("bf16 is slow here") == heard


def _options():
    """All options of commands that may be given to several processes, but for those that torchrun is not given."""
    names = {"--debug", "--plugin", "--version"}
    for command in ("train", "resume", "evaluate", "recommend"):
        for parameter in of_main.load_command(command).params:
            names |= {name for name in (*parameter.opts, *parameter.secondary_opts) if name.startswith("-")}
    return sorted(names - {"--ranks", "--help"})


def _arguments_after_torchrun(*arguments):
    command, _ = launch.torchrun(2, arguments, 2)
    return get_args_parser().parse_args(command[command.index("torch.distributed.run") + 1 :]).training_script_args


def test_torchrun_takes_no_option_of_ours_for_its_own():
    theirs = [name for action in get_args_parser()._actions for name in action.option_strings]
    ours = _options()
    assert {"--data", "--set", "--from", "-k", "--low-memory", "--json"} <= set(ours)
    for name in ours:
        assert not [each for each in theirs if each == name or (name[:2] == "--" and each.startswith(name))], name
        for option in ([name, "x"], [f"{name}=x"]):
            assert _arguments_after_torchrun("train", *option, "y") == ["train", *option, "y"]
    for short in ("--n", "--rdzv", "-m"):  # such as ours must not be
        assert [each for each in theirs if each.startswith(short)]


def test_the_table_counts_the_users_that_were_measured(tiny_folder, tmp_path, capsys):
    done(*_train(tiny_folder, tmp_path, "--set", "evaluation.users=30"))
    assert "tiny: test, 30 users" in capsys.readouterr().out


def test_a_process_of_torchrun_that_fails_ends_at_once(tmp_path, capsys, monkeypatch):
    """Threads of gloo may still run, and would abort the process after its message."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    left = []
    monkeypatch.setattr(launch, "leave", left.append)
    assert "nowhere is not a folder" in refused(capsys, "data", "inspect", tmp_path / "nowhere")
    assert left == [1]
