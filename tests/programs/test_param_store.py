"""The names under which Pyro's param store keeps the parameters of a ready-made program."""

import copy
import gc

import pyro
import pytest
import torch
from pyro.infer import SVI
from pyro.optim import Adam

from pyro_corex import CorExELBO, CorExVAE
from pyro_corex.programs import mlp_decoder, mlp_encoder

X = torch.eye(6)


def make(hidden=3):
    return CorExVAE(mlp_encoder([6, hidden, 2]), mlp_decoder([2, hidden, 6]), 2)


def step(vae, lr=0.01):
    SVI(vae.model, vae.guide, Adam({"lr": lr}), CorExELBO()).step(X)


def test_names_are_those_of_state_dict():
    vae = make()
    step(vae)
    store = dict(pyro.get_param_store().named_parameters())
    assert set(store) == set(dict(vae.named_parameters()))
    assert all(store[name] is parameter for name, parameter in vae.named_parameters())


@pytest.mark.parametrize("other", [lambda vae: make(), copy.deepcopy])
def test_two_programs_that_live_share_nothing(other):
    first = make()
    step(first)
    second = other(first)
    kept = copy.deepcopy(first.state_dict())
    step(second)
    step(second)
    assert all(torch.equal(value, kept[name]) for name, value in first.state_dict().items())
    store = dict(pyro.get_param_store().named_parameters())
    weights = dict(second.named_parameters())
    assert all(store[f"CorExVAE_2.{name}"] is value for name, value in weights.items())


def test_a_program_that_is_gone_leaves_no_warm_start():
    step(make())
    gc.collect()
    vae = make(hidden=4)
    step(vae, lr=0.0)
    store = dict(pyro.get_param_store().named_parameters())
    assert all(store[name] is parameter for name, parameter in vae.named_parameters())
    assert not any(name.startswith("CorExVAE_") for name in store)


@pytest.mark.parametrize("ran", [False, True])
def test_a_loaded_store_is_used(ran):
    trained, vae = make(), make()
    step(trained)
    state = copy.deepcopy(dict(trained.named_parameters()))
    pyro.clear_param_store()
    if ran:
        step(vae)
    constraints = dict.fromkeys(state, torch.distributions.constraints.real)
    pyro.get_param_store().set_state({"params": state, "constraints": constraints})
    CorExELBO().loss(vae.model, vae.guide, X)
    for name, value in vae.state_dict().items():
        assert torch.equal(value, trained.state_dict()[name])


def test_a_loaded_store_of_other_shapes_is_refused():
    state = {name: p.detach().clone() for name, p in make(hidden=5).named_parameters()}
    constraints = dict.fromkeys(state, torch.distributions.constraints.real)
    pyro.get_param_store().set_state({"params": state, "constraints": constraints})
    vae = make()
    with pytest.raises(ValueError, match=r"encoder.*clear_param_store"):
        CorExELBO().loss(vae.model, vae.guide, X)


def test_the_store_may_be_cleared_in_the_middle():
    vae = make()
    step(vae)
    kept = copy.deepcopy(vae.state_dict())
    pyro.clear_param_store()
    step(vae, lr=0.0)
    assert all(torch.equal(value, kept[name]) for name, value in vae.state_dict().items())
