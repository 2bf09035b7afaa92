"""Which precision multiplies matrices faster is measured once, and decides where it is left open."""

import threading
import time

import pytest
import torch

import dmrec_ext
from dmrec_ext import _speeds, fastest_precision, prepare_items, product_speeds, rank_topk
from dmrec_ext._speeds import ProductSpeeds


@pytest.fixture
def measured(monkeypatch):
    """Counts measurements; what they find is given."""
    monkeypatch.delenv(_speeds.CHOICE, raising=False)
    found = []

    def pretend(float32, bf16):
        def measure(device, threads):
            found.append((device, threads))
            return ProductSpeeds(float32, bf16)

        monkeypatch.setattr(_speeds, "_measured", measure)

    pretend.found = found
    return pretend


def test_both_rates_are_found_and_nothing_else_changes():
    _speeds._measured.cache_clear()
    random, threads = torch.get_rng_state(), torch.get_num_threads()
    with torch.autocast("cpu", torch.bfloat16):  # does not decide what float32 is
        speeds = product_speeds()
    assert min(speeds) > 0.05
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.get_num_threads() == threads
    started = time.perf_counter()
    assert all(product_speeds("cpu") == speeds for _ in range(1000))  # not measured again
    assert time.perf_counter() - started < 1


def test_threads_measure_once():
    _speeds._measured.cache_clear()
    results = []
    workers = [threading.Thread(target=lambda: results.append(product_speeds())) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 8
    assert len(set(results)) == 1
    assert _speeds._measured.cache_info().misses == 1


@pytest.mark.parametrize(("bf16", "wanted"), [(50.0, "float32"), (110.0, "float32"), (400.0, "bf16")])
def test_the_faster_one_filters(bf16, wanted, measured, native):
    measured(100.0, bf16)
    assert fastest_precision() == wanted
    items = torch.randn(300, 16)
    assert prepare_items(items).precision == wanted
    assert (prepare_items(items).parts[2].numel() > 0) == (wanted == "bf16")
    assert measured.found == [("cpu", torch.get_num_threads())] * 3
    results = [rank_topk(items[:5], items, 7, precision=each) for each in ("auto", "float32", "bf16")]
    assert all(torch.equal(results[0][1], ids) for _, ids in results)


def test_the_environment_decides(measured, monkeypatch):
    measured(100.0, 400.0)
    monkeypatch.setenv("DMREC_FILTER", "float32")
    assert fastest_precision() == "float32"
    monkeypatch.setenv("DMREC_FILTER", "fp8")
    with pytest.raises(ValueError, match="DMREC_FILTER must be float32 or bf16, got 'fp8'"):
        fastest_precision()
    assert not measured.found


def test_nothing_is_measured_without_contents_or_kernels(measured):
    measured(100.0, 400.0)
    query = torch.randn(3, 4, device="meta")
    dmrec_ext.reference.rank_topk(torch.randn(3, 4), torch.randn(5, 4), 2)
    with dmrec_ext.use_reference():
        rank_topk(torch.randn(3, 4), torch.randn(5, 4), 2)
    assert rank_topk(query, torch.randn(5, 4, device="meta"), 2)[1].shape == (3, 2)
    assert not measured.found
