"""What the tests share: the repository's notebooks, the built package, and no network."""

import configparser
import contextlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NBS = ROOT / "nbs"
BIN = Path(sys.executable).parent
NOTEBOOKS = sorted(path for path in NBS.rglob("*.ipynb") if path.parent.name != "api"  # made when the site is built
                   and not any(part.startswith((".", "_")) for part in path.parts))

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("LLM_COURSE_SCALE", "laptop")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):  # they share the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
os.environ["LLM_COURSE_PROGRESS"] = f"{tempfile.mkdtemp()}/progress.json"  # never the one of who runs the tests


class DeprecationsRaise(logging.Handler):
    "Hugging Face's libraries log what is deprecated instead of warning: here that is an error too"

    def emit(self, record: logging.LogRecord):
        "Raise where a message says so"
        if "deprecated" in record.getMessage():
            raise DeprecationWarning(record.getMessage())


for library in ("transformers", "datasets", "accelerate"):
    logging.getLogger(library).addHandler(DeprecationsRaise())


def settings() -> dict[str, str]:
    "What settings.ini says"
    parser = configparser.ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return dict(parser["DEFAULT"])


def name_of(path: Path) -> str:
    "A notebook's path inside nbs"
    return str(path.relative_to(NBS))


def cells_of(path: Path, kind: str = "code") -> list[str]:
    "The sources of a notebook's cells of one kind"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


def leaves(content: object, path: tuple = ()) -> Iterator[tuple[tuple, object]]:
    "All values of a JSON document with where they stand"
    if isinstance(content, dict | list):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from leaves(value, (*path, key))
    else:
        yield path, content


def run_tool(*command: str, cwd: Path = ROOT, timeout: float = 300, **variables: str) -> str:
    "Run a command; its output, or a failed test that shows it"
    done = subprocess.run([str(part) for part in command], cwd=cwd, timeout=timeout, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **variables})
    assert done.returncode == 0, f"{' '.join(map(str, command))} failed:\n{done.stdout[-6000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def copy_of_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "The files of the working tree that git tracks or would track, in a repository of their own"
    folder = tmp_path_factory.mktemp("copy") / "llm_course"
    files = run_tool("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    git = ("git", "-c", "user.name=test", "-c", "user.email=test@example.com")
    run_tool("git", "init", "-q", cwd=folder)
    run_tool("git", "add", "-A", cwd=folder)
    run_tool(*git, "commit", "-q", "-m", "copy", cwd=folder)
    return folder


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    "A cache that starts empty and is shared by all notebooks: a baseline is trained once in a run"
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # of all processes
    (base / "cache").mkdir(exist_ok=True)
    return str(base / "cache")


@pytest.fixture(scope="session")
def sdist(copy_of_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    "The source distribution, with the wheel that was built from it beside it"
    out = tmp_path_factory.mktemp("dist")
    run_tool(BIN / "python", "-m", "build", "--no-isolation", "--outdir", out, cwd=copy_of_repository)
    return next(out.glob("*.tar.gz"))


@pytest.fixture(scope="session")
def wheel(sdist: Path) -> Path:
    "The wheel, built from the source distribution"
    return next(sdist.parent.glob("*.whl"))


def tiny_classifier(kind: str = "bert", labels: tuple[str, ...] = ("negative", "positive"), seed: int = 0, **sizes):
    "A random classifier of a few thousand weights with the bundled tokenizer, on the CPU"
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from llm_course.models import TextClassifier, bundled_model_folder, load_tokenizer

    tokenizer = load_tokenizer(str(bundled_model_folder()))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
             "max_position_embeddings": 64, **sizes}
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), num_labels=len(labels), pad_token_id=0, **sizes)
    torch.manual_seed(seed)
    return TextClassifier(AutoModelForSequenceClassification.from_config(config), tokenizer, labels, device="cpu")


@contextlib.contextmanager
def headless_chromium():
    "Headless Chromium; the test is skipped without one, unless LLM_COURSE_REQUIRE_BROWSER is set"
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None and not os.environ.get("LLM_COURSE_REQUIRE_BROWSER"):
        pytest.skip("no Chromium on this machine")
    assert path, "Chromium is missing: apt-get install chromium"
    sys.path.insert(0, str(ROOT / "tools"))
    import accessibility
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=accessibility.FLAGS)
        yield launched
        launched.close()


# --- parts of the suite: for processes side by side (`-n 2 --dist loadgroup`), and for machines (`--shard 2/3`)

SECONDS = ROOT / "tests/seconds.json"  # of each unit, as `--measure` found them; new units are estimated
MEASURED = Counter()


def pytest_addoption(parser: pytest.Parser):
    "`--shard 2/3` runs the second of three parts of about the same length"
    parser.addoption("--shard", metavar="K/N", help="run the K-th of N parts: disjoint, and together everything")
    parser.addoption("--measure", action="store_true", help=f"write to {SECONDS.name} how long each unit took")


def shard_of(text: str) -> tuple[int, int]:
    "Which part, from 0, and of how many; a usage error where the text is none of K/N"
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    place, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= place <= count:
        raise pytest.UsageError(f"--shard must be K/N with 1 <= K <= N, such as 2/3, got {text!r}")
    return place - 1, count


def unit_of(nodeid: str) -> str:
    "What stays together: a file, whose tests share what they have made; each notebook's run is a unit of its own"
    nodeid = nodeid.partition("@tests/")[0]  # where processes work side by side, the unit stands behind the name
    return nodeid if "::test_notebook_runs[" in nodeid else nodeid.partition("::")[0]


def seconds_of(nodeid: str) -> float:
    "An estimate of how long a test takes: the run of a lesson as long as the lesson says"
    from llm_course.course import read_lesson
    name = re.search(r"::test_notebook_runs\[(.+\.ipynb)\]", nodeid)
    if not name or not name[1].startswith("lessons/"):
        return 10 if name else 1
    return int(re.search(r"\d+", read_lesson(NBS / name[1]).laptop)[0]) * 60


def longest_first(nodeids: list[str]) -> dict[str, float]:
    "How long each unit takes, as measured or estimated"
    seconds = Counter()
    for nodeid in nodeids:
        seconds[unit_of(nodeid)] += seconds_of(nodeid)
    known = json.loads(SECONDS.read_text(encoding="utf-8")) if SECONDS.exists() else {}
    seconds |= {unit: known[unit] for unit in seconds if unit in known}
    return dict(sorted(seconds.items(), key=lambda pair: (-pair[1], pair[0])))


def in_shards(nodeids: list[str], count: int) -> dict[str, int]:
    "The part of each unit: the longest first, each to the part that has least to do; the same on every machine"
    parts, loads, seconds = {}, [0.0] * count, longest_first(nodeids)
    for unit in seconds:
        parts[unit] = loads.index(min(loads))
        loads[parts[unit]] += seconds[unit]
    return parts


@pytest.hookimpl(tryfirst=True)  # before the unit is written behind the names
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]):
    "Leave out what belongs to other parts; where processes share the work, each takes whole units, the longest first"
    if hasattr(config, "workerinput"):
        places = {unit: place for place, unit in enumerate(longest_first([item.nodeid for item in items]))}
        items.sort(key=lambda item: places[unit_of(item.nodeid)])
        for item in items:
            item.add_marker(pytest.mark.xdist_group(unit_of(item.nodeid)))
    if config.getoption("--shard"):
        place, count = shard_of(config.getoption("--shard"))
        parts = in_shards([item.nodeid for item in items], count)
        others = [item for item in items if parts[unit_of(item.nodeid)] != place]
        items[:] = [item for item in items if parts[unit_of(item.nodeid)] == place]
        config.hook.pytest_deselected(items=others)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    "Let fixtures know, while they clean up, whether their test failed"
    outcome = yield
    if outcome.get_result().when == "call":
        item.failed = outcome.get_result().failed


def pytest_runtest_logreport(report: pytest.TestReport):
    "Add up what each unit takes, fixtures included"
    MEASURED[unit_of(report.nodeid)] += report.duration


def pytest_sessionfinish(session: pytest.Session):
    "Write what was measured; units that did not run keep what was measured before"
    if session.config.getoption("--measure") and not hasattr(session.config, "workerinput"):
        known = json.loads(SECONDS.read_text(encoding="utf-8")) if SECONDS.exists() else {}
        known |= {unit: max(1, round(seconds)) for unit, seconds in MEASURED.items()}
        SECONDS.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n", encoding="utf-8")
