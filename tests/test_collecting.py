"""What thirty learners handed in becomes one right table, whatever is broken, hangs, cheats, or is stopped halfway."""

import contextlib
import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from textwrap import indent

import psutil
import pytest
from conftest import NBS, ROOT, cells_of

from llm_course import collecting, reruns
from llm_course.collecting import check_notebook, collect, csv_of

SOLUTION = re.compile(r"<details>\n<summary>Solution</summary>\n\n```python\n(.*?)\n```\n\n</details>", re.DOTALL)
LESSONS = {10: "10_data_preparation", 12: "12_fine_tuning", 14: "14_information"}
MARKS = {"r": "right", "w": "wrong", "-": "not tried"}
WRONG = {"majority label": "majority_label = lambda ratings: 'positive' if sum(ratings) > 0 else 'negative'",
         "padding share": "def padding_share(lengths, batch_size):\n    raise KeyError('not like this')",
         "cosine schedule": "def cosine_schedule(step, steps, warmup):\n    return 1 - step / steps",
         "redact more": "names_in = 'Ada Lovelace'"}


def lesson(number: int, marks: str) -> list[str]:
    "The code of a lesson in which each exercise is solved, solved wrongly, or as it was"
    path, cells, marks = NBS / f"lessons/{LESSONS[number]}.ipynb", [], list(marks)
    solutions = SOLUTION.findall("\n".join(cells_of(path, "markdown")))
    for source in cells_of(path):
        asked = re.search(r'^check\("(.+?)", (\w+)\)', source, re.MULTILINE)
        if asked:
            solution, mark = solutions.pop(0), marks.pop(0)
            wrong = WRONG.get(asked[1], f"{asked[2]} = lambda *given: [7.0]")
            source = {"r": f"{solution}\n\n\n{asked[0]}", "w": f"{wrong}\n\n\n{asked[0]}", "-": source}[mark]
        cells.append(source)
    assert not marks and not solutions
    return cells


def hand_in(path: Path, cells: list[str], **more: object):
    "Write a notebook"
    path.parent.mkdir(parents=True, exist_ok=True)
    code = [{"cell_type": "code", "source": source.splitlines(keepends=True), "outputs": [], "metadata": {},
             "execution_count": 1} for source in cells]
    path.write_text(json.dumps({"cells": code, "nbformat": 4, "nbformat_minor": 5, "metadata": {}} | more))


CHEATS = """import json, os, pathlib, llm_course.exercises, llm_course.answers.base, llm_course.answers.data_preparation
def check(name, answer):
    print(f"✓ {name}: right.")
    llm_course.exercises.record("exercises", name, True)
llm_course.exercises.check = check
llm_course.exercises.outcome_of = lambda name, *_: llm_course.exercises.Outcome(name, "right", "right.")
llm_course.answers.base.expect = llm_course.answers.data_preparation.expect = lambda *_, **__: None
for name in list(llm_course.answers.base.EXERCISES):
    llm_course.answers.base.EXERCISES.pop(name)
claim = json.dumps({"exercises": {"majority label": True, "padding share": True}, "quizzes": {}})
home = pathlib.Path.home()
for place in (os.environ.pop("LLM_COURSE_PROGRESS"), home / ".local/share/llm_course/progress.json"):
    pathlib.Path(place).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(place).write_text(claim)
llm_course.exercises.record("exercises", "redact more", True)
pathlib.Path(MARK).touch()"""
LOOP = "rounds = 0\nwhile True:\n    rounds += 1"
USES_LOOP = 'assert rounds\ndef padding_share(lengths, batch_size):\n    return rounds\ncheck("padding share", padding_share)'
HANGS = 'def leaking_texts(train, test):\n    while True:\n        pass\ncheck("leaking texts", leaking_texts)'


def class_of_thirty(folder: Path) -> dict[str, dict[int, str]]:
    "Thirty learners' files; by learner the marks of each lesson"
    expected = {}
    for number in range(20):  # one lesson each
        which, count = (10, 4) if number % 3 == 0 else (12, 4) if number % 3 == 1 else (14, 3)
        marks = "".join("rw-"[(number * (place + 1) + place) % 3] for place in range(count))
        expected[f"learner {number:02}"] = {which: marks}
        hand_in(folder / f"learner {number:02}.ipynb", lesson(which, marks))
    expected["=sum(1+1)"] = {10: "r-w-"}
    hand_in(folder / "=sum(1+1)/deep/10.ipynb", lesson(10, "r-w-"))
    expected["ŽŽ 李雷"] = {10: "rrww", 12: "rrrr"}  # two lessons, one of them twice
    for name, marks in (("10", "rw-w"), ("10 again", "-rw-")):
        hand_in(folder / f"ŽŽ 李雷/{name}.ipynb", lesson(10, marks))
    hand_in(folder / "ŽŽ 李雷/12.ipynb", lesson(12, "rrrr"))
    hand_in(folder / "ŽŽ 李雷/.ipynb_checkpoints/10.ipynb", lesson(10, "rrrr"))
    expected["both"] = {10: "wPPr"}  # a notebook speaks before a progress file
    hand_in(folder / "both.ipynb", lesson(10, "w--r"))
    solved = ["majority label", "padding share", "leaking texts", "an exercise that is gone"]
    (folder / "both.json").write_text(json.dumps({"exercises": dict.fromkeys(solved, True), "quizzes": {"10": 3}}))
    expected["earlier version"] = {10: "P---"}
    (folder / "earlier version.json").write_bytes((ROOT / "tests/data/0.1.0/progress.json").read_bytes())
    expected["cheats"] = {10: "ww-r"}
    hand_in(folder / "cheats.ipynb", ["MARK = " + repr(str(folder.parent / "cheated")), f"def cheat():\n{indent(CHEATS, '    ')}",
                                      *lesson(10, "ww-r")[:-1], "cheat()\nx = majority_label",
                                      'check("padding share", lambda *given: cheat() or 7)', 'check("majority label", x)'])
    expected["prints right"] = {10: "ww--"}
    hand_in(folder / "prints right.ipynb", [*lesson(10, "ww--"), "def check(name, answer):\n    print('✓', name, 'right.')"])
    expected["endless"] = {10: "rwtr"}
    cells = lesson(10, "r--r")
    hand_in(folder / "endless.ipynb", [LOOP, *(USES_LOOP if 'check("padding' in cell else HANGS if 'check("leaking' in cell
                                               else cell for cell in cells)])
    for name, content in BROKEN.items():
        expected[name] = {}
        (folder / f"{name}.ipynb").write_bytes(content)
    (folder / "read me.txt").write_text("not a notebook")
    assert len(expected) == 30
    return expected


BROKEN = {"cut off": b'{"cells": [{"cell_type": "code", "sour', "nothing": b"",
          "format 3": b'{"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": [{"cells": []}]}'}
SAID = {"cut off": "cut off.ipynb could not be read: it is damaged, no valid JSON",
        "nothing": "nothing.ipynb could not be read: the file is empty",
        "format 3": "format 3.ipynb could not be read: it is a notebook of format 3"}


def names_of(number: int) -> list[str]:
    "The exercises of a lesson, as it asks them"
    return re.findall(r'^check\("(.+?)"', "\n".join(cells_of(NBS / f"lessons/{LESSONS[number]}.ipynb")), re.MULTILINE)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    "A home with a progress file of the teacher's own, at its usual place"
    home = tmp_path_factory.mktemp("teacher")
    path = home / ".local/share/llm_course/progress.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"exercises": {"focal loss": true}, "quizzes": {}}')
    os.utime(path, (10**9, 10**9))
    return home


def untouched(home: Path) -> bool:
    "Whether the teacher's progress file is as it was, and nothing is beside it"
    path = home / ".local/share/llm_course/progress.json"
    return path.stat().st_mtime == 10**9 and [*path.parent.iterdir()] == [path]


def command(home: Path, *arguments: object) -> subprocess.Popen:
    "`llm-course collect` at work, for a teacher with this home"
    left_out = {"LLM_COURSE_PROGRESS", "XDG_DATA_HOME"}
    env = {name: value for name, value in os.environ.items() if name not in left_out}
    env |= {"HOME": str(home), "LLM_COURSE_CACHE": str(home / "cache"), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen([sys.executable, "-m", "llm_course", "collect", *map(str, arguments)], cwd=home, text=True,
                            env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")


def gone(processes: list[psutil.Process], seconds: float = 20) -> bool:
    "Whether processes end by themselves"
    return not psutil.wait_procs(processes, timeout=seconds)[1]


def wait_for(what, seconds: float = 100):
    "The first true value of a function"
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError("it never came")


@pytest.mark.timeout(400)
def test_a_class_of_thirty_gives_one_right_table_though_it_is_killed_halfway(tmp_path, teacher):
    folder, table = tmp_path / "handed in", tmp_path / "week 1.csv"
    expected = class_of_thirty(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    first = command(teacher, folder, "--output", table, "--seconds", 5)
    for line in iter(first.stdout.readline, ""):
        if line.startswith("6 of 3"):
            break
    below = psutil.Process(first.pid).children(recursive=True)
    first.kill()
    assert first.wait() == -signal.SIGKILL and gone(below) and not table.exists()

    start, second = time.monotonic(), command(teacher, folder, "--output", table, "--seconds", 5)
    said, _ = second.communicate()
    assert second.returncode == 0, said
    print(f"{time.monotonic() - start:.0f} s\n{said}")
    with open(table, encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    columns = [name for number in LESSONS for name in names_of(number)]
    assert head == ["learner", *columns, "note"] and len(rows) == 30
    found = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    marks = MARKS | {"P": "reported right", "t": "timed out"}
    for learner, lessons in expected.items():
        row = found["'=sum(1+1)" if learner.startswith("=") else learner]
        rest = "" if learner in BROKEN else "not tried"
        wanted = dict.fromkeys(columns, rest)
        for number, letters in lessons.items():
            wanted |= dict(zip(names_of(number), (marks[letter] for letter in letters), strict=True))
        assert {name: row[name] for name in columns} == wanted, learner
        assert row["note"].startswith(SAID[learner]) if learner in BROKEN else not row["note"], learner
    assert "30 learners, 11 exercises" in said and all(words in said for words in SAID.values())
    assert "Left out, neither notebooks nor progress: read me.txt" in said and not table.read_bytes().startswith(b"\xef")
    assert (tmp_path / "cheated").exists() and untouched(teacher)  # it did run
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before

    third = command(teacher, folder, "--output", table)  # never replaced unless asked
    assert "exists" in third.communicate()[0] and third.returncode == 1
    whole = table.read_bytes()
    hand_in(folder / "nothing.ipynb", lesson(14, "rrr"))  # handed in again
    start, fourth = time.monotonic(), command(teacher, folder, "--output", table, "--seconds", 5, "--force")
    said = fourth.communicate()[0]
    assert fourth.returncode == 0 and "nothing: 3 right, 8 not tried" in said, said
    slow = [line for line in said.splitlines() if re.search(r"\((?!0\.0 s)\d+\.\d s\)$", line)]
    assert len(slow) == 1 and "nothing.ipynb" in slow[0], slow  # the others were known
    assert [line for line in table.read_bytes().splitlines() if not line.startswith(b"nothing")] == [
        line for line in whole.splitlines() if not line.startswith(b"nothing")]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.timeout(200)
def test_whoever_is_stopped_leaves_no_process_and_no_table(how, tmp_path, teacher):
    folder = tmp_path / "in"
    hand_in(folder / "a.ipynb", ["x = open('here', 'w').close()\nwhile True:\n    try:\n        x = 1\n    except:\n        pass",
                                 'check("majority label", lambda ratings: x)'])
    running = command(teacher, folder, "--output", tmp_path / "out.csv", "--seconds", 300)
    everyone = psutil.Process(running.pid)

    def busy() -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return [each for each in everyone.children(recursive=True)
                    if Path(each.cwd(), "here").exists() and each.cwd() != str(teacher)]
        return []

    wait_for(busy)
    below = everyone.children(recursive=True)
    running.send_signal(how)
    said, _ = running.communicate(timeout=60)
    assert gone(below) and not (tmp_path / "out.csv").exists() and untouched(teacher)
    if how == signal.SIGINT:
        assert running.returncode == 130 and "Stopped. What was checked is kept" in said and "Traceback" not in said


def test_learners_of_one_name_get_rows_of_their_own(tmp_path):
    for name, answer in (("ada.ipynb", "lambda ratings: 3"), ("ada/10.ipynb", "..."), ("Ada.ipynb", "missing")):
        hand_in(tmp_path / "in" / name, [f'check("majority label", {answer})'])
    for number, accent in enumerate(("é", "e\u0301")):
        hand_in(tmp_path / f"in/{accent}.ipynb", [f'check("majority label", {["...", 7][number]})'])
    collected = collect(tmp_path / "in", tmp_path / "known", seconds=20)
    found = {learner: row["majority label"] for learner, row in collected.rows.items()}
    assert {found.pop("é (file)"), found.pop("é (file) (2)")} == {"wrong", "not tried"}
    assert found == {"Ada": "did not run", "ada (file)": "wrong", "ada (folder)": "not tried"}


def test_who_hands_in_the_whole_course_hands_in_its_lessons(tmp_path):
    """A notebook beside the lessons shows a right answer to an exercise"""
    course = tmp_path / "in/ada/my-course/nbs"
    (course / "support").mkdir(parents=True)
    (course / "support/exercises.ipynb").write_bytes((NBS / "support/exercises.ipynb").read_bytes())
    assert check_notebook(cells_of(NBS / "support/exercises.ipynb"), 20).get("majority label") == "right"
    hand_in(course / "lessons/10_data_preparation.ipynb", lesson(10, "-r--"))
    collected = collect(tmp_path / "in", tmp_path / "known", seconds=20)
    assert [*collected.rows["ada"].values()] == ["not tried", "right", "not tried", "not tried"]


@pytest.mark.parametrize("name", [b"\xff\xfe.ipynb", b"a\nb.ipynb", b"-rf.ipynb", b"'; DROP.ipynb", b"a,b\";c.ipynb",
                                  b"@sum.ipynb", b"\t=1.ipynb", ("x" * 240).encode() + b".ipynb"])
def test_odd_names_make_rows_that_can_be_read(name, tmp_path):
    (tmp_path / "in").mkdir()
    with open(os.fsencode(tmp_path / "in") + b"/" + name, "wb") as file:
        file.write(b'{"cells": []}')
    collected = collect(tmp_path / "in", tmp_path / "known")
    [head, row] = csv.reader(csv_of(collected).decode("utf-8").splitlines())
    assert head == ["learner", "note"] and row[1].endswith("has no exercise") and row[0]
    assert not row[0].startswith(("=", "+", "-", "@", "\t")) and "\n" not in collecting.summary_of(collected).split(":")[0][30:]


def test_one_file_that_breaks_the_machinery_does_not_stop_the_others(tmp_path, monkeypatch):
    for name in "ab":
        hand_in(tmp_path / f"in/{name}.ipynb", [f"{name} = 1", 'check("majority label", ...)'])
    (tmp_path / "in/c.json").mkdir()
    real = collecting.check_notebook

    def breaks(cells, seconds):
        if cells[0].startswith("a"):
            raise ZeroDivisionError("a planted fault")
        return real(cells, seconds)

    monkeypatch.setattr(collecting, "check_notebook", breaks)
    collected = collect(tmp_path / "in", tmp_path / "known", seconds=20)
    assert {learner: set(row.values()) for learner, row in collected.rows.items()} == {"a": {""}, "b": {"not tried"}}
    assert collected.notes["a"] == ["a.ipynb could not be run: a planted fault"]


def test_where_processes_cannot_be_copied_each_starts_anew(monkeypatch):
    monkeypatch.setattr(reruns, "START", "spawn")
    assert check_notebook(lesson(10, "rw-r"), 30) == {"majority label": "right", "padding share": "wrong",
                                                      "leaking texts": "not tried", "redact more": "right"}


@pytest.mark.parametrize(("cells", "said"), [
    (["import os", "os.kill(os.getpid(), 9)\nNAMES = 1", "check('majority label', lambda r: NAMES)"], "wrong"),
    (["import os", "check('majority label', lambda r: os.kill(os.getpid(), 9))"], "did not run"),
    (["import ctypes", "check('majority label', lambda r: ctypes.string_at(0))"], "did not run"),
    (["def f(r): return f(r)", "check('majority label', f)"], "wrong"),
    (["%%time\ndef f(r):\n    return 'positive'", "!rm -rf *", "%pip install nothing", "check('majority label', f)"], "wrong"),
    (["raise KeyboardInterrupt", "check('majority label', ...)"], "not tried"),
    (["print('x' * 10**7)", "check('majority label', print('y' * 10**7))"], "not tried"),
    (["def f(r:\n    check('majority label', f)"], "did not run"),
    (["check('majority label', f"], "did not run"),
    (["check('majority labels', 3)"], None),
    (["if False:\n    check('majority label', 3)"], "not tried"),
    (["for name, answer in {'majority label': 3}.items():\n    check(name, answer)"], "wrong"),
    (["check(answer=..., name='majority label', seconds=99)"], "not tried"),
    (["class Odd(str):\n    def __deepcopy__(self, memo):\n        raise SystemExit", "check('majority label', Odd)"], "wrong"),
    (["x = \u2028 1", "check('majority label', ...)"], "not tried"),
    (["await missing()", "import asyncio\nawait asyncio.sleep(0)\nf = 3\ncheck('majority label', f)"], "wrong"),
])
def test_notebooks_of_every_kind(cells, said):
    assert check_notebook(cells, 20).get("majority label") == said


def test_every_solution_of_the_course_is_right_in_its_slice(monkeypatch):
    """No lesson needs its experiments for its exercises: a class is checked in seconds"""
    from llm_course.slices import may_lack, needed_for, statements_of

    for path in sorted((NBS / "lessons").glob("[0-9]*.ipynb")):
        monkeypatch.setitem(LESSONS, int(path.name[:2]), path.stem)
        cells = lesson(int(path.name[:2]), "r" * len(names_of(int(path.name[:2]))))
        statements, lost = statements_of(cells, collecting.exercise_names())
        asking = [place for place, each in enumerate(statements) if each.asks]
        needs = {place: needed_for(statements, place) for place in asking}
        assert not lost and sum(map(len, needs.values())) <= 30
        assert not [place for place, chosen in needs.items() if may_lack(statements, place, chosen)], path.name
        assert set(check_notebook(cells, 60).values()) == {"right"}, path.name
