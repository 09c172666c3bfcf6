"""What a batch of data may be, for everything that takes data."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import scipy.sparse
import torch

import pyro_corex as pc
from pyro_corex.programs import mlp_decoder, mlp_encoder

from . import Use, answered, refused


def vae():
    return pc.CorExVAE(mlp_encoder([4, 2]), mlp_decoder([2, 4]), 2)


with torch.random.fork_rng():
    torch.manual_seed(0)
    VAE = vae()
    STACK = pc.StackedCorEx([(4, 2), (2, 3)], n_classes=3)
    X = torch.bernoulli(torch.full((40, 4), 0.4))
N = X.numpy()
READ_ONLY = N.copy()
READ_ONLY.flags.writeable = False
MASKED = np.ma.masked_array(N, mask=N == 1)
BOUND = pc.tc_bound(VAE, X).estimate
POSTERIOR = pc.AggregatePosterior.from_data(VAE, X)


def report(data, **options):
    with TemporaryDirectory() as folder:
        path = pc.report(VAE, data, Path(folder) / "page.html", n_traversals=0, **options)
        return path.stat().st_size > 1000


def arviz(data, **options):
    return pc.to_arviz(VAE, data, **{"num_draws": 2, "num_chains": 1, **options})


def fit(data, **options):
    return pc.fit(vae(), data, epochs=1, progress=False, **options)


def bound(data, **options):
    return pc.tc_bound(VAE, data, **options)


def posterior(data, **options):
    return pc.AggregatePosterior.from_data(VAE, data, **options)


TAKES = {
    "tc_bound": bound,
    "fit": fit,
    "AggregatePosterior.from_data": posterior,
    "report": report,
    "to_arviz": arviz,
    "CorExVAE.encode": VAE.encode,
    "StackedCorEx.encode": STACK.encode,
}
METHODS = ("CorExVAE.encode", "StackedCorEx.encode")

BAD = {
    "a masked array": (MASKED, "masked", "NaN"),
    "words": (N.astype(str), "must hold real numbers", "<U32"),
    "dates": (np.zeros((40, 4), "M8[D]"), "must hold real numbers", "datetime64[D]"),
    "a table of words": (pd.DataFrame({"a": ["b", "c"] * 20}), "must hold real numbers", "str"),
    "complex numbers": (X + 1j, "real numbers", "complex"),
    "a sparse tensor": (X.to_sparse(), "must be dense", "to_dense()"),
    "a sparse matrix": (scipy.sparse.csr_matrix(N), "must be dense", "toarray()"),
    "rows of their own lengths": ([[1.0, 0.0], [1.0]], "rows of one length"),
    "a path": (Path("data.csv"), "must be a tensor", "PosixPath"),
    "a name": ("data.csv", "must be a tensor", "str"),
    "nothing": (None, "must be a tensor", "NoneType"),
}

USES: list[Use] = [
    refused(name, what, lambda take=take, data=data: take(data), *says)
    for what, (data, *says) in BAD.items()
    for name, take in TAKES.items()
    if what in ("a masked array", "words", "a sparse tensor") or name in ("tc_bound", *METHODS[:1])
]

EQUAL = {
    "float64": X.double(),
    "integers": X.long(),
    "booleans": X.bool(),
    "half precision": X.half(),
    "an array": N,
    "an array of float64": N.astype(float),
    "unsigned integers": N.astype(np.uint16),
    "another byte order": N.astype(">f8"),
    "a negative stride": N[::-1].copy()[::-1],
    "a read-only array": READ_ONLY,
    "a table": pd.DataFrame(N),
    "rows of numbers": N.tolist(),
    "a tensor with a gradient": X.clone().requires_grad_(),
}
USES += [
    answered("tc_bound", what, lambda data=data: bound(data), lambda b: b.estimate == BOUND)
    for what, data in EQUAL.items()
]
USES += [
    answered(
        "CorExVAE.encode",
        what,
        lambda data=data: VAE.encode(data),
        lambda q: torch.equal(q.loc, VAE.encode(X).loc),
    )
    for what, data in EQUAL.items()
]
USES += [
    answered(name, "an array of float64", lambda take=take: take(N.astype(float)), right)
    for name, take, right in (
        ("fit", fit, lambda history: len(history["elbo"]) == 1),
        (
            "AggregatePosterior.from_data",
            posterior,
            lambda post: torch.equal(post.mean, POSTERIOR.mean),
        ),
        ("report", report, bool),
        ("to_arviz", arviz, lambda found: found.posterior["z"].shape == (1, 2, 40, 2)),
        ("StackedCorEx.encode", STACK.encode, lambda found: len(found) == 2),
    )
]

NESTED = torch.nested.nested_tensor([X[:20], X[20:]], layout=torch.jagged)
USES += [
    refused("tc_bound", "nested", lambda: bound(NESTED), "data", "nested", "pad them"),
    refused("tc_bound", "on meta", lambda: bound(X.to("meta")), "data", "'meta'"),
    refused("tc_bound", "a scalar", lambda: bound(torch.tensor(1.0)), "(N, ...)", "scalar"),
    refused("tc_bound", "no rows", lambda: bound(X[:0]), "data are empty"),
    refused("tc_bound", "no batches", lambda: bound(iter([])), "data are empty"),
    refused("tc_bound", "one row", lambda: bound(X[:1]), "at least 2 data", "1"),
    refused("tc_bound", "a number", lambda: bound(3), "data must be", "int"),
    refused("tc_bound", "a set", lambda: bound({1, 2}), "data must be", "set"),
    refused("tc_bound", "lengths", lambda: bound((X, X[:5])), "different lengths", "[5, 40]"),
    refused("tc_bound", "a mask in a tuple", lambda: bound((MASKED, N)), "data[0]", "masked"),
    refused("tc_bound", "a mask in a batch", lambda: bound([MASKED]), "data", "masked"),
    refused(
        "tc_bound", "words in a dict", lambda: bound({"x": N, "y": N.astype(str)}), "data['y']"
    ),
    refused("tc_bound", "an empty dict", lambda: bound({}), "batch must be", "dict of nothing"),
    refused("tc_bound", "NaN", lambda: bound(X / X), "not finite", "NaN"),
    refused("tc_bound", "outside of the support", lambda: bound(X + 0.3), "Bernoulli", "0 and 1"),
    refused("to_arviz", "no rows", lambda: arviz(X[:0]), "data are empty"),
    refused("report", "no rows", lambda: report(X[:0]), "data are empty"),
    refused("report", "one row", lambda: report(X[:1]), "at least 2 data", "1"),
    refused("AggregatePosterior.from_data", "no rows", lambda: posterior(X[:0]), "at least one"),
    refused("CorExVAE.encode", "one datum", lambda: VAE.encode(X[0]), "(B, ...)", "x[None]"),
    refused("CorExVAE.decode", "words", lambda: VAE.decode("z"), "z must be", "str"),
    refused("CorExVAE.decode", "one datum", lambda: VAE.decode(X[0, :2]), "z[None]", "(2,)"),
    refused("CorExVAE.decode", "another width", lambda: VAE.decode(X), "(n, 2)", "(40, 4)"),
    answered(
        "CorExVAE.decode",
        "an array",
        lambda: VAE.decode(np.zeros((3, 2))),
        lambda q: q.batch_shape == (3, 4),
    ),
    answered(
        "StackedCorEx.decode",
        "classes of an array",
        lambda: STACK.decode(np.array([0, 1, 2])),
        lambda q: q.batch_shape == (3, 4),
    ),
]
