"""The tables in the docs are what the scripts print from the results that are kept."""

import json
import runpy
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"


def test_the_tables_of_mnist():
    script = runpy.run_path(str(ROOT / "examples" / "stacked_mnist.py"))
    rows = script["rows_of"](RESULTS / "stacked_mnist.jsonl")
    assert {row["data"] for row in rows} == {"mnist"}
    accuracy = [100 * row["accuracy"] for row in rows if row["variant"] == "all"]
    readme = " ".join((ROOT / "README.md").read_text().split())
    spread = f"{statistics.fmean(accuracy):.1f} ± {statistics.stdev(accuracy):.1f} %"
    assert f"{spread} over {len(accuracy)} seeds, the lowest {min(accuracy):.1f} %" in readme
    assert (RESULTS / "stacked_mnist.md").read_text().strip() == script["table"](rows)


def test_the_table_of_starts():
    script = runpy.run_path(str(ROOT / "benchmarks" / "starts.py"))
    rows = [json.loads(line) for line in (RESULTS / "starts.jsonl").read_text().splitlines()]
    assert (RESULTS / "starts.md").read_text().strip() == script["table"](rows)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("anchors", ["--table", "--out"]),
        ("samples", ["--out"]),
        ("tables", ["--table", "--output"]),
    ],
)
def test_the_tables_of_benchmarks(name, options):
    command = [sys.executable, ROOT / "benchmarks" / f"{name}.py", *options]
    run = subprocess.run(
        [*command, RESULTS / f"{name}.jsonl"], capture_output=True, text=True, check=True
    )
    assert (RESULTS / f"{name}.md").read_text() == run.stdout
