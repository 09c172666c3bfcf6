"""How the documentation is built: ``python -m sphinx -W -b html docs docs/_build``."""

from __future__ import annotations

import importlib.util
import os
import pkgutil
import sys
import urllib.request
from pathlib import Path

# Threads wait for each other busily, which is slow where a core is taken.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import kernels
import names
from sphinx.util import logging

import pyro_corex

logger = logging.getLogger(__name__)

project = "pyro_corex"
author = "The pyro_corex founders"
copyright = f"2025, {author}"
version = release = pyro_corex.__version__

extensions = [
    "cards",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",  # for what is inherited from scikit-learn
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "jupyter_execute", "results"]  # built, and included by pages
html_theme = "furo"
html_title = f"pyro_corex {version}"

myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3

# Formulas are typeset without a network, too: a file of MathJax from sphinx-mathjax-offline, which
# draws letters as curves and so needs no fonts.
[_package] = importlib.util.find_spec("sphinx-mathjax-offline").submodule_search_locations
html_static_path = ["docs.css", str(Path(_package) / "static" / "mathjax" / "tex-svg.js")]
html_css_files = ["docs.css"]
mathjax_path = "tex-svg.js"

# The tutorials are executed anew in each build, and an error in one fails it.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_execution_excludepatterns = ["_build/*"]
nb_merge_streams = True
nb_output_stderr = "remove"  # such as tqdm's wish for ipywidgets
nb_render_markdown_format = "myst"

autosummary_generate = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True


def spread(app, env, docnames):
    """Divides evenly what is executed; Sphinx cuts the list in three for two processes."""
    executed = [name for name in docnames if name.startswith(("gallery/", "tutorials/"))]
    others = [name for name in docnames if name not in executed]
    first = [name for i, name in enumerate(executed) if i % 4 in (0, 3)]  # as long as the rest
    second = [name for name in executed if name not in first]
    between = len(others) // 6
    docnames[:] = first + others[:between] + second + others[between:]


# ---------------------------------------------------------------------- links to other projects

INVENTORIES = {
    "torch": "https://docs.pytorch.org/docs/stable/",
    "pyro": "https://docs.pyro.ai/en/stable/",
    "python": "https://docs.python.org/3/",
}


def reachable(folder: Path) -> dict[str, tuple[str, str]]:
    """Fetches the inventories that the network gives us; a missing one only costs its links."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, url in INVENTORIES.items():
        path = folder / f"{name}.inv"
        if not path.exists():
            request = urllib.request.Request(
                f"{url}objects.inv", headers={"User-Agent": "Mozilla/5.0 (Sphinx)"}
            )
            try:
                with urllib.request.urlopen(request, timeout=5) as answer:
                    content = answer.read()
            except OSError:
                continue
            if not content.startswith(b"# Sphinx inventory"):
                continue
            path.write_bytes(content)
        found[name] = (url, str(path))
    return found


intersphinx_mapping = reachable(Path(__file__).parent / "_build" / "inventories")

# ---------------------------------------------------------------------- every public name

PUBLIC_FILES = {"regularizers"}  # beside the packages
PACKAGES = [
    m.name for m in pkgutil.iter_modules(pyro_corex.__path__) if m.ispkg or m.name in PUBLIC_FILES
]
PUBLIC = ["pyro_corex", *(f"pyro_corex.{name}" for name in PACKAGES)]


def check_public_names(app, env):
    """Warns, which fails the build, about public names that no page documents."""
    modules = {name: importlib.import_module(name) for name in PUBLIC}
    public = {
        f"{m}.{name}": getattr(module, name)
        for m, module in modules.items()
        for name in module.__all__
    }
    documented = env.get_domain("py").objects
    seen = {id(value) for name, value in public.items() if name in documented}
    for name, value in public.items():
        if name not in modules and name not in documented and id(value) not in seen:
            logger.warning("%s is public, but on no page of docs/api", name)
        elif not getattr(value, "__doc__", None):
            logger.warning("%s has no docstring", name)


def lookup(name):
    """What a dotted name stands for, or ``None``."""
    value = pyro_corex
    for part in name.split(".")[1:]:
        value = getattr(value, part, None)
    return value


def resolve_other_names(app, env, node, contnode):
    """Links a name that is public in two places, such as tc_bound, to where it is documented."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target.startswith("pyro_corex."):
        return None
    domain, value = env.get_domain("py"), lookup(target)
    for name in domain.objects if value is not None else ():
        if name.rpartition(".")[2] == target.rpartition(".")[2] and lookup(name) is value:
            page = node["refdoc"]
            return domain.resolve_xref(env, page, app.builder, "obj", name, node, contnode)
    return None


def setup(app):
    """Adds them to the build."""
    if sys.platform == "linux":  # elsewhere a copy of a process may lack what it needs
        kernels.copy_this_process()
    app.connect("env-before-read-docs", spread)
    app.connect("source-read", names.list_names)
    app.connect("env-check-consistency", check_public_names)
    app.connect("missing-reference", resolve_other_names)
