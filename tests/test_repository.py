"""The package is what the notebooks export, imports point one way, and the wheel is whole."""

import ast
import hashlib
import json
import re
import runpy
import subprocess
import sys
from collections.abc import Iterable
from importlib.util import resolve_name
from pathlib import Path

import pytest
from conftest import BIN, NBS, NOTEBOOKS, ROOT, cells_of, name_of, run_tool, settings

sys.path.insert(0, str(ROOT / "tools"))
import figures

PACKAGE = ROOT / "llm_course"
TOP = ("lessons", "support")  # the folders of notebooks whose modules stand at the top of the package


def modules_in(package: Path) -> dict[str, Path]:
    "The modules of a package and of its folders, by their names inside of it"
    return {".".join(path.relative_to(package).with_suffix("").parts): path for path in sorted(package.rglob("*.py"))
            if not path.stem.startswith("_")}


MODULES = modules_in(PACKAGE)


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
    assert sorted(exported) == sorted(MODULES), "a module without its notebook, or two notebooks of one module"
    for path in NOTEBOOKS:
        folder = path.parent.name
        if folder == "lessons":
            assert re.fullmatch(r"\d\d_[a-z_]+", path.stem)
        if path.parent != NBS:
            name = path.stem[3:] if folder == "lessons" else path.stem
            assert module_of(path) == (name if folder in TOP else f"{folder}.{name}"), name_of(path)


def imports_of(path: Path, package: Path) -> set[str]:
    "The modules of a package that one of them imports, at the top or inside a function"
    inside, modules, names = ".".join(path.parent.relative_to(package.parent).parts), modules_in(package), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), inside)
            names |= {f"{source}.{alias.name}" for alias in node.names}  # a module, or something in a module
    parts = [name.split(".")[1:] for name in names if name.startswith(f"{package.name}.")]
    starts = [[".".join(each[:length]) for length in range(len(each), 0, -1)] for each in parts]
    return {next(name for name in each if name in modules) for each in starts if set(each) & set(modules)}


def imports_in(package: Path) -> dict[str, set[str]]:
    "What each module of a package imports of it"
    return {name: imports_of(path, package) for name, path in modules_in(package).items()}


def floors(modules: Iterable[str], lessons: dict[str, int], support: Iterable[str]) -> dict[str, int]:
    "Where each module stands: support at the ground, engines above it, lessons by number, widgets and answers on top"
    ground = {name: -2 for name in support}
    return {name: ground.get(name, lessons.get(name, -2 if name.endswith(".base") else
                                               1000 if name.startswith(("widgets.", "answers.")) else -1))
            for name in modules}


def upward_imports(order: dict[str, int], imports: dict[str, set[str]]) -> list[str]:
    "Imports of what stands higher, or of a neighbour above the ground"
    return [f"{module} imports {other}" for module, others in sorted(imports.items()) for other in sorted(others)
            if order[other] > order[module] or order[other] == order[module] >= 0]


def has_cycle(imports: dict[str, set[str]]) -> bool:
    "Whether a module reaches itself"
    left = {module: set(others) for module, others in imports.items()}
    while leaves := [module for module, others in left.items() if not others & set(left)]:
        for module in leaves:
            del left[module]
    return bool(left)


def test_imports_follow_the_floors():
    lessons = {path.stem[3:]: int(path.stem[:2]) for path in (NBS / "lessons").glob("*.ipynb")}
    support = [path.stem for path in (NBS / "support").glob("*.ipynb")]
    imports = imports_in(PACKAGE)
    assert {"core", "data", "data_preparation"} <= imports["fine_tuning"] and "core" in imports["command_line"]
    assert not upward_imports(floors(MODULES, lessons, support), imports)
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
    assert upward_imports({"support": -2, "early": 10, "later": 12}, imports_in(planted)) == PLANTED[source]


def test_an_import_of_an_earlier_lesson_is_allowed(planted):
    (planted / "later.py").write_text("from .early import x\nfrom . import support")
    assert imports_in(planted)["later"] == {"early", "support"}
    assert not upward_imports({"support": -2, "early": 10, "later": 12}, imports_in(planted))


@pytest.mark.parametrize("source", ["from .early import x", "def inside():\n    from . import early"])
def test_a_support_module_that_imports_a_lesson_is_seen(planted, source):
    (planted / "support.py").write_text(source)
    found = upward_imports({"support": -2, "early": 10, "later": 12}, imports_in(planted))
    assert found == ["support imports early"]


@pytest.mark.parametrize(("module", "source", "said"), [
    ("early", "from .widgets.early import x", ["early imports widgets.early"]),
    ("support", "from .engine.loop import x", ["support imports engine.loop"]),
    ("engine.loop", "from ..early import x", ["engine.loop imports early"]),
    ("widgets.early", "from . import later", ["widgets.early imports widgets.later"]),
    ("early", "from . import engine\nfrom .engine import loop", []),
    ("widgets.early", "from ..early import x\nfrom .base import y\nfrom planted.engine import loop", []),
    ("support", "from .widgets.base import x", []),
])
def test_arrows_between_folders_point_down(planted, module, source, said):
    for name in ("engine/__init__", "engine/loop", "widgets/__init__", "widgets/base", "widgets/early", "widgets/later"):
        (planted / name).parent.mkdir(exist_ok=True)
        (planted / f"{name}.py").write_text("")
    (planted / f"{module.replace('.', '/')}.py").write_text(source)
    order = floors(modules_in(planted), {"early": 10, "later": 12}, ["support"])
    assert upward_imports(order, imports_in(planted)) == said


def test_a_cycle_is_seen(planted):
    (planted / "later.py").write_text("from .early import x")
    (planted / "early.py").write_text("from . import support")
    assert not has_cycle(imports_in(planted))
    (planted / "support.py").write_text("def inside():\n    from .later import x")
    assert has_cycle(imports_in(planted))


def test_package_passes_ruff():
    run_tool(BIN / "ruff", "check", "llm_course", "tests", "tools", "benchmarks")


def test_public_functions_are_typed_and_described():
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{module}.{node.name} has no summary"
                arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
                untyped = [a.arg for a in arguments if a.annotation is None]
                assert not untyped, f"{module}.{node.name}: {untyped} have no type"


def test_import_is_light():
    """No library but the standard one: neither torch nor any other that takes its time"""
    code = ("import sys; before = set(sys.modules); import llm_course; "
            "print(*{name.partition('.')[0] for name in set(sys.modules) - before})")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert set(said.split()) <= {"llm_course", *sys.stdlib_module_names}, said


def test_assets_are_small_and_described():
    assets = ROOT / "llm_course/assets"
    files = [path for path in assets.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 16_000_000
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for line in (assets / "SHA256SUMS").read_text().splitlines():
        assert all(part in notice for part in line.split()), f"NOTICE lacks {line}"
    named = {line.split()[1] for line in (assets / "SHA256SUMS").read_text().splitlines()}
    assert named == {path.relative_to(assets).as_posix() for path in files} - {"SHA256SUMS"}
    [font] = (ROOT / "nbs/fonts").iterdir()
    assert hashlib.sha256(font.read_bytes()).hexdigest() in notice and font.stat().st_size < 200_000


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


def too_large(path: Path, lines_of_a_function: int = 30, lines_of_a_class: int = 80) -> list[str]:
    "Functions whose body, and classes which, have more lines"
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            first = node.body[1:] if ast.get_docstring(node) else node.body
            if first and node.end_lineno - first[0].lineno >= lines_of_a_function:
                found.append(node.name)
        elif isinstance(node, ast.ClassDef) and node.end_lineno - node.lineno >= lines_of_a_class:
            found.append(node.name)
    return found


def test_the_engine_is_read_in_pieces():
    """The rooms under `fine_tune` and `pretrain`, and lessons 03 and 12: no settings from locals(), no method that is looked for, no giant"""
    paths = [*(PACKAGE / "training").glob("[!_]*.py"), PACKAGE / "fine_tuning.py", PACKAGE / "pretraining.py"]
    assert len(paths) == 14
    for path in paths:
        text = path.read_text(encoding="utf-8")
        assert not too_large(path), path.name
        assert "locals()" not in text and not re.search(r"hasattr\((self\.)?objective", text), path.name


def test_the_check_of_sizes_sees_planted_faults(tmp_path):
    path = tmp_path / "large.py"
    path.write_text("def f():\n" + "    x = 1\n" * 31 + "class C:\n" + "    x = 1\n" * 80 + "def g():\n    'ok'\n    x = 1\n")
    assert too_large(path) == ["f", "C"]


def code_cells(path: Path) -> list[tuple[bool, str]]:
    "The code cells of a notebook: whether each is exported, and its source"
    return [(source.startswith("#| export"), source) for source in cells_of(path)]


def unchecked(path: Path) -> list[str]:
    "Exported cells with a function or a class that neither of the next two code cells checks"
    cells, found = code_cells(path), []
    for place, (exported, source) in enumerate(cells):
        if exported and re.search(r"^(def|class|@)", source, re.MULTILINE):
            after = [text for is_export, text in cells[place + 1 : place + 3] if not is_export]
            if not any(re.search(r"\bassert\b|assert_close|\bclaim\(", text) for text in after):
                found.append(source.splitlines()[1])
    return found


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.parent.name == "lessons"], ids=name_of)
def test_a_lesson_exports_what_it_teaches_and_checks_it_at_once(path):
    assert not unchecked(path)
    exported = sum(len(source.splitlines()) for is_export, source in code_cells(path) if is_export)
    assert exported <= 400, f"{exported} lines: what a learner need not read belongs in a wing or in support"


def test_only_widgets_and_the_quiz_import_ipywidgets():
    found = {name for name, path in MODULES.items() if "ipywidgets" in path.read_text(encoding="utf-8")}
    assert {name for name in found if not name.startswith("widgets.")} == {"exercises"}


def test_the_check_of_lessons_sees_planted_faults(tmp_path):
    def planted(*sources: str) -> list[str]:
        cells = [{"cell_type": "code", "source": source} for source in sources]
        (tmp_path / "10_planted.ipynb").write_text(json.dumps({"cells": cells}))
        return unchecked(tmp_path / "10_planted.ipynb")

    function, check = "#| exports\ndef f():\n    return 1", "assert f() == 1"
    assert planted(function, check) == planted(function, "f()", check) == planted("#| export\nimport re", "re") == []
    assert planted(function, "f()", "f()", check) == planted(function, "#| export\nassert f()", function, check) == ["def f():"]
    assert planted("#| export\n@dataclass\nclass C:\n    x: int", "C(1)") == ["@dataclass"]


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.parent.name == "lessons"], ids=name_of)
def test_what_a_learner_has_done_is_not_in_the_committed_notebook(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    own = [cell for cell in cells if "".join(cell["source"]).strip() == "progress()"]
    assert len(own) == 1 and not own[0]["outputs"]


def test_the_page_of_figures_is_what_the_results_say(tmp_path):
    assert (ROOT / "benchmarks/README.md").read_text(encoding="utf-8") == figures.page()
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert figures.readme(text) == text, "run: tools/figures.py"
    with pytest.raises(ValueError, match="no place for the measured lines"):
        figures.readme(text.replace("<!-- end -->", ""))
    (tmp_path / "results").mkdir()
    (tmp_path / "results/new.json").write_text("{}")
    with pytest.raises(ValueError, match="new: write a section"):
        figures.page(tmp_path)
