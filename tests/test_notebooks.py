"""Every notebook runs, each in a process of its own, within its time."""

import json
import re
import time
from pathlib import Path

import pytest
from conftest import BIN, NOTEBOOKS, cells_of, name_of, run_tool
from forked import run_forked

from llm_course.course import in_hours, read_lesson, study_minutes

LIMIT = 480  # seconds; a lesson states its own time, this only ends one that hangs


def run_notebook(path: str):
    "What `nbdev_test --path` does, in this process"
    from nbdev.test import nbdev_test
    nbdev_test(path=path, n_workers=0, do_print=True)


def run_in_a_process(path: Path, **variables: str) -> str:
    "What a notebook says: a lesson by the command that a user has, the others in a process with the libraries loaded"
    if path.parent.name == "lessons":
        return run_tool(BIN / "nbdev_test", "--path", path, "--n_workers", "1", "--do_print", timeout=LIMIT, **variables)
    status, output = run_forked("test_notebooks", "run_notebook", str(path), timeout=LIMIT, **variables)
    assert status == 0, output[-6000:]
    return output


@pytest.mark.timeout(LIMIT + 120)  # the first request loads the libraries
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_notebook_runs(path, shared_cache):
    start = time.perf_counter()
    output = run_in_a_process(path, LLM_COURSE_CACHE=shared_cache)
    assert "Success." in output, output  # a mistyped path also exits with 0
    print(f"{name_of(path)}: {time.perf_counter() - start:.0f} s")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_committed_outputs_hold_no_error_and_no_stderr(path):
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            assert output["output_type"] != "error", cell["source"]
            assert output.get("name") != "stderr", output["text"]


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.parent.name == "lessons"], ids=name_of)
def test_lesson_was_committed_executed(path):
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        draws = cell["cell_type"] == "code" and re.search(r"^(show|claim)\(", source, re.MULTILINE)
        assert not draws or cell["outputs"], f"an output of {path.name} is missing: {source[:80]}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_lines_fit_the_page(path):
    long = [line for cell in cells_of(path) for line in cell.splitlines() if len(line) > 110]
    assert not long, long


def test_setup_cell_is_the_same_in_every_lesson():
    setups = {next(cell for cell in cells_of(path) if "find_spec" in cell)
              for path in NOTEBOOKS if path.parent.name == "lessons"}
    assert len(setups) <= 1, setups


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.parent.name == "lessons"], ids=name_of)
def test_lesson_opens_with_promise_badge_and_times(path):
    lesson = read_lesson(path)  # refuses another form
    assert lesson.promise and f"nbs/lessons/{path.name})" in cells_of(path, "markdown")[1]
    assert all(lesson.number > number for number in lesson.needs), "needs a later lesson"


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.parent.name == "lessons"], ids=name_of)
def test_lesson_says_how_long_it_takes_to_study(path):
    reckoned = study_minutes(path)
    assert read_lesson(path).study in {in_hours(max(30, minutes)) for minutes in range(reckoned - 30, reckoned + 31, 30)}


def opening_cells(path: Path) -> list[dict]:
    "The code cells above the first heading under the title"
    cells, found = json.loads(path.read_text(encoding="utf-8"))["cells"], []
    for cell in cells:
        if cell["cell_type"] == "markdown" and "".join(cell["source"]).startswith("## "):
            break
        found += [cell] if cell["cell_type"] == "code" else []
    return found


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.parent.name == "lessons"], ids=name_of)
def test_the_question_stands_on_the_first_screen(path):
    texts = cells_of(path, "markdown")
    badge, _, times = texts[1].partition("\n")
    assert badge.startswith("[![Open in Colab](../images/colab.svg)](https://colab.") and times.startswith("*"), texts[1]
    assert texts[2].startswith("## The question"), texts[2][:80]
    for cell in opening_cells(path):  # set-up and imports are folded in JupyterLab and Colab, and absent from the site
        assert cell["metadata"] == {"cellView": "form", "jupyter": {"source_hidden": True}}, cell["source"][:3]
        assert re.match(r"#\| (default_exp|exporti?\n|hide\n|eval: false\n#\| hide\n)", "".join(cell["source"])), cell["source"][:3]
