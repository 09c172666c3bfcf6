import pytest

from pyro_corex.datasets import bundled_digits, mnist


def test_bundled_digits():
    x, labels, side = bundled_digits()
    assert x.shape == (1797, side * side)
    assert 0.0 <= float(x.min()) < float(x.max()) <= 1.0
    assert labels.unique().tolist() == list(range(10))


def test_mnist_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="give the folder that holds MNIST/raw"):
        mnist(tmp_path)
