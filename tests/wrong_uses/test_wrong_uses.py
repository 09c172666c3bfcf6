"""Everything public, used wrongly: each call is right or answered by a sentence of ours."""

import importlib
import inspect
import pkgutil
import traceback
import warnings
from pathlib import Path

import pytest

import pyro_corex

PACKAGE = Path(pyro_corex.__file__).parent
LEAST = 250

TABLES = [
    name
    for name in (m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]))
    if not name.startswith("test_")
]
USES = [use for name in TABLES for use in importlib.import_module(f".{name}", __package__).USES]


def is_ours(frame: traceback.FrameSummary) -> bool:
    return PACKAGE in Path(frame.filename).parents


@pytest.mark.parametrize("use", [u for u in USES if u.right is None], ids=str)
def test_refused(use):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Exception) as caught:
            use.call()
    error = caught.value
    assert isinstance(error, (ValueError, TypeError, RuntimeError, OSError, SystemExit)), error
    last = traceback.extract_tb(error.__traceback__)[-1]
    assert is_ours(last), f"the words of another library, from {last.filename}: {error}"
    missing = [part for part in use.says if part not in str(error)]
    assert not missing, f"{missing} not in: {error}"


@pytest.mark.parametrize("use", [u for u in USES if u.right is not None], ids=str)
def test_answered(use):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = use.call()
    assert use.right(result), result
    told = [str(warning.message) for warning in caught]
    assert len(told) == bool(use.says), told
    missing = [part for part in use.says if part not in told[0]]
    assert not missing, f"{missing} not in: {told[0]}"


def test_no_use_is_there_twice():
    names = [str(use) for use in USES]
    assert sorted(set(names)) == sorted(names)


def test_there_are_many():
    assert len(USES) >= LEAST


PARTS = ("datasets", "evaluation", "export", "figures", "information", "programs", "regularizers")
WITH_METHODS = ("AggregatePosterior", "CorEx", "CorExELBO", "CorExVAE", "StackedCorEx")


def public() -> set[str]:
    """All public functions and classes, by the shortest name, and methods of the large classes."""
    found = {}
    for part in (*PARTS, None):
        module = pyro_corex if part is None else getattr(pyro_corex, part)
        for name in module.__all__:
            value = getattr(module, name)
            if not callable(value) or (inspect.isclass(value) and issubclass(value, Exception)):
                continue
            found[id(value)] = name if part is None else f"{part}.{name}"
    names = set(found.values())
    for name in WITH_METHODS:
        own = vars(getattr(pyro_corex, name))
        names |= {f"{name}.{m}" for m, f in own.items() if m[0] != "_" and inspect.isfunction(f)}
    return names


def test_every_public_function_has_a_use():
    """A new public function without a row fails here."""
    assert sorted(public() - {use.name for use in USES}) == []


def test_every_row_is_about_something_public():
    known = public() | {"python -m pyro_corex"}
    roots = {use.name for use in USES} - known
    assert sorted(name for name in roots if name.rpartition(".")[0] not in known) == []
