"""The house of the library: who may import whom, and that an import changes nothing."""

import ast
import json
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import pyro_corex

ROOT = Path(pyro_corex.__file__).parent
NAME = "pyro_corex"

# Lowest first; those of one rank do not import each other.
RANKS = [
    {"arrays", "files", "threads"},
    {"batches"},
    {"information"},
    {"programs", "objective"},
    {"training", "regularizers"},
    {"evaluation"},
    {"datasets"},
    {"figures"},
    {"estimator"},
    {"export"},
    {"__main__"},
]
RANK = {part: rank for rank, parts in enumerate(RANKS) for part in parts}


def sources(root: Path = ROOT) -> dict[str, Path]:
    """Module name -> file."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        found[".".join((NAME, *parts))] = path
    return found


def imports(module: str, path: Path, modules: set[str]) -> set[str]:
    """The modules of the library that a file imports, wherever in it the import stands."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:  # a module of the package, or a name in it
                full = f"{base}.{alias.name}"
                found.add(full if full in modules else base)
    return {name for name in found if name.split(".")[0] == NAME}


def graph(root: Path = ROOT) -> dict[str, set[str]]:
    files = sources(root)
    return {module: imports(module, path, set(files)) for module, path in files.items()}


def part(module: str) -> str:
    """The folder (or single file) below the root that a module is in; "" for the root itself."""
    return [*module.split("."), ""][1]


def upward(edges: dict[str, set[str]]) -> list[str]:
    """The imports that do not go downwards."""
    wrong = []
    for module, targets in edges.items():
        here = part(module)
        for target in sorted(targets):
            there = part(target)
            if here and here != there and (not there or RANK[there] >= RANK[here]):
                wrong.append(f"{module} imports {target}")
    return wrong


def cycle(edges: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


# ---------------------------------------------------------------------- imports


def test_every_part_has_its_place():
    assert {part(module) for module in sources()} - {""} <= set(RANK)


def test_imports_go_downwards():
    assert upward(graph()) == []


def test_there_is_no_cycle():
    assert cycle(graph()) == []


PLANTED = {
    "objective imports programs": ("objective/elbo.py", "from pyro_corex.programs import anchor"),
    "programs imports objective": ("programs/vae.py", "from pyro_corex import objective"),
    "relative": ("information/entropy.py", "from ..programs import vae"),
    "of the root": ("programs/vae.py", "import pyro_corex"),
    "in a function": ("objective/elbo.py", "def f():\n    import pyro_corex.training"),
    "for types only": (
        "information/entropy.py",
        "import typing\nif typing.TYPE_CHECKING:\n    from pyro_corex.objective import x",
    ),
}


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A small library that keeps the order."""
    files = {
        "__init__.py": "from pyro_corex import information, objective, programs\n",
        "information/__init__.py": "from pyro_corex.information.entropy import h\n",
        "information/entropy.py": "import torch\nh = 1\n",
        "programs/__init__.py": "from .vae import VAE\n",
        "programs/vae.py": "from pyro_corex.information import h\nVAE = h\n",
        "objective/__init__.py": "",
        "objective/elbo.py": "from ..information.entropy import h\nx = h\n",
        "training/__init__.py": "from pyro_corex.objective.elbo import x\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_house_in_order_passes(house):
    assert upward(graph(house)) == []
    assert cycle(graph(house)) == []
    assert graph(house)[f"{NAME}.objective.elbo"] == {f"{NAME}.information.entropy"}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_upward_import_is_found(house, name):
    file, text = PLANTED[name]
    (house / file).write_text(text)
    found = upward(graph(house))
    module = file.removesuffix(".py").replace("/", ".")
    assert len(found) == 1
    assert found[0].startswith(f"{NAME}.{module} imports")


def test_a_planted_cycle_is_found(house):
    (house / "information/cells.py").write_text("from .entropy import h")
    (house / "information/entropy.py").write_text("from .cells import h")
    assert upward(graph(house)) == []
    assert set(cycle(graph(house))) == {f"{NAME}.information.{m}" for m in ("cells", "entropy")}


# ---------------------------------------------------------------------- size

MAX_LINES, MAX_BODY, MAX_PARAMETERS, MAX_PACKAGE = 400, 60, 17, 30_700


def functions(path: Path) -> list[ast.FunctionDef]:
    """The functions and methods of a file."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)]


def body_lines(function: ast.FunctionDef) -> int:
    """The lines of a function below its docstring."""
    body = function.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def n_parameters(function: ast.FunctionDef) -> int:
    a = function.args
    named = [x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
    return len([name for name in named if name not in ("self", "cls")])


def too_large(root: Path = ROOT) -> list[str]:
    """Files and functions that cannot be read in one sitting."""
    found = []
    for path in sorted(root.rglob("*.py")):
        name, lines = path.relative_to(root), len(path.read_text().splitlines())
        if lines > MAX_LINES:
            found.append(f"{name} has {lines} lines")
        for function in functions(path):
            where = f"{name}: {function.name}"
            if body_lines(function) > MAX_BODY:
                found.append(f"{where} has {body_lines(function)} lines of body")
            if n_parameters(function) > MAX_PARAMETERS:
                found.append(f"{where} has {n_parameters(function)} parameters")
    return found


def test_files_and_functions_can_be_read_in_one_sitting():
    assert too_large() == []  # that their branches can be followed is ruff's C901


def test_the_package_is_no_larger_than_it_was_cut_to():
    lines = sum(len(path.read_text().splitlines()) for path in ROOT.rglob("*.py"))
    assert lines < MAX_PACKAGE


@pytest.mark.parametrize(("text", "found"), [
    ("x = 1\n" * 401, "entropy.py has 401 lines"),
    ("def f():\n" + "    x = 1\n" * 61, "entropy.py: f has 61 lines of body"),
    ("def f():\n    'Says.'\n" + "    x = 1\n" * 60, None),
    (f"def f({', '.join(f'a{i}' for i in range(18))}): ...", "entropy.py: f has 18 parameters"),
])  # fmt: skip
def test_what_is_planted_too_large_is_found(house, text, found):
    (house / "information/entropy.py").write_text(text)
    assert too_large(house) == ([f"information/{found}"] if found else [])


@pytest.mark.parametrize("room", ["objective", "estimator", "training"])
def test_every_module_has_tests_of_its_name(room):
    tests = {path.stem for path in (Path(__file__).parent / room).rglob("test_*.py")}
    modules = {path.stem for path in (ROOT / room).rglob("*.py")} - {"__init__"}
    assert sorted(name for name in modules if f"test_{name}" not in tests) == []


def test_evaluating_a_program_turns_few_pages():
    path = Path(__file__).parent.parent / "benchmarks" / "file_changes.py"
    run = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    changes = {line.split(":")[0]: int(line.split()[1]) for line in run.stdout.splitlines()}
    assert 0 < changes["CorExELBO"] <= 41


# ---------------------------------------------------------------------- importing

PROBE = """
import json, logging, os, random, sys, warnings
import numpy, pyro, torch
import pyro.distributions, pyro.infer, pyro.nn, pyro.optim
import torch.distributions

def state():
    return {
        "default dtype": str(torch.get_default_dtype()),
        "default device": str(torch.get_default_device()),
        "torch random state": torch.get_rng_state().tolist(),
        "numpy random state": str(numpy.random.get_state()),
        "python random state": str(random.getstate()),
        "pyro validation": pyro.infer.util.is_validation_enabled(),
        "pyro poutine validation": pyro.settings.get("validate_poutine"),
        "distributions validation": torch.distributions.Distribution._validate_args,
        "pyro settings": str(pyro.settings.get()),
        "parameters": list(pyro.get_param_store()),
        "gradient mode": torch.is_grad_enabled(),
        "anomaly mode": torch.is_anomaly_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "threads": torch.get_num_threads(),
        "warning filters": str(warnings.filters),
        "print options": str(torch._tensor_str.PRINT_OPTS),
        "numpy errors": numpy.geterr(),
        "log handlers": str(logging.getLogger().handlers),
        "environment": dict(os.environ),
        "recursion limit": sys.getrecursionlimit(),
    }

before = state()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    inside = str(warnings.filters)
    import pyro_corex
    assert str(warnings.filters) == inside
after = state()
modules = sorted({name.split(".")[0] for name in sys.modules})
networks = pyro_corex.programs.mlp_encoder([8, 2]), pyro_corex.programs.mlp_decoder([2, 8])
vae = pyro_corex.CorExVAE(*networks, 2)
pyro_corex.fit(vae, torch.zeros(16, 8), epochs=1, progress=False, device="cpu")
print(json.dumps({
    "before": before,
    "after": after,
    "warnings": [str(w.message) for w in caught],
    "modules": modules,
    "after a fit": sorted({name.split(".")[0] for name in sys.modules}),
}))
"""


@pytest.fixture(scope="module")
def probe() -> dict:
    run = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    return json.loads(run.stdout)  # nothing else is printed


def test_an_import_changes_no_global_state(probe):
    changed = [key for key, value in probe["before"].items() if probe["after"][key] != value]
    assert changed == []
    assert probe["warnings"] == []


def test_an_import_needs_no_extra(probe):
    extras = {
        "matplotlib",
        "sklearn",
        "torchvision",
        "sphinx",
        "pytest",
        "hypothesis",
        "zuko",
        "arviz",
        "xarray",
    }
    assert extras & set(probe["modules"]) == set()


def test_one_process_on_one_device_imports_no_fabric(probe):
    assert {"lightning_fabric", "lightning"} & set(probe["after a fit"]) == set()


def test_public_names_exist():
    missing = [name for name in pyro_corex.__all__ if not hasattr(pyro_corex, name)]
    assert missing == []
    assert pyro_corex.__all__ == sorted(set(pyro_corex.__all__))
