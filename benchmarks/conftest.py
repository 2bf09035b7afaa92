"""Contenders of one workload are timed in turns.

Machines are shared and drift, so figures are ratios: every contender of a workload runs within a second or two of
the others, in several passes, and a ratio is formed inside each pass.
"""

from __future__ import annotations

import torch

from benchmarks.processor import processor
from dmrec_ext import native_path

PASSES = 5
collect_ignore = ["dmrec/contenders"]  # for environments of their own

# glibc takes memory anew from the system, which costs more than to fill it, for blocks as large as the largest that
# was freed before, up to 32 MiB. Where nothing large has been freed yet, results would depend on what ran first: in a
# process that trains, something has.
torch.empty(31 << 20, dtype=torch.uint8)


def pytest_generate_tests(metafunc):
    """Passes outermost, contenders innermost."""
    module = metafunc.module
    own = {mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")}
    defaults = {"contender": "CONTENDERS", "workload": "WORKLOADS"}
    for fixture, name in defaults.items():
        if fixture in metafunc.fixturenames and fixture not in own:
            metafunc.parametrize(fixture, list(getattr(module, name)))
    if "number" in metafunc.fixturenames:
        metafunc.parametrize("number", range(PASSES))


def pytest_collection_modifyitems(items):
    """Pass after pass, all contenders of a workload in each."""
    mine = {i: item for i, item in enumerate(items) if "contender" in getattr(item, "fixturenames", ())}

    def place(item):
        params = item.callspec.params
        return item.module.__name__, item.originalname, params.get("strategy", ""), params["workload"], params["number"]

    for i, item in zip(mine, sorted(mine.values(), key=place), strict=True):
        items[i] = item


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["processor_kind"] = processor()
    machine_info["torch"] = torch.__version__
    machine_info["threads"] = torch.get_num_threads()
    machine_info["instructions"] = native_path("gaussian_kl", "cpu").detail
