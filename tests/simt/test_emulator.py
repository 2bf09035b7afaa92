"""The emulator finds every planted error and nothing else, whatever the order of threads."""

import ctypes
import re

import pytest
from emulated import ORDERS


@pytest.fixture(scope="module")
def planted(simt_folder):
    library = ctypes.CDLL(str(simt_folder / "simt_planted.so"))
    library.planted_name.restype = library.planted_expected.restype = ctypes.c_char_p
    library.planted_run.restype = ctypes.c_float
    return library


def _run(planted, case, order, seed=1):
    finding = ctypes.create_string_buffer(4096)
    total = planted.planted_run(case, ORDERS.index(order), ctypes.c_ulong(seed), finding, len(finding))
    return finding.value.decode(), total


@pytest.mark.parametrize("order", ORDERS)
def test_every_planted_error_is_found_and_correct_kernels_pass(planted, order):
    assert planted.planted_is_checked()
    n_errors = n_correct = 0
    for case in range(planted.planted_count()):
        name, expected = planted.planted_name(case).decode(), planted.planted_expected(case).decode()
        if name == "count_to_ten":
            continue  # found by chance alone: below
        finding, _ = _run(planted, case, order)
        if expected:
            assert re.search(expected, finding, re.S), f"{name}: {finding or 'no finding'}"
            n_errors += 1
        else:
            assert not finding, f"{name}: {finding}"
            n_correct += 1
    assert n_errors >= 44
    assert n_correct >= 10


def test_findings_say_where(planted):
    names = [planted.planted_name(case).decode() for case in range(planted.planted_count())]
    for name in ("no_barrier", "read_beyond_end", "half_a_barrier", "shuffle_beyond_mask", "misaligned_vector"):
        finding, _ = _run(planted, names.index(name), "ascending")
        assert finding.startswith(f"kernel {name}: ")
        assert re.search(r"planted\.cpp:\d+", finding), finding
        assert "thread" in finding


def test_a_random_order_repeats_with_its_seed(planted):
    names = [planted.planted_name(case).decode() for case in range(planted.planted_count())]
    race = names.index("no_second_barrier")
    findings = [_run(planted, race, "random", seed)[0] for seed in (3, 3, 4, 5, 6)]
    assert findings[0] == findings[1]
    assert len(set(findings)) > 1


def test_threads_come_between_each_others_atomics_in_random_order(planted):
    names = [planted.planted_name(case).decode() for case in range(planted.planted_count())]
    findings = [_run(planted, names.index("count_to_ten"), "random", seed)[0] for seed in range(20)]
    assert any("out of bounds" in finding for finding in findings)
    assert not _run(planted, names.index("count_to_ten"), "ascending")[0]


def test_orders_hold_behind_barriers_and_warp_operations(planted):
    names = [planted.planted_name(case).decode() for case in range(planted.planted_count())]
    turns = names.index("ascending_after_barriers")
    totals = [_run(planted, turns, order)[1] for order in ORDERS]
    assert totals[0] == sum(i * i for i in range(32))
    assert totals[1] == sum(i * (31 - i) for i in range(32))
    assert totals[2] not in totals[:2]


def test_a_finding_leaves_nothing_behind(planted):
    names = [planted.planted_name(case).decode() for case in range(planted.planted_count())]
    for name in ("half_a_shuffle", "read_beyond_end", "endless"):
        assert _run(planted, names.index(name), "ascending")[0]
        assert _run(planted, names.index("with_barriers"), "ascending") == ("", 2016)


def test_correct_kernels_compute_what_they_should(planted):
    names = [planted.planted_name(case).decode() for case in range(planted.planted_count())]
    for order in ORDERS:
        for name, total in {"with_barriers": 2016, "with_atomics": 4032, "with_half_mask": 120, "votes": 2016}.items():
            assert _run(planted, names.index(name), order)[1] == total
