"""choose_depth."""

import dataclasses

import numpy as np
import pytest
import torch

import pyro_corex as pc
from pyro_corex.datasets import layered
from pyro_corex.evaluation import Depth, Trial
from pyro_corex.information import Estimate
from pyro_corex.programs import GroupedDecoder, LearnedNormalLikelihood, mlp, mlp_encoder

SIZES = (18, 6, 2, 1)


def make_layer(level):
    below, here = SIZES[level - 1], SIZES[level]
    encoder = mlp_encoder([below, here]) if level == 1 else mlp([below, 2 * here])
    return pc.Layer(encoder, GroupedDecoder(here, below, scales=level > 1), here)


def choose(data, layers=make_layer, **options):
    torch.manual_seed(0)
    defaults = {
        "likelihood": LearnedNormalLikelihood(18),
        "epochs": 6,
        "lr": 2e-2,
        "batch_size": 256,
        "max_depth": 3,
    }
    return pc.choose_depth(layers, data, **{**defaults, **options})


@pytest.fixture(scope="module")
def two_layers():
    data = layered(6000, 2, max_depth=2)
    return data, choose(data.x)


def test_two_layers(two_layers):
    data, found = two_layers
    assert isinstance(found, Depth)
    assert found.depth == 2
    assert [trial.depth for trial in found.trials] == [1, 2, 3]
    assert [trial.pays for trial in found.trials] == [True, True, False]
    bounds = [trial.bound for trial in found.trials]
    assert bounds[1].estimate > bounds[0].estimate
    assert bounds[1].estimate < data.total_correlation + 3 * bounds[1].stderr
    assert bounds[1].estimate > 0.9 * data.total_correlation
    assert bounds[1].num_data == 1500
    for trial in found.trials:
        assert trial.contribution == trial.bound.layers[-1]
        assert trial.margin > 3 * trial.contribution.stderr


def test_the_module_has_the_depth_and_can_be_trained_on(two_layers):
    _, found = two_layers
    assert found.module.n_layers == 2
    assert all(parameter.requires_grad for parameter in found.module.parameters())


def test_repr(two_layers):
    _, found = two_layers
    text = repr(found)
    assert text.startswith("Depth(2, at 3 standard errors")
    assert "layer 2: " in text
    assert text.count("does not pay (needs") == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.depth = 1


def test_one_layer():
    assert choose(layered(6000, 1, max_depth=2).x).depth == 1


def test_lower_layers_stay_as_they_are(monkeypatch):
    seen = []
    fit = pc.training.fit

    def spy(stack, *args, **options):
        before = [p.clone() for p in stack.encoders[0].parameters()]
        fit(stack, *args, **options)
        after = list(stack.encoders[0].parameters())
        same = all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        seen.append((stack.n_layers, same))

    monkeypatch.setattr("pyro_corex.evaluation.depth.fit", spy)
    choose(layered(2000, 2, max_depth=2).x, max_depth=2, epochs=4)
    assert seen == [(1, False), (1, False), (2, True), (2, True)]


def test_independent_data_have_no_layers():
    x = torch.randn(2000, 18, generator=torch.Generator().manual_seed(0))
    found = choose(x, [(18, 2), (2, 1)], max_depth=None, likelihood="learned_normal")
    assert found.depth == 0
    assert found.module is None
    assert len(found.trials) == 1


def test_sizes_and_held_out_data():
    """Linear layers can rotate Gaussian latents until nothing is left to explain."""
    data, other = layered(3000, 2, max_depth=2), layered(1000, 2, max_depth=2, seed=9)
    state = torch.get_rng_state()
    found = choose(data.x.numpy(), [(18, 6), (6, 8, 2)], max_depth=1, holdout=other.x, n_sigma=1)
    assert found.depth == 1
    assert found.trials[0].bound.num_data == 1000
    torch.manual_seed(0)
    assert torch.get_rng_state().shape == state.shape
    again = choose(np.asarray(data.x), [(18, 6)], holdout=other.x, max_depth=None)
    assert again.depth == 1


def test_data_with_no_density_need_no_margin_for_it():
    x = torch.bernoulli(torch.full((400, 18), 0.4))
    found = choose(x, [(18, 2)], likelihood="bernoulli", epochs=1, max_depth=1)
    trial = found.trials[0]
    assert trial.margin == pytest.approx(3 * trial.contribution.stderr)


def test_a_trial_pays_beyond_its_margin():
    trial = Trial(1, Estimate(1.0, 0.1), None, 0.9)
    assert trial.pays
    assert not dataclasses.replace(trial, margin=1.0).pays


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_depth": None}, ValueError, "max_depth is needed where layers is a function"),
        ({"max_depth": 0}, ValueError, "max_depth must be an integer >= 1"),
        ({"layers": []}, ValueError, "layers must be a non-empty sequence"),
        ({"layers": 3}, ValueError, "layers must be a non-empty sequence"),
        ({"n_sigma": -1.0}, ValueError, "n_sigma must be a finite number >= 0"),
        ({"holdout": 1.5}, ValueError, "holdout must be a share between 0 and 1"),
        ({"holdout": 0.001}, ValueError, "leaves 0 to hold out"),
        ({"data": [torch.randn(5, 18)]}, TypeError, "but data is list. Give the data that are"),
    ],
)
def test_errors(options, error, message):
    options = {"data": torch.randn(50, 18), **options}
    with pytest.raises(error, match=message):
        choose(options.pop("data"), **options)
