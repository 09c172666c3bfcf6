"""Replays on all pairs of programs give what the programs give, and each change is seen.

What is found out of programs once, and kept without recording, is held to the same.
"""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

from pyro_corex.batches import Batch
from pyro_corex.objective import CorExELBO
from pyro_corex.training.first_run import StoreParameters
from pyro_corex.training.optimization import Learner, Optimization
from pyro_corex.training.replay import Replay, Replayed
from pyro_corex.training.runners import Runner
from tests.objective.pairs import PAIRS
from tests.training.programs import Energy, fit, without_time

REFUSED = {  # and what is said
    "rejection_sampler": (
        r"^The step cannot be recorded for capture=True: it reads a number from a tensor \(\.item"
        r".*\), on which Python may decide\. Change that, or leave capture out\.$"
    ),
}


class Programs(nn.Module):
    """A pair, as ``fit`` takes it."""

    def __init__(self, pair):
        super().__init__()
        self.pair = pair

    def model(self, *args):
        return self.pair.model(*args)

    def guide(self, *args):
        return self.pair.guide(*args)


def learner_of(pair):
    """What ``fit`` would train, with the pair's parameters, after a step that is taken as it is."""
    parameters = StoreParameters(sorted(pyro.get_param_store()))
    runner = Runner(torch.device("cpu"))
    module, elbo = Programs(pair), pair.objective()
    learner = Learner(module, elbo, parameters, Optimization(), 1e-3, runner)
    learner.compute(Batch(pair.args))
    return learner


def another(value):
    """Data of the same kind: bits remain bits, and what is positive remains so."""
    if value.is_floating_point() and not torch.equal(value, value.round()):
        return 0.9 * value.flip(0)
    turned = value.flip(0)
    return turned if not torch.equal(turned, value) else value.sum() - value


def plain(elbo, programs, batch, parameters):
    """Loss, sums of the terms and gradients, by the programs, from a random state of its own."""
    torch.manual_seed(1)
    loss = elbo.differentiable_loss(programs.model, programs.guide, *batch.args)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    sums = {key: [v.detach() for v in pair] for key, pair in elbo.last_sums.items()}
    return loss.detach(), sums, list(found)


def by_replay(recorded, batch):
    """The same by a replay."""
    torch.manual_seed(1)
    loss, *sums = (value.clone() for value in recorded.evaluate(batch))
    pairs = zip(sums[::2], sums[1::2], strict=True)
    gradients = [parameter.grad for parameter in recorded.parameters]
    return loss, dict(zip(recorded.names, map(list, pairs), strict=True)), gradients


@pytest.mark.usefixtures("_float64")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", PAIRS)
def test_all_pairs(name):
    """Recorded on one batch; compared on another, with other draws and other parameters."""
    learner = learner_of(pair := PAIRS[name]())
    batch = Batch(pair.args)
    other = batch.map(another)
    assert not any(map(torch.equal, batch.tensors(), other.tensors()))
    recorded = None
    with pyro.validation_enabled(False):
        if name in REFUSED:
            with pytest.raises(RuntimeError, match=REFUSED[name]):
                Replayed(learner, lambda loss: None).recorded(batch)
        else:
            recorded = Replayed(learner, lambda loss: None).recorded(batch)
        parameters = list(learner.parts.parameters())
        with torch.no_grad():
            for parameter in parameters:
                parameter.add_(0.05)
        new = pair.objective()
        new.max_plate_nesting = learner.elbo.max_plate_nesting  # else it draws to find it
        wanted = plain(new, learner.parts.module, other, parameters)
        found = [plain(learner.elbo, learner.parts.module, other, parameters)]
        if recorded is not None:
            found.append(by_replay(recorded, other))
    for loss_sums_gradients in found:
        torch.testing.assert_close(loss_sums_gradients, wanted, rtol=1e-6, atol=1e-9)


# ---------------------------------------------------------------------- changes


class Changing(nn.Module):
    """Programs that change in many ways from one step to the next."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Dropout(0.2), nn.Linear(3, 2))
        self.decoder, self.scale = nn.Linear(1, 4), nn.Parameter(torch.zeros(()))
        self.more, self.weight, self.wide, self.mask, self.branch = False, 1.0, 1, None, False
        self.columns, self.full = False, None

    def plate(self, x):
        rows = torch.arange(len(x)) if self.full else None
        return pyro.plate("data", self.full or len(x), subsample=rows, dim=-2)

    def latent(self, loc, scale):
        with poutine.scale(scale=self.weight), pyro.plate("latents", self.wide, dim=-1):
            return pyro.sample("z", dist.Normal(loc, scale))

    def model(self, x):
        with self.plate(x):
            z = self.latent(x.new_zeros(()), 1.0).sum(-1, keepdim=True)
            if self.more:
                z = z + pyro.sample("more", dist.Normal(x.new_zeros(()), 1.0))
            loc = self.decoder(z.to(self.scale.dtype))[:, None]
            fn = dist.Laplace(loc, 1.0) if self.branch else dist.Normal(loc, 1.0)
            fn = fn if self.mask is None else fn.mask(self.mask)
            if self.columns:
                with pyro.plate("columns", 4, dim=-1):
                    pyro.sample("x", type(fn)(loc.squeeze(-2), 1.0), obs=x)
            else:
                pyro.sample("x", fn.to_event(1), obs=x[:, None])

    def guide(self, x):
        loc, more = self.encoder(x.to(self.scale.dtype)).split(1, -1)
        with self.plate(x):
            self.latent(loc, self.scale.exp())
            if self.more:
                pyro.sample("more", dist.Normal(more, 0.5))


class Moving:
    """A KL schedule that is somebody's own."""

    def __init__(self):
        self.value = 1.0

    def __call__(self):
        return self.value

    def step(self):
        pass


def put(name, value):
    return lambda own, elbo, schedule: setattr(own, name, value)


def add_regularizer(own, elbo, schedule):
    elbo.regularizers = (*elbo.regularizers, Energy(0.5))


CHANGES = {
    "a new site": put("more", True),
    "another branch": put("branch", True),
    "a weight": put("weight", 0.25),
    "a plate of another size": put("wide", 3),
    "a plate in the place of an event": put("columns", True),
    "what a plate stands for": put("full", 64),
    "a mask": put("mask", torch.tensor([True, False, True, True])),
    "another module": lambda own, *_: own.encoder.__setitem__(1, nn.ReLU()),
    "a rate of dropout": lambda own, *_: setattr(own.encoder[2], "p", 0.6),
    "evaluation in the place of training": lambda own, *_: own.encoder[2].eval(),
    "a frozen parameter": lambda own, *_: own.decoder.weight.requires_grad_(False),
    "the number of particles": lambda own, elbo, _: setattr(elbo, "num_particles", 2),
    "the weight of a regularizer": lambda own, elbo, _: setattr(elbo.regularizers[0], "weight", 2),
    "a regularizer that is added": add_regularizer,
    "what a schedule gives": lambda own, elbo, schedule: setattr(schedule, "value", 0.5),
    "the default of validation": lambda *_: pyro.enable_validation(False),
    "the values of a parameter": lambda own, *_: own.scale.data.fill_(0.3),
}


class Follows(Energy):
    """The same with a weight that a schedule gives."""

    name = "follows"


def run(change, captured, *, within, batches=None):
    """The losses and parameters of epochs, with a change after the first or within it."""
    module, schedule, taken = Changing(), Moving(), []
    elbo = CorExELBO(regularizers=[Energy(0.1), Follows(schedule)])

    def transform(x):
        taken.append(1)
        if within and len(taken) == 20:
            change(module, elbo, schedule)
        return x

    def callback(epoch, *_):
        if not within and epoch == 1:
            change(module, elbo, schedule)

    generator = torch.Generator().manual_seed(0)
    if batches is None:
        batches = torch.randn(80 if within else 8, 4, 4, generator=generator)
    history = fit(
        module, torch.utils.data.DataLoader(batches, batch_size=None), epochs=1 if within else 2,
        progress=False, device="cpu", elbo=elbo, kl_schedule=schedule, callback=callback,
        transform=transform, capture=captured,
    )  # fmt: skip
    return without_time(history), history.losses, [*module.parameters()]


def same(one, two):
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", CHANGES)
def test_what_a_callback_changes_is_seen(name, monkeypatch):
    """A step is recorded anew, and the run is the one that records nothing."""
    replays, evaluate = [], Replay.evaluate
    monkeypatch.setattr(
        Replay, "evaluate", lambda self, batch: replays.append(1) or evaluate(self, batch)
    )
    with pyro.validation_enabled():
        same(*(run(CHANGES[name], captured, within=False) for captured in (False, True)))
    assert len(replays) == 2 * (8 - 3)


BATCHES = {
    "another batch size": lambda x: x[:3],
    "another dtype": lambda x: x.double(),
}


@pytest.mark.parametrize("name", BATCHES)
def test_batches_that_change_are_seen(name):
    x = torch.randn(24, 4, 4, generator=torch.Generator().manual_seed(0))
    batches = [BATCHES[name](each) if at % 4 == 3 else each for at, each in enumerate(x)]
    nothing = put("more", False)
    runs = (run(nothing, captured, within=False, batches=batches) for captured in (False, True))
    same(*runs)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_between_two_steps_is_seen_or_refused(name):
    """Where Python decides on it, the next proof finds it: an error, and no other run."""

    def outcome(captured):
        try:
            return run(CHANGES[name], captured, within=True)
        except (RuntimeError, KeyError) as error:  # a history holds the same terms throughout
            return str(error)

    recorded = outcome(True)
    if "no longer what was recorded" not in recorded:
        plain = outcome(False)
        assert type(plain) is type(recorded)
        same(plain, recorded) if isinstance(plain, tuple) else None
