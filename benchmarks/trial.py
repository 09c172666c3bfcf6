"""Trials of the digits' recipe: a line of JSON for each seed."""

import json
import sys
import time

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyro_corex as pc
from pyro_corex.datasets import Neighbours, RandomAffine, bundled_digits
from pyro_corex.evaluation import cluster_accuracy
from pyro_corex.programs.likelihoods import CategoricalLikelihood

torch.set_num_threads(1)
V = dict(
    amount=1.0,
    near=5,
    first=100,
    joint=200,
    mi=20.0,
    inv=100.0,
    bs=64,
    lr=3e-3,
    comps=20,
    starts=8,
    copies=3,
    cos=True,
    top=[16, 32, 10],
    z=16,
    hidden=128,
    held=0,
    jlr=None,
    jbs=None,
    nearinv=True,
    aug=0.0,
    refine=0,
)
V |= json.loads(sys.argv[1])
limit = float(sys.argv[3]) if len(sys.argv) > 3 else 230


begin = time.time()
for seed in json.loads(sys.argv[2]):
    t0 = time.time()
    d = bundled_digits()
    X = (d.x * 16).round()
    x = X[: len(X) - V["held"]]
    torch.manual_seed(seed)
    a = V["amount"]
    aff = RandomAffine(8, rotation=0.2 * a, scale=0.1 * a, shear=0.15 * a, shift=0.5 * a)
    A = lambda v: aff(v).round().clamp(0, 16)
    near = Neighbours(x, V["near"]) if V["near"] else (lambda v: v)
    copy = lambda v: A(near(v))
    icopy = copy if V["nearinv"] else A
    aug = (lambda v: torch.where(torch.rand(len(v), 1) < V["aug"], A(v), v)) if V["aug"] else None
    stack = pc.StackedCorEx(
        [(64, V["hidden"], V["z"]), tuple(V["top"])], likelihood=CategoricalLikelihood(17)
    )
    from pyro_corex.training.stack import _below

    def train(m, epochs, elbo=None, bs=V["bs"], lr=V["lr"]):
        steps = epochs * -(-len(x) // bs)
        o = (
            pc.Optimization(lr_schedule=lambda it: CosineAnnealingLR(it, steps, 0.05 * lr))
            if V["cos"]
            else None
        )
        return pc.fit(
            m,
            x,
            epochs=epochs,
            batch_size=bs,
            lr=lr,
            seed=seed,
            device="cpu",
            elbo=elbo,
            optimizer=o,
            progress=False,
            transform=aug,
        )

    train(_below(stack), V["first"])
    t1 = time.time()
    st = pc.start_top(
        stack,
        x,
        transform=copy,
        copies=V["copies"],
        n_components=V["comps"],
        n_starts=V["starts"],
        steps=1000,
        refine=V["refine"],
        seed=seed,
        progress=False,
    )
    t2 = time.time()
    acc = lambda c: round(cluster_accuracy(d.labels[: len(c)], c), 4)
    s_acc = [acc(s.responsibilities.argmax(-1)) for s in st]
    print(
        json.dumps(
            {
                "V": sys.argv[1],
                "seed": seed,
                "start": s_acc,
                "info": [round(s.information, 3) for s in st],
                "first": round(t1 - t0, 1),
                "mix": round(t2 - t1, 1),
            }
        ),
        flush=True,
    )
    h = train(
        stack,
        V["joint"],
        pc.CorExELBO(mi_weight={"z2": V["mi"]}, invariance=pc.Invariance(icopy, {"z2": V["inv"]})),
        V["jbs"] or V["bs"],
        V["jlr"] or V["lr"],
    )
    t3 = time.time()
    with torch.no_grad():
        q = stack.encode(X)[-1].logits.argmax(-1)
    b = pc.tc_bound(stack, X)
    row = dict(
        V=sys.argv[1],
        seed=seed,
        acc=acc(q),
        start=s_acc,
        info=[round(s.information, 3) for s in st],
        first=round(t1 - t0, 1),
        mix=round(t2 - t1, 1),
        joint=round(t3 - t2, 1),
        bound=round(b.estimate, 2),
        objective=round(h["objective"][-1], 2),
        last={k: round(v, 3) for k, v in h.epochs[-1].items()},
    )
    if V["held"]:
        row["held_acc"] = round(float(cluster_accuracy(d.labels[len(x) :], q[len(x) :])), 4)
        hb = pc.tc_bound(stack, X[len(x) :])
        row["held"] = [round(hb.estimate, 2), round(hb.stderr, 2)]
    print(json.dumps(row), flush=True)
    if time.time() - begin + (t3 - t0) > limit:
        break
