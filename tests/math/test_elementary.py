"""Error of csrc/math in units of the last place, against mpmath; conversions of 16-bit floats, exhaustively."""

import mpmath
import numpy as np
import pytest
import torch

mpmath.mp.dps = 50
EXACT = {
    "bounded_exp": mpmath.exp,
    "half_expm1": lambda x: mpmath.expm1(x) / 2,
    "half_exp_gap": lambda h: (mpmath.expm1(2 * h) - 2 * h) / 2,
    "log_of": mpmath.log,
    "log_of_one_plus": mpmath.log1p,
}
# just above the worst seen; the gap subtracts where |x| > ln(2) / 2, where the result is still 0.03
LIMITS = {"bounded_exp": 1.0, "half_expm1": 2.5, "half_exp_gap": 12.0, "log_of": 2.0, "log_of_one_plus": 2.5}


def _points(dtype):
    rng = np.random.default_rng(0)
    span = 87.0 if dtype == np.float32 else 708.0
    parts = [
        rng.uniform(-span, span, 4000),
        rng.uniform(-1, 1, 4000),
        np.exp(rng.uniform(np.log(1e-9), np.log(1.0), 2000)) * rng.choice([-1, 1], 2000),
        np.log(2) / 2 * np.array([-1.0001, -1, -0.9999, 0.9999, 1, 1.0001]),
    ]
    return np.concatenate(parts).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", list(EXACT))
def test_error_in_ulps(math_module, name, dtype):
    x = _points(dtype)
    if name == "half_exp_gap":
        x = x / 2
    elif name == "log_of":
        x = np.concatenate([np.abs(x), np.exp2(np.linspace(-120, 120, 2000)), 1 + x / 1000]).astype(dtype)
        x = x[x >= np.finfo(dtype).tiny]
    elif name == "log_of_one_plus":
        x = x[x > -0.5]
    result = getattr(math_module, name)(x)
    assert np.isfinite(result).all()
    worst = 0.0
    for value, got in zip(x, result, strict=True):
        exact = EXACT[name](mpmath.mpf(float(value)))
        ulp = mpmath.mpf(float(np.spacing(dtype(max(abs(float(exact)), float(np.finfo(dtype).tiny))))))
        worst = max(worst, float(abs(mpmath.mpf(float(got)) - exact) / ulp))
    assert worst < LIMITS[name], f"{name}: {worst:.2f} ulp"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_borders(math_module, dtype):
    x = np.array([np.nan, -np.nan, np.inf, -np.inf, 0.0, 1e30, -1e30], dtype=dtype)
    bounded = math_module.bounded_exp(x)
    low, high = (-87, 88) if dtype == np.float32 else (-708, 709)
    expected = np.exp(np.array([np.nan, np.nan, high, low, 0, high, low], dtype=np.float64))
    np.testing.assert_allclose(bounded, expected, rtol=1e-6)
    np.testing.assert_array_equal(math_module.half_expm1(x), [np.nan, np.nan, np.inf, -0.5, 0, np.inf, -0.5])
    gap = np.array([np.nan, np.nan, np.inf, np.inf, 0, np.inf, 1e30], dtype=dtype)
    np.testing.assert_array_equal(math_module.half_exp_gap(x), gap)


def test_reaches_as_far_as_the_result_fits(math_module):
    x = np.array([89.0, 89.4], dtype=np.float32)  # e^x is beyond float32, half of it is not
    np.testing.assert_allclose(math_module.half_expm1(x), np.exp(x.astype(np.float64)) / 2, rtol=1e-6)
    assert np.isinf(math_module.half_expm1(np.array([89.5], dtype=np.float32)))[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_widening_is_exact(math_module, dtype):
    bits = np.arange(2**16, dtype=np.uint16)
    widen = math_module.widen_half if dtype == torch.float16 else math_module.widen_bfloat16
    theirs = torch.from_numpy(bits.view(np.int16)).view(dtype).float().numpy()
    np.testing.assert_array_equal(widen(bits), theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrowing_rounds_as_torch_does(math_module, dtype):
    values = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).float()
    rng = np.random.default_rng(0)
    between = torch.from_numpy(rng.integers(0, 2**32, 200_000, dtype=np.uint64).astype(np.uint32).view(np.float32))
    middles = (values[:-1].double() + values[1:].double()).div(2).float()  # ties
    x = torch.cat([values, middles, between]).numpy()
    narrow = math_module.narrow_half if dtype == torch.float16 else math_module.narrow_bfloat16
    mine = torch.from_numpy(narrow(x).view(np.int16)).view(dtype)
    torch.testing.assert_close(mine, torch.from_numpy(x).to(dtype), rtol=0, atol=0, equal_nan=True)
