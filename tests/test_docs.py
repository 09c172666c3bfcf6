"""What the README and the docs say runs: code, commands, and the examples in docstrings."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import pyro_corex

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *(
        page
        for folder in ("", "howto", "theory", "tutorials")
        for page in sorted((ROOT / "docs" / folder).glob("*.md"))
    ),
]
BLOCK = re.compile(r"^```(\S+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"python ((?:benchmarks|examples)/\w+\.py)([^`\n\"]*)")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, language: str) -> list[str]:
    return [code for found, code in BLOCK.findall(path.read_text()) if found == language]


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=name)
def test_code_runs(page, tmp_path, monkeypatch):
    """The blocks of a page follow each other, as in one session; those of the README stand alone.

    The page's ``text`` block after a ``python`` block shows what that prints; numbers in it come
    from one run and are not compared.
    """
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for i, code in enumerate(blocks(page, "python"), 1):
        if page.name == "README.md":
            namespace = {"__name__": "__main__"}
        exec(compile(code, f"{name(page)}, block {i}", "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    missing = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "docs" / "reproduction.json"], ids=name)
def test_commands_have_the_options_that_are_named(page):
    for script, arguments in COMMAND.findall(page.read_text()):
        code = (ROOT / script).read_text()
        named = [option[2:] for option in re.findall(r"--[a-z-]+", arguments)]
        assert [o for o in named if f'"--{o}"' not in code and f'"{o}"' not in code] == []


def test_no_page_is_long():
    """Of one task, that is; results are as long as their tables."""
    longer = ("README.md",)
    long = [name(page) for page in PAGES if len(page.read_text().splitlines()) > 150]
    assert [page for page in long if page not in longer] == []


def test_ci_calls_the_second_command_of_the_readme():
    commands = [code.strip() for code in blocks(ROOT / "README.md", "bash")]
    assert len(commands) >= 2
    assert all("\n" not in command for command in commands[:2])
    first, second = commands[:2]
    assert first.endswith("python examples/stacked_digits.py")
    assert second.endswith("python -m pytest -n auto")
    assert second in (ROOT / ".ci/run").read_text().splitlines()


def modules() -> list[str]:
    found = pkgutil.walk_packages(pyro_corex.__path__, "pyro_corex.")
    return ["pyro_corex", *(module.name for module in found)]


@pytest.mark.parametrize("module", modules())
def test_docstrings(module):
    result = doctest.testmod(
        importlib.import_module(module), optionflags=doctest.NORMALIZE_WHITESPACE, verbose=False
    )
    assert result.failed == 0


def test_the_changelog_knows_the_version():
    assert pyro_corex.__version__ in (ROOT / "CHANGELOG.md").read_text()
