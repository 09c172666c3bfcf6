"""Replays on a CPU: the run is that of steps that are taken as they are, and changes are seen."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_corex as pc
from pyro_corex.training import replay
from tests.training.programs import Energy, copies, fit, stack, vae, vector, without_time
from tests.training.test_capture import alike

OPTIONS = {
    "epochs": 2,
    "batch_size": 32,
    "progress": False,
    "device": "cpu",
}  # eight steps an epoch


def both(make, captures=(False, True), **options):
    """The histories and parameters of a run as it is, and of one with replays."""
    found = []
    for captured in captures:
        torch.manual_seed(0)
        given = {name: value() if name == "elbo" else value for name, value in options.items()}
        module = make()
        if "anchors" in given:
            given["kl_schedule"] = module.anchors["z1"]
            del given["anchors"]
        history = fit(module, copies(256), **{**OPTIONS, "capture": captured, **given})
        found.append((history, state(module)))
    return found


def state(module):
    """The parameters and what batch normalisation has counted."""
    return torch.cat([value.flatten().float() for value in module.state_dict().values()])


def convolutional():
    encoder = nn.Sequential(
        nn.Unflatten(1, (1, 2, 4)), nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Dropout(0.2),
        nn.Conv2d(3, 2, (1, 2)), nn.Flatten(), nn.Linear(4, 4),
    )  # fmt: skip
    return pc.CorExVAE(encoder, nn.Linear(2, 8), 2)


def warming_stack():
    anchors = {"z1": pc.Warmup(0.0, 1.0, steps=12)}
    return pc.StackedCorEx([(8, 6, 4), (4, 3)], n_classes=None, anchors=anchors)


CASES = {
    "a discrete top": (stack, {}),
    "convolutions, batch normalisation and dropout": (convolutional, {}),
    "a critic": (
        vae, {"elbo": lambda: pc.CorExELBO(regularizers=[pc.regularizers.DensityRatio(2.0, 2)])},
    ),
    "a weight that moves": (warming_stack, {"anchors": True}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_run_with_replays_is_the_run_without(name, monkeypatch):
    counts = []
    evaluate = replay.Replay.evaluate
    monkeypatch.setattr(
        replay.Replay, "evaluate", lambda self, batch: counts.append(1) or evaluate(self, batch)
    )
    make, options = CASES[name]
    assert alike(both(make, **options))
    assert len(counts) == 2 * 8 - 3  # three are taken as they are


CHANGES = {
    "the weight of a regularizer": lambda module, elbo: setattr(
        elbo.regularizers[0], "weight", 2.0
    ),
    "the weights of anchors": lambda module, elbo: module.set_anchors({0: 0.1}),
    "a frozen parameter": lambda module, elbo: module.decoder[0].weight.requires_grad_(False),
    "another activation": lambda module, elbo: module.encoder.__setitem__(2, nn.Tanh()),
    "the number of particles": lambda module, elbo: setattr(elbo, "num_particles", 2),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_callback_changes_is_seen(name):
    def make():
        encoder, decoder = pc.programs.mlp_encoder([8, 6, 2]), pc.programs.mlp_decoder([2, 6, 8])
        return pc.AnchorVAE(encoder, decoder, 2, anchors={})

    elbos = []

    def elbo():
        elbos.append(pc.CorExELBO(regularizers=[Energy(0.0)]))
        return elbos[-1]

    def callback(epoch, module, record):
        CHANGES[name](module, elbos[-1])

    assert alike(both(make, elbo=elbo, callback=callback))


class Program(nn.Module):
    """Observes x given a latent; ``body`` does something more."""

    def __init__(self, body):
        super().__init__()
        self.scale, self.body, self.runs = nn.Parameter(torch.zeros(())), body, 0

    def model(self, x):
        self.runs += 1
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            loc = z[:, None] * self.body(self, x)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.mean(1), self.scale.exp()))


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (lambda own, x: 2.0 if x.sum() > 3 else 1.0, r"reads a number from a tensor \(\.item"),
        (lambda own, x: np.random.rand(), "draws random numbers from NumPy or Python"),
        (lambda own, x: float(own.runs % 2), "a replay gives another loss, or other gradients"),
    ],
)
def test_what_is_not_recorded(body, match):
    with pytest.raises(RuntimeError, match=f"^The step cannot be recorded .*{match}"):
        fit(Program(body), copies(256), **OPTIONS, capture=True)


def test_what_python_changes_is_found_by_the_next_proof():
    program = Program(lambda own, x: own.factor)
    program.factor = 1.0

    def transform(x):
        program.factor += 0.1 * (transform.taken == 6)
        transform.taken += 1
        return x

    transform.taken = 0
    with pytest.raises(RuntimeError, match=r"no longer what was recorded: .* the last 2 replays"):
        fit(program, copies(256), **OPTIONS, capture=True, transform=transform)


def test_nan_is_found_and_nothing_is_spoilt():
    def transform(x):
        transform.taken += 1
        return x * (float("nan") if transform.taken == 6 else 1.0)

    transform.taken, module = 0, vae()
    with pytest.raises(ValueError, match=r"not finite at step 6 .*site 'x'"):
        fit(module, copies(256), **OPTIONS, capture=True, transform=transform)
    assert bool(vector(module).isfinite().all())


def test_few_recordings_are_kept():
    """Of batches that change in size; `benchmarks/training.py --sections memory` takes 10,000."""
    module, sizes = vae(), [*range(2, 14)] * 4
    batches = [torch.ones(size, 8) for size in sizes]
    seen, take = [], replay.Replayed.take

    def noted(self, batch, record, step):
        take(self, batch, record, step)
        (pair,) = self.learner.elbo._pairs
        seen.append((len(self.known), len(pair.axes._found)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay.Replayed, "take", noted)
        loader = torch.utils.data.DataLoader(batches, batch_size=None)
        fit(module, loader, **{**OPTIONS, "epochs": 1}, capture=True)
    assert seen[-1] == (2, 8)
    assert max(seen) == (2, 8)


# ---------------------------------------------------------------------- by default


@pytest.fixture
def recordings(monkeypatch):
    """Those that were made, where four steps to come are enough."""
    made = []
    monkeypatch.setattr(replay, "PAYS", 4)
    init = replay.Replay.__init__

    def noted(self, *args):
        made.append(self)
        init(self, *args)

    monkeypatch.setattr(replay.Replay, "__init__", noted)
    return made


def alike_to_the_last_bit(pair):
    (one, plain), (two, other) = pair
    return torch.equal(plain, other) and without_time(one) == without_time(two)


@pytest.mark.parametrize("name", CASES)
def test_the_default_gives_the_same_to_the_last_bit(name, recordings):
    make, options = CASES[name]
    assert alike_to_the_last_bit(both(make, captures=(False, "auto"), **options))
    assert [found.count for found in recordings] == [2 * 8 - 3]


def test_a_run_that_goes_on_is_the_run_that_did_not_stop(recordings, tmp_path):
    whole = vae()
    expected = fit(whole, copies(256), **{**OPTIONS, "epochs": 4})
    for epochs in (2, 4):
        module = vae()
        cut = {"checkpoint": tmp_path / "run", "every_steps": 3, "resume": epochs == 4}
        history = fit(module, copies(256), **{**OPTIONS, "epochs": epochs}, **cut)
    assert alike_to_the_last_bit(((expected, vector(whole)), (history, vector(module))))
    assert [found.count for found in recordings] == [4 * 8 - 3, 2 * 8 - 3, 2 * 8 - 3]


def test_short_runs_are_not_recorded(monkeypatch, recordings):
    monkeypatch.setattr(replay, "PAYS", 17)
    fit(vae(), copies(256), **OPTIONS)
    assert not recordings


def test_a_rare_size_is_not_recorded(recordings, monkeypatch):
    """The last batch of each of five epochs, of eight full ones each."""
    monkeypatch.setattr(replay, "PAYS", 10)
    fit(vae(), copies(272), **{**OPTIONS, "epochs": 5})
    assert [len(found.batch) for found in recordings] == [32]


class Own(torch.utils.data.TensorDataset):
    pass


FOREIGN = {
    "a function": {"transform": lambda x: x},
    "a data set": {"data": Own(torch.ones(256, 8))},
    "an objective": {"elbo": type("Own", (pc.CorExELBO,), {})()},
    "a regularizer": {"elbo": pc.CorExELBO(regularizers=[Energy(0.0)])},
    "an optimiser": {"optimizer": lambda p: type("Own", (torch.optim.SGD,), {})(p, lr=1e-3)},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_somebody_elses_is_not_recorded(name, recordings):
    given = {"data": copies(256), **FOREIGN[name]}
    fit(vae(), given.pop("data"), **{**OPTIONS, "epochs": 1}, **given)
    assert not recordings


def test_after_a_callback_it_is_recorded_anew(recordings):
    fit(vae(), copies(256), **OPTIONS, callback=lambda *_: None)
    assert [found.count for found in recordings] == [8 - 3, 8 - 3]


def test_what_cannot_be_recorded_is_taken_as_it_is(recordings):
    def make():
        encoder = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4, momentum=None))
        return pc.CorExVAE(encoder, nn.Linear(2, 8), 2)

    assert alike_to_the_last_bit(both(make, captures=(False, "auto")))
    assert len(recordings) == 1


def test_a_replay_that_rounds_otherwise_is_the_last(recordings, monkeypatch):
    equal = replay._equal
    monkeypatch.setattr(replay, "_equal", lambda a, b: recordings[0].count < 4 and equal(a, b))
    assert alike_to_the_last_bit(both(vae, captures=(False, "auto")))
    assert [found.count for found in recordings] == [4]
