"""The order of the data, and data that cannot be trained on."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

import pyro_corex as pc
from tests.training.programs import OPTIONS, Empty, copies, run, vae


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
    "no tensors": (Words(), RuntimeError, r"a mapping of tensors, but got tuple of \(str,"),
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
