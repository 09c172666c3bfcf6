"""A small program and small data, for tests of training."""

import torch
from torch.utils.data import IterableDataset

import pyro_corex as pc
from pyro_corex.programs import mlp_decoder, mlp_encoder


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
    "devices": (pc.Devices, "number", ("strategy", "precision", "compile_networks")),
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
