import pytest
import torch

from pyro_corex.report import (
    image_grid,
    latent_bars,
    variance_against_information,
    variance_distribution,
)


def test_image_grid_places_the_images():
    images = torch.zeros(2, 3, 4, 5)
    images[1, 2] = 1.0
    ax = image_grid(images, row_labels=["a", "b"], column_labels=["x", "y", "z"], title="t")
    picture = ax.images[0].get_array()
    assert picture.shape == (2 * 6, 3 * 7, 3)
    assert (picture[7:11, 15:20] == 0.0).all()  # 1 is ink
    assert (picture[1:5, 1:6] == 1.0).all()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]


def test_image_grid_in_colour():
    images = torch.zeros(1, 2, 3, 4, 5)
    images[0, 1, 2] = 2.0  # clipped
    picture = image_grid(images).images[0].get_array()
    assert (picture[1:5, 8:13] == [0.0, 0.0, 1.0]).all()
    assert (picture[1:5, 1:6] == 0.0).all()
    with pytest.raises(
        ValueError, match=r"3, height, width\) in colour, but got \(1, 2, 2, 4, 5\)"
    ):
        image_grid(images[:, :, :2])


def test_image_grid_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"\(rows, columns, height, width\).*but got \(2, 3\)"):
        image_grid(torch.zeros(2, 3))


def test_latent_bars_ranks_and_marks_the_anchors():
    ax = latent_bars(torch.tensor([0.1, 2.0, 1.0]), anchors=[2])
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([2.0, 1.0, 0.1])
    colours = [bar.get_facecolor() for bar in ax.patches]
    assert colours[1] != colours[0] == colours[2]


def test_variance_distribution_is_cumulative():
    ax = variance_distribution(torch.tensor([2.0, 0.5, 1.0, 3.0]), title="t")
    x, y = ax.lines[0].get_data()
    assert dict(zip(x, y, strict=True))[2.0] == pytest.approx(0.75)
    assert ax.get_title(loc="left") == "t"


def test_variance_against_information_marks_the_anchors():
    ax = variance_against_information(torch.arange(3.0), torch.arange(3.0) / 2, anchors=[1])
    free, anchored = (points.get_offsets().tolist() for points in ax.collections)
    assert free == [[0, 0], [2, 1]]
    assert anchored == [[1, 0.5]]
    assert len(variance_against_information(torch.ones(2), torch.ones(2)).collections) == 1
    with pytest.raises(ValueError, match=r"shape \(m,\), but have \(3,\) and \(2,\)"):
        variance_against_information(torch.ones(3), torch.ones(2))
