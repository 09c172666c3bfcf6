"""Every tutorial and page of the gallery runs, is in the contents, and checks what it claims.

The build of the documentation executes them in full, with the cells that check their claims, and
fails with an error in one.  Here each runs for an epoch, or with few words, without those cells,
and with few draws.
"""

import re
from pathlib import Path

import pytest

from pyro_corex import AggregatePosterior

DOCS = Path(__file__).parents[1] / "docs"
TUTORIALS = [*sorted((DOCS / "tutorials").glob("*")), *sorted((DOCS / "gallery").glob("*"))]
CELL = re.compile(r"^```\{code-cell\} ipython3\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HIDDEN = ":tags: [remove-cell]\n"
SIZE = re.compile(r"^(epochs|words|n_topics) = \d+$", re.MULTILINE)
SMALL = {"epochs": 1, "words": 12, "n_topics": 2}


def name(path):
    return path.name


def cells(path, *, hidden):
    found = CELL.findall(path.read_text())
    return [code.removeprefix(HIDDEN) for code in found if code.startswith(HIDDEN) == hidden]


def test_there_are_tutorials_and_nothing_else():
    assert len(TUTORIALS) >= 6
    assert {path.suffix for path in TUTORIALS} == {".md"}


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=name)
def test_tutorial_runs(tutorial, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(AggregatePosterior.total_correlation, "__defaults__", (64, 0))
    code = cells(tutorial, hidden=False)
    assert any(map(SIZE.search, code)), "name its epochs, `epochs = 20`"
    namespace = {"__name__": "__main__"}
    for i, cell in enumerate(code, 1):
        short = SIZE.sub(lambda size: f"{size[1]} = {SMALL[size[1]]}", cell)
        exec(compile(short, f"{tutorial.name}, cell {i}", "exec"), namespace)


def test_the_gallery_has_a_card_for_each():
    cards = (DOCS / "gallery.md").read_text()
    missing = [p for p in TUTORIALS if f"\n{p.parent.name}/{p.stem} | " not in cards]
    missing += [p for p in (DOCS.parent / "examples").glob("*.py") if f"| {p.name}" not in cards]
    assert missing == []


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=name)
def test_tutorial_checks_what_it_claims(tutorial):
    checks = cells(tutorial, hidden=True)
    assert checks, "a tutorial ends with a hidden cell of assertions, which the docs' build runs"
    for check in checks:
        assert "assert " in check
        compile(check, tutorial.name, "exec")


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=name)
def test_tutorial_is_in_the_contents_and_is_executed(tutorial):
    assert f"\n{tutorial.parent.name}/{tutorial.stem}\n" in (DOCS / "index.md").read_text()
    assert tutorial.read_text().startswith("---\nfile_format: mystnb\n")
    config = (DOCS / "conf.py").read_text()
    assert 'nb_execution_mode = "force"' in config
    assert "nb_execution_raise_on_error = True" in config
