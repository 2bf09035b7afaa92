"""Commands as a test calls them, and trainings that are asked to stop."""

import pytest
from dmrec.cli.main import main


def done(*arguments):
    """Runs a command, which succeeds."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    assert end.value.code == 0


def refused(capsys, *arguments):
    """Runs a command, which fails; what it says, on one line."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    assert end.value.code != 0
    return " ".join(capsys.readouterr().err.split())


class StopAfter:
    """Takes the place of `GracefulInterrupt`: asks to stop at the n-th look; never, if that is None."""

    def __init__(self, looks):
        self.looks = looks

    @property
    def requested(self):
        if self.looks is not None:
            self.looks -= 1
        return self.looks is not None and self.looks < 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None
