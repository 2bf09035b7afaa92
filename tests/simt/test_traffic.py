"""Memory traffic of every kernel: none asks for much more than it must without saying why, none falls back."""

import json
import re
from pathlib import Path

import pytest
import traffic

KERNELS = Path(__file__).parents[2] / "csrc" / "ops" / "cuda"


@pytest.fixture(scope="module")
def counted(checked):
    with checked.running(traffic=True):
        traffic.run_all()
        return traffic.shares(checked.traffic())


def test_every_kernel_is_counted(counted):
    sources = "".join(path.read_text() for path in KERNELS.glob("*.cu*"))
    assert set(re.findall(r'launch\("(\w+)"', sources)) == set(counted)


def test_what_moves_more_than_it_must_says_why(counted):
    assert {kernel for kernel, share in counted.items() if share["sectors"] < 0.9} == set(traffic.WHY_BELOW_90)
    assert {kernel for kernel, share in counted.items() if share.get("shared", 1) < 0.9} == set(traffic.WHY_CONFLICTS)


def test_none_falls_back(counted):
    table = json.loads(traffic.TABLE.read_text())
    assert set(table) == set(counted)
    for kernel, share in table.items():
        for kind, least in share.items():
            assert counted[kernel][kind] >= least - 0.005, (kernel, kind)
