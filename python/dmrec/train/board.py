"""The log for TensorBoard as well: the same figures, by epoch. Needs ``pip install 'dmrec[board]'``."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import DmrecError

FOLDER = "board"  # in that of the run


class Board:
    """Writes scalars; without ``folder`` none. From ``first_epoch`` on older ones of a stopped run are replaced."""

    def __init__(self, folder: Path | None, first_epoch: int) -> None:
        self.writer = None
        if folder is not None:
            check_board()
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(folder / FOLDER), purge_step=first_epoch)

    def add(self, event: str, epoch: int, values: dict[str, Any]) -> None:
        """All numbers among ``values``, as ``event/name``."""
        if self.writer is not None:
            for name, value in _numbers(event, values):
                self.writer.add_scalar(name, value, epoch)
            self.writer.flush()

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.writer is not None:
            self.writer.close()


def check_board() -> None:
    """TensorBoard is there."""
    if importlib.util.find_spec("tensorboard") is None:
        raise DmrecError("training.board needs TensorBoard: pip install 'dmrec[board]'")


def remove_board(folder: Path) -> None:
    """What was written for the run in ``folder``."""
    for path in folder.glob(f"{FOLDER}/events.out.tfevents.*"):
        path.unlink()
    if (folder / FOLDER).is_dir() and not any((folder / FOLDER).iterdir()):
        (folder / FOLDER).rmdir()


def _numbers(prefix: str, values: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _numbers(f"{prefix}/{name}", value)
        elif isinstance(value, int | float) and name != "epoch":
            yield f"{prefix}/{name}", value
