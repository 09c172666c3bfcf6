"""Operations without Python: the same numbers as the function, whatever its tensors hold by now."""

import pyro
import pytest
import torch

from pyro_corex.training.flat import Flat
from tests.objective.pairs import PAIRS

SAME = ["anchor_events", "fully_masked"]
REFUSED = ["sequential_plate", "rejection_sampler"]


def of_pair(pair):
    """The loss of a pair and its gradients, as a function of its arguments."""
    elbo = pair.objective()
    parameters = list(pyro.get_param_store()._params.values())

    def loss_and_grads(*args):
        with pyro.validation_enabled(False):
            loss = elbo.differentiable_loss(pair.model, pair.guide, *args)
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        return [loss, *(gradient for gradient in found if gradient is not None)]

    return loss_and_grads, parameters


@pytest.mark.parametrize("name", SAME)
def test_pairs_at_other_parameters_and_data(name):
    pair = PAIRS[name]()
    function, parameters = of_pair(pair)
    function(*pair.args)  # closed forms are found
    flat = Flat(function, pair.args)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.1)
    args = [value.flip(0) for value in pair.args]
    torch.manual_seed(1)
    expected = function(*args)
    torch.manual_seed(1)
    for got, want in zip(flat(*args), expected, strict=True):
        torch.testing.assert_close(got, want.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", REFUSED)
def test_what_reads_a_number_is_refused(name):
    pair = PAIRS[name]()
    function, _ = of_pair(pair)
    function(*pair.args)
    with pytest.raises(RuntimeError, match="value out of a tracing tensor"):
        Flat(function, pair.args)


def test_a_draw_of_no_use_is_drawn():
    def function(x):
        torch.randn(3)
        return [x + torch.randn(2)]

    flat = Flat(function, [torch.zeros(2)])
    torch.manual_seed(0)
    (expected,) = function(torch.zeros(2))
    torch.manual_seed(0)
    assert torch.equal(flat(torch.zeros(2))[0], expected)


def test_what_it_finds_by_itself_is_read_where_it_lies():
    weight = torch.ones(2)
    flat = Flat(lambda x: [weight * x], [torch.ones(2)])
    weight.mul_(3.0)
    assert flat(torch.tensor([1.0, 2.0]))[0].tolist() == [3.0, 6.0]


@pytest.mark.parametrize("learns", [False, True])
def test_a_convolution_whose_input_has_a_gradient_or_none(learns):
    layer = torch.nn.Conv2d(1, 2, 2)

    def function(x):
        x = x.detach().requires_grad_(learns)
        inputs = [*layer.parameters(), *([x] if learns else [])]
        return list(torch.autograd.grad(layer(x).square().sum(), inputs))

    flat = Flat(function, [torch.zeros(1, 1, 3, 3)])
    x = torch.randn(1, 1, 3, 3)
    for got, want in zip(flat(x), function(x), strict=True):
        torch.testing.assert_close(got, want)
