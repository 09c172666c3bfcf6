"""The objective, its terms and its regularizers."""

import pyro
import pyro.distributions as dist
import torch

import pyro_corex as pc
from pyro_corex import regularizers as reg

from . import Use, answered, refused
from .data import VAE, X

E, R = "CorExELBO", "regularizers"
NAN = torch.full((3, 4), torch.nan)


class Named:
    """A normal latent and its datum, under names of one's own."""

    def __init__(self, latent="z", observed="x"):
        self.latent, self.observed = latent, observed

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample(self.latent, dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample(self.observed, dist.Normal(z, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample(self.latent, dist.Normal(x / 2, 0.7))


class Energy:
    """A regularizer whose value is another kind of thing, or of another shape."""

    name, weight = "energy", 1.0

    def __init__(self, call):
        self.call = call

    def __call__(self, step):
        return self.call(step)


def terms(data=X[:3], program=VAE, **options):
    return pc.CorExELBO(**options).terms(program.model, program.guide, data)


def elbo(method, *arguments, **options):
    return getattr(pc.CorExELBO(**options), method)(*arguments)


def one(*regularizers):
    return terms(torch.ones(3), Named(), regularizers=regularizers)


USES: list[Use] = [
    refused(E, "no particles", lambda: pc.CorExELBO(num_particles=0), "num_particles", "0"),
    refused(E, "2.5 particles", lambda: pc.CorExELBO(num_particles=2.5), "num_particles", "2.5"),
    refused(E, "a weight below 0", lambda: pc.CorExELBO(tc_weight=-1.0), "tc_weight", "-1.0"),
    refused(E, "NaN as a weight", lambda: pc.CorExELBO(tc_weight=float("nan")), "tc_weight", "nan"),
    refused(E, "a word as a weight", lambda: pc.CorExELBO(tc_weight="a"), "tc_weight", "'a'"),
    refused(E, "one weight", lambda: pc.CorExELBO(mi_weight=1.0), "mi_weight", "1.0"),
    refused(E, "a function", lambda: pc.CorExELBO(invariance=len), "invariance", "len"),
    refused(E, "a plate's name", lambda: pc.CorExELBO(data_plates="data"), "['data']"),
    refused(E, "one regularizer", lambda: pc.CorExELBO(regularizers=Energy(len)), "list"),
    refused(
        E, "a site's name", lambda: pc.CorExELBO(tc_weight=1.0, tc_sites="z"), "sites", "['z']"
    ),
    refused(
        E,
        "two of a name",
        lambda: pc.CorExELBO(regularizers=[Energy(len), Energy(len)]),
        "energy",
    ),
    refused(f"{E}.loss", "NaN", lambda: elbo("loss", VAE.model, VAE.guide, NAN), "NaN"),
    refused(f"{E}.loss", "no program", lambda: elbo("loss", VAE, X), "guide must", "Tensor"),
    refused(
        f"{E}.loss_and_grads",
        "NaN",
        lambda: elbo("loss_and_grads", VAE.model, VAE.guide, NAN),
        "NaN",
    ),
    refused(
        f"{E}.differentiable_loss",
        "an unknown plate",
        lambda: elbo("differentiable_loss", VAE.model, VAE.guide, X, data_plates=["a"]),
        "['a']",
    ),
    refused(f"{E}.terms", "NaN", lambda: terms(NAN), "12 NaN", "impute"),
    refused(f"{E}.terms", "an unknown site", lambda: terms(mi_weight={"a": 1.0}), "mi_weight", "a"),
    refused(f"{E}.terms", "a normal site", lambda: terms(mi_weight={"z": 1.0}), "mi_weight", "'z'"),
    refused(f"{E}.describe_non_finite", "no call", lambda: elbo("describe_non_finite"), "no terms"),
    refused(
        f"{E}.compute_marginals",
        "no guide",
        lambda: elbo("compute_marginals", VAE.model, X),
        "guide must be",
        "Tensor",
    ),
    refused(
        f"{E}.sample_posterior",
        "no guide",
        lambda: elbo("sample_posterior", VAE.model, X),
        "guide must be",
        "Tensor",
    ),
    # CorExTerms
    refused("CorExTerms", "none", lambda: pc.CorExTerms.join([]), "no terms", "at least one"),
    refused(
        "CorExTerms",
        "of two programs",
        lambda: pc.CorExTerms.join([terms(), terms(torch.ones(3), Named("z9"))]),
        "parts must be",
        "one program",
        "'z9'",
    ),
    refused(
        "CorExTerms",
        "of two observed sites",
        lambda: pc.CorExTerms.join([terms(X[:, 0], Named()), terms(X[:, 0], Named(observed="y"))]),
        "one program",
        "'y'",
    ),
    refused(
        "CorExTerms", "let go", lambda: terms().without_data().tc_bound, "let go of their data"
    ),
    # regularizers
    refused("Invariance", "a tensor", lambda: pc.Invariance(X, {"z": 1.0}), "transform"),
    refused("Invariance", "a weight", lambda: pc.Invariance(len, 1.0), "weights", "1.0"),
    refused("Invariance", "no sites", lambda: pc.Invariance(len, {}), "weights", "{}"),
    refused("Invariance", "no copies", lambda: pc.Invariance(len, {"z": 1.0}, 0), "copies", "0"),
    refused("Invariance", "below 0", lambda: pc.Invariance(len, {"z": -1.0}), "['z']", "-1.0"),
    refused("Invariance", "a word", lambda: pc.Invariance(len, {"z": "a"}), "['z']", "'a'"),
    refused(
        "Invariance",
        "another shape",
        lambda: terms(invariance=pc.Invariance(lambda x: x[:2], {"z": 1.0})),
        "(3, 4)",
        "(2, 4)",
    ),
    refused(f"{R}.MutualInformation", "a name", lambda: reg.MutualInformation("z"), "'z'", "map"),
    refused(
        f"{R}.MutualInformation",
        "an infinite weight",
        lambda: reg.MutualInformation({"z": float("inf")}),
        "finite",
        "inf",
    ),
    refused(f"{R}.TotalCorrelation", "a word", lambda: reg.TotalCorrelation("a"), "weight", "'a'"),
    refused(
        f"{R}.TotalCorrelation", "a name", lambda: reg.TotalCorrelation(1.0, "z"), "sites", "['z']"
    ),
    refused(
        f"{R}.TotalCorrelation",
        "an unknown site",
        lambda: one(reg.TotalCorrelation(1.0, ["a"])),
        "a",
    ),
    refused(f"{R}.DensityRatio", "no width", lambda: reg.DensityRatio(1.0, 0), "latent_dim", "0"),
    refused(
        f"{R}.DensityRatio",
        "a function",
        lambda: reg.DensityRatio(1.0, 2, critic=len),
        "critic",
        "nn.Module",
    ),
    refused(
        f"{R}.DensityRatio",
        "another width",
        lambda: terms(regularizers=[reg.DensityRatio(1.0, 5)]),
        "5",
    ),
    refused(
        f"{R}.MinibatchTotalCorrelation",
        "no data",
        lambda: reg.MinibatchTotalCorrelation(1.0, num_data=0),
        "num_data",
        "0",
    ),
    refused(
        f"{R}.MinibatchTotalCorrelation",
        "a data set as its size",
        lambda: reg.MinibatchTotalCorrelation(1.0, num_data=X.tolist()),
        "num_data",
        "[[",
    ),
    refused(
        f"{R}.MinibatchTotalCorrelation",
        "an unknown method",
        lambda: reg.MinibatchTotalCorrelation(1.0, method="mss"),
        "method",
        "'stratified' or 'weighted'",
        "'mss'",
    ),
    refused(
        f"{R}.MaximumMeanDiscrepancy",
        "an unknown kernel",
        lambda: reg.MaximumMeanDiscrepancy(1.0, kernel="gaussian"),
        "kernel",
        "'imq' or 'rbf'",
        "'gaussian'",
    ),
    refused(
        f"{R}.MaximumMeanDiscrepancy",
        "no scale",
        lambda: reg.MaximumMeanDiscrepancy(1.0, scale=0.0),
        "scale",
        "0.0",
    ),
    refused(
        f"{R}.MaximumMeanDiscrepancy",
        "a name",
        lambda: reg.MaximumMeanDiscrepancy(1.0, "z"),
        "sites",
        "['z']",
    ),
    refused(
        f"{R}.MaximumMeanDiscrepancy",
        "an unknown site",
        lambda: one(reg.MaximumMeanDiscrepancy(1.0, ["a"])),
        "sites",
        "['a']",
        "['z']",
    ),
    refused(f"{R}.FreeBits", "below 0", lambda: reg.FreeBits(-1.0), "nats", ">= 0", "-1.0"),
    refused(f"{R}.FreeBits", "NaN", lambda: reg.FreeBits(float("nan")), "nats", "nan"),
    refused(f"{R}.FreeBits", "a word", lambda: reg.FreeBits("1"), "nats", "number", "'1'"),
    refused(f"{R}.FreeBits", "groups", lambda: reg.FreeBits(1.0, per="x"), "per", "'site'", "'x'"),
    refused(f"{R}.FreeBits", "an unknown site", lambda: one(reg.FreeBits(1.0, ["a"])), "'a'", "z"),
    refused(f"{R}.FreeBits", "no site", lambda: one(reg.FreeBits(1.0, [])), "sites", "['z']"),
    refused(f"{R}.Capacity", "below 0", lambda: reg.Capacity(-1.0, 5.0), "gamma", "-1.0"),
    refused(f"{R}.Capacity", "no number", lambda: reg.Capacity(1.0, None), "capacity", "None"),
    refused(
        f"{R}.Capacity",
        "an infinite one",
        lambda: reg.Capacity(1.0, float("inf")),
        "capacity",
        "finite",
        "inf",
    ),
    refused(f"{R}.Capacity", "a name", lambda: reg.Capacity(1.0, 5.0, "z"), "sites", "['z']"),
    refused(
        f"{R}.GeneratedInformation",
        "a function as the model",
        lambda: one(reg.GeneratedInformation(-1.0)),
        "model(n=100)",
        "Named.model",
    ),
    refused(
        f"{R}.GeneratedInformation",
        "an unknown site",
        lambda: terms(regularizers=[reg.GeneratedInformation(-1.0, ["a"])]),
        "['z']",
        "['a']",
    ),
    refused(
        f"{R}.GeneratedInformation",
        "a word as a weight",
        lambda: reg.GeneratedInformation("a"),
        "weight",
        "'a'",
    ),
    refused(f"{R}.Regularizer", "a class", lambda: pc.CorExELBO(regularizers=[Energy]), "class"),
    refused(f"{R}.Regularizer", "a function", lambda: pc.CorExELBO(regularizers=[len]), "len"),
    refused(f"{R}.Regularizer", "a number", lambda: one(Energy(lambda step: 1.0)), "energy"),
    refused(
        f"{R}.Regularizer",
        "a value for each datum",
        lambda: one(Energy(lambda step: step.draw("z"))),
        "energy",
    ),
    answered(
        f"{R}.Step",
        "an observed site",
        lambda: one(Energy(lambda step: step.observed("x").mean())),
        lambda found: float(found.regularizers["energy"]) == 1.0,
    ),
]
