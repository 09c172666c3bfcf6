"""fit and what belongs to it."""

import copy
from pathlib import Path
from tempfile import TemporaryDirectory

import pyro
import torch
from pyro.infer import Trace_ELBO
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pyro_corex as pc
from pyro_corex import programs
from pyro_corex.training import checkpoint

from . import Use, answered, refused
from .data import STACK, VAE, X, fit, vae

_KEPT = TemporaryDirectory()
FOLDER = Path(_KEPT.name)
SAVED, CUT, FOREIGN = (FOLDER / name for name in ("saved", "cut", "foreign"))
pc.save(VAE, SAVED)
CUT.write_bytes(SAVED.read_bytes()[:-5])
torch.save(VAE.state_dict(), FOREIGN)
NONE = FOLDER / "none"
HISTORY = pc.History([{"elbo": -2.0}, {"elbo": -1.0}])
C, OPT, S = "Checkpoint", "Optimization", "start_top"
RUN, POISONED = FOLDER / "run", FOLDER / "poisoned"
fit(X, checkpoint=RUN)
pc.fit(vae(), X, epochs=2, checkpoint=FOLDER / "longer", progress=False)
LONGER = pc.Checkpoint(FOLDER / "longer", resume=True)
content = checkpoint.read(SAVED)
content["state"]["encoder.1.bias"][0] = float("nan")
checkpoint.write(POISONED, content)
with torch.random.fork_rng():
    NORMAL = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    NAN = vae()
NAN.encoder[1].bias.data[0] = float("nan")
LAZY = nn.LazyLinear(3)
MINE = FOLDER / "mine"


class Mine(nn.Linear):
    pass


pc.save(pc.CorExVAE(nn.Sequential(nn.Flatten(), Mine(4, 4)), nn.Linear(2, 4), 2), MINE)


def resume(data=X, **options):
    return fit(data, checkpoint=pc.Checkpoint(RUN, resume=True), **options)


def twice():
    def again(*_):
        fit(X, checkpoint=pc.Checkpoint(NONE, resume="auto"))

    try:
        fit(X, checkpoint=NONE, callback=again)
    finally:
        assert not NONE.exists()


def normalised(data, **options):
    module = pc.CorExVAE(copy.deepcopy(NORMAL), nn.Linear(2, 4), 2)
    return pc.fit(module, data, epochs=1, progress=False, **options)


def stored(shape):
    pyro.param("encoder.1.weight", torch.full(shape, 0.5))
    try:
        module = vae()
        pc.fit(module, X, epochs=1, lr=1e-9, progress=False)
        return module.encoder[1].weight
    finally:
        pyro.clear_param_store()


def optimise(**options):
    return fit(X, optimizer=pc.Optimization(**options))


def top(data=X, **options):
    return pc.start_top(STACK, data, **{"steps": 1, "n_starts": 1, "progress": False, **options})


LED = pc.AnchorVAE(programs.mlp_encoder([4, 2]), programs.mlp_decoder([2, 4]), 2, anchors={0: 0.5})


def anchors(found, data=X, encoder=None, **options):
    encoder = programs.mlp_encoder([4, 2]) if encoder is None else encoder
    program = pc.AnchorVAE(encoder, programs.mlp_decoder([2, 4]), 2, anchors=found)
    return pc.start_anchors(program, data, **{"steps": 1, "progress": False, **options})


USES: list[Use] = [
    refused("fit", "no epochs", lambda: pc.fit(vae(), X, epochs=0), "epochs", ">= 1", "0"),
    refused("fit", "a seed in words", lambda: fit(X, seed="a"), "seed", "integer", "'a'"),
    refused("fit", "Pyro's objective", lambda: fit(X, elbo=Trace_ELBO()), "elbo", "CorExELBO"),
    refused("fit", "an objective's class", lambda: fit(X, elbo=pc.CorExELBO), "elbo", "class"),
    refused(
        "fit", "grey values to validate", lambda: fit(X, validation=X / 2), "validation", "0.5"
    ),
    refused("fit", "a number of a file", lambda: fit(X, checkpoint=3), "path", "name of a", "int"),
    refused("save", "no path", lambda: pc.save(vae(), None), "path", "name of a file", "NoneType"),
    refused("load", "a folder", lambda: pc.load(".", vae()), "is a folder", "file in it"),
    refused(
        "start_top",
        "a guide from the top down",
        lambda: pc.start_top(programs.LadderVAE([(4, 2), (2, 2)], n_classes=2), X),
        "needs a stack whose guide goes up",
        "LadderVAE",
    ),
    refused("start_anchors", "no anchors", lambda: anchors({}), "vae must have anchors", "{}"),
    refused(
        "start_anchors",
        "twice",
        lambda: [pc.start_anchors(LED, X, steps=1, progress=False) for _ in range(2)],
        "were not started before",
    ),
    refused(
        "start_anchors",
        "fewer data than anchors",
        lambda: anchors({0: 0.5, 1: 0.5}, X[:1]),
        "at least as many data and dimensions as anchors",
        "(1, 4)",
    ),
    refused("start_anchors", "NaN", lambda: anchors({0: 0.5}, X / 0), "x must be finite"),
    refused("start_anchors", "no rate", lambda: anchors({0: 0.5}, lr="a"), "lr", "'a'"),
    refused("start_anchors", "all the same", lambda: anchors({0: 0.5}, X * 0), "x must vary"),
    refused("start_anchors", "another width", lambda: anchors({0: 0.5}, X[:, :3]), "(2, 3)"),
    refused("start_anchors", "not binary", lambda: anchors({0: 0.5}, X * 3), "bernoulli"),
    refused("start_anchors", "no steps", lambda: anchors({0: 0.5}, steps=0), "steps", "0"),
    refused(
        "start_anchors",
        "an encoder that gives a distribution",
        lambda: anchors({0: 0.5}, encoder=programs.LogNormalEncoder(programs.mlp_encoder([4, 2]))),
        "encoder must give 4 numbers or a pair (loc, scale)",
        "LogNormal",
    ),
    refused("start_top", "no stack", lambda: pc.start_top(vae(), X), "two layers", "CorExVAE"),
    refused(
        "fit_stack",
        "a copy of nothing",
        lambda: pc.fit_stack(STACK, X, copy=lambda _: None, below_epochs=0, progress=False),
        "copy of fit_stack",
        "NoneType",
    ),
    refused("fit_stack", "no stack", lambda: pc.fit_stack(vae(), X), "two layers", "CorExVAE"),
    refused(
        "fit_stack",
        "an unknown option of the start",
        lambda: pc.fit_stack(STACK, X, start={"n": 3}),
        "start must be None or map some of",
        "{'n': 3}",
    ),
    refused(
        "fit_stack",
        "an option that the third stage has not of its own",
        lambda: pc.fit_stack(STACK, X, joint={"epochs": 3}),
        "joint must map some of",
        "{'epochs': 3}",
    ),
    refused(
        "fit_stack",
        "no batch of the third stage",
        lambda: pc.fit_stack(STACK, X, joint={"batch_size": 0}),
        "joint's batch_size",
        ">= 1",
        "0",
    ),
    refused(
        "fit_stack", "no epochs", lambda: pc.fit_stack(STACK, X, epochs=-1), "epochs", ">= 0", "-1"
    ),
    refused("fit", "no batch", lambda: fit(X, batch_size=0), "batch_size", ">= 1", "0"),
    refused("fit", "a rate by name", lambda: fit(X, lr="a"), "lr", "> 0", "'a'"),
    refused("fit", "NaN as the rate", lambda: fit(X, lr=float("nan")), "lr", "> 0", "nan"),
    refused("fit", "patience alone", lambda: fit(X, patience=3), "patience", "validation"),
    refused("fit", "no such device", lambda: fit(X, device="gpu"), "device", "'gpu'", '"cuda:0"'),
    refused("fit", "a number to call", lambda: fit(X, callback=3), "callback", "int"),
    refused("fit", "an optimiser's name", lambda: fit(X, optimizer="adam"), "optimizer", "str"),
    refused("fit", "a class", lambda: pc.fit(pc.CorExVAE, X, epochs=1), "class", "CorExVAE()"),
    refused("fit", "the other way round", lambda: pc.fit(X, VAE, epochs=1), "Tensor", ".model(x)"),
    refused("fit", "validation of another width", lambda: fit(X, validation=X[:, :3]), "(40, 3)"),
    refused("fit", "grey values", lambda: fit(X / 2), "Bernoulli", "0.5", "Binarise"),
    refused(
        OPT,
        "an optimiser that is made",
        lambda: pc.Optimization(torch.optim.SGD(VAE.parameters(), 0.1)),
        "optimizer must be a function",
        "SGD",
    ),
    refused(
        OPT,
        "one of Pyro's",
        lambda: optimise(optimizer=pyro.optim.Adam({"lr": 0.1})),
        "is one of Pyro's, for SVI",
        "torch.optim.Adam(parameters",
    ),
    refused(OPT, "nothing made", lambda: optimise(optimizer=lambda _: None), "gave NoneType"),
    refused(OPT, "a number made", lambda: optimise(lr_schedule=lambda _: 3), "lr_schedule", "int"),
    refused(OPT, "a rate", lambda: pc.Optimization(lr_schedule=0.5), "lr_schedule", "float"),
    refused(OPT, "a weight", lambda: pc.Optimization(kl_schedule=0.5), "kl_schedule", "Warmup"),
    refused(OPT, "a norm below zero", lambda: pc.Optimization(clip_norm=-1.0), "clip_norm", "-1.0"),
    refused(C, "every 0", lambda: pc.Checkpoint(NONE, every=0), "every", ">= 1", "0"),
    refused(C, "a word", lambda: pc.Checkpoint(NONE, resume="yes"), "resume", "'yes'", '"auto"'),
    refused(
        C,
        "nothing to go on from",
        lambda: fit(X, checkpoint=pc.Checkpoint(NONE, resume=True)),
        "no checkpoint",
        'resume="auto"',
    ),
    refused(C, "a file", lambda: fit(X, checkpoint=SAVED), "is there already", "resume=True"),
    refused(C, "a folder", lambda: fit(X, checkpoint=FOLDER), "is a folder", "name of a file"),
    refused(C, "no such folder", lambda: fit(X, checkpoint=NONE / "a"), "does not exist", "mkdir"),
    refused("Devices", "none", lambda: pc.Devices(0), "devices", ">= 1", "0"),
    refused("Devices", "a device", lambda: pc.Devices("cuda"), "devices", "'cuda'"),
    refused("Devices", "16 bits", lambda: pc.Devices(precision="16"), "precision", "bf16-mixed"),
    refused(
        "Devices",
        "CUDA's precision on the CPU",
        lambda: fit(X, device="cpu", devices=pc.Devices(precision="16-mixed")),
        "is for CUDA",
        '"bf16-mixed"',
    ),
    refused("Devices", "recorded", lambda: pc.Devices(capture="yes"), "capture", "'yes'"),
    refused(
        "Devices",
        "recorded by several",
        lambda: fit(X, device="cpu", devices=pc.Devices(2, capture=True)),
        "capture must be False",
        "several processes",
    ),
    answered("History", "no epochs", lambda: pc.History()["elbo"], lambda values: values == []),
    answered("History", "two epochs", lambda: HISTORY["elbo"], lambda values: values == [-2, -1]),
    answered(
        "History", "shown", lambda: repr(HISTORY), lambda r: "2 epochs; the last: elbo=-1" in r
    ),
    refused(
        "save", "the other way round", lambda: pc.save(NONE, VAE), "save(module, path)", "Path"
    ),
    refused("save", "a state", lambda: pc.save(VAE.state_dict(), NONE), "Module", "OrderedDict"),
    refused("save", "a folder", lambda: pc.save(VAE, FOLDER), "is a folder", "name of a file"),
    refused("save", "no such folder", lambda: pc.save(VAE, NONE / "a"), "does not exist", "mkdir"),
    refused(
        "load", "the other way round", lambda: pc.load(VAE, SAVED), "load(path, module)", "Path"
    ),
    refused("load", "a class", lambda: pc.load(SAVED, pc.CorExVAE), "load(path, module)", "Module"),
    refused("load", "code that is not there", lambda: pc.load(MINE), "encoder[1]", "Mine", "code"),
    refused("load", "no file", lambda: pc.load(NONE, VAE), "There is no file", "none"),
    refused("load", "torch's file", lambda: pc.load(FOREIGN, VAE), "not a file", "torch.load"),
    refused("load", "cut short", lambda: pc.load(CUT, VAE), "damaged", "checksum", "older copy"),
    refused("load", "another", lambda: pc.load(SAVED, STACK), "CorExVAE()", "StackedCorEx()"),
    refused(
        S,
        "one layer",
        lambda: pc.start_top(pc.StackedCorEx([(4, 2)], n_classes=2), X),
        "at least two layers",
        "layers=[2]",
    ),
    refused(S, "an array", lambda: top(X.numpy()), "x must be a tensor", "ndarray", "as_tensor"),
    refused(S, "no rows", lambda: top(X[:0]), "x is empty", "(0, 4)"),
    refused(S, "NaN", lambda: top(X / 0 * 0), "x must be finite", "160", "impute"),
    refused(S, "another width", lambda: top(X[:, :3]), "The encoder of layer 1", "(40, 3)"),
    refused(S, "no steps", lambda: top(steps=0), "steps", ">= 1", "0"),
    refused(S, "no components", lambda: top(n_components=[]), "n_components", "[]"),
    refused(S, "fewer rows", lambda: top(transform=lambda x: x[:3]), "(40, 4)", "gives (3, 4)"),
    refused(C, "nothing", lambda: pc.Checkpoint(None), "path", "name of a file", "NoneType"),
    refused(C, "a number", lambda: pc.Checkpoint(123), "path", "name of a file", "int"),
    refused(C, "two at once", twice, "Another run writes", "a checkpoint of its own"),
    refused(
        C,
        "a name that is too long",
        lambda: fit(X, checkpoint=FOLDER / ("a" * 230)),
        "Could not write",
        "File name too long",
        "Nothing is there",
    ),
    refused(C, "other data", lambda: resume(1 - X), "of another run", "the digest of the data was"),
    refused(C, "another rate", lambda: resume(lr=0.1), "of another run", "its options was"),
    refused(
        C,
        "fewer epochs",
        lambda: pc.fit(vae(), X, epochs=1, progress=False, checkpoint=LONGER),
        "epochs must be at least 2",
        "2 are done",
        "got 1",
    ),
    answered(C, "as many epochs", resume, lambda history: history.steps == 1),
    refused(
        C,
        "what save wrote",
        lambda: fit(X, checkpoint=pc.Checkpoint(SAVED, resume=True)),
        "holds a module",
        "no run",
    ),
    refused("load", "NaN", lambda: pc.load(POISONED, vae()), "NaN", "'encoder.1.bias'", "older"),
    refused("save", "NaN", lambda: pc.save(NAN, NONE), "NaN", "'encoder.1.bias'", "from before"),
    refused("save", "a lazy module", lambda: pc.save(LAZY, NONE), "'weight'", "Run the module"),
    refused("load", "a lazy module", lambda: pc.load(SAVED, LAZY), "'weight'", "Run the module"),
    refused("Devices", "a word", lambda: pc.Devices(strategy="x"), "strategy", "'x'", '"ddp"'),
    refused("Devices", "a strategy's number", lambda: pc.Devices(strategy=2), "strategy", "got 2"),
    answered(
        "fit",
        "batch normalisation and one datum too many",
        lambda: normalised(X, batch_size=13),
        lambda history: history.steps == 3,
    ),
    refused(
        "fit",
        "batch normalisation and a loader's last datum",
        lambda: normalised(DataLoader(TensorDataset(X), batch_size=13)),
        "batch normalisation",
        "drop_last=True",
    ),
    refused(
        "fit",
        "the store has another program's",
        lambda: stored((3,)),
        "'encoder.1.weight'",
        "(4, 4)",
        "(3,)",
        "clear_param_store",
    ),
    answered(
        "fit",
        "the store has the program's own",
        lambda: stored((4, 4)),
        lambda weight: bool((weight - 0.5).abs().max() < 1e-6),
    ),
]
