"""The package on its own: built, installed beside no repository, and used from there without a network."""

import email
import functools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from pathlib import Path

import nbformat
import pytest
from conftest import BIN, ROOT, cells_of, run_tool, settings
from nbclient import NotebookClient
from packaging.requirements import Requirement

import llm_course

PYTHONS = ("3.11", "3.12", "3.13")
LESSON = ROOT / "nbs/lessons/11_cross_entropy.ipynb"
CLEAN = {name: value for name, value in os.environ.items()
         if name not in ("PYTHONPATH", "LLM_COURSE_PROGRESS", "HF_HUB_OFFLINE")}  # nothing that helps it here


@functools.cache
def without_network() -> tuple[str, ...]:
    "What stands before a command that shall have no network; nothing where the system cannot do that"
    command = ("unshare", "--net", "--map-root-user")
    able = shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True).returncode == 0
    return command if able else ()


@functools.cache
def has_registry() -> bool:
    "Whether Python packages can be had here"
    done = subprocess.run([BIN / "uv", "pip", "compile", "--quiet", "-"], input="packaging", text=True,
                          capture_output=True)
    return done.returncode == 0


def need_registry():
    "Skip without a package registry, unless LLM_COURSE_REQUIRE_NETWORK says that there is one"
    if not has_registry() and not os.environ.get("LLM_COURSE_REQUIRE_NETWORK"):
        pytest.skip("no package registry can be reached")


def run(python: Path, *command: str, cwd: Path, status: int = 0, timeout: float = 300, **variables: str) -> str:
    "The output of a Python without a network and outside of the repository; its status is as expected"
    env = {**CLEAN, "LLM_COURSE_SCALE": "laptop", "MPLBACKEND": "agg", "HOME": str(cwd), **variables}
    done = subprocess.run([*without_network(), str(python), *map(str, command)], cwd=cwd, env=env, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout)
    assert done.returncode == status, done.stdout[-6000:]
    return done.stdout


def environment(folder: Path, lent: str) -> Path:
    "A new virtual environment that is lent what matches from this one; its Python"
    run_tool(sys.executable, "-m", "venv", folder)
    [site] = folder.glob("lib/python*/site-packages")
    [own] = Path(sys.prefix).glob("lib/python*/site-packages")
    for path in own.iterdir():
        if re.match(lent, path.name) and not (site / path.name).exists():
            (site / path.name).symlink_to(path)
    return folder / "bin/python"


TORCH_NEEDS = ["filelock", "typing-extensions", "sympy", "networkx", "jinja2", "fsspec"]


def filled(place: Path, *wanted: str) -> Path:
    "The Python of a new environment with these, all from binary wheels; torch, which takes gigabytes, is lent"
    need_registry()
    python = environment(place / "venv", r"torch(gen|-\d.*)?$|functorch|nvidia|triton|cuda")
    (place / "lent.txt").write_text("torch ; python_version < '3'\n")
    needs = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("torch==")]
    (place / "constraints.txt").write_text("\n".join(needs))
    run_tool(BIN / "uv", "pip", "install", "--quiet", "--python", python, "--only-binary", ":all:", "--overrides",
             place / "lent.txt", "-c", place / "constraints.txt", *wanted, *TORCH_NEEDS, timeout=600)
    return python


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    "The Python of an environment with the wheel, outside of the repository"
    return filled(tmp_path_factory.mktemp("installed"), f"{wheel}[lab]")


@pytest.fixture(scope="module")
def colab(tmp_path_factory) -> Path:
    "The Python of an environment like Colab's: all that the package and its lessons need, and no package"
    return filled(tmp_path_factory.mktemp("colab"), "ipykernel", "pip", "setuptools>=77",
                  *settings()["requirements"].split(), *settings()["colab_requirements"].split())


@pytest.fixture
def home(tmp_path) -> Path:
    "A folder outside of the repository, whose name has a space and Chinese characters"
    folder = tmp_path / "my home 我的"
    folder.mkdir()
    return folder


# --- what is in it

TOP = ("lessons", "support")  # the folders of notebooks whose modules stand at the top of the package


def modules_of(notebooks: Path) -> set[str]:
    "The files of the package that the folders of notebooks ask for: a folder is a package, a notebook a module"
    files = {"llm_course/__init__.py", "llm_course/__main__.py", "llm_course/_modidx.py"}
    for path in notebooks.glob("[!._]*/[!._]*.ipynb"):
        if path.parent.name in TOP:
            files.add(f"llm_course/{re.sub(r'^[0-9]+_', '', path.stem)}.py")
        elif path.parent.name != "api":  # made when the site is built
            files |= {f"llm_course/{path.parent.name}/{name}.py" for name in ("__init__", path.stem)}
    return files


def test_wheel_holds_what_the_folders_of_notebooks_ask_for(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    found = {name for name in names if name.endswith(".py")}
    assert modules_of(ROOT / "nbs") == found, modules_of(ROOT / "nbs") ^ found
    assert found >= {"llm_course/training/__init__.py", "llm_course/answers/base.py", "llm_course/fine_tuning.py"}


def test_a_folder_that_the_wheel_lacks_is_seen(wheel, tmp_path):
    shutil.copytree(ROOT / "nbs", tmp_path / "nbs", ignore=shutil.ignore_patterns(".*", "api"))
    for name in ("shipping/server", "lessons/54_serving", "support/planted", "api/core"):
        (tmp_path / "nbs" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "nbs" / f"{name}.ipynb").touch()
    assert modules_of(tmp_path / "nbs") - set(zipfile.ZipFile(wheel).namelist()) == {
        "llm_course/shipping/__init__.py", "llm_course/shipping/server.py", "llm_course/serving.py", "llm_course/planted.py"}


def test_every_folder_of_modules_is_a_package():
    """`find_packages` passes over a folder without `__init__.py`, and the wheel would lack it"""
    from setuptools import find_packages
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "llm_course").rglob("*.py")}
    assert folders == set(find_packages(str(ROOT), include=["llm_course", "llm_course.*"]))


def test_wheel_holds_the_assets_the_lessons_and_the_notices(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for asset in (path for path in (ROOT / "llm_course/assets").rglob("*") if path.is_file()):
        assert asset.relative_to(ROOT).as_posix() in names
    for lesson in (ROOT / "nbs/lessons").glob("[!.]*.ipynb"):
        assert f"llm_course/course/nbs/lessons/{lesson.name}" in names
    assert "llm_course/py.typed" in names and "llm_course/course/nbs/index.ipynb" in names
    assert any(name.endswith("/LICENSE") for name in names) and any(name.endswith("/NOTICE") for name in names)
    assert all(name.startswith(("llm_course/", "llm_course-")) for name in names)


def test_source_distribution_holds_what_a_build_needs(sdist):
    names = {name.split("/", 1)[-1] for name in tarfile.open(sdist).getnames()}
    assert {"settings.ini", "setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE", "CHANGELOG.md",
            "nbs/index.ipynb"} <= names


def test_metadata_is_complete(wheel):
    archive = zipfile.ZipFile(wheel)
    [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = email.message_from_bytes(archive.read(name))
    assert metadata["Version"] == settings()["version"]
    assert "Apache-2.0" in (metadata["License"], metadata["License-Expression"])
    assert {line.split(",")[0] for line in metadata.get_all("Project-URL")} >= {"Documentation", "Source", "Issues"}
    classifiers = metadata.get_all("Classifier")
    assert all(f"Programming Language :: Python :: {python}" in classifiers for python in PYTHONS)
    assert set(metadata.get_all("Provides-Extra")) >= {"lab", "colab", "dev", "lessons"}
    assert not re.search(r"\]\((?!https?:|#)", metadata.get_payload()), "a link of the README that needs the repository"


def test_the_version_is_the_same_everywhere():
    version = settings()["version"]
    assert llm_course.__version__ == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


# --- where it installs

@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_has_a_binary_wheel(python):
    need_registry()
    requirements = settings()["requirements"].split()
    done = subprocess.run([BIN / "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--only-binary",
                           ":all:", "--python-version", python, "-c", ROOT / "constraints.txt", "-"],
                          input="\n".join(requirements), text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = {line.split("==")[0] for line in done.stdout.splitlines()}
    assert found >= {Requirement(text).name.lower() for text in requirements}


@pytest.mark.slow
@pytest.mark.parametrize("python", PYTHONS)
def test_other_pythons_install_it_and_write_the_lessons(python, wheel, tmp_path):
    found = [shutil.which(f"python{python}"), *Path.home().glob(f".pyenv/versions/{python}.*/bin/python")]
    works = [path for path in found if path and not subprocess.run([path, "-c", "import venv, ensurepip"],
                                                                   capture_output=True).returncode]
    if not works:
        pytest.skip(f"no Python {python} on this machine")
    interpreter = works[0]
    run_tool(interpreter, "-m", "venv", tmp_path / "venv")
    own = tmp_path / "venv/bin/python"
    run_tool(own, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel, PIP_FIND_LINKS="")
    said = run(own, "-m", "llm_course", "start", "course", "--no-open", cwd=tmp_path)
    assert "0 updated" in said and (tmp_path / "course/nbs/lessons" / LESSON.name).is_file()
    run(own, "-m", "compileall", "-q", "-f", tmp_path / "venv/lib", "-x", "site-packages/(?!llm_course)", cwd=tmp_path)


# --- python -m llm_course

def test_self_check(installed, home):
    said = run(installed, "-m", "llm_course", cwd=home)
    assert said.endswith("OK\n") and f"llm_course {llm_course.__version__}\n" in said and "movies.jsonl.gz" in said
    assert str(home) in said, "the cache is not in the home folder"


def test_the_console_command_is_the_module(installed, home):
    for arguments in (["--version"], ["--help"]):
        by_name = run(installed.with_name("llm-course"), *arguments, cwd=home)
        assert by_name == run(installed, "-m", "llm_course", *arguments, cwd=home)
    assert "llm-course start my-course" in by_name


def test_self_check_names_a_damaged_asset(installed, home):
    [asset] = installed.parents[1].glob("lib/python*/site-packages/llm_course/assets/tweets.jsonl.gz")
    whole = asset.read_bytes()
    try:
        asset.unlink()  # the installer may have linked it from its cache
        asset.write_bytes(whole[:-1])
        said = run(installed, "-m", "llm_course", cwd=home, status=1)
    finally:
        asset.write_bytes(whole)
    assert re.search(r"assets: +FAILED, ValueError: .*tweets.jsonl.gz is damaged", said)
    assert said.endswith("1 of 7 checks failed\n")


def test_start_adds_updates_and_keeps(installed, home):
    said = run(installed, "-m", "llm_course", "start", "我的 course", "--no-open", cwd=home)
    mine = home / "我的 course"
    assert "0 updated, 0 as they were, 0 yours" in said
    for notebook in mine.rglob("*.ipynb"):
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+\.ipynb)", "".join(cells_of(notebook, "markdown"))):
            assert (notebook.parent / target).exists(), f"{notebook} links to {target}"
    [carried] = installed.parents[1].glob("lib/python*/site-packages/llm_course/course/nbs")
    lessons = sorted(path.name for path in (carried / "lessons").iterdir())
    (mine / "nbs/lessons" / lessons[0]).write_text("mine")
    whole = {name: (carried / "lessons" / name).read_bytes() for name in lessons[:2]}
    try:
        for name in whole:  # an upgrade; files may be linked from the installer's cache
            (carried / "lessons" / name).unlink()
            (carried / "lessons" / name).write_bytes(b"a later version")
        (carried / "lessons/99_new.ipynb").write_text("{}")
        said = run(installed, "-m", "llm_course", "start", mine, "--no-open", cwd=home)
    finally:
        (carried / "lessons/99_new.ipynb").unlink(missing_ok=True)
        for name, content in whole.items():
            (carried / "lessons" / name).write_bytes(content)
    assert "1 files new, 1 updated" in said and "1 yours\nYou changed these; they stay" in said
    assert said.endswith(f"  nbs/lessons/{lessons[0]}\n")
    assert (mine / "nbs/lessons" / lessons[0]).read_text() == "mine"
    assert (mine / "nbs/lessons" / lessons[1]).read_text() == "a later version"
    assert (mine / "nbs/lessons/99_new.ipynb").is_file()


def test_start_refuses_what_it_cannot_write(installed, home):
    (home / "thesis.txt").write_text("mine")
    for folder, said in (("thesis.txt", "is a file. Choose a folder."), ("thesis.txt/a", "cannot be written"),
                         ("/proc/course", "cannot be written")):
        output = run(installed, "-m", "llm_course", "start", folder, "--no-open", cwd=home, status=1)
        assert said in output and "Traceback" not in output
    assert (home / "thesis.txt").read_text() == "mine"


def test_start_without_jupyterlab_says_how_to_get_it(installed, home):
    code = ("import importlib.util as u; real = u.find_spec\n"
            "u.find_spec = lambda name, *rest: None if name == 'jupyterlab' else real(name, *rest)\n"
            "from llm_course.command_line import main; raise SystemExit(main(['start', 'course']))")
    said = run(installed, "-c", code, cwd=home, status=1)
    assert "pip install jupyterlab" in said and (home / "course/nbs/index.ipynb").is_file()


def test_start_opens_jupyterlab_on_the_map(installed, home):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [installed, "-m", "llm_course", "start", "course", "--no-browser", "--allow-root", f"--port={port}",
               "--IdentityProvider.token="]
    with open(home / "log", "w") as log:
        process = subprocess.Popen(command, cwd=home, env={**CLEAN, "HOME": str(home)}, stdout=log, stderr=log)
    try:
        for _ in range(120):
            try:
                url = f"http://127.0.0.1:{port}/api/contents/nbs/index.ipynb?content=0"
                found = json.load(urllib.request.urlopen(url, timeout=10))
                break
            except OSError:
                assert process.poll() is None, (home / "log").read_text()
                process_waits(process)
        assert found["type"] == "notebook"
    finally:
        process.terminate()
        process.wait(30)
    assert "/lab/tree/nbs/index.ipynb" in (home / "log").read_text()


def process_waits(process: subprocess.Popen):
    "Half a second, or until the process ends"
    try:
        process.wait(0.5)
    except subprocess.TimeoutExpired:
        return


# --- the network is off

def test_the_network_is_off(installed, home):
    if not without_network():
        pytest.skip("this system cannot take a process its network")
    said = run(installed, "-c", "import socket; socket.create_connection(('1.1.1.1', 80), 5)", cwd=home, status=1)
    assert "unreachable" in said


def blocks_of_the_readme(language: str) -> list[str]:
    "The code of README.md in one language, as it stands there"
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_example_of_the_readme_runs_and_prints_its_results(installed, home):
    [example] = blocks_of_the_readme("python")
    (home / "example.py").write_text(example)
    said = run(installed, "example.py", cwd=home)
    assert "EvaluationReport(200 texts, accuracy" in said and "majority class" in said
    assert re.search(r"AttackReport\(SynonymAttack\(\): 12 texts, accuracy \d+\.\d% before and \d+\.\d% under attack", said)
    assert said.endswith("['positive']\n") and (home / "sentiment/classifier.json").is_file()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_commands_of_the_readme_run_without_make(copy_of_repository, tmp_path):
    """In a clone, with a virtual environment of its own; JupyterLab itself is not opened"""
    need_registry()
    cloning, commands = blocks_of_the_readme("")
    assert cloning.splitlines()[1:] == [line for line in cloning.splitlines() if line.startswith("make ")]
    place = tmp_path / "clone"
    run_tool("git", "clone", "-q", copy_of_repository, place)
    lines = commands.strip().splitlines()
    assert [line.split()[1:4] for line in lines] == [["-m", "venv", ".venv"], ["-m", "pip", "install"], ["-m", "llm_course", "start"]]
    lines[0], lines[2] = lines[0].replace("python", sys.executable, 1), f"{lines[2]} --no-open"
    for line in lines:
        run_tool("bash", "-c", line, cwd=place, timeout=900, PYTHONPATH="")
    assert (place / "my-course/nbs/lessons" / LESSON.name).is_file()
    assert "OK" in run_tool(place / ".venv/bin/python", "-m", "llm_course", cwd=tmp_path, PYTHONPATH="")


# --- Colab

def cell_of_colab() -> str:
    "The setup cell of a lesson; another test compares the lessons"
    return next(cell for cell in cells_of(LESSON) if "find_spec" in cell)


def execute(cells: list[str], python: Path, folder: Path, monkeypatch, **variables: str) -> list[str]:
    "What the cells print in a kernel of that Python; an error fails the test"
    spec = {"argv": [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "colab",
            "language": "python"}
    (folder / "kernels/colab").mkdir(parents=True, exist_ok=True)
    (folder / "kernels/colab/kernel.json").write_text(json.dumps(spec))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    for name, value in {"JUPYTER_PATH": str(folder), "HOME": str(folder), "PIP_NO_INDEX": "1", **variables}.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=300, kernel_name="colab", resources={"metadata": {"path": str(folder)}}).execute()
    return ["".join(output.get("text", "") for output in cell.outputs) for cell in notebook.cells]


VERSIONS = "import importlib.metadata as m; print(*sorted(f'{d.name} {d.version}' for d in m.distributions()))"


@pytest.mark.parametrize("count", [pytest.param(10, id="begins"),
                                   pytest.param(None, id="runs", marks=pytest.mark.slow)])
def test_setup_cell_installs_what_is_missing_and_the_lesson(colab, copy_of_repository, home, monkeypatch, count):
    """The true cell and the true pip; git is told that the repository's address is the copy on this machine"""
    cells = [cell for cell in cells_of(LESSON) if not cell.startswith("#| default_exp")][:count]
    assert cells[0] == cell_of_colab()
    said = execute([VERSIONS, *cells, VERSIONS], colab, home, monkeypatch, PIP_NO_BUILD_ISOLATION="0",
                   GIT_CONFIG_COUNT="1", GIT_CONFIG_KEY_0=f"url.file://{copy_of_repository}.insteadOf",
                   GIT_CONFIG_VALUE_0=settings()["git_url"])
    before, after = (set(re.findall(r"\S+ \d\S*", line)) for line in (said[0], said[-1]))
    assert after - before == {f"llm_course {llm_course.__version__}"} and not before - after, after ^ before


def test_setup_cell_keeps_the_torch_that_is_there(colab, home, monkeypatch):
    """What it would call: pip, told the version of torch"""
    spied = "import sys; shell = get_ipython(); shell.system = lambda command: print(command)"
    version = execute(["import torch; print(torch.__version__, end='')"], colab, home, monkeypatch)[0]
    hidden = "import importlib.util; importlib.util.find_spec = lambda name, real=importlib.util.find_spec: (" \
             "None if name == 'llm_course' else real(name))"
    said = execute([spied, hidden, cell_of_colab()], colab, home, monkeypatch)[-1]
    assert re.search(rf"pip install -q torch=={re.escape(version)} .llm_course\[colab\] @ git\+{settings()['git_url']}",
                     said), said


def test_setup_cell_does_nothing_where_the_package_is(installed, home, monkeypatch):
    assert execute([cell_of_colab()], installed, home, monkeypatch) == [""]


def test_environment_yml_agrees_with_the_settings():
    import yaml
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(part["pip"] for part in conda if isinstance(part, dict))
    own = {Requirement(text.replace(" ", "")).name: Requirement(text.replace(" ", "")).specifier
           for text in conda if isinstance(text, str)}
    wanted = {Requirement(text).name: Requirement(text).specifier for text in settings()["dev_requirements"].split()}
    assert own["jupyterlab"] == wanted["jupyterlab"]
    assert set(map(str, own["python"])) == {f">={settings()['min_python']}", "<3.14"}
    assert pip == ["-c constraints.txt", "-e .[dev]"]
