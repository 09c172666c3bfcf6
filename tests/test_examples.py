"""Every script in examples/ runs, and draws what it says."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

# script -> the figures that it writes; a new script needs a line here
FIGURES = {
    "training_three_ways.py": ["losses.png"],
    "stacked_digits.py": [
        "kl.png",
        "reconstructions.png",
        "samples.png",
        "traversal_1.png",
        "traversal_2.png",
    ],
}


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(FIGURES)


@pytest.mark.parametrize("script", FIGURES)
def test_example(script, tmp_path):
    """A run of seconds, from a folder that is not the checkout."""
    from matplotlib.image import imread

    output = tmp_path / "figures"
    run = subprocess.run(
        [sys.executable, EXAMPLES / script, "--smoke", "--output", output],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert str(output) in run.stdout
    assert "nan" not in run.stdout.lower()
    assert [path.name for path in sorted(output.iterdir())] == sorted(FIGURES[script])
    for name in FIGURES[script]:
        picture = imread(output / name)[..., :3]
        assert picture.std() > 0.05, f"{name} is blank"
        assert min(picture.shape[:2]) > 100
