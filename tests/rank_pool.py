"""Four processes that compute together by gloo, for tests of what is spread over ranks; started once in a session."""

from __future__ import annotations

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

MOST = 4


class RankPool:
    """``pool(size, function, *arguments)`` calls ``function(ranks, *arguments)`` in so many processes, one thread each,
    and returns what each of them returned. The function must be at the top of a module.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory()
        store = Path(self._folder.name) / "store"
        self._pipes, self._workers = [], []
        for rank in range(MOST):
            ours, theirs = context.Pipe()
            worker = context.Process(target=_serve, args=(rank, str(store), theirs), daemon=True)
            worker.start()
            self._pipes.append(ours)
            self._workers.append(worker)

    def __call__(self, size: int, function: Callable[..., Any], *arguments: Any, sums: str = "exact") -> list[Any]:
        pipes = self._pipes[:size]
        for pipe in pipes:
            pipe.send((size, sums, function, arguments))
        answers = [pipe.recv() for pipe in pipes]
        for rank, (value, error) in enumerate(answers):
            if error is not None:
                if isinstance(value, Exception):
                    value.add_note(f"on rank {rank} of {size}:\n{error}")
                    raise value
                raise AssertionError(f"rank {rank} of {size}: {error}")
        return [value for value, _ in answers]

    def close(self) -> None:
        """Ends the processes."""
        for pipe in self._pipes:
            pipe.send(None)
        for worker in self._workers:
            worker.join(10)
            worker.kill()
        self._folder.cleanup()


def _serve(rank: int, store: str, pipe: Any) -> None:
    import os

    os.environ["OMP_NUM_THREADS"] = "1"
    import torch
    import torch.distributed as dist
    from dmrec.sharding.ranks import Ranks

    torch.set_num_threads(1)
    file = dist.FileStore(store, MOST)
    dist.init_process_group("gloo", store=file, rank=rank, world_size=MOST, timeout=timedelta(minutes=2))
    groups = {size: dist.new_group(list(range(size))) for size in range(2, MOST + 1)}
    while (task := pipe.recv()) is not None:
        size, sums, function, arguments = task
        torch.set_default_dtype(torch.float32)
        try:
            pipe.send((function(Ranks(rank, size, sums, groups.get(size)), *arguments), None))
        except Exception as error:
            try:
                pipe.send((error, traceback.format_exc()))
            except Exception:  # it cannot be pickled
                pipe.send((None, traceback.format_exc()))
    os._exit(0)
