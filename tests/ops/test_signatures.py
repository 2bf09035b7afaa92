"""An operator's parameters are those of its reference: in the public function, and in the schema of row operators."""

import inspect

import pytest
import torch

import dmrec_ext
from dmrec_ext import reference
from dmrec_ext.ops._rows import by_position

PUBLIC = [name for name in reference.__all__ if callable(getattr(reference, name))]
ROW_OPERATORS = ["gaussian_kl", "gaussian_w2", "composite_prior", "matching_loss"]


def _parameters(function):
    return inspect.signature(function).parameters.values()


@pytest.mark.parametrize("name", PUBLIC)
def test_public_functions_have_the_signatures_of_their_references(name):
    public, plain = getattr(dmrec_ext, name), getattr(reference, name)
    assert inspect.signature(public) == inspect.signature(plain)
    assert public is not plain


@pytest.mark.parametrize("stem", ROW_OPERATORS)
def test_schemas_have_the_parameters_of_the_references(stem, native):
    schema = getattr(torch.ops.dmrec_ext, stem).default._schema
    plain = {p.name: None if p.default is p.empty else p.default for p in _parameters(getattr(reference, stem))}
    for name in ("reduction", "weight"):  # of the operator's other half, which takes their product
        del plain[name]
    assert {argument.name: argument.default_value for argument in schema.arguments} == plain
    assert [argument.name for argument in schema.arguments] == list(plain)


@pytest.mark.parametrize("stem", ROW_OPERATORS)
def test_options_left_out_have_their_defaults(stem, native):
    """For calls through torch.ops, their gradients included."""
    function = getattr(reference, stem)
    inputs = [p.name for p in _parameters(function) if p.kind is not p.KEYWORD_ONLY]
    rows = [torch.randn(3, 5, requires_grad=True) for _ in inputs]
    required = {"strategy": "cpdm", "beta": 0.3} if stem == "matching_loss" else {}
    expected = function(*rows, **required)
    for result in (
        getattr(torch.ops.dmrec_ext, stem)(*rows, *required.values()),
        by_position(function)(*rows, *required.values()),
    ):
        value = result[0] if isinstance(result, tuple) else result
        torch.testing.assert_close(value, expected)
        gradients = [torch.autograd.grad(v.sum(), rows, retain_graph=True) for v in (value, expected)]
        torch.testing.assert_close(*gradients)


def test_options_by_position():
    rows = [torch.randn(3, 5) for _ in range(4)]
    assert torch.equal(by_position(reference.gaussian_w2)(*rows, True), reference.gaussian_w2(*rows, squared=True))
    assert torch.equal(by_position(reference.gaussian_kl)(*rows[:2]), reference.gaussian_kl(*rows[:2]))
