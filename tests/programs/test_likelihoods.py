from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from pyro_corex.programs import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    ContinuousBernoulliLikelihood,
    LearnedNormalLikelihood,
    Likelihood,
    NormalLikelihood,
)
from pyro_corex.programs.likelihoods import make_likelihood

LOGITS = torch.tensor([-6.0, -2.5, -0.3, -1e-4, 0.0, 0.7, 3.0, 6.0], dtype=torch.float64)


def learned() -> LearnedNormalLikelihood:
    return LearnedNormalLikelihood(len(LOGITS), init_scale=0.5).double()


# ---------------------------------------------------------------------- the density


def test_bernoulli():
    x = torch.tensor([0.0, 1.0]).double()[:, None]
    expected = scipy.stats.bernoulli.logpmf(x.numpy(), LOGITS.sigmoid().numpy())
    np.testing.assert_allclose(BernoulliLikelihood()(LOGITS).log_prob(x), expected, rtol=1e-10)


def test_continuous_bernoulli():
    x = torch.linspace(0, 1, 11).double()[:, None]
    p = LOGITS.sigmoid().numpy()
    away = np.abs(p - 0.5) > 1e-3
    ratio = np.full_like(p, 2.0)  # its limit at p = 1/2
    ratio[away] = 2 * np.arctanh(1 - 2 * p[away]) / (1 - 2 * p[away])
    expected = np.log(ratio) + x.numpy() * np.log(p) + (1 - x.numpy()) * np.log1p(-p)
    got = ContinuousBernoulliLikelihood()(LOGITS).log_prob(x)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_categorical():
    params = torch.randn(5, 4).double()
    got = CategoricalLikelihood(4)(params).log_prob(torch.tensor([0.0, 1.0, 2.0, 3.0, 1.0]))
    torch.testing.assert_close(got, params.log_softmax(-1)[range(5), [0, 1, 2, 3, 1]])


def test_categorical_is_one_of_torch_in_all_but_how_it_is_normalised():
    params, x = torch.randn(3, 5, 4, requires_grad=True), torch.tensor([[0], [3], [2]])
    own = CategoricalLikelihood(4)(params)
    expected = torch.distributions.Categorical(logits=params)
    torch.testing.assert_close(own.probs, expected.probs)
    torch.testing.assert_close(own.entropy(), expected.entropy())
    torch.testing.assert_close(own.enumerate_support(), expected.enumerate_support())
    wide, wider = (each.expand((2, 3, 5)).log_prob(x) for each in (own, expected))
    torch.testing.assert_close(wide, wider)
    gradients = [torch.autograd.grad(value.square().sum(), params)[0] for value in (wide, wider)]
    torch.testing.assert_close(*gradients)
    assert own.sample((7,)).shape == (7, 3, 5)


def test_normal():
    x = torch.linspace(-3, 3, 13).double()[:, None]
    expected = scipy.stats.norm.logpdf(x.numpy(), LOGITS.numpy(), 0.5)
    np.testing.assert_allclose(NormalLikelihood(0.5)(LOGITS).log_prob(x), expected, rtol=1e-10)


def test_normal_is_squared_error():
    """Differences of its log density are those of -(x - loc)² / 2 scale²."""
    x = torch.randn(20, 8).double()
    log_prob = NormalLikelihood(0.7)(LOGITS).log_prob(x)
    error = (x - LOGITS) ** 2 / (2 * 0.7**2)
    constant = (log_prob + error).flatten()
    torch.testing.assert_close(constant, constant[:1].expand_as(constant))


def test_learned_normal():
    likelihood = learned()
    with torch.no_grad():
        likelihood.log_scale.copy_(torch.linspace(-1, 1, 8))
    x = torch.linspace(-3, 3, 13).double()[:, None]
    scale = likelihood.log_scale.exp().detach().numpy()
    expected = scipy.stats.norm.logpdf(x.numpy(), LOGITS.numpy(), scale)
    np.testing.assert_allclose(likelihood(LOGITS).log_prob(x).detach(), expected, rtol=1e-10)


def test_learned_normal_starts_at_its_scale_and_learns():
    common = LearnedNormalLikelihood(init_scale=0.25)
    assert common.log_scale.shape == ()
    fn = common(torch.zeros(5))
    torch.testing.assert_close(fn.scale, torch.full((5,), 0.25))
    fn.log_prob(torch.ones(5)).sum().backward()
    assert common.log_scale.grad != 0


QUADRATURE: dict[str, tuple[Callable[[], Likelihood], float, float]] = {
    "continuous_bernoulli": (ContinuousBernoulliLikelihood, 0.0, 1.0),
    "normal": (lambda: NormalLikelihood(0.5), -20.0, 20.0),
    "learned_normal": (learned, -20.0, 20.0),
}


@pytest.mark.parametrize("name", QUADRATURE)
def test_densities_are_proper(name):
    make, low, high = QUADRATURE[name]
    node, weight = np.polynomial.legendre.leggauss(400)
    x = torch.from_numpy(low + (high - low) * (node + 1) / 2)[:, None]
    p = make()(LOGITS).log_prob(x).exp().detach()
    mass = (torch.from_numpy(weight)[:, None] * p).sum(0) * (high - low) / 2
    torch.testing.assert_close(mass, torch.ones(8).double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("likelihood", [BernoulliLikelihood(), CategoricalLikelihood(3)], ids=repr)
def test_masses_are_proper(likelihood):
    params = LOGITS if likelihood.n_params == 1 else torch.randn(8, 3).double()
    states = likelihood(params).enumerate_support()
    assert len(states) == max(2, likelihood.n_params)
    mass = likelihood(params).log_prob(states).exp().sum(0)
    torch.testing.assert_close(mass, torch.ones(8).double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "likelihood",
    [
        BernoulliLikelihood(),
        ContinuousBernoulliLikelihood(),
        CategoricalLikelihood(3),
        NormalLikelihood(0.5),
    ],
    ids=repr,
)
def test_shapes_and_dtype_follow_the_parameters(likelihood, dtype):
    tail = () if likelihood.n_params == 1 else (likelihood.n_params,)
    fn = likelihood(torch.randn(2, 5, *tail, dtype=dtype))
    assert fn.batch_shape == (2, 5)
    assert fn.event_shape == ()
    assert fn.log_prob(torch.zeros(2, 5, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("shape", [(2, 3), (6,)])
def test_scales_of_an_image_fit_it_flat_or_not(shape):
    likelihood = LearnedNormalLikelihood((2, 3))
    with torch.no_grad():
        likelihood.log_scale.copy_(torch.arange(6.0).view(2, 3))
    scale = likelihood(torch.zeros(4, *shape)).scale
    torch.testing.assert_close(scale, torch.arange(6.0).exp().view(shape).expand(4, *shape))


# ---------------------------------------------------------------------- the support

NAN, INF = float("nan"), float("inf")
OUTSIDE = [
    (
        BernoulliLikelihood(),
        0.5,
        r"binary data \(0 and 1\), but the data hold 0\.5 \(1 of 6.*Binarise",
    ),
    (BernoulliLikelihood(), -1.0, r"hold -1 .*'continuous_bernoulli' or 'normal' likelihood"),
    (
        ContinuousBernoulliLikelihood(),
        1.5,
        r"data in \[0, 1\], but the data hold 1\.5 .*Scale them",
    ),
    (ContinuousBernoulliLikelihood(), -0.1, r"hold -0\.1 .*'normal' likelihood"),
    (CategoricalLikelihood(3), 3.0, r"states coded 0 to 2, but the data hold 3 \(1 of 6"),
    (CategoricalLikelihood(3), -1.0, r"states coded 0 to 2, but the data hold -1 "),
    (CategoricalLikelihood(3), 0.5, r"states coded 0 to 2, but the data hold 0\.5 "),
    (
        NormalLikelihood(),
        INF,
        r"NormalLikelihood is a likelihood for real numbers, but the data hold inf",
    ),
    (
        LearnedNormalLikelihood(),
        -INF,
        r"LearnedNormalLikelihood is a likelihood for real .* hold -inf",
    ),
]
EVERY = [
    BernoulliLikelihood(),
    ContinuousBernoulliLikelihood(),
    CategoricalLikelihood(3),
    NormalLikelihood(),
    LearnedNormalLikelihood(),
]


def one_bad(value: float) -> Tensor:
    x = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
    x[1, 1] = value
    return x


@pytest.mark.parametrize(("likelihood", "value", "message"), OUTSIDE, ids=str)
def test_values_outside_of_the_support_are_refused(likelihood, value, message):
    with pytest.raises(ValueError, match=message):
        likelihood.check(one_bad(value))


@pytest.mark.parametrize("likelihood", EVERY, ids=repr)
def test_nan_is_refused(likelihood):
    with pytest.raises(ValueError, match=r"hold 1 NaN\. Drop or impute missing values"):
        likelihood.check(one_bad(NAN))


INSIDE = [
    (BernoulliLikelihood(), torch.tensor([0, 1])),
    (BernoulliLikelihood(), torch.tensor([False, True])),
    (BernoulliLikelihood(), torch.tensor([0.0, 1.0])),
    (ContinuousBernoulliLikelihood(), torch.tensor([0.0, 0.3, 1.0])),
    (CategoricalLikelihood(3), torch.tensor([0, 1, 2])),
    (CategoricalLikelihood(3), torch.tensor([0.0, 1.0, 2.0])),
    (CategoricalLikelihood(3), torch.tensor([0, 1, 2], dtype=torch.uint8)),
    (NormalLikelihood(), torch.tensor([-1e30, 0.0, 1e30])),
    (LearnedNormalLikelihood(), torch.tensor([-1, 5])),
]


@pytest.mark.parametrize(("likelihood", "x"), INSIDE, ids=str)
def test_values_inside_of_the_support_pass(likelihood, x):
    likelihood.check(x)


def test_a_device_is_not_asked_for_values():
    BernoulliLikelihood().check(torch.full((3,), 0.5, device="meta"))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("bernoulli", BernoulliLikelihood),
        ("continuous_bernoulli", ContinuousBernoulliLikelihood),
        ("normal", NormalLikelihood),
        ("learned_normal", LearnedNormalLikelihood),
    ],
)
def test_names(name, kind):
    assert type(make_likelihood(name)) is kind


def test_print_shows_the_parameters():
    assert [repr(likelihood) for likelihood in EVERY] == [
        "BernoulliLikelihood()",
        "ContinuousBernoulliLikelihood()",
        "CategoricalLikelihood(n_states=3)",
        "NormalLikelihood(scale=1)",
        "LearnedNormalLikelihood(shape=())",
    ]
