"""A small program and small data, for tests of training."""

import torch

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


def run(path, module=None, data=None, **options):
    module = vae() if module is None else module
    data = copies() if data is None else data
    return pc.fit(module, data, checkpoint=path, **{**OPTIONS, **options})
