"""What single lessons need: the extra `lessons` resolves with all the rest, and none of it breaks another module."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from conftest import BIN, NBS, ROOT, settings
from packaging.requirements import Requirement
from packaging.version import Version
from test_wheel import PYTHONS, need_registry

PACKAGE = ROOT / "llm_course"
EXTRA = [Requirement(text) for text in settings()["lessons_requirements"].split()]
LIBRARIES = {requirement.name.replace("-", "_") for requirement in EXTRA}  # as they are imported


# --- what the extra asks for

def pins() -> dict[str, str]:
    "The versions that constraints.txt holds"
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.lower().split("==") for line in lines if not line.startswith("#"))


def test_the_extra_is_open_and_each_library_pinned():
    for requirement in EXTRA:
        assert [part.operator for part in requirement.specifier] == [">="], f"{requirement} is no open range"
        assert pins()[requirement.name.lower()] in requirement.specifier, requirement


@pytest.mark.parametrize("python", PYTHONS)
def test_the_extra_resolves_with_everything_else(python):
    """To the versions in constraints.txt; without a pin of packaging, flwr would fall back by fifteen versions"""
    need_registry()
    wanted = [text for key, value in settings().items() if key in ("requirements", "lessons_requirements",
              "lab_requirements", "dev_requirements") for text in value.split()]
    done = subprocess.run([BIN / "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--only-binary",
                           ":all:", "--python-version", python, "-c", ROOT / "constraints.txt", "-"],
                          input="\n".join(wanted), text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = dict(line.split("==") for line in done.stdout.splitlines())
    assert {requirement.name: found[requirement.name] for requirement in EXTRA} == {
        requirement.name: pins()[requirement.name] for requirement in EXTRA}
    assert found["torch"] == pins()["torch"] and Version(found["flwr"]) >= Version("1.42")


# --- who uses it

def libraries_of(path: Path, libraries: Iterable[str]) -> set[str]:
    "Those of these libraries that a module imports, anywhere in it, or asks for by `needs`"
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "needs":
            names |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return {name.split(".")[0] for name in names} & set(libraries)


def users_of(package: Path, libraries: Iterable[str]) -> dict[str, set[str]]:
    "The modules that use each library"
    uses = {module: libraries_of(path, libraries) for module, path in modules_of(package).items()}
    return {library: {module for module, used in uses.items() if library in used} for library in libraries}


def modules_of(package: Path) -> dict[str, Path]:
    "The modules of a package, by their names with the package's"
    names = {path: path.relative_to(package.parent).with_suffix("").parts for path in sorted(package.rglob("*.py"))}
    return {".".join(parts).removesuffix(".__init__"): path for path, parts in names.items() if parts[-1] != "__main__"}


def home_of(module: str) -> str:
    "The lesson or the wing that a module belongs to; a lesson's widgets and answers have its name"
    parts = module.split(".")[1:] or [""]
    return parts[-1] if parts[0] in ("widgets", "answers") else parts[0]


IMPORT_ALL = """
import importlib, json, sys
folder, blocked, modules = json.loads(sys.argv[1])
sys.path.insert(0, folder)

class Without:
    "Finds what is there, without the libraries that are blocked: as where they are not installed"
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in blocked else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
broken = {}
for name in modules:
    try:
        importlib.import_module(name)
    except ImportError as error:
        broken[name] = str(error)
print(json.dumps(broken))
"""


def broken_without(package: Path, blocked: Iterable[str], modules: Iterable[str]) -> dict[str, str]:
    "Those of a package's modules that cannot be imported where libraries are missing, with the errors"
    told = json.dumps([str(package.parent), sorted(blocked), sorted(modules)])
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL, told], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def faults_of(package: Path, lessons: set[str], libraries: set[str]) -> list[str]:
    "Libraries that are not one lesson's (and its wing's), and modules of others that do not work without them"
    faults, modules, users = [], modules_of(package), users_of(package, libraries)
    rooms = lessons | {home_of(name) for name in modules if name.count(".") > 1}
    for library, names in sorted(users.items()):
        homes = {home_of(name) for name in names}
        if len(homes & lessons) > 1 or homes - rooms:
            faults.append(f"{library} must belong to one lesson: {', '.join(sorted(names))} use it")
    used, unused = ([library for library in sorted(users) if bool(users[library]) == wanted] for wanted in (True, False))
    for missing in filter(None, [*([library] for library in used), unused]):
        homes = {home_of(name) for library in missing for name in users[library]}
        broken = broken_without(package, missing, {name for name in modules if home_of(name) not in homes})
        reached = {home_of(name) for name in broken}
        if homes and not homes & lessons and len(reached) == 1 and reached <= lessons:
            continue  # a wing uses it, for this lesson alone
        faults += [f"{name} does not work without {', '.join(missing)}: {said}" for name, said in broken.items()]
    return faults


def test_a_library_breaks_its_own_lesson_only():
    assert not faults_of(PACKAGE, {path.stem[3:] for path in (NBS / "lessons").glob("[!.]*.ipynb")}, LIBRARIES)


def test_a_blocked_library_is_as_one_that_is_not_installed():
    code = ("from importlib.util import find_spec\nassert find_spec('yaml') is None\n"
            "try:\n    import yaml\nexcept ModuleNotFoundError as error:\n    raise SystemExit(error.name != 'yaml')\n"
            "raise SystemExit('yaml was found')")
    blocking = IMPORT_ALL.partition("broken = {}")[0]
    done = subprocess.run([sys.executable, "-c", blocking + code, json.dumps(["", ["yaml"], []])], capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr


BELONGS, WITHOUT = "rare must belong to one lesson", "does not work without rare"


@pytest.mark.parametrize(("files", "said"), [
    ({"early": "import rare"}, []),
    ({"early": "def inside():\n    from rare.part import x"}, []),
    ({"early": "from .core import needs\nrare = needs('rare', extra='lessons')"}, []),
    ({"early": "import rare", "widgets/early": "import rare", "answers/early": "from ..early import rare"}, []),
    ({"engine/loop": "import rare\nx = 0", "early": "from .engine.loop import x", "answers/early": "from .. import early"}, []),
    ({"engine/loop": "import rare\nx = 0", "early": "import rare\nfrom .engine.loop import x"}, []),
    ({"engine/loop": "import rare\nx = 0", "early": "def inside():\n    from .engine import loop"}, []),
    ({"early": "import rare", "later": "import rare"}, [BELONGS]),
    ({"early": "import rare", "later": "def inside():\n    import rare.part"}, [BELONGS]),
    ({"early": "import rare", "later": "from . import core\nrare = core.needs('rare.part', extra='lessons')"}, [BELONGS]),
    ({"core": "import rare"}, [BELONGS]),
    ({"core": "import rare", "later": "from . import core"}, [BELONGS]),
    ({"early": "import rare\nx = 0", "later": "from .early import x"}, [WITHOUT]),
    ({"engine/loop": "import rare", "early": "from .engine import loop", "later": "from .engine import loop"}, [WITHOUT, WITHOUT]),
    ({"engine/loop": "import rare", "core": "from .engine import loop"}, [WITHOUT]),
])
def test_the_check_of_the_libraries_sees_planted_faults(tmp_path, files, said):
    package = tmp_path / "planted"
    stubs = {f"{folder}__init__": "" for folder in ("", "engine/", "widgets/", "answers/")}
    core = "import importlib\n\ndef needs(name, extra):\n    return importlib.import_module(name)\n"
    for library in ("rare", "unused"):  # both are installed, and then blocked in turn
        (tmp_path / library).mkdir()
        (tmp_path / library / "__init__.py").touch()
    (tmp_path / "rare/part.py").write_text("x = 0")
    for name, source in {**stubs, "core": core, "early": "", "later": "", **files}.items():
        (package / f"{name}.py").parent.mkdir(parents=True, exist_ok=True)
        (package / f"{name}.py").write_text(source)
    found = faults_of(package, {"early", "later"}, {"rare", "unused"})
    assert len(found) == len(said) and all(part in fault for part, fault in zip(said, found, strict=True)), found
