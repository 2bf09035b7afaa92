"""Distributions over codebooks: their sign, their temperature, and what their gradients reach."""

import math

import pytest
import torch
from dmrec.models.sequential.code_distributions import calibrated_temperature, code_logits

from dmrec_ext import code_alignment, residual_quantize


def made(n=300, width=6, levels=3, codes=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    books = torch.randn(levels, codes, width, generator=generator, dtype=torch.float64)
    halves = 0.5 ** torch.arange(levels, dtype=torch.float64)
    return torch.randn(n, width, generator=generator, dtype=torch.float64), books * halves[:, None, None]


def perplexity(logits):
    log_p = logits.log_softmax(-1)
    return (-(log_p.exp() * log_p).sum(-1)).exp()


@pytest.mark.parametrize("temperature", [0.01, 1.0, 50.0])
def test_the_nearest_code_is_the_likeliest(temperature):
    x, books = made()
    logits = code_logits(x, books, torch.full((3,), temperature, dtype=x.dtype))
    assert torch.equal(logits.argmax(-1), residual_quantize(x, books)[0])


def test_are_softmaxes_of_distances():
    x, books = made(n=9)
    temperature = torch.tensor([0.3, 1.0, 2.0], dtype=x.dtype)
    left = x.clone()
    for level, logits in enumerate(code_logits(x, books, temperature).unbind(1)):
        distance = (left[:, None] - books[level]).square().sum(2)
        torch.testing.assert_close(logits.softmax(-1), torch.softmax(-distance / temperature[level], -1))
        left = left - books[level][distance.argmin(1)]
    soft = code_logits(x, books, temperature, soft=True)
    left = x - torch.softmax(soft[:, 0], -1) @ books[0]
    distance = (left[:, None] - books[1]).square().sum(2)
    torch.testing.assert_close(soft[:, 1].softmax(-1), torch.softmax(-distance / 1.0, -1))


def test_the_square_of_the_latent_makes_no_difference():
    """Neither to probabilities nor to gradients, though it depends on the latent."""
    x, books = made(n=5, levels=1)
    gradients = []
    for with_square in (False, True):
        latent = x.clone().requires_grad_()
        logits = code_logits(latent, books, torch.ones(1, dtype=x.dtype))
        if with_square:
            logits = logits - latent.square().sum(1)[:, None, None]
        (code_alignment(logits.flip(0).detach(), logits) ** 2).sum().backward()
        gradients.append(latent.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("wanted", [2.0, 8.0, 20.0])
def test_a_calibrated_temperature_gives_the_perplexity(wanted, soft):
    x, books = made()
    temperature = calibrated_temperature(x, books, wanted, soft=soft)
    for level in perplexity(code_logits(x, books, temperature, soft=soft)).mean(0).tolist():
        assert level == pytest.approx(wanted, abs=0.01)


def test_the_scale_of_vectors_makes_no_difference():
    x, books = made()
    temperature, larger = calibrated_temperature(x, books, 8), calibrated_temperature(10 * x, 10 * books, 8)
    torch.testing.assert_close(larger, 100 * temperature, rtol=1e-3, atol=0)
    logits, of_larger = code_logits(x, books, temperature), code_logits(10 * x, 10 * books, 100 * temperature)
    loss = code_alignment(logits, logits.roll(1, 0))
    torch.testing.assert_close(loss, code_alignment(of_larger, of_larger.roll(1, 0)))


def test_at_temperature_1_unit_vectors_tell_nothing():
    """The loss stays at log 2: what the calibration is for."""
    x, books = made(width=64, codes=100, n=400)
    unit, books = torch.nn.functional.normalize(x, dim=1) * 0.1, books * 0.01
    flat = code_logits(unit, books, torch.ones(3, dtype=x.dtype))
    assert perplexity(flat).mean() > 99
    assert code_alignment(flat, flat).mean().item() == pytest.approx(math.log(2), abs=1e-3)
    sharp = code_logits(unit, books, calibrated_temperature(unit, books, 8))
    assert code_alignment(sharp, sharp).mean() < 0.3


@pytest.mark.parametrize(("kind", "latent", "first"), [("first", 0.0, 0.0), ("all", 1.0, 0.0), ("full", 1.0, 1.0)])
def test_what_later_levels_teach(kind, latent, first):
    x, books = made(n=7)
    x, books = x.requires_grad_(), books.requires_grad_()
    logits = code_logits(x, books, torch.ones(3, dtype=x.dtype), residual_gradient=kind)
    (logits[:, 1:] ** 2).sum().backward()
    assert (x.grad.abs().sum() > 0) == bool(latent)
    assert (books.grad[0].abs().sum() > 0) == bool(first)
    assert books.grad[1].abs().sum() > 0


def test_stays_exact_under_autocast():
    x, books = (t.float() for t in made(n=5))
    temperature = torch.full((3,), 0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(code_logits(x, books, temperature), code_logits(x, books, temperature))
        assert code_logits(x.bfloat16(), books, temperature).dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "wanted", "message"),
    [(1.0, 1.0, "between 1 and the number of codes"), (1.0, 32.0, "between 1 and"), (0.0, 8.0, "are all the same")],
)
def test_what_cannot_be_calibrated(change, wanted, message):
    x, books = made()
    with pytest.raises(ValueError, match=message):
        calibrated_temperature(x, change * books, wanted)


def test_latents_between_codes_do_not_count():
    """Codes that are there twice, and latents nearest to them."""
    x, books = made()
    twice = torch.cat([books, books[:, :1].expand(3, 40, 6)], 1)
    temperature = calibrated_temperature(x, twice, 2.0)
    logits = code_logits(x, twice, temperature)[:, 0]
    alone = (logits == logits.amax(1, keepdim=True)).sum(1) == 1
    assert 0 < alone.sum() < len(x)
    assert perplexity(logits[alone]).mean().item() == pytest.approx(2, abs=0.01)
