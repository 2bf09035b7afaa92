"""The processes that train or rank together (ranks), and the collectives that they share."""

from __future__ import annotations

import pickle
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import DmrecError

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """R processes, numbered from 0. Each collective must be called by all of them, in the same order.

    ``sums`` is "exact", where `sum` adds as a binary tree over the ranks, or "fast", where the order of addition is the
    library's: then results agree to rounding, and R need not be a power of two.
    """

    rank: int = 0
    size: int = 1
    sums: str = "exact"
    group: dist.ProcessGroup | None = None  # None: the default group, where there is more than one process

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that logs, prints and decides."""
        return self.rank == 0

    def sum(self, x: Tensor) -> Tensor:
        """The sum of the tensors of all ranks, which have one shape; the same bits on each of them.

        Rank r adds slice r of all tensors, as a tree, and gets the other slices from the others: the volume of a ring,
        and no order of addition left open.
        """
        if self.size == 1:
            return x
        if self.sums == "fast":
            total = x.contiguous().clone()
            dist.all_reduce(total, group=self.group)
            return total
        flat = x.contiguous().view(-1)
        size = -(-flat.numel() // self.size)
        padded = torch.nn.functional.pad(flat, (0, self.size * size - flat.numel()))
        mine = tree_sum(self.exchange(padded.view(self.size, size)).unbind(0))
        return self.gather(mine).view(-1)[: flat.numel()].view(x.shape)

    def gather(self, x: Tensor) -> Tensor:
        """(R, ..): the tensors of all ranks, which have one shape."""
        if self.size == 1:
            return x[None]
        flat = x.contiguous().view(-1)
        gathered = flat.new_empty(self.size * flat.numel())
        dist.all_gather_single(gathered, flat, group=self.group)
        return gathered.view(self.size, *x.shape)

    def exchange(self, x: Tensor) -> Tensor:
        """(R, ..): what each rank has for this one; ``x[r]`` is what this one has for rank r."""
        if self.size == 1:
            return x
        received = torch.empty_like(x, memory_format=torch.contiguous_format)
        dist.all_to_all_single(received, x.contiguous(), group=self.group)
        return received

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Whether any rank has set each of these flags; the same answer everywhere."""
        if self.size == 1:
            return flags
        raised = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(raised, dist.ReduceOp.MAX, group=self.group)
        return tuple(raised.bool().tolist())

    def tell(self, value: Value) -> Value:
        """The value that rank 0 has; that of the others is ignored."""
        return self.gather_values(value)[0]

    def gather_values(self, value: Value) -> list[Value]:
        """The values of all ranks, which can be pickled."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def wait(self) -> None:
        """Returns when all ranks have called it."""
        if self.size > 1:
            self.any(False)

    def first_does(self, action: Callable[[], None]) -> None:
        """Rank 0 does something; the others return when it has. What it raises is raised everywhere."""
        self.each_does(lambda: action() if self.is_first else None)

    def each_does(self, action: Callable[[], None]) -> None:
        """Each rank does something; what one of them raises is raised everywhere: see `agree`."""
        error: Exception | None = None
        try:
            action()
        except Exception as raised:
            error = raised
        self.agree(error)

    def agree(self, error: Exception | None) -> None:
        """Raises the error of the first rank that has one, on all ranks: see `is_agreed`. If it is not that of rank 0,
        its message names rank and machine.
        """
        for rank, (host, found) in enumerate(self.gather_values((socket.gethostname(), _portable(error)))):
            if found is not None:
                raise agreed(found if rank == 0 else DmrecError(f"rank {rank} on {host}: {found}"))


def _portable(error: Exception | None) -> Exception | None:
    """The error, or one with its words, where it cannot be sent to other processes."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return DmrecError(f"{type(error).__name__}: {error}")
    return error


Error = TypeVar("Error", bound=BaseException)


def agreed(error: Error) -> Error:
    """An error that is raised on all ranks at the same place."""
    error.__dict__["agreed"] = True
    return error


def is_agreed(error: BaseException) -> bool:
    """Whether all ranks raised this error at the same place, so that they can go on together."""
    return bool(error.__dict__.get("agreed"))


ALONE = Ranks()
"""One process."""


def tree_sum(parts: Sequence[Tensor]) -> Tensor:
    """The sum of tensors of one shape, as a binary tree: the halves are added, each such a sum itself."""
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    return tree_sum(parts[:half]) + tree_sum(parts[half:])
