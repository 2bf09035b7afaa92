"""Starts several processes by torchrun, joins them, and leaves them."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from ..errors import DmrecError
from .ranks import ALONE, Ranks

RESTARTS = 3  # of all processes, after one has died
FOREVER, PATIENCE = timedelta(days=10_000), timedelta(seconds=10)
DONE = "dmrec.done"


def under_torchrun() -> bool:
    """Whether this process was started by torchrun, with others or alone."""
    return "TORCHELASTIC_RUN_ID" in os.environ and "RANK" in os.environ


def torchrun(ranks: int, arguments: Sequence[str], processors: int) -> tuple[list[str], dict[str, str]]:
    """The command that runs ``dmrec ARGUMENTS`` in so many processes on this machine, and its environment."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command += ["--max-restarts", str(RESTARTS), "-m", "dmrec", *arguments]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        # a store that torchrun shares with the workers outlives them: after a restart they find addresses of dead ones
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    environment.setdefault("OMP_NUM_THREADS", str(max(1, processors // ranks)))
    return command, environment


@contextmanager
def joined(sums: str, timeout_minutes: float, report: Callable[[str], None]) -> Iterator[Ranks | None]:
    """The processes that torchrun has started; `ALONE` where it has not.

    With exact sums their number is a power of two. Those beyond it say so to ``report``, stand by until the others are
    done, and get None: an elastic job may have lost a machine.

    Raises:
        DmrecError: the processes do not find each other.
    """
    if not under_torchrun():
        yield ALONE
        return
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    timeout = timedelta(minutes=timeout_minutes)
    try:
        store, _, _ = next(iter(rendezvous("env://", rank, size, timeout=timeout)))
        own = PrefixStore(_start(), store)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        if (gpu := int(os.environ.get("LOCAL_RANK", "0"))) < torch.cuda.device_count():
            torch.cuda.set_device(gpu)  # processes that train on the CPU may be more than there are
        dist.init_process_group(backend, store=own, rank=rank, world_size=size, timeout=timeout)
    except (RuntimeError, ValueError) as error:
        raise DmrecError(f"rank {rank} of {size} does not find the others: {error}") from error
    active = size if sums == "fast" else 1 << (size.bit_length() - 1)
    group = dist.new_group(list(range(active)), timeout=timeout) if active < size else None
    heard = [f"{DONE}.{each}" for each in range(active, size)]
    try:
        if rank < active:
            yield Ranks(rank, active, sums, group)
        else:
            report(
                f"rank {rank} on {socket.gethostname()} stands by: with sharding.sums=exact a power of two of "
                f"processes computes, {active} of {size}"
            )
            own.wait([DONE], FOREVER)
            own.set(heard[rank - active], "1")
            yield None
    finally:
        if rank == 0:
            own.set(DONE, "1")
            with suppress(RuntimeError):  # of those that have died
                own.wait(heard, PATIENCE)  # the store may end with this process


def _start() -> str:
    """What this start of the processes is called by all of them, other than earlier ones.

    Where torchrun shares its store, only its count of restarts differs, which each machine keeps for itself: it leaves
    out what another machine has caused. Where it does not, each start has another port.
    """
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    name = "TORCHELASTIC_RESTART_COUNT" if shared else "MASTER_PORT"
    return f"{name}={os.environ.get(name, '0')}"


def leave(code: int) -> None:
    """Ends a process that torchrun has started, without the interpreter's own end.

    Threads of gloo may still be running then, and the process would abort with everything written: torchrun would take
    it for a failure.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if under_torchrun() and dist.is_available() and dist.is_initialized():
        os._exit(code)
