"""Every public name says what it is: shapes of tensors, units, its source, what is raised.

The rules are in ``docstring_rules.py``. ``tests/test_docs.py`` runs the examples in docstrings.
"""

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import pyro_corex
import tests.docstring_rules as rules

PUBLIC_FILES = {"regularizers"}  # beside the packages
PACKAGES = [
    m.name for m in pkgutil.iter_modules(pyro_corex.__path__) if m.ispkg or m.name in PUBLIC_FILES
]
MODULES = ["pyro_corex", *(f"pyro_corex.{name}" for name in PACKAGES)]
PAGES = sorted((Path(__file__).parents[1] / "docs" / "api").glob("*.md"))
API = "".join(page.read_text() for page in PAGES)

# Names without a source in the literature, and why.
PLUMBING = {
    "files and processes": {
        "Checkpoint", "CheckpointError", "Devices", "History", "Optimization", "fit", "load",
        "save",
    },
    "pictures of what is defined elsewhere": {
        "hierarchy", "image_grid", "information_map", "latent_against_column", "latent_bars",
        "tiles", "training_curves",
    },
    "networks and plates, which the theory leaves open": {
        "LinearStart", "conv_decoder", "conv_encoder", "latent_plate", "mlp", "mlp_decoder",
        "mlp_encoder",
    },
    "images, and faces that are drawn": {
        "Digits", "ImageFiles", "RandomAffine", "affine", "draw_faces", "synthetic_faces",
    },
    "a number and its error": {"Estimate"},
}  # fmt: skip
WITHOUT_SOURCE = set().union(*PLUMBING.values())


def public():
    """Qualified name -> what it is, each thing once: all of ``__all__``, and what the API shows."""
    names = [f"{m}.{name}" for m in MODULES for name in importlib.import_module(m).__all__]
    names += re.findall(r"^\.\. auto(?:class|function):: (pyro_corex\.\S+)", API, re.MULTILINE)
    seen, found = set(), {}
    for name in names:
        module, _, last = name.rpartition(".")
        value = getattr(importlib.import_module(module), last)
        if callable(value) and id(value) not in seen:
            seen.add(id(value))
            found[name] = value
    return found


PUBLIC = public()
CLASSES = {name: value for name, value in PUBLIC.items() if inspect.isclass(value)}
DOCS = rules.by_name(PUBLIC)


def complaints(name, value, docs=DOCS):
    found = []
    for item in rules.items(name, value):
        if not item.doc:
            found.append(f"{item.name}: a docstring")
        for rule in (rules.shapes, rules.units, rules.errors):
            found += [f"{item.name}: {text}" for text in rule(item)]
        if name.rpartition(".")[2] not in WITHOUT_SOURCE:
            found += [f"{item.name}: {text}" for text in rules.source(item, docs)]
    return found


@pytest.mark.parametrize("name", PUBLIC)
def test_it_has_a_docstring_of_its_own(name):
    value = PUBLIC[name]
    doc = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    assert doc, name
    assert len(doc.split()) >= 4, name
    assert not doc.startswith(value.__name__ + "("), "the docstring that a dataclass makes"


@pytest.mark.parametrize("name", PUBLIC)
def test_it_tells_shapes_units_source_and_errors(name):
    assert complaints(name, PUBLIC[name]) == []


@pytest.mark.parametrize("name", sorted(WITHOUT_SOURCE))
def test_what_needs_no_source_has_none(name):
    """The list stays as short as it can be."""
    [value] = [value for full, value in PUBLIC.items() if full.rpartition(".")[2] == name]
    item = next(rules.items(name, value))
    assert list(rules.source(item, DOCS)) == ["its source"]


def test_fields_are_sphinxs():
    """One dialect: ``:param x:``, not ``Args:``."""
    other = re.compile(r"^ *(Args|Returns|Raises|Yields|Attributes):$", re.MULTILINE)
    root = Path(pyro_corex.__file__).parent
    assert [path for path in sorted(root.rglob("*.py")) if other.search(path.read_text())] == []


def test_the_rules_look_inside_classes():
    names = {item.name for item in rules.items("CorEx", pyro_corex.CorEx)}
    assert {"CorEx.fit", "CorEx.transform", "CorEx.impute"} <= names  # of its bases, too
    names = {item.name for item in rules.items("CorExTerms", pyro_corex.CorExTerms)}
    assert {"CorExTerms.kl", "CorExTerms.tc_bound", "CorExTerms.entropy"} <= names


# ---------------------------------------------------------------------- the rules, on examples


def information(z: "Tensor", weight: "Tensor", n: int) -> "Tensor":  # noqa: F821
    """I(z_j : x) in nats (Eq. 9).

    :param z: shape ``(N, m)``.
    :param weight: shape ``(m,)``.
    :returns: shape ``(m,)``.
    :raises ValueError: for ``n`` below 1.
    """
    if n < 1:
        raise ValueError("n")
    return z.mean(0) * weight


def _check(z: "Tensor") -> None:  # noqa: F821
    if z.dim() != 2:
        raise TypeError("z")


def in_prose(z: "Tensor") -> "Tensor":  # noqa: F821
    """The entropy, in nats: ``(N, m)`` to ``(m,)`` (Cover & Thomas 2006).

    Raises TypeError for others.
    """
    _check(z)
    return z.mean(0)


def referring(z: "Tensor") -> "Tensor":  # noqa: F821
    """In nats as well: see :func:`information`, for shapes, too."""
    return z


@pytest.mark.parametrize("function", [information, in_prose, referring])
def test_a_complete_docstring_passes(function):
    assert (
        complaints(function.__name__, function, rules.by_name({"information": information})) == []
    )


@pytest.mark.parametrize(
    ("function", "told", "missing"),
    [
        (information, ":param z: shape ``(N, m)``.", "the shape of z"),
        (information, "shape ``(N, m)``", "the shape of z"),
        (information, ":param weight: shape ``(m,)``.", "the shape of weight"),
        (information, ":returns: shape ``(m,)``.", "the shape of result"),
        (information, " in nats", "its unit: nats"),
        (information, " (Eq. 9)", "its source"),
        (information, ":raises ValueError: for ``n`` below 1.", "when it raises ValueError"),
        (in_prose, " to ``(m,)``", "the shape of z, result"),
        (in_prose, ", in nats", "its unit: nats"),
        (in_prose, " (Cover & Thomas 2006)", "its source"),
        (in_prose, "TypeError", "when it raises TypeError"),
        (referring, "see :func:`information`, for shapes, too", "the shape of z, result"),
        (referring, ":func:`information`", "its source"),
    ],
)
def test_a_docstring_that_lacks_something_fails(monkeypatch, function, told, missing):
    assert function.__doc__.count(told) == 1
    monkeypatch.setattr(function, "__doc__", function.__doc__.replace(told, "..."))
    found = complaints(function.__name__, function, rules.by_name({"information": information}))
    assert f"{function.__name__}: {missing}" in found


class Holder:
    """Terms, each in nats (Eq. 10)."""

    @property
    def kl(self) -> "Tensor":  # noqa: F821
        """The KL of each latent, shape ``(m,)``."""

    def loss(self) -> float:
        """The loss."""


def test_a_class_speaks_for_the_units_and_the_source_of_its_members(monkeypatch):
    assert complaints("Holder", Holder) == []
    monkeypatch.setattr(Holder, "__doc__", "Terms.")
    assert complaints("Holder", Holder) == [
        "Holder: its source",
        "Holder.kl: its unit: nats",
        "Holder.loss: its unit: nats",
    ]


@pytest.mark.parametrize(
    "text", ["(N, m)", "(n,)", "(B, ...)", "(n, 2 * latent_dim)", "(n, m_(L-1))", "(..., *shape)"]
)
def test_shapes_are_known(text):
    assert rules.SHAPE.fullmatch(text)


@pytest.mark.parametrize(
    "text", ["(Chen et al. 2018)", "(Eq. 10)", "(locations, then scales)", "in [0, 1]", "(Fig. 7)"]
)
def test_what_is_no_shape_is_not_taken_for_one(text):
    assert not rules.SHAPE.search(text)


def test_examples_in_docstrings_are_found():
    """Those that the suite runs; a change of format must not lose them."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    with_examples = {
        name.rpartition(".")[2]
        for name, value in PUBLIC.items()
        if any(test.examples for test in finder.find(value, name, globs={}))
    }
    assert with_examples >= {
        "AggregatePosterior", "AnchorVAE", "CorEx", "CorExELBO", "CorExVAE", "StackedCorEx",
        "anchor", "categorical_mutual_information", "cluster_accuracy", "fit",
        "gaussian_mutual_information", "marginal_entropy", "report", "tc_bound", "to_arviz",
        "total_correlation",
    }  # fmt: skip
