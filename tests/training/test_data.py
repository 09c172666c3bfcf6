"""The order of the data, and data that cannot be trained on."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import pyro_corex as pc
from pyro_corex.training.data import Order
from tests.training.programs import (
    OPTIONS,
    Conditional,
    Empty,
    Named,
    TwoModalities,
    copies,
    labelled,
    run,
    vae,
    vector,
)


class Broken(Dataset):
    def __len__(self):
        return 512

    def __getitem__(self, i):
        raise OSError("the share is gone")


class Words(Dataset):
    def __len__(self):
        return 512

    def __getitem__(self, i):
        return "x"


DATA = {
    "no batch": (
        DataLoader(TensorDataset(copies(3)), batch_size=4, drop_last=True),
        ValueError,
        "The data are empty: there is no batch to train on",
    ),
    "no data": (TensorDataset(torch.zeros(0, 8)), ValueError, "TensorDataset has the length 0"),
    "empty stream": (Empty(), ValueError, "there is no batch to train on"),
    "loader that raises": (
        Broken(),
        RuntimeError,
        "could not be read after batch 0 of epoch 1: OSError: the share is gone",
    ),
    "no tensors": (Words(), RuntimeError, r"a mapping of tensors, but got list of str"),
}


@pytest.mark.parametrize("case", DATA)
def test_data_that_cannot_be_trained_on(case, tmp_path):
    data, kind, match = DATA[case]
    with pytest.raises(kind, match=match):
        run(tmp_path / "run", data=data)
    assert list(tmp_path.iterdir()) == []


def test_a_loader_that_raises_later(path):
    def fail(i):
        raise KeyError("gone")

    class Late(TensorDataset):
        def __getitem__(self, i):
            return fail(i) if i == 200 else super().__getitem__(i)

    loader = DataLoader(Late(copies()), batch_size=64)
    with pytest.raises(RuntimeError, match=r"after batch 3 of epoch 1: KeyError: 'gone'") as error:
        pc.fit(vae(), loader, **OPTIONS)
    assert isinstance(error.value.__cause__, KeyError)


# ---------------------------------------------------------------------- batches of several things


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("program", [Conditional, TwoModalities])
def test_all_of_a_batch_reaches_the_programs(program, devices):
    x, y = labelled()
    kinds = {
        "tuple": (x, y),
        "dict of arrays": {"y": y.numpy(), "x": x.numpy()},
        "data set of dicts": Named(x=x, y=y),
        "loader": DataLoader(TensorDataset(x, y), batch_size=64 // devices),
        "loader of dicts": DataLoader(Named(x=x, y=y), batch_size=64 // devices),
    }
    if devices == 2:
        kinds = {name: kinds[name] for name in ("tuple", "loader of dicts")}
    options = {**OPTIONS, "batch_size": 64 // devices, "devices": devices, "lr": 1e-2}
    for data in kinds.values():
        torch.manual_seed(0)
        module = program()
        history = pc.fit(module, data, validation=data, **options)
        assert history["elbo"][1] > history["elbo"][0]
        assert history["val_elbo"][1] > history["val_elbo"][0]
        assert set(history.terms.reconstruction) == {"x", *("y" * (program is TwoModalities))}
    if program is TwoModalities:
        assert pc.tc_bound(module, data).num_data == 512
    else:  # it is told y, so that it would bound TC(x) and what y tells of x
        assert "as the model is given y, here 'y'" in repr(pc.tc_bound(module, data))


def test_the_same_batches_in_memory_and_from_a_data_set():
    found = []
    x, y = labelled()
    for data in ((x, y), {"x": x, "y": y}, TensorDataset(x, y)):
        torch.manual_seed(0)
        module = Conditional()
        elbo = pc.CorExELBO(max_plate_nesting=2)
        history = pc.fit(module, data, elbo=elbo, **OPTIONS)
        found.append((vector(module), history["elbo"]))
    assert torch.equal(found[0][0], found[1][0])
    assert found[2][1] == pytest.approx(found[0][1], abs=0.2)  # a loader draws a number


class TakesX(Conditional):
    def model(self, x):
        super().model(x, torch.zeros(len(x), dtype=torch.long))

    def guide(self, x):
        super().guide(x, torch.zeros(len(x), dtype=torch.long))


@pytest.mark.parametrize("devices", [1, 2])
def test_a_program_that_takes_x_says_how_to_select(devices):
    data, options = labelled(), {**OPTIONS, "devices": devices}
    with pytest.raises(TypeError, match=r"model\(x\) does not take it.*transform=lambda x, \*rest"):
        pc.fit(TakesX(), data, **options)
    history = pc.fit(TakesX(), data, transform=lambda x, y: x, **options)
    assert len(history.epochs) == 2
    with pytest.raises(TypeError, match=r"transform=lambda \*\*batch: batch\['x'\]"):
        pc.fit(TakesX(), Named(x=data[0], y=data[1]), **options)


@pytest.mark.parametrize("devices", [1, 2])
def test_ready_made_programs_take_x_alone(devices):
    x, y = labelled()
    options = {**OPTIONS, "devices": devices}
    expected = vae()
    pc.fit(expected, x, **options)
    for data in ((x, y), {"y": y, "x": x.to(torch.uint8)}):
        module = vae()
        pc.fit(module, data, **options)
        assert torch.equal(vector(module), vector(expected))
    grey = {"image": 0.8 * x, "y": y}
    with pytest.raises(TypeError, match=r"takes x alone, but the batches have the names"):
        pc.fit(vae(), grey, **options)
    pc.fit(vae(), grey, transform=lambda **batch: torch.bernoulli(batch["image"]), **options)
    with pytest.raises(ValueError, match="BernoulliLikelihood is a likelihood for binary"):
        pc.fit(vae(), (0.8 * x, y), **options)


def test_tensors_of_different_lengths():
    with pytest.raises(ValueError, match=r"tensors of different lengths, \[4, 512\]"):
        pc.fit(Conditional(), (copies(), torch.zeros(4)), **OPTIONS)


# ---------------------------------------------------------------------- the order


def test_an_epoch_has_each_datum_once_and_another_order_each_time():
    order = Order(10, 4, seed=3)
    first, again, second = order.batches(1), order.batches(1), order.batches(2)
    assert [len(rows) for rows in first] == [4, 4, 2]
    assert sorted(torch.cat(first).tolist()) == list(range(10))
    assert torch.equal(torch.cat(first), torch.cat(again))
    assert not torch.equal(torch.cat(first), torch.cat(second))
    assert torch.cat(Order(10, 4, shuffle=False).batches(5)).tolist() == list(range(10))


def test_several_processes_share_each_step():
    alone = Order(11, 4).batches(1)
    parts = [Order(11, 2, rank=rank, world=2).batches(1) for rank in (0, 1)]
    for rows, *shares in zip(alone, *parts, strict=True):
        shared = torch.cat(shares)
        assert torch.equal(shared, rows[: len(shared)])
        assert len(rows) - len(shared) < 2
    assert [len(rows) for rows in Order(11, 2, world=2, drop_last=True).batches(1)] == [2, 2]


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"num_data": 9, "batch_size": 4}, [4, 5]),
        ({"num_data": 10, "batch_size": 4}, [4, 4, 2]),
        ({"num_data": 9, "batch_size": 4, "drop_last": True}, [4, 4]),
        ({"num_data": 3, "batch_size": 4, "drop_last": True}, []),
        ({"num_data": 3, "batch_size": 1}, [1, 1, 1]),
        ({"num_data": 1, "batch_size": 4}, [1]),
        ({"num_data": 10, "batch_size": 4, "world": 2}, [5]),
        ({"num_data": 11, "batch_size": 4, "world": 2}, [5]),
        ({"num_data": 12, "batch_size": 4, "world": 2}, [4, 2]),
        ({"num_data": 9, "batch_size": 4, "world": 2}, [4]),
    ],
)
def test_a_last_batch_of_one_datum_is_joined_to_the_one_before(options, sizes):
    order = Order(**options, least=2)
    assert [len(rows) for rows in order.batches(1)] == sizes
    order.at = (1, 1)
    assert [len(rows) for rows in order] == sizes[1:]
    if order.world == 1 and not order.drop_last:
        found = torch.cat(order.batches(1))
        assert sorted(found.tolist()) == list(range(order.num_data))


class Normalised(nn.Module):
    """A program of one's own, with batch normalisation."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))
        self.decoder = nn.Linear(2, 8)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def normalised_vae():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))
    return pc.CorExVAE(encoder, nn.Linear(2, 8), 2)


@pytest.mark.parametrize("make", [Normalised, normalised_vae])
def test_batch_normalisation_and_one_datum_too_many(make, tmp_path):
    """Trained on in memory and from a data set, and resumed; a loader is told the cure."""
    x, options = copies(65), {"batch_size": 32, "lr": 1e-2, "progress": False}
    whole = make()
    history = pc.fit(whole, x, epochs=3, **options)
    assert history.steps == 6
    assert torch.equal(history.terms.kl["z"].isfinite(), torch.ones(2, dtype=torch.bool))
    assert pc.fit(make(), TensorDataset(x), epochs=1, **options).steps == 2
    path = tmp_path / "run"
    with pytest.raises(RuntimeError, match="stopped"):
        pc.fit(
            make(), x, epochs=3, callback=stop, checkpoint=pc.Checkpoint(path, every_steps=3),
            **options,
        )  # fmt: skip
    resumed = make()
    pc.fit(resumed, x, epochs=3, checkpoint=pc.Checkpoint(path, resume=True), **options)
    assert torch.equal(vector(resumed), vector(whole))
    pc.fit(make(), x, epochs=1, devices=2, **{**options, "batch_size": 16})
    loader = DataLoader(TensorDataset(x), batch_size=32)
    with pytest.raises(ValueError, match=r"batch normalisation.*drop_last=True"):
        pc.fit(make(), loader, epochs=1, **options)


def stop(number, *_):
    if number == 2:
        raise RuntimeError("stopped")
