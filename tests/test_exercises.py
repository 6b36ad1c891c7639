"""Every solution passes its checker, wrong answers are refused for the right reason, and nothing done is lost."""

import json
import math
import multiprocessing
import os
import re
import signal
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from conftest import NBS, cells_of

from llm_course import exercises
from llm_course.answers import EXERCISES, QUIZZES
from llm_course.exercises import Quiz, outcome_of, progress, read_progress, record, run_within

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
    names = {"math": math, "np": np, "torch": torch}
    exec(code, names)
    return names


def function_of(code: str, skeleton: str):
    "The function that the skeleton's cell hands to check"
    return run_code(code)[re.search(r"^check\(.+?, (\w+)\)", skeleton, re.MULTILINE)[1]]


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
    if isinstance(value, tuple) or (isinstance(value, list) and any(isinstance(item, str) for item in value)):
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


@pytest.mark.parametrize("convert", [scalars, arrays, tensors, lists, tuples], ids=lambda convert: convert.__name__)
@pytest.mark.parametrize("exercise", [e for e in OPEN if e.name != "nothing is lost"],  # which asks for bfloat16
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
    ("does the gradient lie", lambda *rates: int(max(rates[1:3]) - rates[0] > rates[3]), "returned 0; expected False"),
    ("does the gradient lie", lambda *rates: np.int64(0), "returned 0; expected False"),
    ("does the gradient lie", lambda *rates: [np.False_], "returned [False]; expected False"),
    ("majority label", lambda r: np.str_("Positive"), "returned 'Positive'; expected 'positive'"),
    ("majority label", lambda r: b"positive", "returned b'positive'; expected 'positive'"),
    ("majority label", lambda r: ["positive"], "returned ['positive']; expected 'positive'"),
    ("flip rate", lambda *given: np.array([0.5]), "expected a number and got ndarray"),
    ("flip rate", lambda *given: "0.5", "expected a number and got str"),
    ("bootstrap interval", lambda *given: np.ones((2, 2)), "two numbers"),
    ("bootstrap interval", lambda *given: torch.ones(3), "two numbers"),
    ("bootstrap interval", lambda *given: ("0.7", "0.9"), "two numbers"),
    ("mixtures", lambda *given: (given[0], "labels"), "a pair of tensors"),
    ("mixtures", lambda *given: given[0], "the shapes"),
    ("mixtures", lambda *given: {}, "a pair of tensors")])
def test_a_value_of_another_meaning_stays_wrong(name, answer, words):
    outcome = outcome_of(name, answer)
    assert outcome.status == "wrong" and words in outcome.message, outcome


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


def momentum_in_place(weight, gradient, memory, learning_rate):
    "Changes what it is given"
    memory.mul_(0.9).add_(gradient)
    return weight - learning_rate * memory, memory


def first_threshold(p, y, wanted):
    "The highest one that is good enough"
    good = [t for t in p if y[p >= t].mean() >= wanted]
    return float(max(good)) if good else math.inf


def ties_apart(p, y, wanted):
    "Counts texts one by one, though equal probabilities are called positive together"
    order = np.argsort(-p, kind="stable")
    precision = np.cumsum(y[order]) / np.arange(1, len(y) + 1)
    good = p[order][precision >= wanted]
    return float(good.min()) if len(good) else math.inf


def mixed_one_way(embeddings, labels, share, other, classes):
    "Mixes the embeddings and forgets the labels"
    wide = share[:, None, None]
    hot = torch.nn.functional.one_hot(labels, classes).float()
    return wide * embeddings + (1 - wide) * embeddings[other], hot


def mixed_the_wrong_way(embeddings, labels, share, other, classes):
    "Gives the share to the partner"
    wide = 1 - share[:, None, None]
    hot = torch.nn.functional.one_hot(labels, classes).float()
    return wide * embeddings + (1 - wide) * embeddings[other], wide[:, 0] * hot + (1 - wide[:, 0]) * hot[other]


def words_in_order(margin, drops):
    "Replaces words in the order in which they come"
    for count, drop in enumerate([0.0, *drops]):
        margin -= drop
        if margin <= 0:
            return count
    return -1


REFUSED = {  # wrong answers, each with words of the reason
    "price of windows": [
        (lambda n, room, stride: room * (math.ceil((n - room) / stride) + 1), "has no more tokens"),
        (lambda n, room, stride: n if n <= room else room * ((n - room) // stride + 2), "do not count it twice"),
        (lambda n, room, stride: sum(len(range(n)[at:at + room]) for at in range(0, n, stride)), "This text fits")],
    "surest window": [
        (lambda z: z[z.max(-1).values.argmax()], "only differences count"),
        (lambda z: z.mean(0), "larger margin"),
        (lambda z: z[(z.exp() / z.exp().sum(-1, keepdim=True)).max(-1).values.nan_to_num(0).argmax()],
         "large logits"),  # exp overflows
        (lambda z: z[(z.max(-1).values - z.min(-1).values).argmax()], "margin to the lowest")],
    "reviews to tell apart": [
        (lambda p, d: math.ceil(p * (1 - p) * (1.96 / d) ** 2), "Two models"),
        (lambda p, d: int(2 * p * (1 - p) * (1.96 / d) ** 2), "expected"),
        (lambda p, d: math.ceil(2 * p * (1 - p) * 1.96 / d), "Two models")],
    "majority label": [
        (lambda r: "positive" if sum(r) > 0 else "negative" if sum(r) < 0 else "undecided", "not how strongly"),
        (lambda r: "positive" if sum(x > 0 for x in r) >= sum(x < 0 for x in r) else "negative", "As many say"),
        (lambda r: "positive" if sum(x > 0 for x in r) * 2 > len(r) else "undecided"
         if sum(x > 0 for x in r) == sum(x < 0 for x in r) else "negative", "no vote against")],
    "padding share": [
        (lambda n, b: 1 - sum(n) / (len(n) * max(n)), "one text"),
        (lambda n, b: sum(max(n[i:i + b]) * len(n[i:i + b]) for i in range(0, len(n), b)) / sum(n) - 1, "Two of eight"),
        (lambda n, b: float(np.mean([1 - np.mean(n[i:i + b]) / max(n[i:i + b]) for i in range(0, len(n), b)])),
         "expected")],
    "leaking texts": [
        (lambda train, test: [i for i, t in enumerate(test) if t in train], "Case and space"),
        (lambda train, test: [i for i, t in enumerate(test) if t.lower().replace(" ", "").replace("\t", "")
                              in {x.lower().replace(" ", "").replace("\t", "") for x in train}], "one word"),
        (lambda train, test: [t for t in test if t.lower().split() in [x.lower().split() for x in train]], "expected")],
    "delete words": [
        (lambda w, k, p, d: [x for x, r in zip(w, d, strict=True) if r >= p or x.lower() in k], "Nothing is left"),
        (lambda w, k, p, d: [x for x, r in zip(w, d, strict=True) if r >= p or x in k] or w[:1], "any case"),
        (lambda w, k, p, d: [x for x, r in zip(w, d, strict=True) if r > p or x.lower() in k], "not below it")],
    "mixtures": [(mixed_one_way, "The label of row"), (mixed_the_wrong_way, "The embeddings of row"),
                 (lambda e, y, s, o, c: (e, y), "shapes")],
    "flip rate": [
        (lambda t, c, b, a: float(np.mean([x != o for o, r in zip(b, a, strict=True) for x in r])), "no change"),
        (lambda t, c, b, a: float(np.mean([np.mean([x != o for x in r]) for o, r in zip(b, a, strict=True) if r])),
         "Each copy"),
        (lambda t, c, b, a: 0.0, "expected")],
    "gradient of the squared error": [
        (lambda z, y: 2 * (torch.sigmoid(z) - y) / len(z), "chain rule"),
        (lambda z, y: 2 * (torch.sigmoid(z) - y) * torch.sigmoid(z) * (1 - torch.sigmoid(z)), "mean"),
        (lambda z, y: 2 * (y - torch.sigmoid(z)) * torch.sigmoid(z) * (1 - torch.sigmoid(z)) / len(z), "expected")],
    "log of a mean": [(lambda z: z.exp().mean().log(), "overflow"), (lambda z: z.logsumexp(0), "equal numbers"),
                      (lambda z: z.mean(), "expected")],
    "perplexity of a book": [
        (lambda losses, n: float(np.average(np.exp(losses), weights=n)), "exponential comes last"),
        (lambda losses, n: math.exp(sum(losses) / len(losses)), "Long chapters")],
    "cosine schedule": [
        (lambda s, n, w: (s + 1) / (w * n + 1) if s < w * n else (n - s) / (n - w * n), "within the fall"),
        (lambda s, n, w: (1 + math.cos(math.pi * s / n)) / 2, "within the rise")],
    "momentum step": [
        (lambda w, g, m, rate: (w - rate * m, 0.9 * m + g), "new memory"),
        (lambda w, g, m, rate: (w - rate * (0.9 * m + 0.1 * g), 0.9 * m + 0.1 * g), "new memory"),
        (momentum_in_place, "changes its input")],
    "focal loss": [
        (lambda z, y, k: torch.nn.functional.cross_entropy(z, y), "hard ones nearly"),
        (lambda z, y, k: (-((1 - z.softmax(-1)[range(len(y)), y]) ** k) * z.softmax(-1)[range(len(y)), y].log()).mean(),
         "overflow")],
    "macro F1": [
        (lambda c: float(np.trace(c) / c.sum()), "never found"),
        (lambda c: float(np.mean(2 * np.diag(c) / (c.sum(0) + c.sum(1)))), "occurs nowhere")],
    "threshold for a precision": [
        (first_threshold, "try every threshold"),
        (ties_apart, "Equal numbers"),
        (lambda p, y, wanted: float(min(p[y == 1], default=math.inf)), "expected")],
    "bootstrap interval": [
        (lambda c, g: (c.mean() - 2 * c.std(), c.mean() + 2 * c.std()), "times as wide"),
        (lambda c, g: tuple(np.percentile([g.permutation(c).mean() for _ in range(50)], [2.5, 97.5])), "replacement"),
        (lambda c, g: c.mean(), "two numbers")],
    "smallest epsilon": [
        (lambda w, b, x, y, norm: max(0.0, float(y * (w @ x + b) / np.linalg.norm(w))), "all coordinates move"),
        (lambda w, b, x, y, norm: float(y * (w @ x + b) / np.linalg.norm(w, 1 if norm == "linf" else 2)),
         "wrong side already"),
        (lambda w, b, x, y, norm: max(0.0, float(y * (w @ x + b) / np.linalg.norm(w, np.inf if norm == "linf" else 2))),
         "all coordinates move"),
        (lambda w, b, x, y, norm: max(0.0, float((w @ x + b) / np.linalg.norm(w, 1 if norm == "linf" else 2))),
         "wrong side already")],
    "words to flip": [
        (lambda margin, drops: words_in_order(margin, [sum(word) for word in drops]), "do not add up"),
        (lambda margin, drops: words_in_order(margin, [max(word, default=0.0) for word in drops]), "Order the words"),
        (lambda margin, drops: len(drops) if margin > sum(max(word, default=0.0) for word in drops) else
         words_in_order(margin, sorted((max(word, default=0.0) for word in drops), reverse=True)), "do not suffice")],
    "accuracy under honest attack": [
        (lambda statuses, votes: statuses.count("failed") / len(statuses), "Both reviewers"),
        (lambda statuses, votes: 1 - sum(s == "succeeded" and any(v) for s, v in zip(statuses, votes, strict=True))
         / len(statuses), "Both reviewers"),
        (lambda statuses, votes: 1 - sum(s == "succeeded" and all(v) for s, v in zip(statuses, votes, strict=True))
         / len(statuses), "wrong before any attack"),
        (lambda statuses, votes: sum(not all(v) for v in votes) / len(votes), "takes nothing away")],
    "worst margin": [
        (lambda w, b, x, y, e, norm: y * (x @ w + b) - e * np.linalg.norm(w), "all coordinates move"),
        (lambda w, b, x, y, e, norm: y * (x @ w + b) - e * np.abs(w).sum(), "the length of w"),
        (lambda w, b, x, y, e, norm: y * (x @ w) - e * np.linalg.norm(w, 1 if norm == "linf" else 2), "shifts the score"),
        (lambda w, b, x, y, e, norm: np.maximum(0, y * (x @ w + b) - e * np.linalg.norm(w, 1 if norm == "linf" else 2)),
         "wrong side")],
    "worst corner": [
        (lambda values: float(sum(min(word[1:], default=word[0]) for word in values)), "stays as it is"),
        (lambda values: float(sum(np.mean(word) for word in values)), "smallest value"),
        (lambda values: float(min(min(word) for word in values)), "own value"),
        (lambda values: float(sum(word[0] for word in values)), "smallest value")],
    "does the gradient lie": [
        (lambda own, moved, without, margin: moved > own + margin, "without gradients"),
        (lambda own, moved, without, margin: without > own + margin, "another model"),
        (lambda own, moved, without, margin: max(moved, without) > own, "within the margin"),
        (lambda own, moved, without, margin: max(moved, without) >= own + margin, "exactly the margin")],
    "tokens to the ridge": [
        (lambda ridge, k, n, size: math.ceil(size * ridge / 2), "not the weights alone"),
        (lambda ridge, k, n, size: int(ridge * size * k * n / max(2 * k * n - ridge * size * (k + n), 1e-9)), "round up"),
        (lambda ridge, k, n, size: math.ceil(ridge * size * k * n / (2 * k * n - ridge * size * (k + n))), "never gets")],
    "unequal shards": [
        (lambda gradients, counts: sum(g * n for g, n in zip(gradients, counts, strict=True)), "not a sum"),
        (lambda gradients, counts: sum(gradients) / len(gradients), "counts more"),
        (lambda gradients, counts: sum(g * n for g, n in zip(gradients, counts, strict=True)) / sum(counts),
         "nothing to say")],
    "nothing is lost": [
        (lambda start, updates: sum(updates, start), "too small to be seen"),
        (lambda start, updates: sum(updates.float(), start.float()).bfloat16(), "another format"),
        (lambda start, updates: torch.tensor(start.item()).bfloat16(), "another format"),
        (lambda start, updates: torch.tensor(sum(updates.tolist()) + 1).bfloat16(), "another format"),
        (lambda start, updates: start + updates.sum(), "one update after the other"),
        (lambda start, updates: start.add_(1), "changes its input")],
}


def test_each_exercise_has_refused_answers():
    assert set(REFUSED) == set(EXERCISES) and all(len(answers) >= 2 for answers in REFUSED.values())


@pytest.mark.parametrize("name", REFUSED)
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

    for answer, words in ((loops, "within 0.3 seconds"), (lambda *_: 1 / 0, "ZeroDivisionError"), (7, "function"),
                          (lambda *_: object(), ""), (lambda *_: "text", ""), (lambda *_: [[1], [2, 3]], "")):
        outcome = outcome_of(name, answer, seconds=0.3)
        assert outcome.status == "wrong" and words in outcome.message, outcome


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
