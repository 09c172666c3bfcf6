"""A small program and small data, for tests of training."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn
from torch.utils.data import Dataset, IterableDataset

import pyro_corex as pc
from pyro_corex.programs import mlp_decoder, mlp_encoder


class Energy:
    """A term of one's own: the mean square of the latent, with any weight."""

    name = "energy"

    def __init__(self, weight=1.0):
        self.weight = weight

    def __call__(self, step):
        return step.draw("z").square().mean(0)


def vae(sizes=(8, 16, 2), seed=0, **options):
    torch.manual_seed(seed)
    encoder, decoder = mlp_encoder(list(sizes)), mlp_decoder(list(sizes)[::-1])
    return pc.CorExVAE(encoder, decoder, sizes[-1], **options)


def stack(warmup=None):
    torch.manual_seed(0)
    anchors = {} if warmup is None else {"z1": warmup}
    return pc.StackedCorEx([(8, 8, 4), (4, 3)], n_classes=3, anchors=anchors)


def copies(n=512):
    """Two groups of four noisy copies of a coin."""
    generator = torch.Generator().manual_seed(0)
    coins = torch.rand(n, 2, generator=generator) > 0.5
    flips = torch.rand(n, 8, generator=generator) < 0.05
    return (coins.repeat_interleave(4, 1) ^ flips).float()


def vector(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def without_time(history):
    return [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in history.epochs]


OPTIONS = {"epochs": 2, "batch_size": 64, "progress": False}


GROUPS = {
    "checkpoint": (pc.Checkpoint, "path", ("every", "every_steps", "resume")),
    "optimizer": (pc.Optimization, "optimizer", ("lr_schedule", "kl_schedule", "clip_norm")),
    "devices": (pc.Devices, "number", ("strategy", "precision", "compile_networks", "capture")),
}


def fit(module, data, **options):
    """``pc.fit`` with what its groups hold side by side."""
    for name, (group, first, others) in GROUPS.items():
        found = {other: options.pop(other) for other in others if other in options}
        if found and (name != "checkpoint" or options.get(name) is not None):
            found |= {first: options[name]} if name in options else {}
            options[name] = group(**found)
    return pc.fit(module, data, **options)


def run(path, module=None, data=None, **options):
    module = vae() if module is None else module
    data = copies() if data is None else data
    return fit(module, data, checkpoint=path, **{**OPTIONS, **options})


class At:
    """Does something at a training step."""

    def __init__(self, step, action):
        self.step, self.action, self.taken = step, action, 0

    def __call__(self, x):
        self.taken += 1
        return self.action(x) if self.taken == self.step else x


def nan(x):
    return x * float("nan")


class Empty(IterableDataset):
    def __iter__(self):
        return iter(())


# ---------------------------------------------------------------------- of several things


def labelled(n=512):
    """The copies, and how many of the two coins show heads."""
    x = copies(n)
    return x, (x[:, 0] + x[:, 4]).long()


class Named(Dataset):
    """A data set of dicts."""

    def __init__(self, **tensors):
        self.tensors = tensors

    def __len__(self):
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, i):
        return {name: value[i] for name, value in self.tensors.items()}


class Conditional(PyroModule):
    """Programs of x given a label, ``model(x, y)``."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(8 + 3, 4), nn.Linear(2 + 3, 8)

    def model(self, x, y):
        assert y.dtype == torch.int64
        with pyro.plate("data", len(x), dim=-2):
            self.observe(x, y)

    def observe(self, x, y):
        with pyro.plate("latents", 2, dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0))
        logits = self.decoder(torch.cat([z, self.known(y)], -1))
        with pyro.plate("inputs", 8, dim=-1):
            pyro.sample("x", dist.Bernoulli(logits=logits), obs=x)
        return z

    def guide(self, x, y):
        loc, scale = self.encoder(torch.cat([x, self.known(y)], -1)).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-2), pyro.plate("latents", 2, dim=-1):
            pyro.sample("z", dist.Normal(loc, scale.exp()))

    def known(self, y):
        return nn.functional.one_hot(y, 3).to(self.encoder.weight.dtype)


class TwoModalities(Conditional):
    """Programs of x and its label, both observed."""

    def __init__(self):
        super().__init__()
        self.classes = nn.Linear(2, 3)

    def model(self, x, y):
        with pyro.plate("data", len(x), dim=-2):
            z = self.observe(x, torch.zeros_like(y))
            logits = self.classes(z)[:, None]
            with pyro.plate("labels", 1, dim=-1):
                pyro.sample("y", dist.Categorical(logits=logits), obs=y[:, None])
