"""Commands as a test calls them."""

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
