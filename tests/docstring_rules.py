"""What a public docstring has to tell: shapes, units, source, errors."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

# "(N, m)", "(B, ...)", "(n,)", "(n, 2 * latent_dim)", "(rows * (height + 2), 3)", "(n, m_(L-1))"
LENGTH = r"(?:\*?\w+(?:\(\w[-\w]*\))?(?: [*+-] (?:\w+|\(\w+ [*+-] \w+\)))*|\.\.\.)"
SHAPE = re.compile(
    rf"\({LENGTH},(?:\s*{LENGTH}(?:,\s*{LENGTH})*)?\)"
    r"|\bscalar\b|\b0-dim\b|\belementwise\b|\bthe (?:same )?shape\b|\.shape\b"
)
TENSOR = re.compile(r"\b(Tensor|Data|ArrayLike|NDArray|ndarray|Distribution|Estimate(?!\[float))\b")
TABLES = ("X", "data")  # names of what has a first axis of data, whatever its type
FUNCTION = re.compile(r"\bCallable\[")
QUANTITY = re.compile(
    r"\bnats?\b|information|entrop|\bKL|\bTC\b|tc_|total.correlation|_bound|\bbound\b|relevance|elbo|"
    r"\bI\(|log[ _.-]?(likelihood|prob|densit|ratio)|objective|loss",
    re.IGNORECASE,
)
UNIT = re.compile(r"\bnats?\b")
ALL_IN_NATS = re.compile(r"\b([Aa]ll|[Ee]ach|[Ii]nformation|[Ff]igures)\b[^.]*\bin nats\b")
SOURCE = re.compile(
    r"\b(?:Eq|Sec|Fig)\. \d|https?://|\bdoi\b"
    r"|\b[A-Z]\w+(?: et al\.|(?:,? (?:& )?[A-Z]\w+)*)\s\(?\d{4}\b"
)
# "see :func:`x`", "as :class:`y` takes it", "those of :func:`z`": that one tells it
DELEGATES = re.compile(r"\b([Ss]ee|[Aa]s|[Ll]ike|of)\b[^.:;]*:(func|class|meth|attr):`")
REFERENCE = re.compile(r":(?:func|class|meth|attr):`~?\.?([\w.]+)`")


@dataclass
class Item:
    """Something public: its docstring, and what of its signature the rules need."""

    name: str
    doc: str
    parameters: dict[str, str] = field(default_factory=dict)  # name -> annotation
    result: str = ""  # annotation
    raised: frozenset[str] = frozenset()
    owner: "Item | None" = None
    bases: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        return self.doc.partition("\n\n")[0]


# ---------------------------------------------------------------------- reading


def annotation(value: Any) -> str:
    if value is inspect.Signature.empty:
        return ""
    return value if isinstance(value, str) else getattr(value, "__forward_arg__", str(value))


def signature(function: Any) -> tuple[dict[str, str], str]:
    found = inspect.signature(function)
    parameters = {
        name: annotation(p.annotation) for name, p in found.parameters.items() if name != "self"
    }
    return parameters, annotation(found.return_annotation)


def top(module: str) -> str:
    return module.partition(".")[0]


def raises(function: Any, seen: set[Any] | None = None) -> set[str]:
    """Errors that a function raises itself or in the private helpers that it calls by name."""
    seen = set() if seen is None else seen
    function = inspect.unwrap(function)
    if function in seen or not inspect.isfunction(function):
        return set()
    seen.add(function)
    found = set()
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            found |= {node.exc.func.id} if isinstance(node.exc.func, ast.Name) else set()
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            helper = function.__globals__.get(node.func.id)
            module = getattr(helper, "__module__", None) or ""
            private = node.func.id.startswith(("_", "check_")) or "._" in module
            if private and top(module) == top(function.__module__):
                found |= raises(helper, seen)
    return found & {"ValueError", "TypeError"}


def field_docs(cls: type) -> dict[str, str]:
    """The strings that stand below the fields of a class, as Sphinx shows them."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body
    found = {}
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and not node.target.id.startswith("_"):
            text = after.value if isinstance(after, ast.Expr) else None
            found[node.target.id] = inspect.cleandoc(text.value) if text is not None else ""
    return found


def function_item(name: str, function: Any, doc: str, owner: Item | None = None) -> Item:
    parameters, result = signature(function)
    return Item(name, doc, parameters, result, frozenset(raises(function)), owner)


def items(name: str, value: Any) -> Iterator[Item]:
    """A function, or a class with its fields, methods and properties of the library's own."""
    doc = inspect.getdoc(value) or ""
    if not inspect.isclass(value):
        yield function_item(name, value, doc)
        return
    init = vars(value).get("__init__")
    written = inspect.isfunction(init) and init.__code__.co_filename != "<string>"
    parameters = signature(init)[0] if written and "__init__" in vars(value) else {}
    makers = [vars(value).get("__post_init__"), init if written else None]
    raised = set().union(*(raises(maker) for maker in makers if maker))
    own = [cls for cls in value.__mro__ if top(cls.__module__) == top(value.__module__)]
    bases = tuple(cls.__name__ for cls in own[1:])
    this = Item(name, doc, parameters, raised=frozenset(raised), bases=bases)
    yield this
    known = set()
    for cls in own:
        if cls.__doc__ and (hasattr(cls, "__dataclass_fields__") or hasattr(cls, "_fields")):
            for key, text in field_docs(cls).items():
                told = entry(doc, key) or text
                kind = annotation(cls.__annotations__[key])
                yield Item(f"{name}.{key}", told, result=kind, owner=this)
        for key, member in vars(cls).items():
            function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            function = function.fget if isinstance(function, property) else function
            function = function.func if isinstance(function, cached_property) else function
            if key.startswith("_") or key in known or not inspect.isfunction(function):
                continue
            known.add(key)
            text = inspect.getdoc(getattr(value, key)) or ""
            yield function_item(f"{name}.{key}", function, text, this)


def entry(doc: str, parameter: str) -> str:
    """What a docstring says of one parameter."""
    found = re.search(
        rf"^(?P<indent> *):param {parameter}:(?P<text> .*(?:\n(?P=indent) +.*)*)", doc, re.MULTILINE
    )
    return found["text"] if found else ""


def returned(doc: str) -> str:
    found = re.search(r"^:returns:(.*(?:\n +.*)*)", doc, re.MULTILINE)
    return found[1] if found else ""


def in_prose(doc: str) -> str:
    """A docstring without its entries and examples."""
    doc = re.sub(r"^ *>>>.*(\n.+)*", "", doc, flags=re.MULTILINE)
    return re.split(r"^:\w+[ :]", doc, maxsplit=1, flags=re.MULTILINE)[0]


# ---------------------------------------------------------------------- rules


def shapes(item: Item) -> Iterator[str]:
    """Each tensor has a shape: in its entry, or for those without an entry in the prose."""
    told = {
        key: entry(item.doc, key)
        for key, kind in item.parameters.items()
        if key in TABLES or (TENSOR.search(kind) and not FUNCTION.search(kind))
    }
    if TENSOR.search(item.result):
        told["result"] = returned(item.doc)
    for key, text in told.items():
        if text and not SHAPE.search(text) and not DELEGATES.search(text):
            yield f"the shape of {key}"
    without = [key for key, text in told.items() if not text]
    prose = in_prose(item.doc)
    if len(SHAPE.findall(prose)) < len(without) and not DELEGATES.search(prose):
        yield f"the shape of {', '.join(without)}"


def units(item: Item) -> Iterator[str]:
    """What is a quantity of information by its name or its first words is in nats."""
    text = f"{item.name.rpartition('.')[2]} {item.summary}"
    number = re.search(r"\b(float|Tensor|Estimate|ndarray|NDArray)\b", item.result)
    by_class = item.owner is not None and ALL_IN_NATS.search(item.owner.doc)
    if number and QUANTITY.search(text) and not UNIT.search(item.doc) and not by_class:
        yield "its unit: nats"


def source(item: Item, docs: Mapping[str, str]) -> Iterator[str]:
    """An equation of the paper or another work: its own, or that of a name in its first words.

    Members have the source of their class, a class that of the library's class it derives from.
    ``docs`` are the docstrings by their last name.
    """
    if item.owner is not None:
        return
    names = [*REFERENCE.findall(item.summary), *item.bases]
    texts = [item.doc, *(docs.get(name.rpartition(".")[2], "") for name in names)]
    if not any(SOURCE.search(text) for text in texts):
        yield "its source"


def errors(item: Item) -> Iterator[str]:
    """Each ValueError and TypeError that it raises is named."""
    for error in sorted(item.raised):
        if error not in item.doc and not DELEGATES.search(item.summary):
            yield f"when it raises {error}"


def by_name(public: Mapping[str, Any]) -> dict[str, str]:
    """Last name -> the docstrings of all that have it."""
    found: dict[str, str] = {}
    for name, value in public.items():
        last = name.rpartition(".")[2]
        found[last] = f"{found.get(last, '')}\n{inspect.getdoc(value) or ''}"
    return found
