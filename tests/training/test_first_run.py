"""Parameters that are there only after a first run are trained, kept and resumed."""

import multiprocessing
import os
import signal
import subprocess
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.testing import assert_close

import pyro_corex as pc
from tests.training.programs import At

X = torch.linspace(-1, 1, 60).reshape(20, 3) + torch.tensor([3.0, -2.0, 1.0])


class WithAutoguide(nn.Module):
    """A mean with a posterior by ``AutoNormal``, and noise that is a ``pyro.param``."""

    def __init__(self):
        super().__init__()
        self.autoguide = AutoNormal(self.model)

    def model(self, x):
        scale = pyro.param("noise", torch.tensor(0.7), constraint=dist.constraints.positive)
        m = pyro.sample("m", dist.Normal(torch.zeros(3), 10.0).to_event(1))
        with pyro.plate("data", len(X), subsample=x):
            pyro.sample("x", dist.Normal(m, scale).to_event(1), obs=x)

    def guide(self, x):
        return self.autoguide(x)


class Lazy(nn.Module):
    """Networks that find their widths, with batch normalisation."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.LazyLinear(4))
        self.decoder = nn.LazyLinear(3)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            return pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class WithLabels(Lazy):
    """Labels reach both programs; each has a mean that is a ``pyro.param``."""

    def model(self, x, y):
        means = pyro.param("means", torch.zeros(2, 3))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            loc = self.decoder(z) + means[y]
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(self, x, y):
        return super().guide(x)


DATA = {WithAutoguide: X, Lazy: X, WithLabels: (X, torch.arange(20) % 2)}
OPTIONS = {"batch_size": 10, "lr": 0.05, "progress": False, "device": "cpu"}


def made(kind):
    pyro.clear_param_store()
    return kind()


def parameters(module):
    """All of them: the module's own, and the store's."""
    found = dict(module.named_parameters())
    found |= {n: v for n, v in pyro.get_param_store().named_parameters() if n in ("noise", "means")}
    return {name: value.detach().clone() for name, value in found.items()}


def trained(kind, epochs=4, **options):
    module = made(kind)
    pc.fit(module, DATA[kind], epochs=epochs, **OPTIONS, **options)
    return parameters(module)


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name


def test_fit_takes_the_steps_of_svi():
    """On all data in their order, an AutoNormal and a constrained parameter end alike."""
    ends = []
    for how in ("fit", "svi"):
        module = made(WithAutoguide)
        pyro.set_rng_seed(7)
        with torch.no_grad():
            module.guide(X), module.model(X)  # both start from the same parameters
        if how == "fit":
            pc.fit(module, X, epochs=5, **{**OPTIONS, "batch_size": 20}, seed=3)
        else:
            svi = SVI(
                module.model, module.guide, pyro.optim.Adam({"lr": 0.05}),
                pc.CorExELBO(max_plate_nesting=1),
            )  # fmt: skip
            torch.manual_seed(3)
            for _ in range(5):
                svi.step(X)
        ends.append(parameters(module))
    assert len(ends[0]) == 3
    for name, value in ends[1].items():
        assert_close(ends[0][name], value)


@pytest.mark.parametrize("kind", DATA)
def test_all_parameters_are_trained(kind):
    start, end = trained(kind, epochs=1), trained(kind)
    assert start.keys() == end.keys()
    assert len(end) == {WithAutoguide: 3, Lazy: 8, WithLabels: 9}[kind]
    # what batch normalisation takes off again has no gradient
    assert [name for name in end if torch.equal(start[name], end[name])] in ([], ["encoder.0.bias"])


@pytest.mark.parametrize("kind", DATA)
def test_a_run_that_was_interrupted_goes_on(kind, tmp_path):
    wanted = trained(kind)
    path = tmp_path / "run.ckpt"

    def stop(number, *_):
        if number == 2:
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        trained(kind, checkpoint=path, callback=stop)
    same(trained(kind, checkpoint=pc.Checkpoint(path, resume=True)), wanted)


ELSEWHERE = """
import sys
from tests.training.test_first_run import *

for kind in DATA:
    folder = f"{sys.argv[1]}/{kind.__name__}"
    module = made(kind)
    pc.fit(module, DATA[kind], epochs=1, **OPTIONS)
    module.load_state_dict(torch.load(folder + "/state"))
    pyro.get_param_store().load(folder + "/store")
    torch.save(parameters(module), folder + "/found")
"""


def test_killed_resumed_and_loaded_elsewhere(tmp_path):
    """Killed in the second epoch, gone on with, saved, and loaded by a new process."""
    wanted = {kind: trained(kind) for kind in DATA}
    for kind in DATA:
        folder = tmp_path / kind.__name__
        folder.mkdir()
        path = folder / "run.ckpt"

        def run(kind=kind, path=path):
            def kill(number, *_):
                if number == 2:
                    os.kill(os.getpid(), signal.SIGKILL)

            trained(kind, checkpoint=path, callback=kill)

        child = multiprocessing.get_context("fork").Process(target=run)
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        module = made(kind)
        how = pc.Checkpoint(path, resume=True)
        pc.fit(module, DATA[kind], epochs=4, checkpoint=how, **OPTIONS)
        same(parameters(module), wanted[kind])
        pyro.get_param_store().save(folder / "store")
        torch.save(module.state_dict(), folder / "state")
    subprocess.run([sys.executable, "-c", ELSEWHERE, str(tmp_path)], check=True)
    for kind in DATA:
        same(torch.load(tmp_path / kind.__name__ / "found"), wanted[kind])


def test_two_processes_train_them():
    """What forked processes have trained comes back, into the store, too."""
    start, end = trained(WithAutoguide, epochs=1), trained(WithAutoguide, devices=2)
    assert all(not torch.equal(start[name], end[name]) for name in end)


def test_the_first_run_leaves_nothing_but_parameters():
    """Neither random states nor running statistics, so that a second fit is as the first."""
    module = made(Lazy)
    pc.fit(module, X, epochs=1, **OPTIONS)
    assert int(module.encoder[1].num_batches_tracked) == 2
    before = torch.get_rng_state()
    pc.fit(module, X, epochs=1, **OPTIONS)
    assert torch.equal(torch.get_rng_state(), before)
    assert int(module.encoder[1].num_batches_tracked) == 4


def test_a_checkpoint_of_other_parameters_is_refused(tmp_path):
    path = tmp_path / "run.ckpt"
    trained(WithAutoguide, epochs=1, checkpoint=path)

    class Other(WithAutoguide):
        def model(self, x):
            pyro.param("more", torch.zeros(2))
            return super().model(x)

    Other.__name__ = "WithAutoguide"
    pyro.clear_param_store()
    with pytest.raises(pc.CheckpointError, match=r"Pyro's store was .*'noise'.* and is .*'more'"):
        pc.fit(Other(), X, epochs=2, checkpoint=pc.Checkpoint(path, resume=True), **OPTIONS)


class Registered(nn.Module):
    """Networks that are registered by ``pyro.module``."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = nn.Linear(3, 4), nn.Linear(2, 3)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        return Lazy.guide(self, x)


def test_what_pyro_module_has_left_of_another_module_is_not_trained(tmp_path):
    """A second module in one process goes on with the run of the first, whose values stay."""
    wanted = Registered()
    pc.fit(wanted, X, epochs=2, **OPTIONS)
    first = Registered()
    path = tmp_path / "run.ckpt"
    pc.fit(first, X, epochs=1, checkpoint=path, **OPTIONS)
    left = first.decoder.weight.detach().clone()
    second = Registered()
    pc.fit(second, X, epochs=2, checkpoint=pc.Checkpoint(path, resume=True), **OPTIONS)
    assert torch.equal(second.decoder.weight, wanted.decoder.weight)
    assert torch.equal(first.decoder.weight, left)


def test_parameters_that_come_later_are_named():
    class Branching(WithAutoguide):
        later = False

        def model(self, x):
            if self.later:
                pyro.param("late", torch.zeros(2))
            return super().model(x)

    def turn(number, module, _):
        module.later = True

    module = made(Branching)
    with pytest.warns(UserWarning, match=r"\['late'\] came later and are not trained"):
        pc.fit(module, X, epochs=3, callback=turn, **OPTIONS)


def test_parameters_of_a_ready_made_program_are_no_later_ones():
    """A penalty on the top of a stack asks for the order of its layers, with runs of its own."""
    stack = pc.StackedCorEx([(4, 3), (3, 2)], n_classes=None, likelihood="normal")
    elbo = pc.CorExELBO(tc_weight=1.0)
    pc.fit(stack, torch.randn(40, 4), epochs=1, elbo=elbo, **OPTIONS)  # warnings are errors
    assert not len(pyro.get_param_store())


def test_nor_where_the_objective_looks_for_plates_by_itself():
    pyro.clear_param_store()
    vae = pc.CorExVAE(nn.Linear(3, 4), nn.Linear(2, 3), 2, likelihood="normal")
    elbo = pc.CorExELBO(num_particles=2, vectorize_particles=True)
    pc.fit(vae, X, epochs=1, elbo=elbo, **OPTIONS)  # a warning would be an error
    assert "encoder.weight" in pyro.get_param_store()


def test_data_that_cannot_be_read_are_met_in_training():
    class Broken(torch.utils.data.Dataset):
        def __len__(self):
            return 20

        def __getitem__(self, index):
            raise OSError("no such disk")

    with pytest.raises(RuntimeError, match="could not be read after batch 0 of epoch 1"):
        pc.fit(made(Lazy), Broken(), epochs=1, **OPTIONS)


def test_ready_made_programs_are_not_run_before():
    """Their parameters are there, and a transform with a state is called for training alone."""
    transform = At(1, lambda x: x)
    vae = pc.CorExVAE(nn.Linear(3, 4), nn.Linear(2, 3), 2, likelihood="normal")
    pc.fit(vae, X, epochs=1, transform=transform, **OPTIONS)
    assert transform.taken == 2


@pytest.mark.parametrize("name", ["encoder.weight", "decoder.bias"])
def test_what_is_in_the_store_under_a_program_s_name(name, tmp_path):
    """It is taken as ``SVI`` takes it, but a checkpoint has the last word."""

    def made():
        torch.manual_seed(0)
        return pc.CorExVAE(nn.Linear(3, 4), nn.Linear(2, 3), 2, likelihood="normal")

    options, path = {**OPTIONS, "batch_size": 20, "lr": 1e-3}, tmp_path / "run"
    pyro.clear_param_store()
    wanted = made()
    pc.fit(wanted, X, epochs=2, **options)
    pc.fit(made(), X, epochs=1, checkpoint=path, **options)
    shape = wanted.get_parameter(name).shape
    pyro.clear_param_store()
    pyro.param(name, torch.full(shape, 9.0))
    resumed = made()
    pc.fit(resumed, X, epochs=2, checkpoint=pc.Checkpoint(path, resume=True), **options)
    assert torch.equal(resumed.get_parameter(name), wanted.get_parameter(name))
    pyro.clear_param_store()
    pyro.param(name, torch.full(shape, 9.0))
    taken = made()
    pc.fit(taken, X, epochs=1, **options)
    assert_close(taken.get_parameter(name), torch.full(shape, 9.0), atol=2e-3, rtol=0)
    pyro.clear_param_store()
    pyro.param(name, torch.zeros(7))
    with pytest.raises(ValueError, match=rf"'{name}' with the program's shape .* but got \(7,\)"):
        pc.fit(made(), X, epochs=1, **options)
    pyro.clear_param_store()


def test_a_file_has_the_parameters_in_the_store(tmp_path):
    module = made(WithAutoguide)
    pc.fit(module, X, epochs=2, checkpoint=tmp_path / "run", **OPTIONS)
    pc.save(module, tmp_path / "saved")
    wanted = parameters(module)
    for name in ("run", "saved"):
        other = made(WithAutoguide)
        with torch.no_grad():
            other.guide(X), other.model(X)  # as in a new process
        assert not torch.equal(parameters(other)["noise"], wanted["noise"])
        pc.load(tmp_path / name, other)
        same(parameters(other), wanted)
        pyro.clear_param_store()
        with torch.no_grad():
            other.autoguide.locs.m.zero_()
        with pytest.raises(pc.CheckpointError, match="'noise' is not there yet"):
            pc.load(tmp_path / name, other)
        assert not other.autoguide.locs.m.any()  # as it was
        pyro.param("noise", torch.ones(2))
        with pytest.raises(pc.CheckpointError, match=r"'noise' .* has the shape \(2,\), but \(\)"):
            pc.load(tmp_path / name, other)


def test_parameters_of_which_fit_knows_nothing_are_warned_of(tmp_path):
    module = made(WithAutoguide)
    with torch.no_grad():
        module.guide(X), module.model(X)
    with pytest.warns(UserWarning, match=r"\['noise'\], which are not in the module"):
        pc.save(module, tmp_path / "saved")
