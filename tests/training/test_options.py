"""Validation, early stopping, schedules, clipping, loggers, callbacks."""

import csv

import pytest
import torch

import pyro_corex as pc
from tests.training.programs import copies, stack, vae, vector, without_time


def test_validation_is_evaluated_with_the_same_noise_and_changes_nothing():
    plain, watched = vae(), vae()
    pc.fit(plain, copies(), epochs=3, progress=False)
    history = pc.fit(watched, copies(), epochs=3, validation=copies(100), progress=False)
    assert torch.equal(vector(plain), vector(watched))
    assert set(history.epochs[0]) >= {"val_elbo", "val_objective", "val_kl_z"}
    again = pc.fit(watched, copies(), epochs=1, lr=1e-12, validation=copies(100), progress=False)
    assert again["val_elbo"][0] == pytest.approx(history["val_elbo"][-1], abs=1e-6)
    assert history.best_epoch == 1 + max(range(3), key=history["val_objective"].__getitem__)


def test_patience_stops_and_leaves_the_best():
    """Seen once, the noise of eight data is learned by heart, and the bound on others falls."""
    module = vae((8, 64, 2))
    few, others = torch.bernoulli(torch.full((2, 64, 8), 0.5), generator=torch.Generator()).unbind()
    states = []
    history = pc.fit(
        module, few, epochs=200, lr=1e-2, validation=others, patience=3, progress=False,
        batch_size=16, callback=lambda *_: states.append(vector(module).clone()),
    )  # fmt: skip
    assert history.stopped_early
    assert len(history.epochs) == history.best_epoch + 3 < 200
    assert torch.equal(vector(module), states[history.best_epoch - 1])
    assert max(history["val_objective"]) == history["val_objective"][history.best_epoch - 1]


def test_validation_alone_does_not_stop():
    module = vae((8, 64, 2))
    data = torch.bernoulli(torch.full((2, 64, 8), 0.5)).unbind()
    last = []
    history = pc.fit(
        module, data[0], epochs=40, lr=1e-2, validation=data[1], progress=False,
        callback=lambda *_: last.append(vector(module).clone()),
    )  # fmt: skip
    assert not history.stopped_early
    assert len(history.epochs) == 40
    assert torch.equal(vector(module), last[-1])


def test_a_schedule_takes_a_step_after_each_training_step():
    rates = []

    def schedule(optimiser):
        rates.append(optimiser.param_groups[0])
        return torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 / (1 + step))

    pc.fit(vae(), copies(), epochs=2, batch_size=128, lr=0.1, lr_schedule=schedule, progress=False)
    assert rates[0]["lr"] == pytest.approx(0.1 / 9)


def test_a_plateau_is_told_of_the_epochs():
    seen = []

    class Spy(torch.optim.lr_scheduler.ReduceLROnPlateau):
        def step(self, metrics, epoch=None):
            seen.append(float(metrics))
            super().step(metrics)

    history = pc.fit(
        vae(), copies(), epochs=3, lr_schedule=Spy, validation=copies(50), progress=False
    )
    assert seen == [-value for value in history["val_objective"]]


def test_a_kl_schedule_takes_a_step_after_each_training_step():
    warmup = pc.Warmup(0.0, 1.0, steps=16)
    history = pc.fit(
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
        pc.fit(module, copies(), epochs=1, batch_size=512, optimizer=sgd, progress=False, **options)
        return vector(module) - before

    free, clipped = change(), change(clip_norm=0.5)
    assert free.norm() > 1
    assert clipped.norm() == pytest.approx(0.5, rel=1e-4)
    assert torch.allclose(clipped / 0.5, free / free.norm(), atol=1e-4)


def test_loggers(tmp_path):
    from lightning_fabric.loggers import CSVLogger, TensorBoardLogger

    loggers = [CSVLogger(tmp_path, name="csv"), TensorBoardLogger(tmp_path, name="tensorboard")]
    history = pc.fit(vae(), copies(), epochs=2, logger=loggers, progress=False)
    with open(next((tmp_path / "csv").rglob("metrics.csv"))) as file:
        rows = list(csv.DictReader(file))
    assert [float(row["elbo"]) for row in rows] == pytest.approx(history["elbo"])
    assert [int(row["step"]) for row in rows] == [4, 8]
    assert [int(row["epoch"]) for row in rows] == [1, 2]
    assert list((tmp_path / "tensorboard").rglob("events.out.tfevents*"))


def test_several_callbacks():
    seen = []
    callbacks = [lambda epoch, *_: seen.append(("a", epoch)), lambda *_: seen.append("b")]
    pc.fit(vae(), copies(), epochs=2, callback=callbacks, progress=False)
    assert seen == [("a", 1), "b", ("a", 2), "b"]


def test_the_bar_shows_the_terms(capsys):
    pc.fit(vae(), copies(), epochs=2)
    err = capsys.readouterr().err
    assert "kl_z=" in err
    assert "elbo=" in err


def test_the_history_is_that_of_the_terms():
    """The averages over an epoch are those of the terms of its steps, weighted by their data."""
    elbo = pc.CorExELBO(num_particles=2, tc_weight=0.5)
    seen = []

    class Spy(torch.optim.SGD):
        def step(self, closure=None):
            seen.append(elbo.last_terms)
            return super().step(closure)

    history = pc.fit(
        vae(), copies(100), epochs=1, batch_size=64, elbo=elbo, progress=False,
        optimizer=lambda parameters: Spy(parameters, lr=1e-4),
    )  # fmt: skip
    assert [terms.num_data for terms in seen] == [64, 36]
    for name in ("elbo", "objective"):
        mean = sum(getattr(terms, name) * terms.num_data for terms in seen) / 100
        assert history[name][0] == pytest.approx(mean, rel=1e-5)
    kl = sum(float(terms.kl["z"].sum()) * terms.num_data for terms in seen) / 100
    assert history["kl_z"][0] == pytest.approx(kl, rel=1e-5)
    tc = sum(float(terms.total_correlation) * terms.num_data for terms in seen) / 100
    assert history["tc"][0] == pytest.approx(tc, rel=1e-5)
    assert without_time(history)[0].keys() == {"elbo", "objective", "kl_z", "tc"}


def test_the_history_has_what_a_discrete_latent_knows():
    stack = pc.StackedCorEx([(8, 8, 3), (3, 8, 2)], n_classes=2)
    elbo = pc.CorExELBO(mi_weight={"z2": 2.0})
    history = pc.fit(stack, copies(64), epochs=1, batch_size=64, elbo=elbo, progress=False)
    known = float(history.terms.mutual_information["z2"].sum())
    assert history["mi_z2"] == [pytest.approx(known, rel=1e-5)]
    assert history.terms.mi_weight == {"z2": 2.0}
    objective = history["elbo"][0] + 2 * known
    assert history["objective"][0] == pytest.approx(objective, rel=1e-5)
