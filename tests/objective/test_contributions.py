"""CorExELBO equals the objective that it stands for: the loss, every gradient, every draw."""

import pyro
import pytest
import torch
from torch.testing import assert_close

from .pairs import LIKE_PYRO, PAIRS

TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}


@pytest.fixture(params=PAIRS)
def pair(request):
    return PAIRS[request.param]()


def gradients():
    """A copy of the gradient of each unconstrained parameter, and none is left behind."""
    found = {}
    for name, parameter in pyro.get_param_store().named_parameters():
        if parameter.grad is None:
            found[name] = torch.zeros_like(parameter)
        else:
            found[name] = parameter.grad.clone()
        parameter.grad = None
    return found


def reference(pair):
    pyro.set_rng_seed(1)
    loss = pair.reference_loss()
    loss.backward()
    return loss.detach(), gradients()


def test_there_are_enough_pairs():
    assert len(PAIRS) >= 26


def test_differentiable_loss(pair):
    expected, expected_grads = reference(pair)
    pyro.set_rng_seed(1)
    loss = pair.objective().differentiable_loss(pair.model, pair.guide, *pair.args)
    loss.backward()
    grads = gradients()
    assert loss.shape == ()
    assert_close(loss.detach(), expected, **TOLERANCE)
    assert grads.keys() == expected_grads.keys()
    for name, grad in grads.items():
        assert_close(grad, expected_grads[name], msg=lambda m, n=name: f"{n}: {m}", **TOLERANCE)
    assert any(grad.abs().max() > 1e-3 for grad in grads.values()), "the comparison is empty"


def test_loss_and_grads(pair):
    expected, expected_grads = reference(pair)
    pyro.set_rng_seed(1)
    loss = pair.objective().loss_and_grads(pair.model, pair.guide, *pair.args)
    grads = gradients()
    assert isinstance(loss, float)
    assert loss == pytest.approx(float(expected), rel=1e-6, abs=1e-6)
    for name, grad in grads.items():
        assert_close(grad, expected_grads[name], msg=lambda m, n=name: f"{n}: {m}", **TOLERANCE)


def test_loss(pair):
    expected, _ = reference(pair)
    pyro.set_rng_seed(1)
    loss = pair.objective().loss(pair.model, pair.guide, *pair.args)
    assert isinstance(loss, float)
    assert loss == pytest.approx(float(expected), rel=1e-6, abs=1e-6)
    assert all(not grad.any() for grad in gradients().values())


@pytest.mark.parametrize("name", LIKE_PYRO)
def test_draws_what_pyro_draws(name):
    """Nothing but the programs touches the generator, on the first call nor on later ones."""
    pair = PAIRS[name]()
    losses, afterwards = [], []
    for objective in (pair.reference(**pair.options), pair.objective()):
        pyro.set_rng_seed(1)
        losses.append([objective.loss(pair.model, pair.guide, *pair.args) for _ in range(2)])
        afterwards.append(torch.rand(()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6, abs=1e-6)
    assert afterwards[0] == afterwards[1]
