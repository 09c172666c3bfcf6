import numpy as np
import pytest
import torch

from pyro_corex import History
from pyro_corex.figures import (
    image_grid,
    information_plane,
    latent_bars,
    tiles,
    training_curves,
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


def test_information_plane_joins_the_betas_in_their_order():
    at, known = [30.0, 2.0, 9.0], torch.tensor([2.2, 1.0, 2.0])
    errors = (torch.tensor([3.0, 0.2, 0.9]), torch.tensor([0.1, 0.3, 0.2]))
    ax = information_plane(at, known, [1e-3, 1.0, 0.1], errors=errors, entropy=2.3, title="t")
    line, limit = (line for line in ax.lines if len(line.get_xdata()) > 1)
    assert line.get_xydata().tolist() == pytest.approx(np.array([[30, 2.2], [9, 2], [2, 1]]))
    assert [text.get_text() for text in ax.texts] == ["0.001", "0.1", "1"]
    assert [text.xy[0] for text in ax.texts] == [30, 9, 2]
    assert limit.get_ydata()[0] == 2.3
    across, up = (bars.get_segments() for bars in ax.collections)
    assert np.ptp(across[1], 0) == pytest.approx([1.8, 0])
    assert np.ptp(up[1], 0) == pytest.approx([0, 0.4])
    assert information_plane(at, known, at, ax=ax) is ax
    assert not information_plane(at, known, at).collections
    with pytest.raises(ValueError, match=r"one shape \(n,\), but have .*'betas': \(2,\)"):
        information_plane(at, known, [1.0, 2.0])


def test_tiles_are_what_the_grid_shows():
    images = torch.rand(2, 3, 4, 5)
    picture = tiles(images)
    assert picture.shape == (2 * 6, 3 * 7, 3)
    shown = image_grid(images).get_images()[0].get_array()
    assert np.array_equal(shown, picture)
    np.testing.assert_allclose(picture[7:11, 15:20, 0], 1 - images[1, 2].numpy(), rtol=1e-6)


def test_training_curves_show_what_the_history_has():
    history = History(epochs=[{"elbo": -3.0}, {"elbo": -2.0, "val_elbo": -2.5}])
    ax = training_curves(history, title="Run")
    elbo, val = ax.get_lines()
    assert elbo.get_label() == "elbo"
    assert elbo.get_ydata().tolist() == [-3.0, -2.0]
    assert np.isnan(val.get_ydata()[0])
    assert elbo.get_linestyle() != val.get_linestyle()  # not by colour alone
    assert training_curves(history, ax=ax) is ax


@pytest.mark.parametrize(
    ("epochs", "known"), [([], "no epochs"), ([{"seconds": 1.0}], r"\['seconds'\]")]
)
def test_a_history_without_the_quantities_is_refused(epochs, known):
    with pytest.raises(ValueError, match=f"The history has none of .*, but {known}"):
        training_curves(History(epochs=epochs))


def test_a_notebook_shows_the_figure_by_itself():
    png = latent_bars(torch.rand(5)).figure._repr_png_()
    assert png.startswith(b"\x89PNG")
