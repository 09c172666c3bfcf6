from itertools import pairwise

import pytest
import torch
from torch import nn

from pyro_corex.programs import (
    LinearStart,
    conv_decoder,
    conv_encoder,
    mlp,
    mlp_decoder,
    mlp_encoder,
)


def linear_sizes(network: nn.Module) -> list[tuple[int, int]]:
    return [(m.in_features, m.out_features) for m in network.modules() if isinstance(m, nn.Linear)]


@pytest.mark.parametrize("sizes", [(5, 4), [5, 7, 4], torch.Size([5, 7, 6, 4])])
def test_mlp(sizes):
    network = mlp(sizes)
    assert linear_sizes(network) == list(pairwise(sizes))
    assert sum(isinstance(m, nn.ReLU) for m in network) == len(sizes) - 2
    assert isinstance(network[-1], nn.Linear)  # nothing behind the last
    assert network(torch.randn(2, 3, 5)).shape == (2, 3, 4)


@pytest.mark.parametrize("activation", [nn.Tanh, lambda: nn.LeakyReLU(0.2)])
def test_activation(activation):
    network = mlp([3, 4, 4, 2], activation)
    assert [type(m) for m in network[1::2]] == [type(activation())] * 2


@pytest.mark.parametrize("make", [mlp, mlp_encoder, mlp_decoder])
def test_the_name_of_an_activation(make):
    with pytest.raises(TypeError, match=r"e\.g\. nn\.ReLU, but got 'gelu'"):
        make([3, 4, 2], activation="gelu")


@pytest.mark.parametrize("make", [mlp_encoder, mlp_decoder])
def test_activation_of_an_encoder_and_a_decoder(make):
    modules = make([3, 4, 4, 2], activation=nn.GELU).modules()
    kinds = [type(m) for m in modules if not isinstance(m, nn.Sequential | nn.Flatten)]
    assert kinds == [nn.Linear, nn.GELU, nn.Linear, nn.GELU, nn.Linear]


@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 2, 3)])
def test_mlp_encoder_flattens(shape):
    encoder = mlp_encoder([6, 5, 4])
    assert encoder(torch.randn(7, *shape)).shape == (7, 2 * 4)
    assert linear_sizes(encoder) == [(6, 5), (5, 8)]


@pytest.mark.parametrize("n_params", [1, 3])
@pytest.mark.parametrize("shape", [None, (6,), (2, 3), (1, 2, 3)])
def test_mlp_decoder(shape, n_params):
    decoder = mlp_decoder([4, 5, 6], n_params=n_params, shape=shape)
    tail = () if n_params == 1 else (n_params,)
    for lead in [(7,), (2, 7)]:
        out = decoder(torch.randn(*lead, 4))
        assert out.shape == (*lead, *(shape or (6,)), *tail)


CONV = [
    ((1, 8, 8), (4,)),
    ((3, 16, 8), (4, 5)),
    ((1, 32, 32), (2, 3, 4)),
]


@pytest.mark.parametrize(("shape", "channels"), CONV)
def test_convolutions_mirror_each_other(shape, channels):
    encoder, decoder = conv_encoder(shape, 5, channels), conv_decoder(5, shape, channels)
    assert encoder(torch.randn(2, *shape)).shape == (2, 2 * 5)
    assert decoder(torch.randn(2, 5)).shape == (2, *shape)
    down = [(m.in_channels, m.out_channels) for m in encoder if isinstance(m, nn.Conv2d)]
    up = [(m.out_channels, m.in_channels) for m in decoder if isinstance(m, nn.ConvTranspose2d)]
    assert down == up[::-1]
    assert not isinstance(decoder[-1], nn.ReLU)


def test_default_channels():
    encoder = conv_encoder((1, 32, 32), 10)
    assert [m.out_channels for m in encoder if isinstance(m, nn.Conv2d)] == [32, 64, 128]


def test_linear_start_begins_at_its_map_and_departs_from_it():
    weight = torch.randn(2, 5)
    encoder = LinearStart(mlp_encoder([5, 16, 3]), 5, weight)
    x = torch.randn(40, 5)
    out = encoder(x)
    assert out.shape == (40, 6)
    torch.testing.assert_close(out[:, :2], x @ weight.T, rtol=0, atol=0.3)
    rest = LinearStart(mlp_encoder([5, 16, 3]), 5)(x)
    assert rest.abs().max() < 0.3
    out.square().sum().backward()
    assert all((p.grad != 0).any() for p in encoder.parameters())


@pytest.mark.parametrize("shape", [(2, 4), (4, 5), (5,)])
def test_linear_start_refuses_a_map_that_does_not_fit(shape):
    with pytest.raises(ValueError, match=r"weight must have the shape \(k, 5\) with k at most 3"):
        LinearStart(mlp_encoder([5, 3]), 5, torch.zeros(shape))


def test_linear_start_needs_a_last_layer_that_it_can_make_small():
    with pytest.raises(ValueError, match=r"last layer an nn\.Linear, but got ReLU"):
        LinearStart(nn.Sequential(nn.Linear(5, 6), nn.ReLU()), 5)
