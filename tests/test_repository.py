"""The package is what the notebooks export, imports point one way, and the wheel is whole."""

import ast
import re
import runpy
import subprocess
import sys
from importlib.util import resolve_name
from pathlib import Path

import pytest
from conftest import BIN, NBS, NOTEBOOKS, ROOT, cells_of, name_of, run_tool, settings

MODULES = sorted(path.stem for path in (ROOT / "llm_course").glob("*.py") if not path.stem.startswith("_"))
SUPPORT = ["checks", "duplicates", "core", "data", "models", "plots", "widgets", "tokens", "words", "answers", "exercises", "claims", "callbacks",
           "checkpoints", "command_line", "course"]


def module_of(path) -> str | None:
    "The module that a notebook exports"
    found = re.findall(r"^#\| default_exp (\S+)", "\n".join(cells_of(path)), re.MULTILINE)
    assert len(found) <= 1, f"{name_of(path)} has {len(found)} default_exp"
    return found[0] if found else None


def test_clean_and_export_leave_no_difference(copy_of_repository):
    for command in ("nbdev_clean", "nbdev_export"):
        run_tool(BIN / command, cwd=copy_of_repository)
        changed = run_tool("git", "status", "--porcelain", "--untracked-files=all", cwd=copy_of_repository)
        assert not changed, f"{command} changes:\n{changed}{run_tool('git', 'diff', cwd=copy_of_repository)[:4000]}"


def test_one_notebook_a_module():
    exported = [module for path in NOTEBOOKS if (module := module_of(path))]
    assert sorted(exported) == MODULES, "a module without its notebook, or two notebooks of one module"
    for path in (NBS / "lessons").glob("*.ipynb"):
        assert re.fullmatch(r"\d\d_[a-z_]+", path.stem) and module_of(path) == path.stem[3:]
    for path in (NBS / "support").glob("*.ipynb"):
        assert module_of(path) == path.stem and path.stem in SUPPORT


def imports_of(path: Path) -> set[str]:
    "The modules of its own package that a module imports, at the top or inside a function"
    package, names = path.parent.name, set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package)
            names |= {f"{source}.{alias.name}" for alias in node.names}  # a module, or something in a module
    inside = {name.split(".")[1] for name in names if name.startswith(f"{package}.")}
    return {name for name in inside if path.with_name(f"{name}.py").exists()}  # __version__ is no module


def modules_in(package: Path) -> dict[str, set[str]]:
    "What each module of a package imports of it"
    return {path.stem: imports_of(path) for path in package.glob("*.py") if not path.stem.startswith("_")}


def upward_imports(order: dict[str, int], imports: dict[str, set[str]]) -> list[str]:
    "Imports of a lesson by an earlier lesson, by itself or by a support module, whose number is below 0"
    return [f"{module} imports {other}" for module, others in sorted(imports.items()) for other in sorted(others)
            if order[other] >= max(order[module], 0)]


def has_cycle(imports: dict[str, set[str]]) -> bool:
    "Whether a module reaches itself"
    left = {module: set(others) for module, others in imports.items()}
    while leaves := [module for module, others in left.items() if not others & set(left)]:
        for module in leaves:
            del left[module]
    return bool(left)


def test_imports_follow_the_numbers():
    order = {path.stem[3:]: int(path.stem[:2]) for path in (NBS / "lessons").glob("*.ipynb")}
    order |= {module: -1 for module in SUPPORT}
    imports = modules_in(ROOT / "llm_course")
    assert {"core", "data", "data_preparation"} <= imports["fine_tuning"] and "core" in imports["command_line"]
    assert not upward_imports(order, imports)
    assert not has_cycle(imports)


PLANTED = {
    "from .later import x": ["early imports later"],
    "from . import later": ["early imports later"],
    "from planted.later import x": ["early imports later"],
    "from planted import later as name": ["early imports later"],
    "import planted.later": ["early imports later"],
    "def inside():\n    from .later import x": ["early imports later"],
    "if True:\n    from . import support, later": ["early imports later"],
    "from . import early": ["early imports early"],
    "from .support import x\nfrom . import __version__\nimport later\nfrom later import x": [],
}


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    "A package of two lessons and a support module that import nothing"
    package = tmp_path / "planted"
    package.mkdir()
    for module in ("__init__", "support", "early", "later"):
        (package / f"{module}.py").write_text("")
    return package


@pytest.mark.parametrize("source", PLANTED)
def test_an_upward_import_is_seen(planted, source):
    (planted / "early.py").write_text(source)
    assert upward_imports({"support": -1, "early": 10, "later": 12}, modules_in(planted)) == PLANTED[source]


def test_an_import_of_an_earlier_lesson_is_allowed(planted):
    (planted / "later.py").write_text("from .early import x\nfrom . import support")
    assert modules_in(planted)["later"] == {"early", "support"}
    assert not upward_imports({"support": -1, "early": 10, "later": 12}, modules_in(planted))


@pytest.mark.parametrize("source", ["from .early import x", "def inside():\n    from . import early"])
def test_a_support_module_that_imports_a_lesson_is_seen(planted, source):
    (planted / "support.py").write_text(source)
    found = upward_imports({"support": -1, "early": 10, "later": 12}, modules_in(planted))
    assert found == ["support imports early"]


def test_a_cycle_is_seen(planted):
    (planted / "later.py").write_text("from .early import x")
    (planted / "early.py").write_text("from . import support")
    assert not has_cycle(modules_in(planted))
    (planted / "support.py").write_text("def inside():\n    from .later import x")
    assert has_cycle(modules_in(planted))


def test_package_passes_ruff():
    run_tool(BIN / "ruff", "check", "llm_course", "tests", "tools", "benchmarks")


def test_public_functions_are_typed_and_described():
    for module in MODULES:
        for node in ast.parse((ROOT / f"llm_course/{module}.py").read_text()).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{module}.{node.name} has no summary"
                arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
                untyped = [a.arg for a in arguments if a.annotation is None]
                assert not untyped, f"{module}.{node.name}: {untyped} have no type"


def test_import_is_light():
    """No torch, and within 0.2 s: the fastest of five, since other processes slow single ones"""
    code = ("import sys, time; start = time.perf_counter(); import llm_course; "
            "print(time.perf_counter() - start, 'torch' in sys.modules)")
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
            for _ in range(5)]
    assert all(has_torch == "False" for _, has_torch in runs)
    assert min(float(seconds) for seconds, _ in runs) < 0.2


def test_assets_are_small_and_described():
    assets = ROOT / "llm_course/assets"
    assert sum(path.stat().st_size for path in assets.iterdir()) <= 6_000_000
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for line in (assets / "SHA256SUMS").read_text().splitlines():
        assert all(part in notice for part in line.split()), f"NOTICE lacks {line}"


def test_every_direct_requirement_is_pinned():
    from packaging.requirements import Requirement
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {pin.name.lower(): pin for line in lines if line and not line.startswith("#") for pin in [Requirement(line)]}
    for key in ("requirements", "dev_requirements", "lab_requirements", "colab_requirements"):
        for requirement in map(Requirement, settings()[key].split()):
            pin = pins[requirement.name.lower()]
            [version] = [part.version for part in pin.specifier if part.operator == "=="]
            assert version in requirement.specifier, f"{pin} does not fit {requirement}"


def test_the_oldest_versions_are_the_lower_bounds():
    oldest = runpy.run_path(str(ROOT / "tools/oldest.py"))["oldest"]
    settings = {"requirements": "torch>=2.4 numpy>=2.0 uv-like>=1.5", "dev_requirements": "ruff>=0.6 numpy>=2.0"}
    pins = ["# a comment", "torch==2.13.0", "ruff==0.17.6", "numpy==2.4.6"]
    assert oldest(settings, pins) == ["numpy==2.0", "ruff==0.17.6", "torch==2.13.0", "uv-like==1.5"]
    with pytest.raises(ValueError, match="no lowest version"):
        oldest({"requirements": "numpy", "dev_requirements": ""}, pins)
