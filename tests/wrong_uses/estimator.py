"""CorEx for tables, figures and data sets."""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse
import torch

import pyro_corex as pc
from pyro_corex import CorEx, datasets, figures

from . import Use, answered, refused, warned

X = np.random.default_rng(0).normal(size=(30, 4))
X[:, 1] += X[:, 0]
MASKED = np.ma.masked_array(X, mask=X > 1)
SPARSE = scipy.sparse.csr_array(X)
DATES = pd.DataFrame({"a": pd.date_range("2020", periods=30), "b": X[:, 0]})
TWICE = pd.DataFrame(X, columns=list("aabc"))
SIZES = [[["blue", "red", "grey"][i % 3], row[1]] for i, row in enumerate(X.tolist())]
WORDS = [["yes" if row[0] > 0 else "no", row[1]] for row in X.tolist()]
NOWHERE = Path(__file__) / "nowhere"
BAD = Path(__file__).with_suffix(".csv")
ONES = torch.ones(3)
IMAGES = torch.linspace(0, 1, 20).square().reshape(5, 4)
C = "CorEx"


def corex(**options):
    return CorEx(**{"n_hidden": 2, "max_iter": 5, "cv": None, "random_state": 0, **options})


def weigh(weight):
    return corex().fit(X, sample_weight=weight)


def fit(x=X, **options):
    return corex(**options).fit(x)


def states(n, **options):
    return fit(latent="categorical", n_states=n, **options)


@cache
def fitted():
    return fit()


@cache
def fitted_words():
    return fit(WORDS, n_hidden=1)


def named(**options):
    return figures.hierarchy(fitted(), **options)


def profiles(corex, latent=0):
    return figures.class_profiles(corex, latent)


def page(path="page.html", **options):
    return pc.report(fitted(), X, path, **options)


USES: list[Use] = [
    # CorEx
    refused(C, "no latents", lambda: fit(n_hidden=0), "n_hidden", ">= 1", "0"),
    refused(C, "latents by name", lambda: fit(n_hidden="many"), "n_hidden", "'many'", "auto"),
    refused(C, "layers that grow", lambda: fit(n_hidden=(2, 3)), "n_hidden", "(2, 3)", "smaller"),
    refused(C, "an unknown latent", lambda: fit(latent="normal"), "latent", "'normal'", "gaussian"),
    refused(C, "one state", lambda: states(1), "n_states", ">= 2", "1"),
    refused(C, "more states than rows", lambda: states(31), "n_states", "number of rows, 30", "31"),
    refused(C, "a latent's many states", lambda: states([2, 40]), "n_states", "30", "[2, 40]"),
    answered(
        C,
        "more states than rows that are left",
        lambda: states(29, n_hidden=1, cv=2),
        lambda found: found.n_folds_ == 2 and np.isfinite(found.tc_),
    ),
    refused(C, "states of one latent", lambda: states([2]), "n_states", "1 entries", "n_hidden=2"),
    refused(C, "no steps", lambda: fit(max_iter=0), "max_iter", "0"),
    refused(C, "no rate", lambda: fit(lr=0), "lr", "> 0", "0"),
    refused(C, "a rate that is NaN", lambda: fit(lr=float("nan")), "lr", "nan"),
    refused(C, "one fold", lambda: fit(cv=1), "cv", "1"),
    refused(C, "more folds than rows", lambda: fit(cv=31), "cv", "30", "31"),
    refused(C, "a network of states", lambda: states(2, hidden=(4,)), "hidden=(4,)", "Gaussian"),
    refused(C, "a rotation", lambda: fit(rotation="promax"), "rotation", "'promax'", "oblimin"),
    refused(C, "layers of what is apart", lambda: fit(n_hidden=(2, 1), rotation=None), "(2, 1)"),
    refused(C, "a style of classes", lambda: states(2, style=True), "style=True", "Gaussian"),
    refused(C, "anchors in a list", lambda: fit(anchors=[0]), "anchors", "list"),
    refused(C, "an anchor too many", lambda: fit(anchors={5: [0]}), "latent 5", "0 to 1"),
    refused(C, "an anchored column", lambda: fit(anchors={0: [9]}), "anchors", "9", "0 to 3"),
    refused(C, "an unknown kind", lambda: fit(kinds="normal"), "kind", "'x0'", "'normal'"),
    refused(C, "too few kinds", lambda: fit(kinds=["counts"]), "kinds", "1 entries", "4 columns"),
    refused(C, "counts below 0", lambda: fit(kinds="counts"), "'x0'", "counts", "continuous"),
    # weights of rows
    refused("CorEx.fit", "weights of others", lambda: weigh(np.ones(5)), "sample_weight", "(5,)"),
    refused("CorEx.fit", "words as weights", lambda: weigh(["a"] * 30), "sample_weight", "['a'"),
    refused("CorEx.fit", "negative weights", lambda: weigh(-np.ones(30)), "sample_weight", "-1"),
    refused("CorEx.fit", "NaN weights", lambda: weigh(np.full(30, np.nan)), ">= 0", "nan"),
    refused("CorEx.fit", "no weight", lambda: weigh(np.zeros(30)), "sample_weight", "zero"),
    refused("CorEx.fit", "huge weights", lambda: weigh(np.full(30, 1e9)), "survey", "divide"),
    # what is no table
    refused("CorEx.fit", "a masked array", lambda: fit(MASKED), "X", "masked", "NaN"),
    refused("CorEx.fit", "a path", lambda: fit("a.csv"), "X", "'a.csv'", "read_csv"),
    refused("CorEx.fit", "a Path", lambda: fit(BAD), "X", "path", "read_csv"),
    refused("CorEx.fit", "rows that differ", lambda: fit([[1, 2], [3]]), "X", "one length", "list"),
    refused("CorEx.fit", "labels beside X", lambda: fit((X, X[:, 0])), "X", "tuple", "labels"),
    refused("CorEx.fit", "a loader", lambda: fit(iter([X])), "X", "list_iterator"),
    refused("CorEx.fit", "a dict", lambda: fit({"a": X[:, 0]}), "X", "dict", "data frame"),
    refused("CorEx.fit", "nothing", lambda: fit(None), "X", "NoneType", "(N, d)"),
    refused("CorEx.fit", "complex numbers", lambda: fit(X + 1j), "X", "Complex", "real"),
    refused("CorEx.fit", "a complex tensor", lambda: fit(torch.tensor(X + 1j)), "X", "complex"),
    refused("CorEx.fit", "sparse complex", lambda: fit(SPARSE * 1j), "Complex", "imaginary"),
    refused(
        "CorEx.fit",
        "a sparse column",
        lambda: fit(scipy.sparse.csr_array(X[:, 0])),
        "(30,)",
        "reshape",
    ),
    answered("CorEx.fit", "sparse", lambda: fit(SPARSE).tc_, lambda found: found == fitted().tc_),
    warned(
        "CorEx.fit",
        "dates",
        lambda: fit(DATES),
        lambda found: found.clusters_[0] == -1,
        "'a'",
        "left out",
        "days",
    ),
    refused("CorEx.describe", "a path", lambda: corex().describe("a.csv"), "'a.csv'", "read_csv"),
    refused("CorEx.fit", "names twice", lambda: fit(TWICE), "'a'", "Rename"),
    refused("CorEx.fit", "no code", lambda: fit(missing={0: object()}), "missing", "[-99"),
    refused("CorEx.fit", "levels of numbers", lambda: fit(levels={0: ["a", "b"]}), "'x0'", "words"),
    refused("CorEx.fit", "one level", lambda: fit(levels=["low"]), "levels", "['low']"),
    refused("CorEx.fit", "a level twice", lambda: fit(levels=["a", "a"]), "levels", "once"),
    refused("CorEx.fit", "levels of no column", lambda: fit(levels={9: ["a", "b"]}), "levels", "9"),
    refused(
        "CorEx.fit", "correlations", lambda: fit(np.corrcoef(X.T)), "X", "correlations", "rows"
    ),
    refused(
        "CorEx.fit", "words as ordinal", lambda: fit(SIZES, kinds="ordinal"), "'x0'", "levels="
    ),
    refused("CorEx.fit", "words as counts", lambda: fit(SIZES, kinds="counts"), "'x0'", "words"),
    warned(
        "CorEx.fit",
        "an empty column",
        lambda: fit(X * [1, np.nan, 1, 1]),
        lambda corex: corex.columns_[1].kind == "left out",
        "'x1' holds no value",
    ),
    refused("CorEx.fit", "constants", lambda: fit(np.ones((30, 4))), "4 columns", "constant"),
    answered(
        "CorEx.fit",
        "a tensor with a gradient",
        lambda: fit(torch.tensor(X, requires_grad=True)).mis_,
        lambda found: np.array_equal(found, fitted().mis_),
    ),
    answered(
        "CorEx.fit",
        "rows of words and numbers",
        lambda: [column.kind for column in fitted_words().columns_],
        lambda found: found == ["binary", "continuous"],
    ),
    # the fitted estimator
    refused("CorEx.transform", "a masked array", lambda: fitted().transform(MASKED), "X", "masked"),
    refused(
        "CorEx.transform",
        "numbers for words",
        lambda: fitted_words().transform(X[:, :2]),
        "'x0'",
        "words",
        "numbers",
    ),
    refused(
        "CorEx.bootstrap", "other rows", lambda: fitted().bootstrap(X[:9]), "X", "30 rows", "9"
    ),
    refused(
        "CorEx.bootstrap",
        "as many rows of another table",
        lambda: fitted().bootstrap(X + 1),
        "X",
        "the table that was fitted",
        "another",
    ),
    refused("CorEx.bootstrap", "one draw", lambda: fitted().bootstrap(X, 1), "n_draws", ">= 2"),
    refused("CorEx.save", "a folder", lambda: fitted().save(Path(__file__).parent), "a folder"),
    refused("CorEx.load", "another file", lambda: CorEx.load(__file__), "pyro_corex wrote"),
    refused(
        "CorEx.load",
        "no file",
        lambda: CorEx.load(NOWHERE.parent.with_name("nowhere")),
        "no file",
        "nowhere",
    ),
    refused("CorEx.coded", "a path", lambda: fitted().coded("a.csv"), "X", "'a.csv'"),
    answered(
        "CorEx.score",
        "sparse",
        lambda: fitted().score(SPARSE),
        lambda found: found == fitted().score(X),
    ),
    refused("CorEx.score_samples", "complex", lambda: fitted().score_samples(X + 1j), "Complex"),
    refused("CorEx.surprise", "rows that differ", lambda: fitted().surprise([[1], []]), "length"),
    refused(
        "CorEx.posterior", "of Gaussians", lambda: fitted().posterior(X), "transform", "states"
    ),
    refused("CorEx.impute", "a masked array", lambda: fitted().impute(MASKED), "X", "masked"),
    refused("CorEx.impute", "by the median", lambda: fitted().impute(X, "median"), "how", "best"),
    refused(
        "CorEx.inverse_transform",
        "columns for latents",
        lambda: fitted().inverse_transform(X),
        "Z",
        "(N, 2)",
        "(30, 4)",
    ),
    refused("CorEx.sample", "none", lambda: fitted().sample(0), "n_samples", ">= 1", "0"),
    refused("CorEx.sample", "a table", lambda: fitted().sample(X[:1]), "n_samples", "array"),
    refused(
        "CorEx.get_covariance",
        "of words",
        lambda: fitted_words().get_covariance(),
        "get_covariance",
        "'binary'",
        "sample(n)",
    ),
    refused("CorEx.summary", "no columns", lambda: fitted().summary(0), "n_columns", ">= 1", "0"),
    # figures
    refused(
        "figures.information_map",
        "before fit",
        lambda: figures.information_map(CorEx()),
        "fitted CorEx",
    ),
    refused("figures.scree", "before fit", lambda: figures.scree(CorEx()), "fitted CorEx"),
    refused(
        "figures.latent_against_column",
        "no such latent",
        lambda: figures.latent_against_column(fitted(), X, 7),
        "latent must be one of 0",
        "7",
    ),
    refused(
        "figures.hierarchy", "no columns", lambda: named(n_columns=0), "n_columns", ">= 1", "0"
    ),
    refused(
        "figures.loadings", "states", lambda: figures.loadings(states(2)), "gaussian", "'categ"
    ),
    refused(
        "figures.class_profiles", "factors", lambda: profiles(fitted()), "categorical", "'gauss"
    ),
    refused("figures.class_profiles", "no latent", lambda: profiles(states(2), 5), "0 to 1", "5"),
    refused(
        "report", "names for a CorEx", lambda: page(column_names=["a"]), "column_names", "left out"
    ),
    refused("report", "a CorEx for a folder", lambda: page(path="."), "is a folder"),
    refused("figures.image_grid", "flat", lambda: figures.image_grid(IMAGES), "images", "(5, 4)"),
    refused("figures.tiles", "a path", lambda: figures.tiles("a.png"), "images", "str"),
    refused(
        "figures.tiles", "two channels", lambda: figures.tiles(torch.ones(2, 2, 2, 4, 4)), "colour"
    ),
    answered(
        "figures.tiles",
        "an array",
        lambda: figures.tiles(np.zeros((2, 3, 4, 4))),
        lambda found: found.shape == (12, 18, 3),
    ),
    refused(
        "figures.latent_bars", "by datum", lambda: figures.latent_bars(IMAGES), "values", "(m,"
    ),
    refused(
        "figures.latent_bars",
        "an anchor that is not there",
        lambda: figures.latent_bars(ONES, anchors=[7]),
        "anchors",
        "0 to 2",
        "[7]",
    ),
    refused(
        "figures.variance_distribution",
        "a covariance",
        lambda: figures.variance_distribution(torch.eye(3)),
        "variances",
        "(3, 3)",
    ),
    refused(
        "figures.variance_distribution",
        "no latents",
        lambda: figures.variance_distribution(torch.ones(0)),
        "variances",
        "(0,)",
    ),
    refused(
        "figures.variance_against_information",
        "of other latents",
        lambda: figures.variance_against_information(ONES, torch.ones(4)),
        "(3,)",
        "(4,)",
    ),
    refused(
        "figures.variance_against_information",
        "an anchor that is not there",
        lambda: figures.variance_against_information(ONES, ONES, anchors=[-1]),
        "anchors",
        "[-1]",
    ),
    refused(
        "figures.information_plane",
        "a beta short",
        lambda: figures.information_plane(ONES, ONES, [0.1, 1.0]),
        "one shape (n,)",
        "'betas': (2,)",
    ),
    refused(
        "figures.information_plane",
        "KLs by latent",
        lambda: figures.information_plane(IMAGES, ONES, [0.1, 1.0, 2.0]),
        "compression",
        "one for each beta",
        "(5, 4)",
    ),
    refused(
        "figures.information_plane",
        "errors of one axis",
        lambda: figures.information_plane(ONES, ONES, ONES, errors=ONES),
        "errors[0]",
        "one for each beta",
    ),
    refused(
        "figures.training_curves",
        "a list of losses",
        lambda: figures.training_curves([1.0, 0.5]),
        "history",
        "fit",
        "list",
    ),
    refused(
        "figures.training_curves",
        "no epochs",
        lambda: figures.training_curves(pc.training.History()),
        "no epochs",
    ),
    refused(
        "figures.traversal",
        "a network",
        lambda: figures.traversal(torch.nn.Linear(2, 4), torch.ones(3, 2), 0, ONES),
        "module",
        ".decode(z)",
        "Linear",
    ),
    # data sets
    refused(
        "datasets.linear_gaussian", "m > d", lambda: datasets.linear_gaussian(9, 3, 4), "m", "4"
    ),
    refused(
        "datasets.linear_gaussian",
        "no noise",
        lambda: datasets.linear_gaussian(9, 3, 2, noise=0),
        "noise",
    ),
    refused(
        "datasets.noisy_coins", "a flip of 2", lambda: datasets.noisy_coins(9, 2, 3, flip=2), "2"
    ),
    refused("datasets.layered", "too deep", lambda: datasets.layered(9, 4), "depth", "3", "4"),
    answered(
        "datasets.Synthetic",
        "copies without noise",
        lambda: datasets.noisy_coins(9, 1, 3, flip=0).total_correlation,
        lambda tc: abs(tc - 2 * np.log(2)) < 1e-12,
    ),
    refused("datasets.synthetic_faces", "none", lambda: datasets.synthetic_faces(0), "n", "0"),
    refused("datasets.draw_faces", "no size", lambda: datasets.draw_faces(IMAGES, size=0), "size"),
    refused("datasets.draw_faces", "four factors", lambda: datasets.draw_faces(IMAGES), "(5, 4)"),
    refused(
        "datasets.draw_faces",
        "factors beyond 1",
        lambda: datasets.draw_faces(3 * torch.ones(2, 5)),
        "factors",
        "[-1, 1]",
        "3",
    ),
    refused(
        "datasets.PrincipalComponents",
        "more than pixels",
        lambda: datasets.PrincipalComponents.of(IMAGES, 9),
        "n",
        "1 to 4",
        "9",
    ),
    refused(
        "datasets.PrincipalComponents",
        "bytes",
        lambda: datasets.PrincipalComponents.of((IMAGES * 255).byte(), 2),
        "images",
        "uint8",
    ),
    refused(
        "datasets.PrincipalComponents",
        "a NaN",
        lambda: datasets.PrincipalComponents.of(IMAGES * float("nan"), 2),
        "finite",
    ),
    refused(
        "datasets.PrincipalComponents",
        "other images",
        lambda: datasets.PrincipalComponents.of(IMAGES, 2).project(torch.ones(3, 7)),
        "4 numbers",
        "(3, 7)",
    ),
    refused(
        "datasets.independent_directions",
        "an array",
        lambda: datasets.independent_directions(X, 2),
        "coordinates",
        "ndarray",
    ),
    refused("datasets.mnist", "nowhere", lambda: datasets.mnist(NOWHERE), "MNIST/raw", "download"),
    refused("datasets.CelebA", "nowhere", lambda: datasets.CelebA(NOWHERE), "celeba/", "download"),
    refused("datasets.ImageFiles", "nowhere", lambda: datasets.ImageFiles(NOWHERE), "nowhere"),
    refused("datasets.ImageFiles", "a text", lambda: datasets.ImageFiles(__file__), "zip archive"),
    answered(
        "datasets.Digits",
        "read as a tuple",
        lambda: datasets.Digits(IMAGES, torch.arange(5), 2),
        lambda found: found[0] is found.x and found[2] == found.side,
    ),
    answered(
        "datasets.bundled_digits",
        "grey values",
        lambda: datasets.bundled_digits().x,
        lambda x: x.shape == (1797, 64) and (x.min(), x.max()) == (0, 1),
    ),
    refused(
        "datasets.Neighbours", "all of them", lambda: datasets.Neighbours(torch.ones(3, 1), 3), "n"
    ),
    refused(
        "datasets.RandomAffine", "a scale of 1", lambda: datasets.RandomAffine(scale=1), "scale"
    ),
    refused(
        "datasets.RandomAffine",
        "other images",
        lambda: datasets.RandomAffine(4)(torch.ones(3, 17)),
        "(n, 16)",
        "(3, 17)",
    ),
    refused(
        "datasets.RandomElastic", "one point", lambda: datasets.RandomElastic(points=1), "points"
    ),
    refused("datasets.affine", "an array", lambda: datasets.affine(X), "tensor", "ndarray"),
    refused(
        "datasets.affine",
        "one factor",
        lambda: datasets.affine(torch.ones(3, 4, 4), scale=2.0),
        "scale",
        "pair",
        "2.0",
    ),
]
