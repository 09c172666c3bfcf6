"""Batches, and the one reader of data."""

import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pyro_corex.batches import (
    Batch,
    argument,
    for_program,
    in_memory,
    place_of,
    prepare,
    programs_of,
    read_batches,
    together,
)

X = torch.arange(20.0).reshape(10, 2)
Y = torch.arange(10) % 3


class Named(Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, i):
        return {"x": X[i], "y": int(Y[i])}


class Stream(IterableDataset):
    def __iter__(self):
        return iter(X)


class Program(nn.Module):
    """Takes what it is told to."""

    def __init__(self, model, alone=False):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        self.model = self.guide = model
        self.takes_x_alone = alone


def joined(data, batch_size=4, module=None):
    """The batches put together again, as positions and names."""
    batches = list(read_batches(data, batch_size, module))
    args = [torch.cat(parts) for parts in zip(*(b.args for b in batches), strict=True)]
    return args, {n: torch.cat([b.kwargs[n] for b in batches]) for n in batches[0].kwargs}


# ---------------------------------------------------------------------- reading


ONE = {
    "tensor": X,
    "array": X.numpy(),
    "data set": TensorDataset(X),
    "stream": Stream(),
    "loader": DataLoader(TensorDataset(X), batch_size=3),
    "batches": list(X.split(3)),
    "batches in lists": [[part] for part in X.split(3)],
    "a generator": (part for part in X.split(3)),
}
TWO = {
    "tuple": (X, Y),
    "arrays": (X.numpy(), Y.numpy()),
    "data set": TensorDataset(X, Y),
    "loader": DataLoader(TensorDataset(X, Y), batch_size=3),
    "batches": list(zip(X.split(3), Y.split(3), strict=True)),
}
NAMED = {
    "dict": {"x": X, "y": Y},
    "arrays": {"x": X.numpy(), "y": Y.numpy()},
    "data set": Named(),
    "loader": DataLoader(Named(), batch_size=3),
    "batches": [{"x": X[:5], "y": Y[:5]}, {"x": X[5:], "y": Y[5:]}],
}


@pytest.mark.parametrize("kind", ONE)
def test_one_thing(kind):
    args, kwargs = joined(ONE[kind])
    assert torch.equal(args[0], X)
    assert len(args) == 1
    assert kwargs == {}


@pytest.mark.parametrize("kind", TWO)
def test_a_tuple_is_several_arguments(kind):
    args, kwargs = joined(TWO[kind])
    assert torch.equal(args[0], X)
    assert torch.equal(args[1], Y)
    assert kwargs == {}


@pytest.mark.parametrize("kind", NAMED)
def test_a_mapping_is_keyword_arguments(kind):
    args, kwargs = joined(NAMED[kind])
    assert args == []
    assert torch.equal(kwargs["x"], X)
    assert torch.equal(kwargs["y"], Y)


def test_the_size_of_a_batch():
    assert [len(b) for b in read_batches((X, Y), 4)] == [4, 4, 2]
    assert [len(b) for b in read_batches(DataLoader(Named(), batch_size=7), 4)] == [7, 3]
    assert list(read_batches(X[:0], 4)) == []


@pytest.mark.parametrize(
    ("data", "batch_size", "error", "message"),
    [
        (X, 0, ValueError, "batch_size must be an integer >= 1, but got 0"),
        (X, True, ValueError, "batch_size must be an integer >= 1, but got True"),
        (3, 4, TypeError, "data must be a tensor, an array, a tuple or a dict .*, but got int"),
        (torch.tensor(1.0), 4, ValueError, "one row per datum, but hold a scalar"),
        ((X, Y[:4]), 4, ValueError, r"tensors of different lengths, \[4, 10\]"),
        ({"x": X, "y": Y[:4]}, 4, ValueError, r"Batch\(x: a tensor \(10, 2\), y: a tensor"),
        (["a"], 4, TypeError, "A batch must be a tensor, or a tuple .* of tensors, but got str"),
        ([("a", 1)], 4, TypeError, "but got tuple of int and str"),
        ([[]], 4, TypeError, "but got list of nothing"),
        ({}, 4, TypeError, "but got dict of nothing"),
    ],
)
def test_what_cannot_be_read(data, batch_size, error, message):
    with pytest.raises(error, match=message):
        list(read_batches(data, batch_size))


def test_data_in_memory_are_one_large_batch():
    assert len(in_memory((X.numpy(), Y))) == 10
    assert in_memory({"x": X}).kwargs["x"] is X
    for data in (TensorDataset(X), DataLoader(TensorDataset(X)), [X], ((X, Y), (X, Y)), "x"):
        assert in_memory(data) is None


# ---------------------------------------------------------------------- place and dtype


def test_one_tensor_takes_the_dtype_of_the_program():
    module = Program(lambda x: None)
    assert place_of(module) == (torch.device("cpu"), torch.float64)
    for kind in (np.float32, np.uint8, bool):
        args, _ = joined(X.numpy().astype(kind), module=module)
        assert args[0].dtype == torch.float64


def test_of_several_things_labels_stay_what_they_are():
    module = Program(lambda x, y, mask: None)
    args, _ = joined((X, Y, X > 3), module=module)
    assert [value.dtype for value in args] == [torch.float64, torch.int64, torch.bool]
    _, kwargs = joined({"x": X, "y": Y}, module=Program(lambda x, y: None))
    assert (kwargs["x"].dtype, kwargs["y"].dtype) == (torch.float64, torch.int64)


def test_x_alone_takes_the_dtype_of_the_program_whatever_comes_with_it():
    args, _ = joined((X.to(torch.uint8), Y), module=Program(lambda x: None, alone=True))
    assert [value.dtype for value in args] == [torch.float64]


def test_a_program_without_parameters_leaves_floats_alone():
    programs = SimpleNamespace(model=lambda x: None, guide=lambda x: None)
    assert place_of(programs) == (None, None)
    assert joined(X.double(), module=programs)[0][0].dtype == torch.float64
    assert joined(Y, module=programs)[0][0].dtype == torch.float32
    assert joined(Y)[0][0].dtype == torch.int64  # without a program, as they are


def test_what_is_no_tensor_is_passed_on():
    batch = Batch.of((X, "a word", None))
    moved = batch.to(torch.device("meta"), None)
    assert moved.args[0].device.type == "meta"
    assert moved.args[1:] == ("a word", None)
    assert repr(batch) == "Batch(a tensor (10, 2), str, NoneType)"
    assert batch.call(lambda x, word, nothing: (len(x), word)) == (10, "a word")


# ---------------------------------------------------------------------- programs


def test_a_program_is_given_all_of_a_batch():
    module = Program(lambda x, y=None: None)
    for data in ((X, Y), {"x": X, "y": Y}, (X,)):
        batch = Batch.of(data)
        assert for_program(batch, module) is batch
    everything = Program(lambda *args, **kwargs: None)
    assert for_program(Batch.of((X, Y, Y)), everything).args[2] is Y


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X, Y), r"is Batch\(a tensor \(10, 2\), a tensor \(10,\)\), but guide\(x\) does not"),
        ((X, Y), r"select with transform=lambda x, \*rest: x"),
        ({"x": X, "y": Y}, r"got an unexpected .*'y'.*transform=lambda \*\*batch: batch\['x'\]"),
        ({"z": X}, "missing a required argument: 'x'"),
    ],
)
def test_a_program_that_does_not_take_it_says_how_to_select(data, message):
    with pytest.raises(TypeError, match=message):
        for_program(Batch.of(data), Program(lambda x: None), "guide")


def test_ready_made_programs_take_x_alone():
    module = Program(lambda x: None, alone=True)
    for data in (X, (X, Y), [X, Y], {"y": Y, "x": X}, {"image": X}):
        batch = for_program(Batch.of(data), module)
        assert batch.args[0] is X
        assert (len(batch.args), batch.kwargs) == (1, {})
    with pytest.raises(TypeError, match=r"takes x alone, but the batches have .* none of which is"):
        for_program(Batch.of({"image": X, "y": Y}), module)


def test_a_transform_is_called_with_what_the_program_would_be_given():
    seen = []

    def transform(*args, **kwargs):
        seen.append((len(args), sorted(kwargs)))
        return X.double()

    for data in ((X, Y), {"x": X, "y": Y}):
        assert (
            prepare(Program(lambda x: None), transform)(Batch.of(data)).args[0].dtype
            == torch.float64
        )
        alone = Program(lambda x: None, alone=True)
        assert prepare(alone, transform)(Batch.of(data)).args[0].dtype == torch.float64
    assert seen == [(2, []), (1, []), (0, ["x", "y"]), (1, [])]


def test_a_transform_may_give_a_tuple_or_a_dict():
    module = Program(lambda x, y: None)
    assert prepare(module, lambda x: (x, x.sum(1)))(Batch.of(X)).args[1].shape == (10,)
    assert set(prepare(module, lambda x: {"x": x, "y": Y})(Batch.of(X)).kwargs) == {"x", "y"}
    select = prepare(Program(lambda x: None, alone=True), lambda **batch: batch["image"])
    assert select(Batch.of({"image": X, "y": Y})).args[0].dtype == torch.float64
    with pytest.raises(TypeError, match=r"transform\(x\) does not take it"):
        prepare(module, lambda x: x)(Batch.of((X, Y)))
    with pytest.raises(TypeError, match=r"A batch must be a tensor.*but got str"):
        prepare(module, lambda x: "x")(Batch.of(X))


def test_a_module_that_is_no_program():
    with pytest.raises(TypeError, match=r"Linear must have the methods .model\(x\) and .guide"):
        programs_of(nn.Linear(2, 2))


# ---------------------------------------------------------------------- tensors and arrays

N2 = X.numpy()
READ_ONLY = N2.copy()
READ_ONLY.flags.writeable = False
with torch.inference_mode():
    INFERRED = X.clone()
SAME = {
    "another byte order": N2.astype(">f4"),
    "a negative stride": N2[::-1].copy()[::-1],
    "read-only": READ_ONLY,
    "more digits than torch knows": N2.astype(np.longdouble),
    "unsigned": N2.astype(np.uint16),
    "unsigned, of torch": X.to(torch.uint32),
    "objects that are numbers": N2.astype(object),
    "a mask that masks nothing": np.ma.masked_array(N2),
    "a table": pd.DataFrame(N2),
    "rows of numbers": N2.tolist(),
    "with a graph": X.clone().requires_grad_() * 1,
    "made for inference": INFERRED,
}


@pytest.mark.parametrize("kind", SAME)
def test_arrays_of_every_kind_of_number(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = joined(SAME[kind])[0][0]
        (moved,) = joined(SAME[kind], module=Program(lambda x: None))[0]
    assert torch.equal(found.float(), X)
    assert not found.requires_grad
    assert found.dtype in (torch.float32, torch.float64, torch.int64)
    assert (moved.dtype, moved.is_inference()) == (torch.float64, False)


def test_a_file_is_not_read_into_memory(tmp_path):
    N2.tofile(tmp_path / "x")
    mapped = np.memmap(tmp_path / "x", np.float32, "r", shape=N2.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = in_memory(mapped)
    assert whole.args[0].data_ptr() == mapped.ctypes.data


def test_what_a_method_is_given():
    module = Program(lambda x: None)
    for value in (N2, N2.astype(">f2"), X.long(), X.bool(), N2.tolist(), pd.DataFrame(N2)):
        found = argument(value, module)
        assert (found.dtype, found.shape) == (torch.float64, X.shape)
    own = X.double().requires_grad_()
    assert argument(own, module) is own  # one may ask for its gradient
    with pytest.raises(ValueError, match=r"z must have the shape \(B, \.\.\.\).*z\[None\]"):
        argument(X[0], module, "z")
    with pytest.raises(TypeError, match="x must be a tensor or an array, but got str"):
        argument("x", module)


def test_programs_that_are_methods_of_a_module_have_its_place():
    module = Program(lambda x: None)

    class Holder:
        def __init__(self):
            self.network = module

        def model(self, x):
            pass

        guide = model

    assert place_of(Holder())[1] == torch.float64
    bound = Methods()
    assert place_of(SimpleNamespace(model=bound.model, guide=bound.guide))[1] == torch.float64


class Methods(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def model(self, x):
        pass

    guide = model


def test_batches_of_one_tensor_are_put_together_without_a_copy():
    x = torch.arange(24.0).reshape(8, 3)
    for whole in (x, x[1:7], x.T, x[:, 1:], x[0, :, None].expand(3, 4)):
        joined = together(whole.split(2))
        assert torch.equal(joined, whole)
        assert joined.data_ptr() == whole.data_ptr()
    for parts in (
        [x[:2], x[3:]],
        [x[4:], x[:4]],
        [x[:2], x[2:].clone()],
        [x[:1].expand(2, 3), x[1:2].expand(2, 3)],
    ):
        joined = together(parts)
        assert torch.equal(joined, torch.cat(parts))
        assert joined.data_ptr() != x.data_ptr()
