"""The table of the reproduction: its numbers come from files, its commands exist."""

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))

from reproduction import NOT_RUN, ours, table, value  # noqa: E402

SPEC = json.loads((DOCS / "reproduction.json").read_text())


@pytest.fixture
def folder(tmp_path):
    lines = [
        {"name": "a", "seed": 0, "found": {"x": [1.0, 0.25]}},
        {"name": "a", "seed": 1, "found": {"x": [3.0, 0.75]}},
        {"name": "b", "seed": 0, "found": {"x": [9.0, 9.0]}},
    ]
    (tmp_path / "runs.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return tmp_path


def row(**changes):
    return {"file": "runs.jsonl", "where": {"name": "a"}, "field": "found.x.0", **changes}


def test_mean_and_standard_deviation_over_the_runs_of_a_row(folder):
    assert ours(row(), folder) == "2.00 ± 1.41 (2 seeds)"
    shares = row(field="found.x.1", scale=100, digits=1, unit=" %")
    assert ours(shares, folder) == "50.0 ± 35.4 % (2 seeds)"
    assert ours(row(where={"name": "b"}), folder) == "9.00 (1 run)"


def test_a_list_gives_its_mean_and_what_is_missing_nothing():
    assert value({"x": [1.0, 2.0]}, "x") == 1.5
    assert value({"x": [1.0, 2.0]}, "x.2") is None
    assert value({"y": 1.0}, "x") is None


def test_what_was_not_run_says_so(folder):
    assert ours(row(file="missing.jsonl"), folder) == NOT_RUN
    assert ours(row(where={"name": "c"}), folder) == NOT_RUN


def test_the_table_has_a_line_for_each_row():
    whole = table().splitlines()
    lines = whole[: whole.index("")]
    commands = whole[whole.index("") + 1 :]
    assert [line.split("`")[1] for line in commands] == list(SPEC["commands"].values())
    assert {line.split("|")[5].strip() for line in lines[2:]} == {c[2] for c in commands}
    assert len(lines) == 2 + len(SPEC["rows"])
    assert all(line.count("|") == 6 for line in lines)


def test_every_figure_of_sections_6_1_to_6_3_has_rows():
    text = " ".join(row["paper"] for row in SPEC["rows"])
    for needed in (
        "Sec. 6.1",
        "Fig. 3",
        "Fig. 4",
        "Fig. 5",
        "Fig. 6",
        "Fig. 7a",
        "Fig. 7b",
        "Fig. 8",
    ):
        assert needed in text


def test_what_has_results_has_a_script():
    for row in SPEC["rows"]:
        script = SPEC["commands"][row["command"]].split()[1]
        assert script.endswith(".py")
        assert ours(row) == NOT_RUN or (ROOT / script).is_file()


def test_what_needs_no_download_has_been_run():
    on_digits = [row for row in SPEC["rows"] if row["file"] == "results/digits.jsonl"]
    assert len(on_digits) > 10
    assert [row["paper"] for row in on_digits if ours(row) == NOT_RUN] == []


def test_no_number_of_ours_is_typed():
    assert "ours" not in {key for row in SPEC["rows"] for key in row}
    page = (DOCS / "reproduction.md").read_text()
    assert re.findall(r"\d+\.\d+(?! to 6)", page.replace("6.1 to 6.3", "")) == []


def test_small_reproduction_runs(capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import small_reproduction

    rows = small_reproduction.main(["--quick"])
    for wanted in SPEC["rows"]:
        if wanted["file"] == "results/digits.jsonl":
            lines = [r for r in rows if all(r[k] == v for k, v in wanted["where"].items())]
            assert len(lines) == 1
            assert value(lines[0], wanted["field"]) is not None
