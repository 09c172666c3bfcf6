"""One program, trained in three ways: Pyro's SVI, fit, and a Lightning module of one's own.

    python examples/training_three_ways.py [--epochs 5]

With the same optimiser and the same seed the losses are the same, step by step, which the script
checks and draws.  Lightning is not a dependency of the library.  Where it is not installed, that
way is left out; pip install pytorch-lightning adds it.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import itertools
import logging
import warnings
from pathlib import Path

import pyro
import torch
from pyro.infer import SVI
from torch.utils.data import DataLoader, TensorDataset

import pyro_corex as pc
from pyro_corex.datasets import bundled_digits
from pyro_corex.programs import mlp_decoder, mlp_encoder

LR, BATCH = 1e-3, 120


def make_program(seed: int) -> pc.CorExVAE:
    torch.manual_seed(seed)
    return pc.CorExVAE(mlp_encoder([64, 64, 8]), mlp_decoder([8, 64, 64]), 8)


def make_loader(x: torch.Tensor, seed: int) -> DataLoader:
    """Batches in an order of its own, whatever else is drawn."""
    order = torch.Generator().manual_seed(seed)
    return DataLoader(TensorDataset(x), batch_size=BATCH, shuffle=True, generator=order)


def with_svi(program: pc.CorExVAE, loader: DataLoader, epochs: int, seed: int) -> list[float]:
    pyro.clear_param_store()
    svi = SVI(program.model, program.guide, pyro.optim.Adam({"lr": LR}), pc.CorExELBO())
    torch.manual_seed(seed)
    return [svi.step(x) for _ in range(epochs) for (x,) in loader]


def with_fit(program: pc.CorExVAE, loader: DataLoader, epochs: int, seed: int) -> list[float]:
    def adam(parameters):
        return torch.optim.Adam(parameters, lr=LR)

    history = pc.fit(
        program, loader, epochs=epochs, seed=seed, optimizer=adam, device="cpu", progress=False
    )
    return history.losses


def with_lightning(program: pc.CorExVAE, loader: DataLoader, epochs: int, seed: int) -> list[float]:
    import pytorch_lightning as pl

    class Lit(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.program = program
            self.elbo = pc.CorExELBO()
            self.losses = []

        def training_step(self, batch, index):
            (x,) = batch
            loss = self.elbo.differentiable_loss(self.program.model, self.program.guide, x)
            self.losses.append(loss.detach())
            return loss

        def on_train_epoch_end(self):
            for name, kl in self.elbo.last_terms.kl.items():
                self.log(f"kl_{name}", kl.sum())

        def configure_optimizers(self):
            return torch.optim.Adam(self.program.parameters(), lr=LR)

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)  # what hardware there is
    lit = Lit()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on workers
        trainer = pl.Trainer(
            max_epochs=epochs, accelerator="cpu", devices=1, enable_model_summary=False, **quiet
        )
        torch.manual_seed(seed)
        trainer.fit(lit, loader)
    return [float(loss) for loss in lit.losses]


WAYS = {"SVI": with_svi, "fit": with_fit, "Lightning": with_lightning}


def main(argv: list[str] | None = None) -> dict[str, list[float]]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("outputs/training_three_ways"))
    parser.add_argument("--smoke", action="store_true", help="a run of seconds")
    args = parser.parse_args(argv)
    epochs = 1 if args.smoke else args.epochs

    x = (bundled_digits().x > 0.5).float()
    ways = dict(WAYS)
    if importlib.util.find_spec("pytorch_lightning") is None:
        del ways["Lightning"]
        print("Lightning is left out. To see it, too: pip install pytorch-lightning")
    program = make_program(args.seed)
    losses = {
        name: way(copy.deepcopy(program), make_loader(x, args.seed), epochs, args.seed)
        for name, way in ways.items()
    }
    sizes = itertools.cycle([len(rows) for rows in x.split(BATCH)])  # the last batch is smaller
    of_step = list(itertools.islice(sizes, len(losses["fit"])))
    losses = {
        name: [value / size for value, size in zip(values, of_step, strict=True)]
        for name, values in losses.items()
    }
    for step in (0, len(of_step) - 1):
        shown = ", ".join(f"{name} {values[step]:.3f}" for name, values in losses.items())
        print(f"Loss of step {step + 1}, in nats per datum: {shown}")
    same = all(values == losses["fit"] for values in losses.values())
    print(f"The same in all {len(of_step)} steps: {same}")
    draw(losses, args.output)
    print(f"Figures: {args.output.resolve()}")
    return losses


def draw(losses: dict[str, list[float]], output: Path) -> None:
    import matplotlib.pyplot as plt

    output.mkdir(parents=True, exist_ok=True)
    fig, ax = plt.subplots(figsize=(6, 4), constrained_layout=True)
    for width, (name, values) in zip((6, 3, 1), losses.items(), strict=True):
        ax.plot(range(1, len(values) + 1), values, linewidth=width, label=name)
    ax.set(
        xlabel="step", ylabel="loss in nats per datum", title="One program, trained in three ways"
    )
    ax.legend()
    fig.savefig(output / "losses.png", dpi=150)
    plt.close(fig)


if __name__ == "__main__":
    main()
