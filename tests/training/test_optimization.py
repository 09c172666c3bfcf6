"""Optimisers, schedules, clipping, regularizers."""

import pyro.distributions as dist
import pytest
import torch

import pyro_corex as pc
from pyro_corex.regularizers import TotalCorrelation
from tests.training.programs import OPTIONS, Energy, copies, fit, run, stack, vae, vector


def test_a_schedule_takes_a_step_after_each_training_step():
    rates = []

    def schedule(optimiser):
        rates.append(optimiser.param_groups[0])
        return torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 / (1 + step))

    fit(vae(), copies(), epochs=2, batch_size=128, lr=0.1, lr_schedule=schedule, progress=False)
    assert rates[0]["lr"] == pytest.approx(0.1 / 9)


def test_a_plateau_is_told_of_the_epochs():
    seen = []

    class Spy(torch.optim.lr_scheduler.ReduceLROnPlateau):
        def step(self, metrics, epoch=None):
            seen.append(float(metrics))
            super().step(metrics)

    history = fit(vae(), copies(), epochs=3, lr_schedule=Spy, validation=copies(50), progress=False)
    assert seen == [-value for value in history["val_objective"]]


def test_a_kl_schedule_takes_a_step_after_each_training_step():
    warmup = pc.Warmup(0.0, 1.0, steps=16)
    history = fit(
        stack(warmup), copies(), epochs=2, batch_size=64, kl_schedule=[warmup], progress=False
    )
    assert warmup.taken == 16
    weight = float(history.terms.kl_weight["z1"].mean())  # of the last epoch, where it rose
    assert 8 / 16 < weight < 15 / 16


def test_clipping():
    def sgd(parameters):
        return torch.optim.SGD(parameters, lr=1.0)

    def change(**options):
        module = vae()
        before = vector(module)
        fit(module, copies(), epochs=1, batch_size=512, optimizer=sgd, progress=False, **options)
        return vector(module) - before

    free, clipped = change(), change(clip_norm=0.5)
    assert free.norm() > 1
    assert clipped.norm() == pytest.approx(0.5, rel=1e-4)
    assert torch.allclose(clipped / 0.5, free / free.norm(), atol=1e-4)


def test_an_optimizer_that_is_none():
    with pytest.raises(TypeError, match=r"to a torch.optim.Optimizer, .* but gave list"):
        fit(vae(), copies(), optimizer=list, **OPTIONS)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=1e-3)


def constant(optimiser):
    return torch.optim.lr_scheduler.ConstantLR(optimiser)


CHANGES = {
    "optimiser": ({"optimizer": sgd}, "the optimiser was 'Adam' and is 'SGD'"),
    "rate": ({"lr": 0.5}, r"its options was \{'lr': 0.001, .*\} and is \{'lr': 0.5"),
    "schedule": ({"lr_schedule": constant}, "lr_schedule was None and is 'ConstantLR'"),
    "kl schedule": ({"kl_schedule": pc.Warmup(0, 1, 2)}, "KL schedules was 0 and is 1"),
    "size": ({"data": copies(100)}, "the number of data was 512 and is 100"),
    "batches": ({"batch_size": 32}, "batch_size was 64 and is 32"),
    "seed": ({"seed": 3}, "seed was 0 and is 3"),
    "precision": ({"precision": "bf16-mixed"}, "precision was '32-true' and is 'bf16-mixed'"),
    "clipping": ({"clip_norm": 1.0}, "clip_norm was None and is 1.0"),
    "objective": ({"elbo": pc.CorExELBO(tc_weight=2.0)}, r"TotalCorrelation\(2.0\)"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_run(path, change):
    options, match = CHANGES[change]
    module = vae(seed=1)
    before = vector(module)
    with pytest.raises(pc.CheckpointError, match=f"is of another run: .*{match}"):
        run(path, module, resume=True, **options)
    assert torch.equal(vector(module), before)


# ---------------------------------------------------------------------- regularizers


class Critic(torch.nn.Module):
    """A number for each datum, which learns to be large; the program learns to make it small."""

    name, weight = "critic", 0.1

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.net = torch.nn.Linear(2, 1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, step):
        self.sizes = self.sizes | {step.num_data} if hasattr(self, "sizes") else {step.num_data}
        self.calls += 1
        return torch.tanh(self.net(step.draw("z"))).mean()

    def own_loss(self, step):
        return -torch.tanh(self.net(step.draw("z").detach())).mean()


def test_the_weight_of_a_regularizer_takes_a_step_after_each_training_step():
    warmup = pc.Warmup(0.0, 1.0, steps=16)
    elbo = pc.CorExELBO(regularizers=[Energy(warmup)])
    options = {"elbo": elbo, "epochs": 2, "batch_size": 64, "progress": False}
    history = fit(vae(), copies(), kl_schedule=warmup, **options)  # named twice, stepped once
    assert warmup.taken == 16
    assert 8 / 16 < float(elbo.last_terms.regularizer_weight["energy"].mean()) < 15 / 16
    assert history["energy"][-1] > 0
    assert elbo.num_data is None  # as it was


@pytest.mark.parametrize("devices", [1, 2])
def test_the_parameters_of_a_regularizer_are_trained(devices):
    critic = Critic()
    before = vector(critic)
    elbo = pc.CorExELBO(regularizers=[critic])
    options = {"epochs": 3, "batch_size": 64 // devices, "progress": False, "devices": devices}
    history = pc.fit(vae(), copies(), elbo=elbo, validation=copies(64), **options)
    assert not torch.equal(vector(critic), before)
    assert history["critic"][-1] != history["critic"][0]
    assert float(critic.calls) == 3 * (8 + 1)
    if devices == 1:
        assert critic.sizes == {512}
    assert {"critic", "val_critic"} <= set(history.epochs[0])
    assert set(history.terms.regularizers) == {"critic"}
    # it is what it would be without the program's gradient: larger where the program is left alone
    still = Critic()
    frozen = pc.CorExELBO(regularizers=[still])
    pc.fit(vae(), copies(), elbo=frozen, **{**options, "lr": 1e-9})
    assert torch.allclose(vector(still), before, atol=1e-6)


class Still(dist.Normal):
    """A normal whose draws are its location, in any process."""

    def rsample(self, sample_shape=()):
        return self.loc.expand(self._extended_shape(sample_shape))


class StillVAE(pc.CorExVAE):
    def encode(self, x):
        q = super().encode(x)
        return Still(q.loc, q.scale, validate_args=False)


def test_own_losses_of_several_processes_are_averaged():
    """A step of two processes is that of one with the doubled batch, for programs and critic."""
    steps = []
    for devices in (1, 2):
        torch.manual_seed(1)
        module, critic = vae(), Critic()
        module.__class__ = StillVAE
        critic.net.weight.data.fill_(0.3)
        elbo = pc.CorExELBO(regularizers=[critic])
        before = vector(module), vector(critic)
        fit(
            module, copies(256), epochs=1, batch_size=256 // devices, devices=devices, elbo=elbo,
            optimizer=lambda p: torch.optim.SGD(p, lr=1e-3), progress=False,
        )  # fmt: skip
        steps.append((vector(module) - before[0], vector(critic) - before[1]))
    for one, two in zip(*steps, strict=True):
        assert one.norm() > 1e-5
        torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-8)


def test_regularizers_go_on(tmp_path):
    def train(epochs, **options):
        critic, warmup = Critic(), pc.Warmup(0.0, 1.0, steps=30)
        elbo = pc.CorExELBO(regularizers=[critic, TotalCorrelation(warmup)])
        module = vae()
        fit(module, copies(), **{**OPTIONS, "epochs": epochs}, elbo=elbo, **options)
        return vector(module), vector(critic), critic.calls, warmup.taken

    expected = train(3)
    file = tmp_path / "critic"
    train(2, checkpoint=file)
    resumed = train(3, checkpoint=file, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(resumed[:3], expected[:3], strict=True))
    assert resumed[3] == expected[3] == 24
    other = Critic()
    other.net = torch.nn.Linear(2, 1, bias=False)
    elbo = pc.CorExELBO(regularizers=[other, TotalCorrelation(pc.Warmup(0.0, 1.0, steps=30))])
    with pytest.raises(pc.CheckpointError, match="of another run: the objective was"):
        run(file, resume=True, epochs=3, elbo=elbo)
    assert pc.load(file, vae(seed=1)) is not None
