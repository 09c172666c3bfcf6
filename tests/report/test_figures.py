import pytest
import torch

from pyro_corex.report import image_grid, latent_bars


def test_image_grid_places_the_images():
    images = torch.zeros(2, 3, 4, 5)
    images[1, 2] = 1.0
    ax = image_grid(images, row_labels=["a", "b"], column_labels=["x", "y", "z"], title="t")
    picture = ax.images[0].get_array()
    assert picture.shape == (2 * 6, 3 * 7)
    assert (picture[7:11, 15:20] == 1.0).all()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]


def test_image_grid_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"\(rows, columns, height, width\), but got \(2, 3\)"):
        image_grid(torch.zeros(2, 3))


def test_latent_bars_ranks_and_marks_the_anchors():
    ax = latent_bars(torch.tensor([0.1, 2.0, 1.0]), anchors=[2])
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([2.0, 1.0, 0.1])
    colours = [bar.get_facecolor() for bar in ax.patches]
    assert colours[1] != colours[0] == colours[2]
