"""The house: what a module may import, and what every module must have."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import physflow

PACKAGE = Path(physflow.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# A part of the package imports only from the parts before it.
ORDER = (
    "config",
    "machine",
    "grid",
    "fields",
    "transforms",
    "pde",
    "data",
    "generative",
    "inference",
    "metrics",
    "judgement",
    "selection",
    "assembly",
    "storage",
    "densities",
    "model",
    "corrected",
    "sensors",
    "input_priors",
    "conditioning",
    "autoencoder",
    "stages",
    "fitting",
    "results",
    "report",
    "summary",
    "baselines",
    "experiment",
    "cli",
)
# These are of use without the rest, for images as for fields: physics reaches them as callables and tensors.
INDEPENDENT = {"generative": {"config"}, "inference": {"config", "generative"}, "metrics": set()}
# Only these import where they use: `import physflow` and `physflow --help` must not wait for torch.
LAZY = {"__init__", "cli"}


def name_of(path):
    return str(path.relative_to(PACKAGE.parent))


def part_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree):
    """The full names that a module imports, at its top or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parts_imported(tree):
    names = (name.split(".") for name in imported(tree))
    return {name[1] for name in names if name[0] == "physflow" and len(name) > 1 and name[1] in ORDER}


def allowed(part):
    if part in INDEPENDENT:
        return INDEPENDENT[part] | {part}
    if part in ORDER:
        return set(ORDER[: ORDER.index(part) + 1])
    return set(ORDER)  # physflow/__init__.py and physflow/__main__.py


@pytest.fixture(params=MODULES, ids=name_of)
def module(request):
    return request.param


def test_every_part_has_its_place():
    assert {part_of(path) for path in MODULES} - set(ORDER) == {"__init__", "__main__"}


def test_imports_point_downwards(module):
    part = part_of(module)
    above = parts_imported(ast.parse(module.read_text())) - allowed(part)
    assert not above, f"{name_of(module)} may not import {sorted(above)}; {part} may import {sorted(allowed(part))}"


def test_a_forbidden_import_is_seen_inside_a_function_too():
    tree = ast.parse("def f():\n    from physflow import pde\n    import physflow.data.darcy as darcy\n")
    assert parts_imported(tree) == {"pde", "data"}
    assert parts_imported(ast.parse("from physflow import __version__")) == set()


def test_imports_stand_at_the_top(module):
    if part_of(module) in LAZY:
        return
    functions = [n for n in ast.walk(ast.parse(module.read_text())) if isinstance(n, ast.FunctionDef)]
    late = {name for function in functions for name in imported(function) if name.startswith("physflow")}
    assert not late, f"{name_of(module)} imports {sorted(late)} inside a function"


def test_third_party_imports_are_declared(module):
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    extras = [line for extra, lines in project["optional-dependencies"].items() for line in lines if extra != "dev"]
    tree = ast.parse(module.read_text())
    top = ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
    # What an extra brings is imported where it is used.
    for part, lines in ((top, project["dependencies"]), (tree, project["dependencies"] + extras)):
        declared = {
            re.match(r"[\w-]+", line)[0].replace("pyyaml", "yaml").replace("scikit-learn", "sklearn") for line in lines
        }
        names = {name.split(".")[0] for name in imported(part)}
        assert names - set(sys.stdlib_module_names) - {"physflow"} <= declared


def test_module_is_documented_and_says_what_is_public(module):
    tree = ast.parse(module.read_text())
    assert ast.get_docstring(tree), f"{name_of(module)} has no docstring"
    if module.name == "__main__.py":
        return
    public = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    assert public, f"{name_of(module)} has no __all__"
    definitions = (n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef))
    missing = {n.name for n in definitions if not n.name.startswith("_")} - set(public[0])
    assert not missing, f"{name_of(module)}: neither private nor in __all__: {sorted(missing)}"


def test_module_is_short(module):
    lines = module.read_text().count("\n")
    assert lines <= 400, f"{name_of(module)} has {lines} lines; a module has one subject and at most 400"


@pytest.mark.parametrize("name", ["physflow", "physflow.config", "physflow.cli"])
def test_import_is_cheap(name):
    heavy = "{'torch', 'xarray', 'scipy', 'matplotlib', 'h5py'}"
    code = f"import sys, {name}; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_every_public_name_of_the_package_loads():
    for name in physflow.__all__:
        assert getattr(physflow, name) is not None
    assert set(physflow.__all__) <= set(dir(physflow))
    with pytest.raises(AttributeError, match="has no attribute 'pdes'; it has: autoencoder"):
        _ = physflow.pdes
