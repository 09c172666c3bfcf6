"""What benchmarks/stacked_mnist.py measures, and that it does nothing twice."""

import json
import runpy
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "stacked_mnist.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


def slanted(tangent, width, side=61):
    """A soft stroke of that width that leans over to the right by ``tangent``."""
    at = torch.arange(side, dtype=torch.double) - side // 2
    y, x = at[:, None], at[None]
    stroke = (-0.5 * ((x + tangent * y) / width).square()).exp()  # rows count downwards
    return stroke * (y.abs() <= 20)


@pytest.mark.parametrize("tangent", [-0.5, 0.0, 0.25])
def test_slant_and_width_from_moments(script, tangent):
    found = script["shape"](torch.stack([slanted(tangent, 2.0), slanted(tangent, 4.0)]))
    want = torch.tensor([[tangent, 2.0], [tangent, 4.0]], dtype=torch.double)
    torch.testing.assert_close(found, want, rtol=1e-3, atol=1e-3)


def row(variant, seed, accuracy):
    return {
        "variant": variant, "seed": seed, "data": "mnist", "seconds": 60.0, "accuracy": accuracy,
        "nmi": 0.5, "ari": 0.5, "start_accuracy": 0.8, "elbo": -100.0, "tc_bound": [105.0, 0.3],
        "layers": [[102.0, 0.2], [3.0, 0.1]], "tc_z1": [0.0, 10.0],
        "z1_alone": {"tc_bound": [104.0, 0.3], "tc_z": [0.0, 9.0]},
        "z1": [[3, 2.5, 0.01], [4, 2.0, 0.02]], "moved": [[3, -0.9, 0.2], [4, 0.1, 0.8]],
        "slant": 0.9, "width": 0.8,
    }  # fmt: skip


def test_what_is_there_is_not_done_again(script, tmp_path, capsys):
    results = tmp_path / "results.jsonl"
    rows = [row("anchor", 3, 0.8), row("anchor", 4, 0.9)]
    results.write_text("".join(json.dumps(r) + "\n" for r in rows))
    arguments = ["--variant", "anchor", "--seeds", "3-4", "--output", str(tmp_path / "none")]
    script["main"]([*arguments, "--results", str(results)])
    printed = capsys.readouterr().out
    assert "| anchor | 2 | 85.00 ± 7.07 | 80.00 |" in printed
    assert "| anchor | 2.50 ± 0.00 | 2.00 ± 0.00 | 0.020 | 0.90 ± 0.00 | 0.20" in printed
    assert script["rows_of"](results) == rows
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("text", ["abc", "5-3", "", "-1"])
def test_seeds_that_there_are_not(script, text, capsys):
    with pytest.raises(SystemExit):
        script["main"]([f"--seeds={text}"])
    assert "give a seed such as 3, or 10-19" in capsys.readouterr().err
