"""Every public name says what it is: shapes of tensors, units of information, what is raised.

``tests/test_docs.py`` runs the examples in docstrings.
"""

import doctest
import importlib
import inspect
import pkgutil
import re

import pytest

import pyro_corex

PACKAGES = [m.name for m in pkgutil.iter_modules(pyro_corex.__path__) if m.ispkg]
MODULES = ["pyro_corex", *(f"pyro_corex.{name}" for name in PACKAGES)]
# "(N, m)", "(B, ...)", "(n,)", "(latent_dim,)", "(rows, columns, height, width)", "scalar"
SHAPE = re.compile(r"\(\w+(, ?[\w.* ]+)*,? ?[\w.]*\)|\bscalar\b|\bshapes?\b")
TENSOR = re.compile(r"\b(Tensor|Data)\b")
UNIT = re.compile(r"\bnats?\b")


def public():
    """Qualified name -> what it is, each thing once."""
    seen, found = set(), {}
    for module in MODULES:
        loaded = importlib.import_module(module)
        for name in loaded.__all__:
            value = getattr(loaded, name)
            if callable(value) and id(value) not in seen:
                seen.add(id(value))
                found[f"{module}.{name}"] = value
    return found


PUBLIC = public()
FUNCTIONS = {name: value for name, value in PUBLIC.items() if inspect.isfunction(value)}
CLASSES = {name: value for name, value in PUBLIC.items() if inspect.isclass(value)}


def members(cls):
    """The public methods and properties that the library itself gives a class."""
    for name, value in vars(cls).items():
        if name.startswith("_"):
            continue
        fn = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
        if inspect.isfunction(fn) or isinstance(fn, property):
            yield name, fn


@pytest.mark.parametrize("name", PUBLIC)
def test_it_has_a_docstring_of_its_own(name):
    value = PUBLIC[name]
    doc = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    assert doc, name
    assert len(doc.split()) >= 4, name
    assert not doc.startswith(value.__name__ + "("), "the docstring that a dataclass makes"


@pytest.mark.parametrize("name", CLASSES)
def test_so_have_its_methods(name):
    silent = [
        member for member, value in members(CLASSES[name]) if not (inspect.getdoc(value) or "")
    ]
    assert silent == []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_tensors_have_shapes(name):
    function = FUNCTIONS[name]
    annotations = [str(a) for a in inspect.get_annotations(function).values()]
    if any(TENSOR.search(annotation) for annotation in annotations):
        assert SHAPE.search(function.__doc__), f"{name} takes or gives tensors: of which shape?"


INFORMATION = re.compile("entrop|information|correlation|relevance|tc_bound")


@pytest.mark.parametrize(
    "name", [name for name in FUNCTIONS if INFORMATION.search(name.rpartition(".")[2])]
)
def test_information_has_a_unit(name):
    assert UNIT.search(FUNCTIONS[name].__doc__), f"{name}: in which unit?"


def raises_itself(function):
    tree = inspect.getsource(function)
    return set(re.findall(r"^ +raise (\w+)\(", tree, re.MULTILINE))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_it_raises_is_told(name):
    function = FUNCTIONS[name]
    missing = [error for error in raises_itself(function) if error not in function.__doc__]
    assert missing == []


def test_examples_in_docstrings_are_found():
    """Those that the suite runs; a change of format must not lose them."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    with_examples = [
        name
        for name, value in PUBLIC.items()
        if any(test.examples for test in finder.find(value, name, globs={}))
    ]
    assert len(with_examples) >= 12, with_examples
