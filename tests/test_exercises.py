"""Every solution passes its checker, wrong answers are refused for the right reason, and nothing done is lost."""

import ast
import itertools
import json
import math
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import NBS, ROOT, cells_of

import llm_course.answers
from llm_course import exercises
from llm_course.answers import EXERCISES, QUIZZES, base
from llm_course.exercises import Quiz, outcome_of, progress, read_progress, record, run_within

ANSWERS = {lesson: NBS / f"answers/{module.split('.')[-1]}.ipynb" for lesson, module in base.answer_modules().items()}
LESSONS = {int(path.name[:2]): path for path in (NBS / "lessons").glob("[0-9]*.ipynb")}
SOLUTION = re.compile(r"<details>\n<summary>Solution</summary>\n\n```python\n(.*?)\n```\n\n</details>", re.DOTALL)
OPEN = [exercise for exercise in EXERCISES.values() if exercise.lesson in LESSONS]


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    "A progress file of the test's own"
    monkeypatch.setenv("LLM_COURSE_PROGRESS", str(tmp_path / "progress.json"))


def checks_of(lesson: int) -> dict[str, str]:
    "The skeleton cell of each exercise of a lesson"
    found = {}
    for cell in cells_of(LESSONS[lesson]):
        for name in re.findall(r'^check\("(.+?)"', cell, re.MULTILINE):
            assert name not in found, f"{name} is checked twice"
            found[name] = cell
    return found


def solutions_of(lesson: int) -> dict[str, str]:
    "The solution of each exercise: those in the fold-outs, in the order of the skeletons"
    text = "\n".join(cells_of(LESSONS[lesson], "markdown"))
    return dict(zip(checks_of(lesson), SOLUTION.findall(text), strict=True))


def run_code(code: str) -> dict:
    "The names that code defines, with what the lessons import"
    names = {"itertools": itertools, "math": math, "np": np, "random": random, "torch": torch}
    exec(code, names)
    return names


def function_of(code: str, skeleton: str):
    "The function that the skeleton's cell hands to check"
    return run_code(code)[re.search(r"^check\(.+?, (\w+)\)", skeleton, re.MULTILINE)[1]]


def proof_cells(path: Path) -> dict[str, str]:
    "For each exercise of a notebook of answers the cell after its checker"
    found = {}
    for checker, proof in pairwise(cells_of(path)):
        for name in re.findall(r'^@exercise\(\s*"(.+?)"', checker, re.MULTILINE):
            assert name not in found and proof not in found.values(), f"{name}: one exercise a cell"
            found[name] = proof
    return found


def refused_by(path: Path) -> dict[str, tuple]:
    "For each exercise of a notebook of answers the wrong answers, each with words of the reason"
    found = {}
    for name, cell in proof_cells(path).items():
        exec(cell, {"itertools": itertools, "math": math, "np": np, "random": random, "torch": torch,
                    "prove": lambda known, _, *refused: found.update({known: refused})})
        assert name in found, f"{name}: the next cell proves another exercise"
    return found


REFUSED = {name: refused for path in ANSWERS.values() for name, refused in refused_by(path).items()}


def test_every_lesson_has_answers_under_its_name():
    assert {lesson: path.stem for lesson, path in ANSWERS.items()} == {
        lesson: path.stem[3:] for lesson, path in LESSONS.items()}
    assert set(QUIZZES) == set(LESSONS) == {exercise.lesson for exercise in EXERCISES.values()}


@pytest.mark.parametrize("lesson", sorted(ANSWERS))
def test_each_exercise_is_proved_in_the_next_cell(lesson):
    cells, solutions = proof_cells(ANSWERS[lesson]), solutions_of(lesson)
    assert list(cells) == [exercise.name for exercise in EXERCISES.values() if exercise.lesson == lesson]
    for name, cell in cells.items():
        assert not cell.startswith("#|") and cell.count("prove(") == 1, name
        assert len(REFUSED[name]) >= 2, f"{name} has {len(REFUSED[name])} wrong answers"
        solution = ast.unparse(ast.parse(solutions[name]))
        assert solution in ast.unparse(ast.parse(cell)), f"{name}: the lesson has another solution"
    [proof] = [after for cell, after in pairwise(cells_of(ANSWERS[lesson])) if "QUIZZES[LESSON] =" in cell]
    assert proof == "prove_quiz(LESSON)"


def test_every_lesson_has_its_exercises_and_its_quiz():
    for lesson, path in LESSONS.items():
        checks = checks_of(lesson)
        assert set(checks) == {exercise.name for exercise in OPEN if exercise.lesson == lesson}, path.name
        assert 2 <= len(checks) <= 4 and len(solutions_of(lesson)) == len(checks)
        code = "\n".join(cells_of(path))
        assert f"quiz({lesson})" in code and "progress()" in code and 2 <= len(QUIZZES[lesson]) <= 5


@pytest.mark.parametrize("exercise", OPEN, ids=lambda exercise: exercise.name)
def test_solution_passes_and_skeleton_is_open(exercise):
    skeleton = checks_of(exercise.lesson)[exercise.name]
    solution = solutions_of(exercise.lesson)[exercise.name]
    outcome = outcome_of(exercise.name, function_of(solution, skeleton))
    assert outcome.status == "right", outcome
    code = re.sub(r"^check\(.*", "", skeleton, flags=re.MULTILINE)
    assert outcome_of(exercise.name, function_of(code, skeleton)).status == "open"


def scalars(value):
    "NumPy's scalars for numbers, truth values and texts, in the same lists; tensors become arrays"
    if isinstance(value, torch.Tensor):
        return value.detach().numpy()
    if isinstance(value, (list, tuple)):
        return type(value)(map(scalars, value))
    return np.array(value)[()]


def arrays(value):
    "NumPy's arrays for all, without dimensions where the value is a single one"
    if isinstance(value, torch.Tensor):
        return value.detach().numpy()
    return tuple(map(arrays, value)) if isinstance(value, tuple) else np.array(value)


def tensors(value):
    "Tensors for all but texts"
    if isinstance(value, (str, np.str_)):
        return value
    if isinstance(value, tuple) or (isinstance(value, list) and any(isinstance(item, str | torch.Tensor) for item in value)):
        return type(value)(map(tensors, value))
    return value if isinstance(value, torch.Tensor) else torch.tensor(value)


def lists(value):
    "Python's own numbers, in lists"
    if isinstance(value, (list, tuple)):
        return list(map(lists, value))
    return value.tolist() if isinstance(value, (np.ndarray, np.generic, torch.Tensor)) else value


def tuples(value):
    "Python's own numbers, in tuples"
    found = lists(value)
    return tuple(map(tuples, found)) if isinstance(found, list) else found


def held_by(convert, answer):
    "The answer, with what it returns held otherwise"
    def converted(*given):
        found = answer(*given)
        return convert(found) if isinstance(found, (str, int, float, list, tuple, np.ndarray, np.generic,
                                                    torch.Tensor)) else found

    return converted


ASK_FOR_TENSORS = {"nothing is lost", "focal loss"}  # in bfloat16; with a gradient


@pytest.mark.parametrize("convert", [scalars, arrays, tensors, lists, tuples], ids=lambda convert: convert.__name__)
@pytest.mark.parametrize("exercise", [e for e in OPEN if e.name not in ASK_FOR_TENSORS],
                         ids=lambda exercise: exercise.name)
def test_right_and_wrong_do_not_depend_on_who_holds_the_numbers(exercise, convert):
    skeleton = checks_of(exercise.lesson)[exercise.name]
    solution = function_of(solutions_of(exercise.lesson)[exercise.name], skeleton)
    outcome = outcome_of(exercise.name, held_by(convert, solution))
    assert outcome.status == "right", outcome
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # wrong answers may divide by zero
        for answer, _ in REFUSED[exercise.name]:
            outcome = outcome_of(exercise.name, held_by(convert, answer))
            assert outcome.status == "wrong" and "your code raised" not in outcome.message, outcome
            assert not re.search(r"np\.|array\(|tensor\(|dtype", outcome.message), outcome


@pytest.mark.parametrize(("name", "answer", "words"), [
    ("leaking texts", lambda train, test: ["0"] if len(test) == 2 else [], "returned ['0']; expected [0]"),
    ("padding share", lambda n, size: "0.25", "returned '0.25'; expected 0.25"),
    ("padding share", lambda n, size: np.array([0.25]), "returned [0.25]; expected 0.25"),
    ("one step of FGM", lambda *given: "0.3", "returned '0.3'; expected [[["),
    ("one step of FGM", lambda *given: np.float32(0.5), "returned 0.5; expected [[["),
    ("one step of FGM", lambda gradient, *given: [0.1 * gradient], "returned [[[["),
    ("an objective of your own", lambda: np.float64(0.5), "they are 0.5"),
    ("majority label", lambda r: np.str_("Positive"), "returned 'Positive'; expected 'positive'"),
    ("majority label", lambda r: b"positive", "returned b'positive'; expected 'positive'"),
    ("majority label", lambda r: ["positive"], "returned ['positive']; expected 'positive'"),
    ("flip rate", lambda *given: np.array([0.5]), "expected a number and got ndarray"),
    ("flip rate", lambda *given: "0.5", "expected a number and got str"),
    ("find the rare", lambda *given: np.ones((2, 2)), "True or False for each row"),
    ("find the rare", lambda *given: torch.ones(3), "one for each row"),
    ("find the rare", lambda *given: ("0", "1"), "True or False for each row"),
    ("every review twice", lambda: ["same"] * 5, "a dict with the keys"),
    ("best of ten", lambda: ["1.5", 0.3], "a list of 2 numbers"),
    ("best of ten", lambda: (1.5,), "a list of 2 numbers"),
    ("best of ten", lambda: {}, "a list of 2 numbers"),
    ("two attacks", lambda *given: [0.5], "a dictionary"),
    ("two attacks", lambda texts, *given: {texts[0][0]: "0.5"}, "'0.5', which is no number"),
    ("gentle copies", lambda words, *given: " ".join(words), "a list of 3 words")])
def test_a_value_of_another_meaning_stays_wrong(name, answer, words):
    outcome = outcome_of(name, answer)
    assert outcome.status == "wrong" and words in outcome.message, outcome


@pytest.mark.parametrize(("answer", "words"), [
    (lambda rate: int(rate > 0.5), "returned 0; expected False"), (lambda rate: np.int64(0), "returned 0; expected False"),
    (lambda rate: [np.False_], "returned [False]; expected False")])
def test_a_number_or_a_list_is_no_truth_value(answer, words):
    with pytest.raises(base.Wrong, match=re.escape(words)):
        base.expect(answer, [0.25], False)


def test_labels_from_an_array_of_texts_are_right():
    names = np.array(["negative", "undecided", "positive"])
    answer = outcome_of("majority label", lambda r: names[1 + int(np.sign(np.sign(r).sum()))])
    assert answer.status == "right", answer


@pytest.mark.parametrize("lesson", sorted(LESSONS))
def test_no_answer_stands_above_its_fold_out(lesson):
    "Solutions only in fold-outs; no hint, and of a quiz no reason, in code or outputs above a fold-out"
    cells = json.loads(LESSONS[lesson].read_text(encoding="utf-8"))["cells"]
    visible = "\n".join("".join(cell["source"]) for cell in cells)
    visible = SOLUTION.sub("", visible)
    for cell in cells:
        for output in cell.get("outputs", []):
            html = "".join(output.get("data", {}).get("text/html", ""))
            visible += re.sub(r"<details>.*?</details>", "", html, flags=re.DOTALL)
    for name, solution in solutions_of(lesson).items():
        for line in solution.splitlines():
            if line.startswith("    return") and len(line) > 30:
                assert line.strip() not in visible, f"{name}: {line}"
        assert not [hint for hint in EXERCISES[name].hints if hint in visible], name
    for question in QUIZZES[lesson]:
        assert not [why for _, why in question.choices if why in visible], question.text


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # wrong answers may divide by zero
def test_wrong_answers_are_refused_for_the_right_reason(name):
    for answer, words in REFUSED[name]:
        outcome = outcome_of(name, answer)
        assert outcome.status == "wrong" and words in outcome.message, outcome


@pytest.mark.parametrize("name", EXERCISES)
def test_strange_answers_are_told_kindly(name):
    def loops(*_):
        while True:
            pass

    def check(answer, words, **limit):
        outcome = outcome_of(name, answer, **limit)
        assert outcome.status == "wrong" and words in outcome.message, outcome

    check(loops, "within 0.3 seconds", seconds=0.3)
    for answer, words in ((lambda *_: 1 / 0, "ZeroDivisionError"), (7, "function"), (lambda *_: object(), ""),
                          (lambda *_: "text", ""), (lambda *_: [[1], [2, 3]], "")):
        check(answer, words)


def test_an_interruption_stops_the_answer():
    ticks, path = [], exercises.progress_file()

    def answer():
        while True:
            ticks.append(len(ticks))
            if len(ticks) == 1000:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_within(answer, 60)
    finally:
        signal.signal(signal.SIGINT, previous)
    stopped = len(ticks)
    time.sleep(0.2)
    assert len(ticks) == stopped and not path.exists()


def test_crash_while_writing_keeps_the_old_progress(monkeypatch):
    record("exercises", "macro F1", True)

    def crash(*_):
        raise SystemError("the power went out")

    monkeypatch.setattr(exercises.os, "replace", crash)
    with pytest.raises(SystemError):
        record("exercises", "focal loss", True)
    assert read_progress()["exercises"] == {"macro F1": True}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"exercises": 3, "quizzes": {}}', "\x00\x00", '"x"', "[" * 9999,
                                     '{"exercises": {}, "quizzes": {"10": "x"}}'])
def test_damaged_progress_is_set_aside(content):
    path = exercises.progress_file()
    for number in (1, 2):
        path.write_text(content, encoding="utf-8")
        with pytest.warns(UserWarning, match="is damaged"):
            assert read_progress() == {"exercises": {}, "quizzes": {}}
        assert path.read_text(encoding="utf-8") == content  # reading alone changes nothing
        with pytest.warns(UserWarning, match=f"damaged-{number}"):
            record("quizzes", "10", 1)
        assert path.with_name(f"progress.damaged-{number}.json").read_text(encoding="utf-8") == content
        assert read_progress() == {"exercises": {}, "quizzes": {"10": 1}}


def test_progress_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LLM_COURSE_PROGRESS", str(tmp_path / "file/progress.json"))
    with pytest.warns(UserWarning, match="LLM_COURSE_PROGRESS"):
        record("exercises", "macro F1", True)


def write_some(prefix: str):
    "What one of two kernels does"
    for number in range(20):
        record("exercises", f"{prefix}{number}", True)


def test_two_kernels_lose_nothing():
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=write_some, args=(prefix,)) for prefix in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert len(read_progress()["exercises"]) == 40


def test_quiz_keeps_the_best_score_and_reads_as_a_list():
    for lesson, questions in QUIZZES.items():
        asked = Quiz(lesson)
        for number, question in enumerate(questions):
            for index in [*range(len(question.choices)), question.right]:
                asked.answer(number, index)
                assert ("✓" in asked.replies[number].value) == (index == question.right)
        score = f"{len(questions)} of {len(questions)}"
        assert asked.right == len(questions) and progress().loc[lesson, "quiz"] == score
        asked.answer(0, (questions[0].right + 1) % 3)
        assert read_progress()["quizzes"][str(lesson)] == len(questions)
        assert asked._repr_html_().count("<details>") == len(questions)


def test_nothing_is_recorded_where_nothing_is_solved():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exercises.check("macro F1", ...)
    assert not os.path.exists(exercises.progress_file())


def test_progress_of_version_0_1_0_is_read_and_kept():
    shutil.copy(ROOT / "tests/data/0.1.0/progress.json", exercises.progress_file())
    assert read_progress() == {"exercises": {"majority label": True}, "quizzes": {"11": 2}}
    table = progress()
    assert list(table.index) == sorted(LESSONS)
    assert table.loc[10, "exercises"] == "1 of 4"
    assert table.loc[10, "still open"] == "padding share, leaking texts, redact more"
    assert table.loc[11, "exercises"] == "0 of 3" and table.loc[11, "quiz"] == "2 of 3"
    record("exercises", "macro F1", True)
    assert read_progress() == {"exercises": {"majority label": True, "macro F1": True}, "quizzes": {"11": 2}}


LOADED = """
import sys

def loaded():
    found = [name.removeprefix("llm_course.answers.") for name in sys.modules if name.startswith("llm_course.answers.")]
    return {names[name] for name in found if name != "base"}

import llm_course.answers
assert "torch" not in sys.modules and "llm_course.answers.base" not in sys.modules
from llm_course.exercises import exercise_named, progress, quiz
from llm_course.answers.base import EXERCISES, QUIZZES, answer_modules
names = {module.split(".")[-1]: lesson for lesson, module in answer_modules().items()}
from llm_course.answers import Exercise, Question, Unfinished, Wrong, ask, equal, exercise, expect, shown
assert not loaded() and not EXERCISES and not QUIZZES
"""


ASKED = [
    "exercise_named('majority label')\nassert loaded() == {lesson for lesson in answer_modules() if lesson <= 10}",
    "exercise_named('cosine schedule')\nassert loaded() == {lesson for lesson in answer_modules() if lesson <= 12}\n"
    "exercise_named('majority label')\nassert loaded() == {lesson for lesson in answer_modules() if lesson <= 12}",
    "quiz(53)\nassert loaded() == set(QUIZZES) == {53}\n"
    "assert not any(n.startswith('transformers') for n in sys.modules)",
    "progress()\nassert loaded() == set(QUIZZES) == set(answer_modules())",
    "from llm_course.answers import EXERCISES as old, data_preparation\nassert old is EXERCISES\n"
    "assert loaded() == set(answer_modules())\n"
    "lessons = [one.lesson for one in EXERCISES.values()]\n"
    "assert lessons == sorted(lessons) and set(lessons) == set(answer_modules())",
    "from llm_course.answers import QUIZZES as old\nassert old is QUIZZES and list(QUIZZES) == list(answer_modules())",
    "try:\n    exercise_named('price of windo')\nexcept ValueError as error:\n"
    "    assert \"Did you mean 'price of windows'\" in str(error)\nelse:\n    raise AssertionError",
    "try:\n    quiz(99)\nexcept ValueError as error:\n    assert '10, 11, 12' in str(error) and not loaded()\n"
    "else:\n    raise AssertionError"]
IN_A_FORK = """
import json, os, traceback
import datasets, sklearn.feature_extraction.text, sklearn.linear_model, torch  # once for all
said = {}
for number, code in enumerate(json.loads(sys.argv[1])):
    reading, writing = os.pipe()
    if os.fork() == 0:
        try:
            exec(code)
        except BaseException:
            os.write(writing, traceback.format_exc().encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        said[number] = pipe.read()
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said_when_asked() -> list[str]:
    "What went wrong with each of these, in a fork of one process in which nothing was asked for"
    done = subprocess.run([sys.executable, "-c", LOADED + IN_A_FORK, json.dumps(ASKED)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout.splitlines()[-1]).values())


@pytest.mark.parametrize("number", range(len(ASKED)), ids=ASKED)
def test_answers_load_when_they_are_asked_for(number, said_when_asked):
    "Those of the lesson and, where only a name is given, of the lessons before it; none of a later one"
    assert not said_when_asked[number], said_when_asked[number]


def test_the_names_of_version_0_1_0_are_in_the_package():
    assert set(llm_course.answers.__all__) < set(base.__all__)
    for name in llm_course.answers.__all__:
        assert getattr(llm_course.answers, name) is getattr(base, name)
    with pytest.raises(AttributeError, match="has no attribute 'Exercises'"):
        llm_course.answers.Exercises  # noqa: B018
    assert not hasattr(llm_course.answers, "__wrapped__")


@pytest.mark.parametrize("sources", [{"one": "x = 1"}, {"one": "LESSON = 10\nLESSON = 11"},
                                     {"one": "LESSON = 10", "two": "LESSON = 10"}])
def test_a_module_of_answers_says_which_lesson_it_belongs_to(sources, tmp_path, monkeypatch):
    for name, source in sources.items():
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.setattr(llm_course.answers, "__path__", [str(tmp_path)])
    with pytest.raises(ValueError, match="expected one number that no other module has"):
        base.answer_modules()


def test_an_exercise_of_another_lesson_keeps_its_name():
    with pytest.raises(ValueError, match="Lesson 13 has an exercise 'macro F1' already"):
        base.exercise("macro F1", 20, "A hint.")


def test_the_learners_own_line_is_told(tmp_path):
    "Not one of the checkers; a learner's file may have their name"
    path = tmp_path / "answers.py"
    path.write_text("def macro(confusion):\n    return confusion / 'two'\n")
    names = {}
    exec(compile(path.read_text(), path, "exec"), names)
    outcome = outcome_of("macro F1", names["macro"])
    assert outcome.status == "wrong" and "in line 2 of the cell: return confusion / 'two'" in outcome.message
    outcome = outcome_of("macro F1", lambda: 0)
    assert "TypeError" in outcome.message and "in line" not in outcome.message
