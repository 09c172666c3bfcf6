"""The loop: what is not finite, validation, early stopping, callbacks, when it writes."""

import csv

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import pyro_corex as pc
from pyro_corex.regularizers import TotalCorrelation
from pyro_corex.training import checkpoint
from tests.training.programs import OPTIONS, At, Empty, copies, fit, nan, run, vae, vector


def test_nan_in_the_data(path):
    data = copies()
    data[3, 2] = float("nan")
    with pytest.raises(ValueError, match="The data hold 1 NaN"):
        run(path, data=data, resume=True)


def test_nan_in_a_loader(path):
    data = copies()
    data[300, 2] = float("nan")
    loader = DataLoader(TensorDataset(data), batch_size=64)
    module = vae()
    with pytest.raises(
        ValueError,
        match=r"step 5 \(batch 5 of epoch 1\): the KL of site 'z' is NaN; the reconstruction of",
    ):
        fit(module, loader, **OPTIONS)
    assert vector(module).isfinite().all()  # the step was not taken


def test_nan_in_the_middle_of_training(path):
    module = vae()
    with pytest.raises(
        ValueError,
        match=r"step 12 \(batch 4 of epoch 2\).*The last good state is in .*run: go on from there",
    ):
        run(path, module, resume=True, transform=At(4, nan))
    assert vector(module).isfinite().all()


def test_a_loss_that_becomes_infinite(path):
    with pytest.raises(ValueError, match=r"step 10 .*the KL of site 'z' is infinite"):
        run(path, resume=True, transform=At(2, lambda x: x + 3e38))


def test_parameters_that_become_nan_are_not_saved(path):
    """The loss is finite, but the gradient is not."""
    module = vae()
    hook = module.decoder[0].weight.register_hook(lambda g: g * float("nan"))
    with pytest.raises(
        ValueError, match=r"parameter 'decoder.0.weight' is not finite after step 9"
    ):
        run(path, module, resume=True, every_steps=1)
    hook.remove()


@pytest.mark.parametrize(
    ("validation", "match"),
    [
        (torch.zeros(0, 8), r"The validation data are empty: their shape is \(0, 8\)"),
        (Empty(), "The validation data are empty: there is no batch to evaluate on"),
        (copies(50) * float("nan"), "validation: The data hold 400 NaN"),
        (
            TensorDataset(copies(50) * float("nan")),
            "loss on the validation data is not finite after epoch 2: the",
        ),
    ],
)
def test_validation_data(path, validation, match):
    with pytest.raises(ValueError, match=match):
        run(path, resume=True, validation=validation)


def test_validation_is_evaluated_with_the_same_noise_and_changes_nothing():
    plain, watched = vae(), vae()
    fit(plain, copies(), epochs=3, progress=False)
    history = fit(watched, copies(), epochs=3, validation=copies(100), progress=False)
    assert torch.equal(vector(plain), vector(watched))
    assert set(history.epochs[0]) >= {"val_elbo", "val_objective", "val_kl_z"}
    again = fit(watched, copies(), epochs=1, lr=1e-12, validation=copies(100), progress=False)
    assert again["val_elbo"][0] == pytest.approx(history["val_elbo"][-1], abs=1e-6)
    assert history.best_epoch == 1 + max(range(3), key=history["val_objective"].__getitem__)


def test_patience_stops_and_leaves_the_best():
    """Seen once, the noise of eight data is learned by heart, and the bound on others falls."""
    module = vae((8, 64, 2))
    few, others = torch.bernoulli(torch.full((2, 64, 8), 0.5), generator=torch.Generator()).unbind()
    states = []
    history = fit(
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
    history = fit(
        module, data[0], epochs=40, lr=1e-2, validation=data[1], progress=False,
        callback=lambda *_: last.append(vector(module).clone()),
    )  # fmt: skip
    assert not history.stopped_early
    assert len(history.epochs) == 40
    assert torch.equal(vector(module), last[-1])


def test_loggers(tmp_path):
    from lightning_fabric.loggers import CSVLogger, TensorBoardLogger

    loggers = [CSVLogger(tmp_path, name="csv"), TensorBoardLogger(tmp_path, name="tensorboard")]
    history = fit(vae(), copies(), epochs=2, callback=loggers, progress=False)
    with open(next((tmp_path / "csv").rglob("metrics.csv"))) as file:
        rows = list(csv.DictReader(file))
    assert [float(row["elbo"]) for row in rows] == pytest.approx(history["elbo"])
    assert [int(row["step"]) for row in rows] == [4, 8]
    assert [int(row["epoch"]) for row in rows] == [1, 2]
    assert list((tmp_path / "tensorboard").rglob("events.out.tfevents*"))


def test_several_callbacks():
    seen = []
    callbacks = [lambda epoch, *_: seen.append(("a", epoch)), lambda *_: seen.append("b")]
    fit(vae(), copies(), epochs=2, callback=callbacks, progress=False)
    assert seen == [("a", 1), "b", ("a", 2), "b"]


def test_the_bar_shows_the_terms(capsys):
    fit(vae(), copies(), epochs=2)
    err = capsys.readouterr().err
    assert "kl_z=" in err
    assert "elbo=" in err


def test_a_callback_that_raises(path):
    def callback(epoch, module, record):
        raise ZeroDivisionError("mine")

    module = vae()
    with pytest.raises(ZeroDivisionError, match="mine"):
        run(path, module, resume=True, callback=callback)
    assert not module.training


def test_how_often_checkpoints_are_written(tmp_path, monkeypatch):
    written = []
    write = checkpoint.write

    def note(path, content):
        written.append((content["place"]["epoch"], content["place"]["batch"]))
        write(path, content)

    monkeypatch.setattr(checkpoint, "write", note)

    def places(**every):
        written.clear()
        path = tmp_path / str(every)
        fit(vae(), copies(256), epochs=3, batch_size=64, progress=False, checkpoint=path, **every)
        return list(written)

    assert places() == [(2, 0), (3, 0), (4, 0)]
    assert places(every=2) == [(3, 0), (4, 0)]
    assert places(every=None) == [(4, 0)]
    assert places(every=None, every_steps=5) == [(2, 1), (3, 2), (4, 0)]


def test_a_callback_may_leave_the_module_in_evaluation_mode():
    modes = []

    def callback(epoch, module, record):
        module.eval()

    def transform(x):
        modes.append(module.training)
        return x

    module = vae()
    history = fit(module, copies(), callback=callback, transform=transform, **OPTIONS)
    assert history.steps == len(modes) == 16
    assert all(modes)
    assert not module.training


def test_a_weight_that_a_callback_moves_does_not_make_it_another_run(tmp_path):
    def train(epochs, **options):
        penalty = TotalCorrelation(1.0)
        module, elbo = vae(), pc.CorExELBO(regularizers=[penalty])

        def callback(epoch, *_):
            penalty.weight = 1.0 / (1 + epoch)

        callback(0)
        fit(
            module,
            copies(),
            **{**OPTIONS, "epochs": epochs},
            elbo=elbo,
            callback=callback,
            **options,
        )
        return vector(module)

    train(2, checkpoint=tmp_path / "run")
    assert train(3, checkpoint=tmp_path / "run", resume=True).isfinite().all()
