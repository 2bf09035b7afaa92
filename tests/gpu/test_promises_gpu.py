"""What only a GPU can show of every operator: nobody waits for it, streams are kept to, bits repeat, devices match."""

import pytest
import torch
from calls import NAMES, calls, sparse

import dmrec_ext

pytestmark = pytest.mark.cuda
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def _bits(call):
    return [*call.results(), *(call.gradients() if call.differentiable else [])]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_on_the_device(name, dtype, device):
    for result in _bits(calls(dtype)[name]):
        assert result.device == device
        assert not result.isnan().any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_the_same_bits_on_every_run(name, dtype):
    call = calls(dtype)[name]
    first = _bits(call)
    for _ in range(20):
        assert all(map(torch.equal, _bits(call), first))


@pytest.mark.parametrize("name", NAMES)
def test_no_call_waits_for_the_device(name, gpu):
    call = calls()[name]
    if call.waits:
        pytest.skip("plain torch, which waits")
    _bits(call)  # what happens once, the handle of cuBLAS among it
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        _bits(call)
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize("name", NAMES)
def test_the_current_stream_is_kept_to(name, gpu):
    """Inputs that a stream will write later are read later: a kernel on another stream would see zeros."""
    call = calls()[name]
    expected = _bits(call)
    late = call._replace(inputs=[torch.zeros_like(x) for x in call.inputs])
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(20_000_000)
        for target, source in zip(late.inputs, call.inputs, strict=True):
            target.copy_(source, non_blocking=True)
        results = _bits(late)
    torch.cuda.synchronize()
    assert all(map(torch.equal, results, expected))


@pytest.mark.parametrize("name", NAMES)
def test_a_second_gpu_is_used_where_tensors_are_on_it(name, gpu):
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU only")
    expected = calls()[name]
    torch.set_default_device("cuda:1")
    torch.manual_seed(0)
    call = calls()[name]._replace(inputs=[x.to("cuda:1") for x in expected.inputs])
    for result, right in zip(_bits(call), _bits(expected), strict=True):
        assert result.device.index == 1
        torch.testing.assert_close(result.cpu(), right.cpu())


@pytest.mark.parametrize("name", NAMES)
def test_compiled_by_inductor(name, gpu):
    """torch.compile as people call it; operators stay as they are, so values agree to the digits of what is around."""
    pytest.importorskip("triton", reason="triton is not installed")
    torch._dynamo.reset()
    call = calls()[name]
    compiled = call._replace(function=torch.compile(call.function))
    torch.testing.assert_close(_bits(compiled), _bits(call), equal_nan=True)


@pytest.mark.parametrize("name", [name for name in NAMES if len(calls()[name].inputs) > 1])
def test_tensors_on_different_devices_are_an_error(name):
    """In the public function's words, for every argument that is not where the others are."""
    call = calls()[name]
    for which in range(len(call.inputs)):
        inputs = [x.cpu() if i == which else x for i, x in enumerate(call.inputs)]
        with pytest.raises(ValueError, match=r"must be on the device of .* \((cpu|cuda)[:0]*\), got (cpu|cuda)"):
            call.function(*inputs)


def test_interactions_on_another_device_are_an_error():
    x, dense = sparse(), torch.randn(41, 3, device="cpu")
    with pytest.raises(
        ValueError, match=r"csr_aggregate: x must be on the device of the other arguments .cpu., got (cuda|cpu):0"
    ):
        dmrec_ext.csr_aggregate(x, dense)
    with pytest.raises(ValueError, match=r"x must be on the device of the other arguments .cpu., got (cuda|cpu):0"):
        dmrec_ext.multinomial_nll(torch.randn(7, 3, device="cpu"), dense, x)
    with pytest.raises(
        ValueError, match=r"exclude must be on the device of the other arguments .cpu., got (cuda|cpu):0"
    ):
        dmrec_ext.rank_topk(torch.randn(7, 3, device="cpu"), dense, 2, exclude=x)


def test_csr_on_the_device(device):
    x = sparse(torch.randn(21))
    assert torch.equal(x.to_dense().T, x.transpose().to_dense())
    index = torch.tensor([6, 0, 0])
    assert torch.equal(x.rows(index).to_dense(), x.to_dense()[index])
    assert {t.device for t in x.transpose()[:3]} == {device}
