"""The gate of machine code lets nothing get worse unseen."""

import importlib.util
from pathlib import Path

import pytest

specification = importlib.util.spec_from_file_location("cuda_check", Path(__file__).with_name("check.py"))
check = importlib.util.module_from_spec(specification)
specification.loader.exec_module(check)

TABLE = {"compiler": "13.0", "kernels": {"row_forward<A>": {"sm_80": [40, 0, 4, 0]}}}


@pytest.mark.parametrize(
    ("now", "fault"),
    [
        ({"row_forward<A>": {"sm_80": [40, 0, 4, 0]}}, None),
        ({"row_forward<A>": {"sm_80": [38, 64, 5, 1]}}, None),
        ({"row_forward<A>": {"sm_80": [41, 0, 4, 0]}}, "uses 41 registers, 40 before"),
        ({"row_forward<A>": {"sm_80": [40, 0, 3, 0]}}, "wide loads and stores"),
        ({}, "is gone"),
        ({"row_forward<A>": {"sm_80": [40, 0, 4, 0]}, "new<B>": {"sm_80": [9, 0, 0, 0]}}, "new<B> is not in"),
    ],
)
def test_faults(now, fault):
    faults = check.worse_than(TABLE, now, "13.0")
    assert not faults if fault is None else len(faults) == 1 and fault in faults[0]


def test_registers_are_those_of_one_compiler(capsys):
    worse = {"row_forward<A>": {"sm_80": [99, 0, 4, 0]}}
    assert check.worse_than(TABLE, worse, "13.0")
    assert not check.worse_than(TABLE, worse, "14.0")
    assert "registers are not compared" in capsys.readouterr().out


def test_the_table_covers_every_target():
    import json

    for kernel, of_target in json.loads(check.TABLE.read_text())["kernels"].items():
        assert set(of_target) == {"sm_80", "sm_90", "sm_100"}, kernel
