"""Wrong uses, each with the sentence that it gets: what was got, what is needed, how to mend it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyro_corex import AnchorVAE, CorExELBO, CorExVAE, Layer, StackedCorEx, Warmup, anchor
from pyro_corex.programs import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    LearnedNormalLikelihood,
    NormalLikelihood,
    conv_decoder,
    conv_encoder,
    mlp,
    mlp_decoder,
    mlp_encoder,
)
from pyro_corex.programs.priors import LearnedCategorical, LearnedMixture

B, D, M = 7, 6, 3
ONES = torch.ones(B, D)


class Gives(nn.Module):
    """A network whose output is what it is told."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, _: Tensor) -> Any:
        return self.output


def vae(**options: Any) -> CorExVAE:
    encoder = options.pop("encoder", None) or mlp_encoder([D, M])
    decoder = options.pop("decoder", None) or mlp_decoder([M, D])
    return CorExVAE(encoder, decoder, options.pop("latent_dim", M), **options)


def anchor_vae(anchors: Any, **options: Any) -> AnchorVAE:
    return AnchorVAE(mlp_encoder([D, M]), mlp_decoder([M, D]), M, anchors=anchors, **options)


def stack(*layers: Any, **options: Any) -> StackedCorEx:
    return StackedCorEx(list(layers) or [(D, M), (M, 4)], **{"n_classes": 4, **options})


def step(program: Any, x: Any = ONES) -> None:
    CorExELBO().differentiable_loss(program.model, program.guide, x)


def evaluate(program: Any, x: Tensor = ONES, **options: Any) -> float:
    return CorExELBO(**options).loss(program.model, program.guide, x)


def model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(M), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(torch.zeros(D), 1.0).to_event(1), obs=x)


def guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.ones(M), 2.0).to_event(1))


def coupled(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.MultivariateNormal(torch.zeros(M), torch.eye(M)))


def plain_batch(x: Tensor) -> None:
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", dist.Normal(torch.zeros(len(x), M), 1.0))


def anchored(in_model: Any, in_guide: Any = None) -> None:
    in_guide = in_model if in_guide is None else in_guide
    CorExELBO().differentiable_loss(
        anchor(model, {"z": in_model}), anchor(guide, {"z": in_guide}), ONES
    )


MATRIX = torch.zeros(B, M)
DATA = [
    ("x is an array", TypeError, lambda: step(vae(), np.ones((B, D))),
     "x must be a tensor .* got ndarray"),
    ("x is one datum", ValueError, lambda: step(vae(), torch.ones(D)),
     r"got \(6,\).*x\.unsqueeze\(0\)"),
    ("x is empty", ValueError, lambda: step(stack(), torch.ones(0, D)),
     r"non-empty batch .*got \(0, 6\)"),
    ("x is grey", ValueError, lambda: step(vae(), ONES * 0.3), r"hold 0\.3 \(42 of 42.*Binarise"),
    ("x is double", TypeError, lambda: step(vae(), ONES.double()),
     r"x has the dtype torch\.float64, but the networks have torch\.float32: pass x\.to"),
    ("x is whole numbers", TypeError, lambda: step(stack(), ONES.long()),
     r"x has the dtype torch\.int64, .* pass x\.to\(torch\.float32\)"),
    ("class that is none", ValueError, lambda: stack().decode(torch.tensor([0, 99])),
     "z must hold classes from 0 to 3, but holds 0 to 99"),
    ("class of a sample", ValueError, lambda: stack().given_top(torch.tensor([-1])),
     "z must hold classes from 0 to 3, but holds -1 to -1"),
    ("half-line prior", ValueError, lambda: vae(prior=dist.Exponential(torch.ones(M))),
     "prior Exponential has the support GreaterThanEq.*KL would be infinite.*all real numbers"),
    ("discrete prior", ValueError, lambda: vae(prior=dist.Poisson(torch.ones(M))),
     "prior Poisson has the support .* draws from normals"),
    ("infinite weight", ValueError, lambda: anchor(model, {"z": float("inf")}),
     "must be >= 0 and finite, but got inf"),
    ("x has NaN", ValueError, lambda: step(stack(), ONES * torch.nan), "hold 42 NaN.*impute"),
]  # fmt: skip

NETWORKS = [
    ("encoder too wide", ValueError, lambda: step(vae(encoder=mlp_encoder([D, 4]))),
     r"The encoder gives 8 numbers for each datum, but .* 3 dimensions needs 6: locations and log"),
    ("encoder gives three", ValueError, lambda: step(vae(encoder=Gives((MATRIX,) * 3))),
     r"The encoder must give \(loc, scale\), but gave 3 tensors"),
    ("encoder pair differs", ValueError, lambda: step(vae(encoder=Gives((MATRIX, MATRIX[:, :1])))),
     r"locations of shape \(7, 3\) and scales of shape \(7, 1\), but both must end in 3"),
    ("encoder gives a number", TypeError, lambda: step(vae(encoder=Gives(1.0))),
     r"tensor of locations and log-scales, the pair \(loc, scale\), or a distribution, .* float"),
    ("encoder gives vectors", ValueError,
     lambda: step(vae(encoder=Gives(dist.OneHotCategorical(torch.ones(B, M, 4))))),
     r"OneHotCategorical with events of shape \(4,\), but each latent must be a number"),
    ("encoder gives torch's distribution", TypeError,
     lambda: step(vae(encoder=Gives(torch.distributions.Normal(MATRIX, 1.0)))),
     r"must give a distribution of pyro\.distributions, but gave torch"),
    ("prior of another support", ValueError,
     lambda: step(vae(encoder=Gives(dist.Normal(MATRIX, 1.0)), prior=dist.LogNormal(MATRIX[0], 1))),
     r"The prior LogNormal has the support .* the encoder draws .* the same support"),
    ("encoder does not flatten", ValueError,
     lambda: step(vae(encoder=nn.Linear(8, 2 * M)), torch.ones(B, 1, 6, 8)),
     r"batch shape \(7, 1, 6, 3\), but a batch of 7 data needs \(7, 3\)\. Flatten"),
    ("stack's encoder loses the batch", ValueError,
     lambda: step(stack(Layer(Gives(torch.ones(2 * M)), nn.Linear(M, D), M), (M, 4))),
     r"batch shape \(3,\), but a batch of 7 data needs \(7, 3\)"),
    ("decoder too wide", ValueError, lambda: step(vae(decoder=mlp_decoder([M, 7]))),
     r"The decoder gives the shape \(7,\) for each datum, but x has the shape \(6,\)"),
    ("decoder without n_params", ValueError, lambda: step(vae(likelihood=CategoricalLikelihood(3))),
     r"gives the shape \(6,\) for each datum, .* CategoricalLikelihood needs \(6, 3\): 3 "
     r"parameter\(s\)"),
    ("decoder without shape", ValueError,
     lambda: step(vae(encoder=mlp_encoder([64, M]), decoder=mlp_decoder([M, 64])),
                  torch.ones(B, 1, 8, 8)),
     r"gives the shape \(64,\) for each datum, but x has the shape \(1, 8, 8\)"),
    ("decoder gives a pair", TypeError, lambda: step(vae(decoder=Gives((ONES, ONES)))),
     "The decoder must give one tensor with the parameters of BernoulliLikelihood, but gave tuple"),
    ("one size", ValueError, lambda: mlp([3]), r"at least two positive integers, but got \[3\]"),
    ("encoder of one size", ValueError, lambda: mlp_encoder([3]), r"two positive .* got \[3\]"),
    ("no size", ValueError, lambda: mlp_decoder([]), r"at least two positive integers, .* \[\]"),
    ("size 0", ValueError, lambda: mlp([3, 0, 2]), r"positive integers, but got \[3, 0, 2\]"),
    ("size is a number", ValueError, lambda: mlp(3), "at least two positive integers, but got 3"),
    ("activation is a module", TypeError, lambda: mlp([3, 4, 2], nn.ReLU()),
     r"a class or a function that makes a module, e\.g\. nn\.ReLU, but got the module ReLU\(\)"),
    ("shape does not fit", ValueError, lambda: mlp_decoder([M, 60], shape=(1, 8, 8)),
     r"shape \(1, 8, 8\) has 64 dimensions, but the last of sizes is 60"),
    ("no parameters", ValueError, lambda: mlp_decoder([M, 6], n_params=0), "n_params .* got 0"),
    ("28 is no multiple of 8", ValueError, lambda: conv_encoder((1, 28, 28), M),
     r"3 convolutions of stride 2 .* multiples of 8, but got \(1, 28, 28\)"),
    ("image without channels", ValueError, lambda: conv_decoder(M, (32, 32)),
     r"shape \(channels, height, width\) .* but got \(32, 32\)"),
    ("no convolutions", ValueError, lambda: conv_encoder((1, 8, 8), M, ()),
     "channels must hold at least one"),
]  # fmt: skip

LIKELIHOODS = [
    ("unknown name", ValueError, lambda: vae(likelihood="poisson"),
     r"Unknown likelihood 'poisson': choose from \['bernoulli', .*NormalLikelihood\(scale=0\.5\)"),
    ("categorical by name", ValueError, lambda: vae(likelihood="categorical"),
     r"such as CategoricalLikelihood\(n_states=\.\.\.\)"),
    ("a class", ValueError, lambda: vae(likelihood=BernoulliLikelihood),
     "Unknown likelihood .*give a Likelihood"),
    ("one state", ValueError, lambda: CategoricalLikelihood(1),
     "n_states must be an integer >= 2, but got 1"),
    ("scale 0", ValueError, lambda: NormalLikelihood(0.0),
     r"scale must be a number > 0, but got 0\.0"),
    ("scale NaN", ValueError, lambda: NormalLikelihood(float("nan")), "a number > 0, but got nan"),
    ("scale is a tensor", ValueError, lambda: NormalLikelihood(torch.ones(D)),
     r"scale must be a number > 0, .* take LearnedNormalLikelihood\(dim\)"),
    ("init_scale negative", ValueError, lambda: LearnedNormalLikelihood(init_scale=-1),
     "init_scale .* got -1"),
    ("scales for another input", ValueError,
     lambda: step(vae(likelihood=LearnedNormalLikelihood(5))),
     r"scales for inputs of shape \(5,\), but the decoder gives \(7, 6\)\. .* shape of a datum"),
]  # fmt: skip

PRIORS = [
    ("unknown name", ValueError, lambda: vae(prior="flow"),
     r"Unknown prior 'flow': choose from \['flat', 'lear.*batch shape \(latent_dim,\)"),
    ("a number", TypeError, lambda: vae(prior=1.0),
     r"a name, a distribution or a function .* got 1\.0"),
    ("does not factorise", ValueError,
     lambda: vae(prior=dist.MultivariateNormal(torch.zeros(M), torch.eye(M))),
     r"MultivariateNormal has the event shape \(3,\): it does not factorise"),
    ("another size", ValueError, lambda: vae(prior=dist.Normal(torch.zeros(4), 1.0)),
     r"batch shape \(4,\), but 3 latents need \(3,\)"),
    ("a learned prior of another size", ValueError, lambda: vae(prior=LearnedMixture(4)),
     r"batch shape \(4,\), but 3 latents need \(3,\)"),
    ("function of nothing", TypeError, lambda: vae(prior=lambda: None),
     "A prior must give a distribution, but got NoneType"),
    ("no component", ValueError, lambda: LearnedMixture(M, 0), "n_components .* >= 1, but got 0"),
    ("no class", ValueError, lambda: LearnedCategorical(0), "n_classes .* >= 1, but got 0"),
    ("discrete top with a prior", ValueError, lambda: stack(prior="learned_normal"),
     r"for a continuous top layer, but n_classes=4 .* Leave prior out, or pass n_classes=None"),
]  # fmt: skip

PROGRAMS = [
    ("no latent", ValueError, lambda: vae(latent_dim=0),
     "latent_dim must be an integer >= 1, but got 0"),
    ("half a latent", ValueError, lambda: vae(latent_dim=2.5), r"latent_dim .* but got 2\.5"),
    ("too few latents to decode", ValueError, lambda: vae().decode(torch.ones(5, 2)),
     r"z must have the shape \(n, 3\), but got \(5, 2\)"),
    ("no layers", ValueError, lambda: StackedCorEx([]), r"non-empty sequence .* e\.g\. \[\(784"),
    ("one flat layer", ValueError, lambda: StackedCorEx((784, 64, 10)), r"but got \(784, 64, 10\)"),
    ("layers by name", ValueError, lambda: StackedCorEx("paper"),
     "non-empty sequence .* got 'paper'"),
    ("layers do not meet", ValueError, lambda: stack((D, M), (2, 4)),
     "Layer 1 has 3 latents, but layer 2 starts from 2. Each layer starts where the one below"),
    ("layer of size 0", ValueError,
     lambda: stack(Layer(nn.Linear(D, D), nn.Linear(M, D), 0), n_classes=None),
     "The size of layer 1 must be an integer >= 1, but got 0"),
    ("top is not n_classes", ValueError, lambda: stack(n_classes=10),
     "top layer has 4 outputs, but n_classes=10 .* n_classes=None for continuous layers only"),
    ("one class", ValueError, lambda: stack(n_classes=1), "None or an integer >= 2, but got 1"),
    ("too many logits", ValueError,
     lambda: step(stack((D, M), Layer(nn.Linear(M, 7), nn.Linear(4, 2 * M), 4))),
     "The encoder of layer 2 gives 7 logits for each datum, but there are 4 classes"),
    ("no scales downwards", ValueError,
     lambda: step(stack((D, M), Layer(nn.Linear(M, 4), nn.Linear(4, M), 4))),
     "The decoder of layer 2 gives 3 numbers for each datum, but .* needs 6"),
    ("no such layer", ValueError, lambda: stack().decode(torch.ones(2, M), layer=3),
     "layer must be 1 to 2, but got 3"),
    ("probabilities for classes", ValueError, lambda: stack().decode(torch.ones(2, 4) / 4),
     r"z of layer 2 must have the shape \(n,\), a class each, but got \(2, 4\)"),
    ("latents of another layer", ValueError, lambda: stack().decode(torch.ones(2, 4), layer=1),
     r"z of layer 1 must have the shape \(n, 3\), but got \(2, 4\)"),
]  # fmt: skip

ANCHORS = [
    ("anchors is a list", TypeError, lambda: anchor_vae([0, 1]),
     r"map latent indices to KL weights, e\.g\. \{0: 0\.5\}, but got \[0, 1\]"),
    ("no such latent", ValueError, lambda: anchor_vae({3: 0.5}),
     "latent 3, but there are latents 0 to 2"),
    ("negative index", ValueError, lambda: anchor_vae({-1: 0.5}),
     "latent -1, but there are latents 0"),
    ("index is a name", ValueError, lambda: anchor_vae({"z": 0.5}),
     "latent 'z', but there are latents"),
    ("negative weight", ValueError, lambda: anchor_vae({0: -0.5}),
     r"latent 0' must be >= 0 and finite, but got -0\.5\. 1 is the bound itself"),
    ("NaN", ValueError, lambda: anchor_vae({0: float("nan")}),
     "must be >= 0 and finite, but got nan"),
    ("negative free weight", ValueError, lambda: anchor_vae({}, free_weight=-1),
     "free latents.* got -1"),
    ("schedule", TypeError, lambda: anchor_vae({0: Warmup(0, 1, 5)}),
     "latent 0 must be a number, but got Warmup. For a schedule, call set_anchors between steps"),
    ("weights is a list", TypeError, lambda: anchor(model, [0.5]),
     r"must map site names .* got \[0\.5\]"),
    ("no program", TypeError, lambda: anchor(3, {"z": 0.5}), "wraps a model or a guide, but got 3"),
    ("weight is a word", TypeError, lambda: anchor(model, {"z": "half"}),
     "KL weight of 'z' must be a number, a tensor or a function that returns one, but got str"),
    ("weight is a list", TypeError, lambda: anchor(model, {"z": [1, 2]}), "but got list"),
    ("weight < 0", ValueError, lambda: anchor(model, {"z": -1}),
     "'z' must be >= 0 and finite, but got -1"),
    ("one weight < 0", ValueError, lambda: anchor(model, {"z": torch.tensor([1.0, -1.0, 1.0])}),
     r"'z' must be >= 0 and finite, but got tensor\(\[ 1\., -1\.,  1\.\]\)"),
    ("schedule falls below 0", ValueError, lambda: anchored(lambda: -0.1),
     r"must be >= 0 and finite, but got -0\.1"),
    ("schedule returns nothing", TypeError, lambda: anchored(lambda: None), "but got NoneType"),
    ("too few weights", ValueError, lambda: anchored(torch.ones(2)),
     r"shape \(2,\), but its latents are event dimensions of shape \(3,\)\. Give one weight"),
    ("as many weights as data", ValueError, lambda: anchored(torch.ones(B)),
     r"shape \(7,\), but its latents are event dimensions of shape \(3,\)"),
    ("does not factorise", ValueError, lambda: anchor(coupled, {"z": torch.ones(M)})(ONES),
     "'z' does not factorise over its event dimensions .* Give one weight for the whole site"),
    ("latents in no plate", ValueError, lambda: anchor(plain_batch, {"z": torch.ones(M)})(ONES),
     r"shape \(3,\), which does not fit the site's batch shape \(7, 3\) with plates at .*\[-2\]"),
    ("model and guide differ", ValueError, lambda: anchored(0.5, 0.25),
     r"'z' has the scale 0\.5 in the model but 0\.25 in the guide.* wrap both programs"),

        ("model and guide differ by latent", ValueError,
     lambda: anchored(torch.ones(M), torch.zeros(M)),
     r"per-dimension weight tensor\(\[1\., 1\., 1\.\]\) in the model but .* in the guide"),
    ("one of the two", ValueError, lambda: anchored(0.5, 1.0), "A KL term has one weight"),
    ("warm-up in no steps", ValueError, lambda: Warmup(0, 1, 0), "steps .* >= 1, but got 0"),
    ("warm-up from below 0", ValueError, lambda: Warmup(-1, 1, 5),
     "'start' must be >= 0 and finite, but got -1"),
]  # fmt: skip

OBJECTIVE = [
    ("no particles", ValueError, lambda: CorExELBO(0), "num_particles .* >= 1, but got 0"),
    ("negative tc_weight", ValueError, lambda: CorExELBO(tc_weight=-1),
     "tc_weight .* >= 0, but got -1"),
    ("data_plates is a string", TypeError, lambda: CorExELBO(data_plates="data"),
     r"a collection of names, e\.g\. \['data'\], but got the string 'data'"),
    ("unknown plate", ValueError,
     lambda: evaluate(vae(), data_plates=["rows"]),
     r"data_plates names \['rows'\], but the programs have the plates \['data', 'inputs', 'lat"),
    ("terms before a step", RuntimeError, lambda: CorExELBO().last_terms,
     r"no terms yet.* Call elbo\.terms\(model, guide, \*args\)"),
    ("NaN in the loss", ValueError,
     lambda: evaluate(vae(encoder=Gives(torch.full((B, 2 * M), torch.nan)))),
     "The loss is not finite: .*the KL of site 'z' is NaN in 3 of 3 dimensions"),
]  # fmt: skip

TABLE = {
    "data": DATA,
    "networks": NETWORKS,
    "likelihoods": LIKELIHOODS,
    "priors": PRIORS,
    "programs": PROGRAMS,
    "anchors": ANCHORS,
    "objective": OBJECTIVE,
}


@pytest.mark.parametrize(
    ("error", "use", "message"),
    [
        pytest.param(error, use, message, id=f"{part}: {name}")
        for part, cases in TABLE.items()
        for name, error, use, message in cases
    ],
)
def test_wrong_use(error: type[Exception], use: Callable[[], Any], message: str):
    with pytest.raises(error, match=f"(?s){message}"):
        use()


def test_a_guard_does_not_refuse_what_is_right():
    """The programs of this file are right where they are not made wrong."""
    for program in (vae(), stack(), anchor_vae({0: 0.5}), stack(n_classes=None)):
        step(program)
    anchored(torch.ones(M))
    anchored(np.float32(0.5))
    assert anchor_vae({np.int64(1): np.float32(0.5)}).kl_weights.tolist() == [1.0, 0.5, 1.0]
