"""Every script in examples/ runs, and draws what it says.

    PYRO_COREX_EXAMPLES=default python -m pytest tests/test_examples.py

runs each as its users do, with default options and without data, which ``.ci/run`` does.
"""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

# script -> the figures that it writes; a new script needs a line here
FIGURES = {
    "training_three_ways.py": ["losses.png"],
    "anchor_faces.py": [
        *(f"anchored_{i}.png" for i in range(1, 6)),
        "information.png",
        "plain_1.png",
        "plain_2.png",
        "samples_prior.png",
        "samples_product.png",
        "variance_information.png",
        "variances.png",
    ],
    "stacked_digits.py": [
        "information.png",
        "reconstructions.png",
        "samples.png",
        "story.png",
        "traversal_1.png",
        "traversal_2.png",
    ],
}


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(FIGURES)


@pytest.mark.parametrize("script", FIGURES)
def test_example(script, tmp_path, monkeypatch, capsys):
    """A run of seconds, from a folder that is not the checkout."""
    from matplotlib import pyplot
    from matplotlib.image import imread

    output = tmp_path / "figures"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script, "--smoke", "--output", str(output)])
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    pyplot.close("all")
    printed = capsys.readouterr().out
    assert str(output) in printed
    assert "nan" not in printed.lower()
    assert [path.name for path in sorted(output.glob("*.png"))] == sorted(FIGURES[script])
    for name in FIGURES[script]:
        picture = imread(output / name)[..., :3]
        assert picture.std() > 0.05, f"{name} is blank"
        assert min(picture.shape[:2]) > 100


@pytest.mark.skipif(
    not os.environ.get("PYRO_COREX_EXAMPLES"), reason="takes minutes: PYRO_COREX_EXAMPLES=default"
)
@pytest.mark.parametrize("script", FIGURES)
def test_example_with_default_options(script, tmp_path):
    """It takes less than a minute on two idle cores; a machine that is shared is given four."""
    path, environ = str(EXAMPLES / script), os.environ | {"PYTHONWARNINGS": "default"}
    run = subprocess.run(
        [sys.executable, path],
        cwd=tmp_path,
        env=environ,
        timeout=240,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "Warning" not in run.stderr
    figures = tmp_path / "outputs" / Path(script).stem
    assert str(figures) in run.stdout
    assert sorted(path.name for path in figures.glob("*.png")) == sorted(FIGURES[script])


@pytest.mark.parametrize(
    ("script", "options", "told"),
    [
        ("stacked_digits", ["--dataset", "mnist"], "--download"),
        ("anchor_faces", ["--dataset", "celeba"], "download=True"),
        ("anchor_faces", ["--dataset", "folder"], "There is no folder or archive"),
    ],
)
def test_data_that_are_not_there(script, options, told, tmp_path, capsys):
    """The example ends well, and says how to get the data."""
    places = ["--data-root", str(tmp_path / "none"), "--output", str(tmp_path / "figures")]
    runpy.run_path(str(EXAMPLES / f"{script}.py"))["main"](options + places)
    assert told in capsys.readouterr().out
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize("paper", [True, False])
def test_faces_from_a_folder(paper, tmp_path):
    """What the network sees are the images themselves, or coordinates from which they come back."""
    import torch
    from PIL import Image

    for i in range(12):
        Image.new("RGB", (70, 64), (20 * i, 100, 255 - 20 * i)).save(tmp_path / f"{i:02d}.png")
    script = runpy.run_path(str(EXAMPLES / "anchor_faces.py"))
    options = ["--dataset", "folder", "--data-root", str(tmp_path), "--images", "10"]
    args = script["parse"](options + ["--paper"] * paper)
    assert (args.latents, args.tc_weight) == ((2048, 0.0) if paper else (10, 30.0))
    faces = script["load"](args)
    assert len(faces.x) == 10
    assert faces.factors is None
    want = torch.tensor([180, 100, 75]).view(3, 1, 1).expand(3, 64, 64) / 255
    torch.testing.assert_close(faces.show(faces.x[9]), want, rtol=0, atol=0.01)
