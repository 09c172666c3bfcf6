"""What is measured after training, and what leaves the library."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyro
import pyro.distributions as dist
import torch

import pyro_corex as pc

from . import Use, answered, refused
from .data import POSTERIOR, VAE, X, arviz, bound, posterior, report

_KEPT = TemporaryDirectory()
FOLDER = Path(_KEPT.name)
LOC = torch.linspace(-1, 1, 60).reshape(30, 2)
ONES = torch.ones(30, 2)
STATES = pc.AggregatePosterior.from_probs(torch.full((30, 2, 3), 1 / 3))
A, D = "AggregatePosterior", "choose_depth"


class Shared:
    """Data that share a latent."""

    def model(self, x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z.expand(len(x), 4), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.sample("z", dist.Normal(x.mean(), 0.1))


class Told:
    """A decoder that is told a number for each datum."""

    def model(self, x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            loc = (z + 3 * y)[..., None].expand(*z.shape, x.shape[1])
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(self, x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.mean(-1) - 3 * y, 1.0))


G = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(40)


def depth(layers=((4, 2),), data=X, **options):
    return pc.choose_depth(list(layers), data, **{"epochs": 1, **options})


def page(**options):
    return pc.report(VAE, X, **{"path": FOLDER / "page.html", "n_traversals": 0, **options})


USES: list[Use] = [
    # tc_bound
    refused("tc_bound", "no particles", lambda: bound(X, num_particles=0), "num_particles", "0"),
    refused("tc_bound", "half a batch", lambda: bound(X, batch_size=0.5), "batch_size", "0.5"),
    refused("tc_bound", "a class", lambda: pc.tc_bound(pc.CorExVAE, X), "class", "CorExVAE()"),
    refused("tc_bound", "no program", lambda: pc.tc_bound(None, X), "NoneType", ".model(x)"),
    refused("tc_bound", "the other way round", lambda: pc.tc_bound(X, VAE), "Tensor", ".guide(x)"),
    refused("tc_bound", "a network", lambda: pc.tc_bound(VAE.encoder, X), ".model(x)", ".guide(x)"),
    refused("tc_bound", "transform's name", lambda: bound(X, transform="b"), "transform", "'b'"),
    refused("tc_bound", "a transform to nothing", lambda: bound(X, transform=print), "NoneType"),
    refused("tc_bound", "one plate's name", lambda: bound(X, data_plates="data"), "['data']"),
    refused("tc_bound", "an unknown plate", lambda: bound(X, data_plates=["a"]), "['a']", "inputs"),
    refused("tc_bound", "a word as a seed", lambda: bound(X, seed="a"), "seed", "'a'"),
    refused("tc_bound", "no seed", lambda: bound(X, seed=None), "seed", "None"),
    refused("tc_bound", "no samples", lambda: bound(X, importance_samples=0), "importance_samples"),
    refused("tc_bound", "2.5 samples", lambda: bound(X, importance_samples=2.5), "2.5"),
    refused(
        "tc_bound",
        "weights of data that share a latent",
        lambda: pc.tc_bound(Shared(), G, importance_samples=3),
        "importance_samples",
        "share 'z'",
    ),
    refused(
        "tc_bound",
        "a covariate that is another for each datum",
        lambda: pc.tc_bound(Told(), (G, Y)),
        "conditional on y = 'y'",
        "40 distinct values in 40 data",
    ),
    answered(
        "tc_bound",
        "a covariate of two values",
        lambda: pc.tc_bound(Told(), (G, Y % 2)),
        lambda found: "H(y) = 0.70" in repr(found),
    ),
    answered(
        "tc_bound",
        "one importance sample",
        lambda: bound(X, importance_samples=1),
        lambda found: found.log_likelihood.stderr > 0 and found.layers == (),
    ),
    answered("TCBound", "read as a number", lambda: bound(X), lambda b: b.estimate == b.value),
    # choose_depth
    refused(D, "no layers", lambda: depth([]), "layers must be", "[]"),
    refused(D, "numbers for layers", lambda: depth((4, 2)), "layers", "[4]"),
    refused(D, "no share", lambda: depth(holdout=0.0), "holdout", "0.0"),
    refused(D, "all held out", lambda: depth(holdout=1.5), "holdout", "1.5"),
    refused(D, "a number held out", lambda: depth(holdout=10), "holdout", "10"),
    refused(D, "nothing held out", lambda: depth(holdout=None), "holdout", "None"),
    refused(D, "three rows", lambda: depth(data=X[:3]), "holdout=0.25 of 3 data", "at least 2"),
    refused(D, "errors by name", lambda: depth(n_sigma="a"), "n_sigma", "'a'"),
    refused(D, "errors below zero", lambda: depth(n_sigma=-1.0), "n_sigma", "-1.0"),
    refused(D, "no epochs", lambda: depth(epochs=0), "epochs", "0"),
    refused(D, "no depth", lambda: depth(max_depth=0), "max_depth", "0"),
    refused(D, "no end", lambda: pc.choose_depth(lambda n: (4, 2), X), "max_depth is needed"),
    refused(D, "an unknown likelihood", lambda: depth(likelihood="no"), "'no'", "normal"),
    refused(D, "a number as a prior", lambda: depth(prior=3), "prior", "3"),
    refused(D, "a masked array", lambda: depth(data=np.ma.masked_equal(X.numpy(), 1)), "masked"),
    refused(D, "a share of a loader", lambda: depth(data=iter([X])), "holdout", "iterator"),
    refused(D, "a word as a seed", lambda: depth(seed="a"), "seed", "'a'"),
    answered(D, "rows of numbers", lambda: depth(data=X.tolist()), lambda d: len(d.trials) == 1),
    answered(D, "labels beside x", lambda: depth(data=(X, Y)), lambda d: d.trials[0].depth == 1),
    answered(
        "evaluation.Depth",
        "no layer pays",
        lambda: pc.evaluation.Depth(0, None, (), 3.0),
        lambda found: repr(found) == "Depth(0, at 3 standard errors)",
    ),
    answered(
        "evaluation.Trial",
        "a contribution that is just the margin",
        lambda: pc.evaluation.Trial(1, pc.information.Estimate(0.5, 0.1), None, 0.5),
        lambda found: not found.pays,
    ),
    # report
    refused("report", "a folder", lambda: page(path=FOLDER), "path", "is a folder"),
    refused("report", "no path", lambda: page(path=None), "path", "NoneType"),
    refused("report", "an empty path", lambda: page(path=""), "path", "''"),
    refused("report", "no such folder", lambda: page(path=FOLDER / "a" / "b"), "does not exist"),
    refused("report", "a long name", lambda: page(path=FOLDER / ("n" * 300)), "Could not write"),
    refused("report", "a device", lambda: page(path=os.devnull), "path", "device"),
    refused("report", "a number as history", lambda: page(history=[1.0]), "history", "list"),
    refused("report", "one size", lambda: page(image_shape=4), "image_shape", "4"),
    refused("report", "another size", lambda: page(image_shape=(3, 3)), "4 numbers", "(3, 3)"),
    refused("report", "names as a text", lambda: page(column_names="abcd"), "column_names", "abcd"),
    refused("report", "too few names", lambda: page(column_names=["a"]), "1 names", "4 columns"),
    refused("report", "less than no sliders", lambda: page(n_traversals=-1), "n_traversals", "-1"),
    refused("report", "a class", lambda: pc.report(pc.CorExVAE, X, FOLDER / "a"), "class"),
    refused("report", "the other way round", lambda: pc.report(FOLDER / "a", VAE, X), "path"),
    refused("report", "a number as transform", lambda: report(X, transform=3), "transform", "3"),
    # to_arviz
    refused("to_arviz", "no draws", lambda: arviz(X, num_draws=0), "num_draws", "0"),
    refused("to_arviz", "a plate's name", lambda: arviz(X, data_plates="data"), "['data']"),
    refused("to_arviz", "no program", lambda: pc.to_arviz(None, X), "NoneType", ".model(x)"),
    refused("to_arviz", "less than no seed", lambda: arviz(X, seed=-1), "seed", "-1"),
    # AggregatePosterior
    refused(A, "variances below zero", lambda: pc.AggregatePosterior(LOC, -ONES), "positive"),
    refused(A, "one scale for all", lambda: pc.AggregatePosterior(LOC, 1.0), "scale", "float"),
    refused(A, "other widths", lambda: pc.AggregatePosterior(LOC, ONES[:, :1]), "(30, 1)"),
    refused(A, "one column", lambda: pc.AggregatePosterior(LOC[:, 0], ONES[:, 0]), "(N, m)"),
    refused(A, "NaN", lambda: pc.AggregatePosterior(LOC / 0 * 0, ONES), "loc", "NaN"),
    answered(
        A,
        "arrays",
        lambda: pc.AggregatePosterior(LOC.numpy(), ONES.numpy()),
        lambda post: torch.equal(post.mean, LOC.mean(0)),
    ),
    refused(
        f"{A}.from_probs",
        "logits",
        lambda: pc.AggregatePosterior.from_probs(torch.zeros(5, 2, 3)),
        "sum to 1",
        "softmax",
    ),
    refused(
        f"{A}.from_probs",
        "one latent",
        lambda: pc.AggregatePosterior.from_probs(torch.ones(5, 1)),
        "(N, m, K)",
        "probs[:, None]",
    ),
    answered(
        f"{A}.from_probs",
        "an array",
        lambda: pc.AggregatePosterior.from_probs(np.full((5, 2, 2), 0.5)),
        lambda post: post.variance.tolist() == [0.25, 0.25],
    ),
    refused(
        f"{A}.from_data",
        "a class",
        lambda: pc.AggregatePosterior.from_data(pc.CorExVAE, X),
        "module",
        "the class CorExVAE",
    ),
    refused(
        f"{A}.from_data",
        "a network",
        lambda: pc.AggregatePosterior.from_data(VAE.encoder, X),
        "module",
        "no encode(x)",
    ),
    refused(f"{A}.from_data", "a layer too many", lambda: posterior(X, layer=3), "layer = 3"),
    refused(f"{A}.from_data", "no folder", lambda: posterior(X, storage="/no"), "/no", "exist"),
    refused(f"{A}.from_data", "a word as a seed", lambda: posterior(X, seed="a"), "seed", "'a'"),
    refused(f"{A}.sample", "less than none", lambda: POSTERIOR.sample(-1), "n must be", "-1"),
    refused(f"{A}.sample", "half a draw", lambda: POSTERIOR.sample(2.5), "n must be", "2.5"),
    refused(f"{A}.sample", "a seed", lambda: POSTERIOR.sample(2, 5), "generator", "5"),
    refused(f"{A}.log_prob", "another width", lambda: POSTERIOR.log_prob(X), "(n, 2)", "(40, 4)"),
    refused(f"{A}.log_prob", "nothing", lambda: POSTERIOR.log_prob(None), "z must", "NoneType"),
    refused(f"{A}.log_prob", "no state", lambda: STATES.log_prob(Y[6:8, None] + Y[:2]), "0 to 2"),
    answered(
        f"{A}.log_prob",
        "states of an array",
        lambda: STATES.log_prob(np.zeros((3, 2), int)),
        lambda found: torch.allclose(found.exp(), torch.tensor(1 / 3)),
    ),
    refused(f"{A}.fit_joint", "states", STATES.fit_joint, "for Gaussian encoders", "sample()"),
    refused(f"{A}.fit_joint", "no components", lambda: POSTERIOR.fit_joint(0), "components", "0"),
    refused(f"{A}.fit_joint", "none to choose", lambda: POSTERIOR.fit_joint(()), "components"),
    refused(f"{A}.fit_joint", "too many", lambda: POSTERIOR.fit_joint(40), "at most 32", "40"),
    refused(f"{A}.fit_joint", "no seed", lambda: POSTERIOR.fit_joint(1, "a"), "seed", "'a'"),
    refused(
        "information.JointDensity",
        "less than none",
        lambda: POSTERIOR.fit_joint(1).sample(-1),
        "n must be",
        "-1",
    ),
    refused(
        f"{A}.total_correlation", "no draws", lambda: POSTERIOR.total_correlation(0), "num_samples"
    ),
    refused(
        f"{A}.total_correlation",
        "no seed",
        lambda: POSTERIOR.total_correlation(seed=None),
        "seed",
        "None",
    ),
    answered(f"{A}.entropy", "equal states", STATES.entropy, lambda h: bool((h > 1.0986).all())),
    answered(
        f"{A}.mutual_information",
        "nothing told",
        STATES.mutual_information,
        lambda i: bool((i.abs() < 1e-6).all()),
    ),
    answered(
        f"{A}.mutual_information_stderr",
        "nothing told",
        STATES.mutual_information_stderr,
        lambda e: bool((e < 1e-3).all()),
    ),
]
