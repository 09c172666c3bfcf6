"""The tables in the docs are what the scripts print from the results that are kept."""

import argparse
import json
import runpy
import statistics
import sys
from pathlib import Path

import pytest
import torch
from pyro.infer import TraceEnum_ELBO, TraceMeanField_ELBO

import pyro_corex as pc
from pyro_corex.programs import mlp_decoder, mlp_encoder

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
SECTIONS = ("mnist", "faces", "labels", "published")


@pytest.fixture(autouse=True)
def own_modules(monkeypatch):
    """``training`` is the benchmark of that name, and not the tests of the package."""
    monkeypatch.delitem(sys.modules, "training", raising=False)


@pytest.fixture
def benchmark(monkeypatch, capsys):
    """Runs a benchmark as from the command line, and returns what it prints."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))

    def run(name, *arguments):
        path = str(ROOT / "benchmarks" / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
        runpy.run_path(path, run_name="__main__")
        return capsys.readouterr().out

    return run


def test_the_tables_of_mnist():
    script = runpy.run_path(str(ROOT / "benchmarks" / "stacked_mnist.py"))
    rows = script["rows_of"](RESULTS / "stacked_mnist.jsonl")
    assert {row["data"] for row in rows} == {"mnist"}
    accuracy = [100 * row["accuracy"] for row in rows if row["variant"] == "bent"]
    readme = " ".join((ROOT / "README.md").read_text().split())
    spread = f"{statistics.fmean(accuracy):.2f} ± {statistics.stdev(accuracy):.2f} %"
    assert f"{spread} over {len(accuracy)} seeds, the lowest {min(accuracy):.2f} %" in readme
    assert (RESULTS / "stacked_mnist.md").read_text().strip() == script["table"](rows)


def test_the_table_of_starts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script = runpy.run_path(str(ROOT / "benchmarks" / "starts.py"))
    rows = [json.loads(line) for line in (RESULTS / "starts.jsonl").read_text().splitlines()]
    assert (RESULTS / "starts.md").read_text().strip() == script["table"](rows)


@pytest.mark.skipif(
    not (RESULTS / "stacked_digits.jsonl").exists(), reason="benchmarks/digits_seeds.py was not run"
)
def test_the_table_of_the_bundled_digits():
    script = runpy.run_path(str(ROOT / "benchmarks" / "digits_seeds.py"))
    kept = (RESULTS / "stacked_digits.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in kept]
    assert [row["seed"] for row in rows] == list(range(20, 30))
    assert (RESULTS / "stacked_digits.md").read_text().strip() == script["table"](rows)
    accuracy = [100 * row["accuracy"] for row in rows]
    readme = " ".join((ROOT / "README.md").read_text().split())
    spread = f"{statistics.fmean(accuracy):.1f} ± {statistics.stdev(accuracy):.1f} %"
    assert f"{spread} over 10 seeds, the lowest {min(accuracy):.1f} %" in readme


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("anchor_starts", ["--table", "--out"]),
        ("anchors", ["--table", "--out"]),
        ("factors", ["--table", "--out"]),
        ("known_truths", ["--table", "--out"]),
        ("linear", ["--table", "--out"]),
        ("models", ["--out"]),
        ("noise", ["--table", "--out"]),
        ("on_cuda", ["--table", "--out"]),
        ("photographs", ["--out"]),
        ("samples", ["--out"]),
        ("tables", ["--table", "--output"]),
        ("wide_tables", ["--table", "--output"]),
    ],
)
def test_the_tables_of_benchmarks(name, options, benchmark):
    printed = benchmark(name, *options, RESULTS / f"{name}.jsonl")
    assert (RESULTS / f"{name}.md").read_text() == printed


@pytest.mark.parametrize("name", ["epochs", "evaluation", "overhead", "scaling"])
def test_the_tables_of_training(name, benchmark):
    printed = benchmark("training", "--table", RESULTS / f"{name}.jsonl")
    assert (RESULTS / f"{name}.md").read_text() == printed


def test_known_truths_are_run_and_resumed(tmp_path):
    script = runpy.run_path(str(ROOT / "benchmarks" / "known_truths.py"))
    out = tmp_path / "rows.jsonl"
    rows = script["run"](out, 1, "coin")
    assert len(rows) == len(script["run"](out, 1, "coin")) == len(out.read_text().splitlines())
    assert not any(script["is_wrong"](row) for row in rows)
    above = {"truth": 1.0, "value": 1.4, "stderr": 0.1, "upper": None}
    assert script["is_wrong"](above)
    assert script["is_wrong"](above | {"upper": 2.0})
    assert not script["is_wrong"](above | {"upper": 2.0, "truth": 1.5})


def test_few_numbers_are_wrong_where_the_truth_is_known():
    """At most one bound in a hundred is above the truth beyond its error; as many brackets miss."""
    script = runpy.run_path(str(ROOT / "benchmarks" / "known_truths.py"))
    rows = [json.loads(line) for line in (RESULTS / "known_truths.jsonl").read_text().splitlines()]
    assert len(rows) == len(script["SITUATIONS"]) * script["SEEDS"]
    told = [row for row in rows if "refused" not in row]
    for bracket in (False, True):
        mine = [row for row in told if (row["upper"] is not None) == bracket]
        assert sum(map(script["is_wrong"], mine)) <= 0.01 * len(mine)


def test_the_table_of_gradients_is_printed(capsys):
    script = runpy.run_path(str(ROOT / "benchmarks" / "tc_gradients.py"))
    script["main"](["--quick"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(script["CASES"])
    assert lines[2].startswith("| 20, 0, 0.3 | 0.000 | -18.35 | ")


def test_the_benchmark_on_cuda_runs_on_a_cpu(benchmark, tmp_path):
    printed = benchmark("on_cuda", "--out", tmp_path / "rows", "--smoke")
    assert printed == benchmark("on_cuda", "--out", tmp_path / "rows", "--table")
    assert len(printed.splitlines()) - 2 >= 2 * 3  # and two each recorded, on a GPU


@pytest.mark.parametrize("name", ["stack", "anchor"])
def test_the_losses_by_hand_are_those_of_the_programs(name):
    """With the same draws; Pyro's objectives give them, too."""
    by_hand = runpy.run_path(str(ROOT / "benchmarks" / "by_hand.py"))[f"{name}_loss"]
    if name == "stack":
        program, pyros = pc.StackedCorEx([(12, 8), (8, 4)], n_classes=4), TraceEnum_ELBO
    else:
        networks, pyros = (mlp_encoder([12, 3]), mlp_decoder([3, 12])), TraceMeanField_ELBO
        program = pc.AnchorVAE(*networks, 3, anchors={0: 0.1, 2: 0.0})
    x = torch.rand(4, 12).round()
    torch.manual_seed(0)
    wanted = by_hand(program, x).item()
    for elbo in (pc.CorExELBO(max_plate_nesting=2), pyros(max_plate_nesting=2)):
        torch.manual_seed(0)
        found = elbo.differentiable_loss(program.model, program.guide, x).item()
        assert found == pytest.approx(wanted, rel=1e-5)


@pytest.fixture
def models(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return runpy.run_path(str(ROOT / "benchmarks" / "models.py"))


def test_all_models_are_run_and_compared(models, capsys, tmp_path):
    models["main"](["--smoke", "--figure", str(tmp_path / "models.png")])
    lines = capsys.readouterr().out.splitlines()
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    names = {section: [r["name"] for r in rows if r["section"] == section] for section in SECTIONS}
    assert names["mnist"] == names["faces"] == list(models["SYSTEMS"])
    assert names["labels"] == list(models["LABELLED"])
    assert names["published"] == list(models["LONG"])
    table = "\n".join(line for line in lines if not line.startswith("{"))
    assert table == models["tables"](rows)
    assert "not run" not in table
    assert (tmp_path / "models.png").stat().st_size > 10_000


def test_models_that_were_run_are_not_run_again(models, tmp_path):
    kept = [{"section": "mnist", "name": name, "seed": 0} for name in ("VAE", "VaDE")]
    out = tmp_path / "rows.jsonl"
    out.write_text("".join(json.dumps(row) + "\n" for row in kept))
    args = argparse.Namespace(smoke=False, out=out, seeds=[0, 1], only=None)
    runs = models["Runs"](args)
    left = list(runs.missing("mnist", ["VAE", "VaDE", "DLGM"]))
    assert left == [("DLGM", 0), ("VAE", 1), ("VaDE", 1), ("DLGM", 1)]
    runs.add(section="mnist", name="DLGM", seed=0)
    again = models["Runs"](args).missing("mnist", ["VAE", "VaDE", "DLGM"])
    assert list(again) == left[1:]


def rows_of_the_readme(title):
    section = (ROOT / "README.md").read_text().split(f"## {title}")[1].split("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("|")]


def test_the_readme_chooses_by_the_same_rows():
    rows = rows_of_the_readme("Which model should I use?")
    kept = (RESULTS / "models.md").read_text().splitlines()
    assert len(rows) == 2 + 5
    shown = [row.split("|")[1:4] for row in kept]
    assert [row for row in rows[2:] if row.split("|")[1:4] not in shown] == []


def test_the_readme_compares_with_the_alternatives(benchmark):
    printed = benchmark("beside_others").splitlines()
    assert rows_of_the_readme("Beside the alternatives") == printed
