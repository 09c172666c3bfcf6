"""Optimisers, schedules, clipping, regularizers."""

import pytest
import torch

import pyro_corex as pc
from tests.training.programs import OPTIONS, copies, fit, run, stack, vae, vector


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
    assert float(history.terms.kl_weight["z1"][0]) == pytest.approx(15 / 16)


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
    with pytest.raises(TypeError, match=r"to a torch.optim.Optimizer, but gave list"):
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
    "objective": ({"elbo": pc.CorExELBO(tc_weight=2.0)}, r"tc_weight=2.0, tc_num_data=512"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_run(path, change):
    options, match = CHANGES[change]
    module = vae(seed=1)
    before = vector(module)
    with pytest.raises(pc.CheckpointError, match=f"is of another run: .*{match}"):
        run(path, module, resume=True, **options)
    assert torch.equal(vector(module), before)
