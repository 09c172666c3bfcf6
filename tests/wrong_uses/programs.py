"""The ready-made programs and their parts."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pyro_corex as pc
from pyro_corex import programs
from pyro_corex.programs import mlp, mlp_decoder, mlp_encoder

from . import Use, answered, refused
from .data import STACK, VAE, X, bound, fit

NORM = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4))
IMAGES = programs.conv_encoder((1, 8, 8), 2, [4])
V, S, W, L = "CorExVAE", "StackedCorEx", "Warmup", "Layer"
VAMP, B, LOG = "programs.Vamp", "Bottleneck", "programs.LogNormalEncoder"
MIX = "programs.GaussianMixture"
C, D, P = "programs.conv_encoder", "programs.conv_decoder", "programs.LinearStart"


def make(encoder=None, decoder=None, latent_dim=2, **options):
    return pc.CorExVAE(
        mlp_encoder([4, 2]) if encoder is None else encoder,
        mlp_decoder([2, 4]) if decoder is None else decoder,
        latent_dim,
        **options,
    )


def swapped():
    return make(mlp_decoder([2, 4]), mlp_encoder([4, 2]))


def stack(*layers, **options):
    return pc.StackedCorEx(list(layers), **{"n_classes": 3, **options})


def with_layer(encoder, decoder):
    """Of the networks between two latents and three classes."""
    first = pc.Layer(mlp_encoder([4, 2]), mlp_decoder([2, 4]), 2)
    return stack(first, pc.Layer(encoder, decoder, 3))


def anchors(found, **options):
    return pc.AnchorVAE(mlp_encoder([4, 2]), mlp_decoder([2, 4]), 2, anchors=found, **options)


def bottleneck(**options):
    return pc.Bottleneck(mlp_encoder([4, 2]), mlp([2, 3]), 2, **{"labels": 3, **options})


Y = X[:, 0].long()


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x, 1.0).to_event(1))


USES: list[Use] = [
    # CorExVAE
    refused(V, "no encoder", lambda: pc.CorExVAE(None, nn.Linear(2, 4), 2), "encoder", "NoneType"),
    refused(V, "a class as the encoder", lambda: make(nn.Linear), "encoder", "the class Linear"),
    refused(V, "a class as the decoder", lambda: make(None, nn.Linear), "decoder", "the class"),
    refused(V, "the number first", lambda: pc.CorExVAE(2, NORM, NORM), "latent_dim", "Sequential"),
    refused(V, "no latents", lambda: make(latent_dim=0), "latent_dim", "0"),
    refused(V, "an unknown likelihood", lambda: make(likelihood="gauss"), "'gauss'", "'normal'"),
    refused(V, "an unknown prior", lambda: make(prior="gauss"), "'gauss'", "standard_normal"),
    refused(V, "a class as the prior", lambda: make(prior=programs.Flat), "prior must be", "Flat"),
    refused(B, "one class", lambda: bottleneck(labels=1), "labels", "1", "2"),
    refused(B, "an unknown likelihood", lambda: bottleneck(labels="gauss"), "'gauss'", "'normal'"),
    refused(B, "a text for beta", lambda: bottleneck(beta="1"), "'beta' must be a number", "str"),
    refused(B, "a negative beta", lambda: bottleneck(beta=-1.0), "'beta' must be >= 0", "-1.0"),
    refused(B, "no draws", lambda: bottleneck().predict(X, 0), "n_draws", "0"),
    refused(B, "another width", lambda: bottleneck().predict(X[:, :3]), "the shape (40, 3)"),
    refused(B, "fewer labels", lambda: bottleneck().model(X, Y[1:]), "y must hold", "(39,)"),
    refused(
        B, "a short list of labels", lambda: bottleneck().model(X, [1, 0]), "y must hold", "(2,)"
    ),
    refused(B, "a class too many", lambda: bottleneck().model(X, Y + 3), "0 to 2", "40 of 40"),
    refused(B, "NaN in x", lambda: bottleneck().guide(X / 0), "NaN"),
    refused(B, "y for n", lambda: bottleneck().model(None, Y), "y must hold", "of 1 data", "(40,)"),
    refused(B, "another width of the head", lambda: bottleneck(labels=4).model(X, Y), "needs", "4"),
    refused(LOG, "a class", lambda: programs.LogNormalEncoder(nn.Linear), "encoder", "the class"),
    refused(
        LOG,
        "no noise",
        lambda: programs.LogNormalEncoder(mlp([4, 4]), max_scale=0.0),
        "max_scale must be a positive number",
        "0.0",
    ),
    refused(LOG, "an odd width", lambda: programs.LogNormalEncoder(mlp([4, 3]))(X), "3 numbers"),
    refused(
        LOG,
        "an encoder of log-normals",
        lambda: programs.LogNormalEncoder(programs.LogNormalEncoder(mlp([4, 2])))(X),
        "must give locations and log-scales",
        "LogNormal",
    ),
    refused(
        LOG,
        "a prior of it for an encoder of normals",
        lambda: make(prior="log_normal"),
        "LogNormal",
        "the encoder draws from normals",
    ),
    refused(
        "programs.LadderVAE",
        "a layer of another family",
        lambda: programs.LadderVAE(
            [
                programs.Layer(
                    programs.LogNormalEncoder(mlp_encoder([4, 3])), mlp_decoder([3, 4]), 3
                ),
                (3, 2),
            ],
            n_classes=None,
        ).guide(X),
        "must be normals",
        "LogNormal",
    ),
    refused(
        "programs.LadderVAE",
        "layers that do not meet",
        lambda: programs.LadderVAE([(4, 3), (2, 2)], n_classes=2),
        "Layer 1 has 3 latents",
    ),
    refused(MIX, "no class", lambda: programs.GaussianMixture(2, 0), "n_classes", "0"),
    refused(
        MIX,
        "of another width than the program",
        lambda: make(prior=programs.GaussianMixture(7, 2)),
        "prior must be over 2 latents",
        "GaussianMixture(dim=7, n_classes=2)",
    ),
    refused(
        MIX,
        "in a stack",
        lambda: stack((4, 2), n_classes=None, prior=programs.GaussianMixture(2, 3)),
        "prior must factorise",
        "n_classes=10",
    ),
    refused(
        MIX,
        "with a weight for each latent",
        lambda: anchors({}, prior=programs.GaussianMixture(2, 3)),
        "prior must factorise",
        "GaussianMixture",
    ),
    refused(
        f"{MIX}.classes",
        "another width",
        lambda: programs.GaussianMixture(2, 3).classes(X),
        "z must have the shape (..., 2)",
        "(40, 4)",
    ),
    refused(
        f"{MIX}.start",
        "fewer data than classes",
        lambda: programs.GaussianMixture(4, 3).start(X[:2]),
        "z must be finite, of shape (N, 4) with N of at least 3",
        "(2, 4)",
    ),
    refused(
        f"{MIX}.start",
        "NaN",
        lambda: programs.GaussianMixture(4, 3).start(X / 0),
        "z must be finite",
    ),
    refused(VAMP, "a number", lambda: programs.Vamp(500), "inputs", "int", "Vamp(x[:500])"),
    refused(VAMP, "codes", lambda: programs.Vamp(X.long()), "inputs", "floating", "torch.int64"),
    refused(VAMP, "one datum", lambda: programs.Vamp(X[0]), "inputs must be a batch", "(4,)"),
    refused(VAMP, "NaN", lambda: programs.Vamp(X / 0), "inputs must be", "finite", "(40, 4)"),
    refused(VAMP, "without a program", lambda: programs.Vamp(X)(), "must be given to a program"),
    refused(
        VAMP,
        "one for two programs",
        lambda: [make(prior=prior) for prior in [programs.Vamp(X)] * 2],
        "prior must be a Vamp of its own",
    ),
    refused(
        VAMP,
        "another width than the data",
        lambda: make(prior=programs.Vamp(X[:, :3])).model(X),
        "The encoder was given the shape (40, 3)",
    ),
    refused(
        VAMP,
        "joint, with a weight for each latent",
        lambda: anchors({}, prior=programs.Vamp(X, joint=True)),
        "prior must factorise",
        "joint",
    ),
    refused(
        VAMP,
        "joint, in a stack",
        lambda: stack((4, 2), n_classes=None, prior=programs.Vamp(X, joint=True)),
        "prior must factorise",
        "joint",
    ),
    refused(
        f"{V}.encode",
        "another width",
        lambda: VAE.encode(X[:, :3]),
        "The encoder was given the shape (40, 3)",
        "Linear(in_features=4",
        "the width of the data",
    ),
    refused(
        f"{V}.encode",
        "other channels",
        lambda: make(IMAGES).encode(torch.zeros(5, 3, 8, 8)),
        "The encoder was given the shape (5, 3, 8, 8)",
        "Conv2d(1, 4",
    ),
    refused(
        f"{V}.encode",
        "flat images",
        lambda: make(IMAGES).encode(torch.zeros(5, 64)),
        "The encoder was given the shape (5, 64)",
        "Conv2d(1, 4",
    ),
    refused(
        f"{V}.guide",
        "encoder and decoder swapped",
        lambda: swapped().guide(X),
        "The encoder was given the shape (40, 4)",
        "Linear(in_features=2",
    ),
    refused(f"{V}.guide", "one datum", lambda: VAE.guide(X[0]), "(B, ...)", "(4,)", "unsqueeze"),
    refused(f"{V}.guide", "nothing", lambda: VAE.guide(None), "x must be a tensor", "NoneType"),
    refused(
        f"{V}.guide",
        "batch normalisation of one datum",
        lambda: make(NORM).guide(X[:1]),
        "The encoder was given a batch of the shape (1, 4)",
        "batch normalisation",
        "drop_last=True",
    ),
    refused(
        f"{V}.model",
        "a decoder of other latents",
        lambda: make(None, mlp_decoder([3, 4])).model(X),
        "The decoder was given the shape (40, 2)",
        "Linear(in_features=3",
        "the number of latents",
    ),
    refused(
        f"{V}.model", "other outputs", lambda: VAE.model(X[:, :3]), "The decoder gives", "(3,)"
    ),
    refused(f"{V}.model", "an array", lambda: VAE.model(X.numpy()), "x must be", "ndarray"),
    refused(f"{V}.model", "float64", lambda: VAE.model(X.double()), "float64", "float32"),
    refused(f"{V}.model", "NaN", lambda: VAE.model(X / 0 * 0), "160 NaN", "impute"),
    refused(
        f"{V}.decode",
        "groups of other latents",
        lambda: make(None, programs.GroupedDecoder(3, 6)).decode(X[:, :2]),
        "The decoder was given the shape (40, 2)",
    ),
    refused("fit", "another width", lambda: fit(X[:, :3]), "The encoder was given", "(40, 3)"),
    refused(
        "fit",
        "batches of one datum",
        lambda: pc.fit(make(NORM), X[:33], epochs=1, batch_size=1, progress=False),
        "batch normalisation",
        "(1, 4)",
        "batch_size",
    ),
    refused("tc_bound", "another width", lambda: bound(X[:, :3]), "The encoder was given"),
    # StackedCorEx
    refused(S, "sizes without a list", lambda: pc.StackedCorEx((4, 2)), "layers must be", "(4, 2)"),
    refused(S, "networks", lambda: stack(NORM, NORM), "layers must be", "BatchNorm1d"),
    refused(S, "a gap", lambda: stack((4, 2), (3, 3)), "Layer 1 has 2", "layer 2 starts from 3"),
    refused(S, "other classes", lambda: stack((4, 2), (2, 4)), "4 outputs", "n_classes=3"),
    refused(S, "one class", lambda: stack((4, 2), (2, 1), n_classes=1), "n_classes", "1"),
    refused(S, "an unknown anchor", lambda: stack((4, 3), anchors={"z": 0.5}), "'z'", "z1"),
    refused(
        f"{S}.guide",
        "another width",
        lambda: STACK.guide(X[:, :3]),
        "The encoder of layer 1 was given the shape (40, 3)",
        "Linear(in_features=4",
    ),
    refused(
        f"{S}.guide",
        "a second encoder of another width",
        lambda: with_layer(mlp([3, 3]), mlp([3, 4])).guide(X),
        "The encoder of layer 2 was given the shape (40, 2)",
        "Linear(in_features=3",
    ),
    refused(
        f"{S}.model",
        "a second decoder of another width",
        lambda: with_layer(mlp([2, 3]), mlp([4, 4])).model(X),
        "The decoder of layer 2 was given the shape (40, 3)",
        "Linear(in_features=4",
    ),
    refused(f"{S}.model", "grey values", lambda: STACK.model(X / 2), "Bernoulli", "0.5"),
    refused(f"{S}.encode", "another width", lambda: STACK.encode(X[:, :3]), "layer 1", "(40, 3)"),
    refused(
        f"{S}.encode_with_draws", "one datum", lambda: STACK.encode_with_draws(X[0]), "x[None]"
    ),
    refused(f"{S}.decode", "no such layer", lambda: STACK.decode(X, layer=9), "1 to 2", "9"),
    refused(
        f"{S}.given_top", "no class", lambda: STACK.given_top(torch.tensor([7])), "0 to 2", "7"
    ),
    refused(f"{S}.given_top", "data", lambda: STACK.given_top(X), "(n,), a class", "(40, 4)"),
    refused(f"{S}.given_top", "one layer", lambda: stack((4, 3)).given_top(X), "two layers"),
    answered(f"{S}.extra_repr", "a discrete top", STACK.extra_repr, lambda r: "3 classes" in r),
    refused(L, "no encoder", lambda: pc.Layer(None, NORM, 2), "encoder must be", "NoneType"),
    refused(L, "a class", lambda: pc.Layer(NORM, nn.Linear, 2), "decoder must be", "the class"),
    # anchoring
    refused("AnchorVAE", "a list", lambda: anchors([0.5, 1.0]), "anchors must map", "[0.5, 1.0]"),
    refused("AnchorVAE", "no such latent", lambda: anchors({2: 0.5}), "latent 2", "0 to 1"),
    refused("AnchorVAE", "a site", lambda: anchors({"z": 0.5}), "latent 'z'", "0 to 1"),
    refused("AnchorVAE", "below zero", lambda: anchors({0: -0.5}), "latent 0", ">= 0", "-0.5"),
    refused("AnchorVAE", "a schedule", lambda: anchors({0: pc.Warmup(0, 1, 3)}), "set_anchors"),
    refused("AnchorVAE", "free ones", lambda: anchors({}, free_weight=np.inf), "free", "inf"),
    refused("anchor", "no such site", lambda: pc.anchor(guide, {"y": 0.5})(X), "'y'", "['z']"),
    refused("anchor", "too few", lambda: pc.anchor(guide, {"z": X[0, :3]})(X), "(3,)", "(4,)"),
    refused("anchor", "a list", lambda: pc.anchor(guide, [0.5]), "weights must map", "[0.5]"),
    refused("anchor", "the other way round", lambda: pc.anchor({"z": 1}, guide), "not callable"),
    refused("anchor", "a class", lambda: pc.anchor(pc.CorExVAE, {"z": 1}), "CorExVAE", "a class"),
    refused("anchor", "a word", lambda: pc.anchor(guide, {"z": "half"}), "'z'", "number", "str"),
    refused("anchor", "NaN", lambda: pc.anchor(guide, {"z": np.nan}), "'z'", ">= 0", "nan"),
    refused(W, "below zero", lambda: pc.Warmup(-1.0, 1.0, 3), "'start'", ">= 0", "-1.0"),
    refused(W, "to infinity", lambda: pc.Warmup(0.0, np.inf, 3), "'stop'", "finite", "inf"),
    refused(W, "no steps", lambda: pc.Warmup(0.0, 1.0, 0), "steps", ">= 1", "0"),
    refused(W, "a share of the steps", lambda: pc.Warmup(0.0, 1.0, 0.5), "steps", "0.5"),
    refused(W, "a word", lambda: pc.Warmup("a", 1.0, 3), "'start'", "number", "str"),
    refused("latent_plate", "no latents", lambda: pc.latent_plate("a", 0), "size", ">= 1", "0"),
    refused("latent_plate", "the size first", lambda: pc.latent_plate(3, "a"), "size", "'a'"),
    refused("latent_plate", "less than none", lambda: pc.latent_plate("a", -1), "size", "-1"),
    answered(
        "latent_plate",
        "NumPy's integer",
        lambda: pc.latent_plate("a", np.int64(3)),
        lambda plate: plate.size == 3,
    ),
    # likelihoods and priors
    refused(
        "programs.BernoulliLikelihood",
        "grey values",
        lambda: programs.BernoulliLikelihood().check(X / 2),
        "binary data (0 and 1)",
        "0.5",
        "Binarise",
    ),
    refused(
        "programs.ContinuousBernoulliLikelihood",
        "values of a byte",
        lambda: programs.ContinuousBernoulliLikelihood().check(255 * X),
        "[0, 1]",
        "255",
        "Scale them",
    ),
    refused(
        "programs.CategoricalLikelihood",
        "one state",
        lambda: programs.CategoricalLikelihood(1),
        "n_states",
        ">= 2",
    ),
    refused(
        "programs.CategoricalLikelihood",
        "states from one",
        lambda: programs.CategoricalLikelihood(3).check(3 * X),
        "0 to 2",
        "hold 3",
    ),
    refused(
        "programs.NormalLikelihood",
        "a scale of zero",
        lambda: programs.NormalLikelihood(0.0),
        "scale",
        "> 0",
        "0.0",
    ),
    refused(
        "programs.LearnedNormalLikelihood",
        "a scale below zero",
        lambda: programs.LearnedNormalLikelihood(init_scale=-1.0),
        "init_scale",
        "-1.0",
    ),
    refused(
        "programs.LearnedNormalLikelihood",
        "another width",
        lambda: programs.LearnedNormalLikelihood(3)(X),
        "(3,)",
        "(40, 4)",
    ),
    refused(
        "programs.Likelihood",
        "a class",
        lambda: make(likelihood=programs.NormalLikelihood),
        "Unknown likelihood",
        "NormalLikelihood(scale=0.5)",
    ),
    refused(
        "programs.Likelihood", "NaN", lambda: programs.Likelihood().check(X / 0 * 0), "160 NaN"
    ),
    refused("programs.Prior", "no latents", lambda: programs.Prior(0), "dim", ">= 1", "0"),
    refused("programs.Prior", "a share", lambda: programs.Prior(0.5), "dim", "0.5"),
    refused("programs.Flat", "no such latent", lambda: programs.Flat(3, [5]), "[5]", "0 to 2"),
    refused("programs.Flat", "a width below zero", lambda: programs.Flat(3, width=-1), "width=-1"),
    refused("programs.Flat", "others", lambda: make(prior=programs.Flat(3)), "(3,)", "2 latents"),
    # networks
    refused("programs.mlp", "one size", lambda: mlp([4]), "sizes", "at least two", "[4]"),
    refused("programs.mlp", "sizes without a list", lambda: mlp(4, 2), "sizes", "4"),
    refused("programs.mlp", "a module", lambda: mlp([4, 2], nn.ReLU()), "activation", "the module"),
    refused("programs.mlp_encoder", "no latents", lambda: mlp_encoder([4, 0]), "sizes", "[4, 0]"),
    refused("programs.mlp_encoder", "a name", lambda: mlp_encoder([4, 2], "relu"), "'relu'"),
    refused("programs.mlp_decoder", "no parameters", lambda: mlp_decoder([2, 4], 0), "n_params"),
    refused(
        "programs.mlp_decoder", "another shape", lambda: mlp_decoder([2, 4], shape=(3, 2)), "(3, 2)"
    ),
    refused(
        "programs.GroupedDecoder", "a rest", lambda: programs.GroupedDecoder(3, 7), "7 outputs"
    ),
    refused(
        P, "an activation", lambda: programs.LinearStart(mlp([4, 4]).append(nn.ReLU()), 4), "ReLU"
    ),
    refused(P, "one layer", lambda: programs.LinearStart(nn.Linear(4, 4), 4), "nn.Sequential"),
    refused(P, "too many", lambda: programs.LinearStart(mlp([4, 4]), 4, X[:3]), "(k, 4)", "(3, 4)"),
    refused(C, "odd images", lambda: programs.conv_encoder((1, 7, 7), 2), "(1, 7, 7)", "of 8"),
    refused(
        C, "no channels", lambda: programs.conv_encoder((8, 8), 2), "(channels, height, width)"
    ),
    refused(D, "no layers", lambda: programs.conv_decoder(2, (1, 8, 8), []), "channels", "empty"),
    refused(D, "odd images", lambda: programs.conv_decoder(2, (1, 7, 7)), "(1, 7, 7)", "of 8"),
    # shapes of images, sizes, swapped arguments
    refused(C, "the latents first", lambda: programs.conv_encoder(2, (1, 8, 8)), "shape", "got 2"),
    refused(C, "no shape", lambda: programs.conv_encoder(None, 2), "shape must be", "None"),
    refused(C, "latents: none", lambda: programs.conv_encoder((1, 8, 8), 0), "latent_dim", ">= 1"),
    refused(C, "no height", lambda: programs.conv_encoder((1, 0, 0), 2), "shape", "(1, 0, 0)"),
    refused(
        C, "channels below zero", lambda: programs.conv_encoder((1, 8, 8), 2, [-4]), "channels"
    ),
    refused(C, "one number", lambda: programs.conv_encoder((1, 8, 8), 2, 4), "channels", "got 4"),
    refused(D, "the shape first", lambda: programs.conv_decoder((1, 8, 8), 2), "shape", "got 2"),
    refused(D, "less than none", lambda: programs.conv_decoder(-2, (1, 8, 8)), "latent_dim", "-2"),
    refused(P, "no width", lambda: programs.LinearStart(mlp([4, 4]), None), "dim", "None"),
    refused(
        P,
        "NaN",
        lambda: programs.LinearStart(mlp([4, 4]), 4, X[:1] * np.nan),
        "weight must hold finite numbers",
    ),
    refused("programs.mlp", "nothing", lambda: mlp(None), "sizes", "None"),
    refused("programs.mlp", "below zero", lambda: mlp([4, -2]), "sizes", "[4, -2]"),
    refused(
        "programs.mlp_decoder",
        "a shape below zero",
        lambda: mlp_decoder([2, 4], shape=(-2, -2)),
        "shape must be",
        "(-2, -2)",
    ),
    refused(
        "programs.mlp_decoder", "a number", lambda: mlp_decoder([2, 4], shape=4), "shape", "got 4"
    ),
    refused(
        "programs.LearnedNormalLikelihood",
        "no dimension",
        lambda: programs.LearnedNormalLikelihood(0),
        "dim must be",
        ">= 1",
        "0",
    ),
    refused(
        "programs.LearnedNormalLikelihood",
        "a scale for dim",
        lambda: programs.LearnedNormalLikelihood(0.5),
        "dim must be",
        "0.5",
    ),
    refused(
        "programs.BernoulliLikelihood",
        "a list",
        lambda: programs.BernoulliLikelihood().check([[0.0, 1.0]]),
        "x must be a tensor",
        "list",
    ),
    refused("programs.Flat", "one latent", lambda: programs.Flat(3, 1), "latents", "[1]"),
    refused(
        "programs.Flat", "a word for the width", lambda: programs.Flat(3, width="a"), "width='a'"
    ),
    refused(f"{V}.model", "less than none", lambda: VAE.model(n=-1), "n must be", ">= 1", "-1"),
    refused(f"{V}.model", "x and n", lambda: VAE.model(X, n=3), "n must be left out", "3"),
    refused(f"{V}.model", "a number", lambda: VAE.model(5), "x must be a tensor", "int"),
    refused(f"{V}.decode", "nothing", lambda: VAE.decode(None), "z must be", "NoneType"),
    refused(f"{S}.decode", "a site", lambda: STACK.decode(X, layer="z1"), "layer", "'z1'"),
    refused(f"{S}.encode_layer", "no such layer", lambda: STACK.encode_layer(9, X), "1 to 2", "9"),
    refused(
        f"{S}.encode_layer",
        "another width",
        lambda: STACK.encode_layer(1, X[:, :3]),
        "The encoder of layer 1 was given the shape (40, 3)",
    ),
    refused(f"{S}.decode_layer", "none", lambda: STACK.decode_layer(0, X), "1 to 2", "0"),
    refused(
        f"{S}.decode_layer",
        "another width",
        lambda: STACK.decode_layer(1, X),
        "The decoder of layer 1 was given the shape (40, 4)",
    ),
    refused(
        "fit",
        "gaps of a program that takes none",
        lambda: fit(torch.where(X > 0, X, np.nan)),
        "NaN",
        "impute",
    ),
]
