"""The tables in the docs are what the scripts print from the results that are kept."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"


def test_the_tables_of_mnist():
    script = runpy.run_path(str(ROOT / "examples" / "stacked_mnist.py"))
    rows = script["rows_of"](RESULTS / "stacked_mnist.jsonl")
    assert {row["data"] for row in rows} == {"mnist"}
    assert (RESULTS / "stacked_mnist.md").read_text().strip() == script["table"](rows)
