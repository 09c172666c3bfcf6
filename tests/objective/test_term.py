"""Term: one tensor, summed by dimension, by datum, and in whole."""

import pytest
import torch
from torch.testing import assert_close

from pyro_corex.objective.term import Term, layout

B, M = 5, 3
VALUE = torch.arange(B * M, dtype=torch.double).reshape(B, M).sin()


def term(value=VALUE, event_dims=1, axes=None, **options):
    axes = {"data": -1} if axes is None else axes
    return Term("kl", "z", value, event_dims, axes, {"data"}, **options)


def test_by_dimension_datum_and_whole():
    found = term()
    assert_close(found.per_dimension, VALUE.sum(0))
    assert_close(found.per_datum, VALUE.sum(1))
    assert_close(found.matrix, VALUE)
    assert_close(found.total, VALUE.sum())
    assert found.weighted is found.per_dimension


def test_latents_in_a_plate_are_dimensions_as_events_are():
    found = term(VALUE, 0, {"data": -2, "latents": -1})
    assert_close(found.per_dimension, VALUE.sum(0))
    assert_close(found.per_datum, VALUE.sum(1))
    assert_close(found.matrix, VALUE)


def test_data_stand_first_whatever_their_plate():
    found = term(VALUE.T.contiguous(), 0, {"data": -1, "latents": -2})
    assert_close(found.matrix, VALUE)
    assert_close(found.per_datum, VALUE.sum(1))


def test_two_data_axes():
    value = torch.randn(4, B, M, dtype=torch.double)
    found = Term("kl", "z", value, 1, {"a": -2, "b": -1}, {"a", "b"})
    assert_close(found.per_datum, value.sum(-1).flatten())
    assert_close(found.matrix, value.reshape(4 * B, M))


def test_particles_are_summed_by_dimension_and_averaged_by_datum():
    value = torch.stack([VALUE, 2 * VALUE])
    found = term(value, particles=2)
    assert_close(found.per_dimension, 3 * VALUE.sum(0))
    assert_close(found.per_datum, 1.5 * VALUE.sum(1))
    assert_close(found.matrix, 1.5 * VALUE)


def test_enumerated_values_are_weighted():
    """A weight of 0 hides an infinity: a value that does not occur has no say."""
    value = torch.stack([VALUE, torch.full_like(VALUE, float("inf"))])
    probability = torch.tensor([1.0, 0.0], dtype=torch.double)[:, None].expand(2, B)
    found = term(value, probability=probability)
    assert_close(found.per_dimension, VALUE.sum(0))
    assert_close(found.per_datum, VALUE.sum(1))
    half = term(torch.stack([VALUE, 3 * VALUE]), probability=torch.full((2, B), 0.5).double())
    assert_close(half.per_dimension, 2 * VALUE.sum(0))


def test_the_parts_of_a_log_ratio_add_up():
    minus = term(sign=-1.0)
    assert_close(minus.per_dimension, -VALUE.sum(0))
    assert_close(minus.per_datum, -VALUE.sum(1))


def test_subsampling_scales_dimensions_and_leaves_data():
    found = term(subsampling=10.0)
    assert_close(found.per_dimension, 10 * VALUE.sum(0))
    assert_close(found.per_datum, VALUE.sum(1))


WEIGHT = torch.tensor([0.0, 0.5, 2.0], dtype=torch.double)


@pytest.mark.parametrize("found", [
    term(event_weight=WEIGHT),
    term(VALUE, 0, {"data": -2, "latents": -1}, weight=WEIGHT),
])  # fmt: skip
def test_a_weight_for_each_dimension(found):
    assert_close(found.per_dimension, VALUE.sum(0))
    assert_close(found.weighted, WEIGHT * VALUE.sum(0))
    assert_close(torch.as_tensor(found.sums[2]), WEIGHT)


def test_a_weight_for_each_datum_has_no_one_value():
    weight = torch.arange(B, dtype=torch.double)
    found = term(weight=weight)
    assert_close(found.weighted, (weight[:, None] * VALUE).sum(0))
    assert_close(found.per_dimension, VALUE.sum(0))
    assert found.sums[2] is None


def test_the_scale_of_a_likelihood_is_a_weight():
    found = Term("reconstruction", "x", VALUE, 1, {"data": -1}, {"data"}, weight=3.0)
    assert_close(found.per_dimension, VALUE.sum(0))
    assert_close(found.weighted, 3 * VALUE.sum(0))
    assert found.sums[2] == 3.0


@pytest.mark.parametrize("options", [
    {"weight": 0.0},
    {"weight": torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0])},
    {"event_weight": torch.tensor([1.0, 0.0, 1.0])},
])  # fmt: skip
def test_a_weight_of_zero_takes_an_infinity_away(options):
    value = VALUE.clone()
    value[1, 1] = float("inf")
    found = term(value, **options)
    assert found.per_dimension[1].isinf()
    assert found.weighted.isfinite().all()
    everywhere = torch.ones(B, M).mul(torch.as_tensor(options.get("event_weight", 1.0)))
    everywhere = everywhere * torch.as_tensor(options.get("weight", 1.0)).reshape(-1, 1)
    assert_close(found.weighted, (VALUE * everywhere).sum(0))


def test_a_term_outside_of_the_data_has_no_value_for_a_datum():
    assert term(torch.ones(()), 0, {}).data_dims == []


def test_detached_it_has_no_graph():
    value = VALUE.clone().requires_grad_()
    found = term(value, probability=value[:, 0])
    assert found.per_dimension.requires_grad
    kept = found.detach()
    assert not kept.per_dimension.requires_grad
    assert not kept.per_datum.requires_grad
    assert_close(kept.per_dimension, found.per_dimension.detach())


def test_layout_of_draws():
    found = term()
    assert_close(layout(VALUE, 1, found), VALUE)
    assert_close(layout(torch.stack([VALUE, -VALUE]), 1, found), VALUE)  # the first particle
    assert layout(VALUE[:, 0], 0, found).shape == (B, 1)
    assert layout(VALUE[0], 1, term(VALUE[0], 1, {})).shape == (1, M)
