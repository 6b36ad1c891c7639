"""The learner's folder: what was only opened and run is updated, what a person wrote is kept."""

import copy
import hashlib
import json
import shutil
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT

from llm_course.command_line import LEDGER, course_files, read_ledger, write_course

OLD = ROOT / "tests/data/0.1.0/course"
NAME = "nbs/lessons/10_a.ipynb"


def notebook(*sources: str) -> nbformat.NotebookNode:
    "A heading and cells of code"
    code = [nbformat.v4.new_code_cell(source) for source in sources]
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A lesson\n\nText."), *code])


def put(path: Path, content: nbformat.NotebookNode):
    "Write a notebook as the package carries it"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def opened_and_run(path: Path):
    "What JupyterLab's autosave leaves behind: all but the sources is otherwise"
    content = nbformat.read(path, as_version=4)
    content.metadata.update(language_info={"name": "python", "version": "3.12.1"}, widgets={
        "application/vnd.jupyter.widget-state+json": {"state": {"ab": {"model_name": "SliderModel"}}}})
    for number, cell in enumerate(content.cells):
        cell.id, cell.metadata = f"other-{number}", {"collapsed": False, "scrolled": True, "trusted": True}
        if cell.cell_type == "code":
            cell.execution_count = number + 70
            cell.outputs = [nbformat.v4.new_output("stream", text="mine\n")]
    path.write_text(json.dumps(content, indent=4, sort_keys=True), encoding="utf-8")  # sources as one string


@pytest.fixture
def root(tmp_path) -> Path:
    "What the package carries: a notebook, a picture, results"
    put(tmp_path / "root" / NAME, notebook("1 + 1", "2 + 2"))
    for name in ("nbs/images/a.svg", "benchmarks/results/a.json"):
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text('{"cells": []}')
    return tmp_path / "root"


@pytest.fixture
def mine(root, tmp_path) -> Path:
    "The learner's folder, just written"
    assert len(write_course(tmp_path / "mine", root).new) == 3
    return tmp_path / "mine"


def test_what_was_opened_and_run_is_still_ours(root, mine):
    opened_and_run(mine / NAME)
    run = (mine / NAME).read_bytes()
    assert NAME in write_course(mine, root).same and (mine / NAME).read_bytes() == run  # the outputs stay
    put(root / NAME, notebook("1 + 1", "2 + 3"))
    assert write_course(mine, root).updated == [NAME]
    assert (mine / NAME).read_bytes() == (root / NAME).read_bytes()
    opened_and_run(mine / NAME)  # and once more, after an update
    put(root / NAME, notebook("1 + 1"))
    assert write_course(mine, root).updated == [NAME]


def test_new_outputs_alone_are_no_new_version(root, mine):
    opened_and_run(root / NAME)
    before = (mine / NAME).read_bytes()
    assert NAME in write_course(mine, root).same and (mine / NAME).read_bytes() == before


def test_an_empty_cell_at_the_end_is_nobodys_work(root, mine):
    content = nbformat.read(mine / NAME, as_version=4)
    content.cells += [nbformat.v4.new_code_cell(""), nbformat.v4.new_code_cell(" \n")]
    put(mine / NAME, content)
    put(root / NAME, notebook("3 + 3"))
    assert write_course(mine, root).updated == [NAME]


def edited(content):
    "One cell is otherwise"
    content.cells[1].source = "1 + 2"


def commented(content):
    "A text is longer"
    content.cells[0].source += "\n\nMy note."


def added(content):
    "A cell more"
    content.cells.append(nbformat.v4.new_code_cell("my_own = 1"))


def removed(content):
    "A cell less"
    del content.cells[1]


def moved(content):
    "Another order"
    content.cells[1:] = content.cells[:0:-1]


def turned(content):
    "A cell of another kind"
    content.cells[1] = nbformat.v4.new_markdown_cell(content.cells[1].source)


def merged(content):
    "Two cells in one"
    content.cells[1].source += content.cells.pop(2).source


@pytest.mark.parametrize("change", [edited, commented, added, removed, moved, turned, merged],
                         ids=lambda change: change.__name__)
def test_what_the_learner_wrote_is_kept_and_comes_back_when_undone(root, mine, change):
    original = nbformat.read(mine / NAME, as_version=4)
    content = copy.deepcopy(original)
    change(content)
    put(mine / NAME, content)
    opened_and_run(mine / NAME)
    written = (mine / NAME).read_bytes()
    for version in ("3 + 3", "4 + 4"):
        put(root / NAME, notebook(version))
        assert write_course(mine, root).kept == [NAME] and (mine / NAME).read_bytes() == written
    put(mine / NAME, original)
    assert write_course(mine, root).updated == [NAME]


@pytest.mark.parametrize("content", [b"", b"my notes", b"\xff\xfe", b"[]", b'{"cells": 3}', b'{"worksheets": []}',
                                     b'{"cells": [{"source": ["1 + 1"]}]}', b"[" * 100_000])
def test_a_notebook_that_cannot_be_read_is_the_learners(root, mine, content):
    (mine / NAME).write_bytes(content)
    assert write_course(mine, root).kept == [NAME]
    put(root / NAME, notebook("3 + 3"))
    assert write_course(mine, root).kept == [NAME] and (mine / NAME).read_bytes() == content


def test_a_folder_in_its_place_is_the_learners(root, mine):
    (mine / NAME).unlink()
    (mine / NAME).mkdir()
    assert write_course(mine, root).kept == [NAME]


def test_other_files_are_compared_byte_by_byte(root, mine):
    for name in ("nbs/images/a.svg", "benchmarks/results/a.json"):
        assert read_ledger(mine)[name] == hashlib.sha256((root / name).read_bytes()).hexdigest()
        (mine / name).write_text('{ "cells": [] }')
        assert write_course(mine, root).kept == [name]
        (mine / name).write_text('{"cells": []}')
        (root / name).write_text("new")
        assert write_course(mine, root).updated == [name]


def test_each_lesson_of_the_course_survives_being_opened(tmp_path):
    names = [name for name in course_files(ROOT) if name.endswith(".ipynb")]
    for name in names:
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "root" / name)
    write_course(tmp_path / "mine", tmp_path / "root")
    for name in names:
        opened_and_run(tmp_path / "mine" / name)
    assert write_course(tmp_path / "mine", tmp_path / "root").same == names
    for name in names:
        content = nbformat.read(tmp_path / "root" / name, as_version=4)
        added(content)
        put(tmp_path / "root" / name, content)
    assert write_course(tmp_path / "mine", tmp_path / "root").updated == names


# --- folders of version 0.1.0

@pytest.fixture
def old(tmp_path) -> tuple[Path, Path]:
    "What 0.1.0 carried, and a learner's folder that it wrote"
    shutil.copytree(OLD, tmp_path / "course")
    return tmp_path / "course/root", tmp_path / "course/mine"


def test_an_untouched_file_of_version_0_1_0_is_updated(old):
    root, mine = old
    digest = hashlib.sha256((mine / NAME).read_bytes()).hexdigest()
    assert read_ledger(mine) == {"nbs/index.ipynb": digest, NAME: digest}
    put(root / NAME, notebook("1 + 1", "new"))
    written = write_course(mine, root)
    assert (written.updated, written.same, written.kept) == ([NAME], ["nbs/index.ipynb"], [])
    assert (mine / NAME).read_bytes() == (root / NAME).read_bytes()
    assert all(digest.startswith("cells:") for digest in read_ledger(mine).values())
    opened_and_run(mine / NAME)  # from now on it is ours though it was opened
    put(root / NAME, notebook("newer"))
    assert write_course(mine, root).updated == [NAME]


def test_a_file_of_version_0_1_0_that_was_opened_is_ours_while_its_cells_are(old):
    root, mine = old
    opened_and_run(mine / NAME)
    assert write_course(mine, root).same == ["nbs/index.ipynb", NAME]  # the new version has the same cells
    put(root / NAME, notebook("1 + 1", "new"))
    assert write_course(mine, root).updated == [NAME]


def test_a_changed_file_of_version_0_1_0_is_kept(old):
    root, mine = old
    content = nbformat.read(mine / NAME, as_version=4)
    content.cells[0].source = "mine"
    put(mine / NAME, content)
    before = json.loads((mine / LEDGER).read_text())["files"][NAME]
    put(root / NAME, notebook("new"))
    assert write_course(mine, root).kept == [NAME] and read_ledger(mine)[NAME] == before
