"""In use from outside: libraries that agree, feedback and versions that survive kills and each other, and what is refused."""

import json
import math
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, tiny_classifier
from scipy.stats import permutation_test
from sklearn.metrics.pairwise import rbf_kernel

from llm_course import feedback as feedback_module
from llm_course.evaluation import compare
from llm_course.feedback import APPLICATION, Feedback
from llm_course.in_use import (
    SIGNALS, DriftDetector, accuracy_drop, compare_versions, confidence_strata, estimated_accuracy, gaussian_kernel,
    median_distance, neyman_allocation, permutation_p_value, random_splits, split_weights, squared_discrepancies,
    stratified_accuracy, texts_to_label,
)
from llm_course.models import TextClassifier, sentence_encoder
from llm_course.versions import State, Versions, hashed_share
from llm_course.windows import Window, joined, window_of

LABELS = ("negative", "positive")
RULES = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}


def window(size: int, shift: float = 0.0, seed: int = 0, made_by: str = "made", labels: tuple = LABELS) -> Window:
    "Texts that were never written"
    generator = np.random.default_rng(seed)
    sure = generator.uniform(0.5, 1, size)
    shares = np.full((size, len(labels)), 0.0)
    shares[:, 0], shares[:, 1] = sure, 1 - sure
    return Window(generator.normal(shift, 1, (size, 5)), generator.integers(1, 40, size), shares, labels, made_by)


def narrow(size: int) -> Window:
    "Vectors of another width"
    wide = window(size)
    return Window(wide.embeddings[:, :4], wide.lengths, wide.probabilities, LABELS, "made")


# The tests of two samples

def test_the_discrepancy_is_that_of_scikit_learns_kernel():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(7, 3)), generator.normal(0.5, 1, (5, 3))
    both, width = np.vstack([x, y]), median_distance(np.vstack([x, y]))
    kernel = gaussian_kernel(both, both, width)
    assert np.allclose(kernel, rbf_kernel(both, gamma=1 / (2 * width**2)))
    found = squared_discrepancies(kernel, split_weights(np.arange(12) >= 7)[None])[0]
    expected = kernel[7:, 7:].mean() - 2 * kernel[:7, 7:].mean() + kernel[:7, :7].mean()
    assert math.isclose(found, expected) and found > 0


def test_the_p_value_is_scipys():
    generator = np.random.default_rng(1)
    values = np.concatenate([generator.normal(size=6), generator.normal(1, 1, 4)])
    kernel = gaussian_kernel(values[:, None], values[:, None], 1.0)

    def statistic(first, second):
        rows = [int(np.flatnonzero(values == value)[0]) for value in np.concatenate([first, second])]
        return squared_discrepancies(kernel[np.ix_(rows, rows)], split_weights(np.arange(10) >= 6)[None])[0]

    theirs = permutation_test((values[:6], values[6:]), statistic, n_resamples=np.inf, alternative="greater").pvalue
    seen = squared_discrepancies(kernel, split_weights(np.arange(10) >= 6)[None])[0]
    ours = permutation_p_value(seen, squared_discrepancies(kernel, random_splits(6, 4, 20000)))
    assert abs(ours - theirs) < 0.02  # theirs tries all 210 ways


def test_random_splits_choose_every_point_alike():
    chosen = (random_splits(6, 4, 4000) > 0).mean(0)
    assert (abs(chosen - 0.4) < 0.05).all() and ((random_splits(6, 4, 50) > 0).sum(1) == 4).all()
    assert (random_splits(6, 4, 50, seed=1) != random_splits(6, 4, 50, seed=2)).any()


def test_a_shift_rings_and_none_does_not_and_nothing_is_carried_over():
    reference = window(120)
    detector = DriftDetector(reference)
    shifted, alike = window(20, shift=1.5, seed=1), window(20, seed=2)
    first = detector.check(alike)
    assert detector.check(shifted)["embeddings"].alarm and not any(drift.alarm for drift in first.values())
    assert detector.check(alike) == first and tuple(first) == SIGNALS
    assert detector.check(shifted)["embeddings"].p_value == 1 / 1000  # never 0


def test_windows_of_one_answer_and_one_length_divide_by_nothing():
    same = Window(np.random.default_rng(0).normal(size=(50, 3)), np.ones(50), np.tile([0.2, 0.8], (50, 1)), LABELS, "made")
    report = DriftDetector(same).check(same.rows(range(10)))
    assert all(np.isfinite([drift.statistic, drift.p_value]).all() for drift in report.values())
    assert report["answers"].p_value == report["lengths"].p_value == report["confidence"].p_value == 1


@pytest.mark.parametrize(("make", "said"), [
    (lambda: DriftDetector(window(50)).check(window(9, made_by="another")), "different encoders or classifiers"),
    (lambda: DriftDetector(window(50)).check(window(9, labels=("a", "b"))), "different encoders or classifiers"),
    (lambda: DriftDetector(window(50)).check(narrow(9)), "different encoders or classifiers"),
    (lambda: joined(window(3), narrow(3)), "different encoders or classifiers"),
    (lambda: DriftDetector(window(50)).check(window(1)), "A window of 1 texts beside 50 can never ring"),
    (lambda: DriftDetector(window(50), permutations=99), "Take 559 permutations or more"),
    (lambda: DriftDetector(window(50), false_alarms=math.nan), "false_alarms must be a number above 0"),
    (lambda: DriftDetector(window(50), tests=0), "tests must be a whole number of at least 1"),
    (lambda: DriftDetector(window(1)), "or there is only one"),
    (lambda: DriftDetector(window(50).rows([4] * 50)), "are the same text"),
    (lambda: DriftDetector(window(50), seed=-1), "seed must be"),
    (lambda: window(0), "one at least"),
    (lambda: joined(window(3), window(3, made_by="another")), "Read their texts again"),
    (lambda: random_splits(0, 4, 9), "reference must be a whole number of at least 1"),
    (lambda: gaussian_kernel(np.ones((2, 2)), np.ones((2, 2)), 0.0), "bandwidth must be a number above 0"),
    (lambda: Window(np.full((2, 3), np.nan), [1, 2], np.full((2, 2), 0.5), LABELS, "made"), "Where one is NaN"),
    (lambda: Window(np.ones((2, 3)), [1, np.nan], np.full((2, 2), 0.5), LABELS, "made"), "lengths must be numbers; at 1"),
    (lambda: Window(np.ones((2, 3)), [1, 2], [[0.5, np.nan], [0.5, 0.5]], LABELS, "made"), "row 0 is"),
    (lambda: Window(np.ones((2, 3)), [1, 2], np.full((2, 2), 0.5), ("one", "two", "three"), "made"), "3 labels and 2"),
    (lambda: Window(np.ones((2, 3)), np.ones((2, 2)), np.full((2, 2), 0.5), LABELS, "made"), "lengths must be one number"),
    (lambda: Window([["a"], ["b"]], [1, 2], np.full((2, 2), 0.5), LABELS, "made"), "embeddings must be finite numbers"),
    (lambda: permutation_p_value(math.nan, np.ones(9)), "must be finite numbers"),
    (lambda: median_distance(np.ones((1, 2))), "two rows at least"),
])
def test_what_cannot_be_compared_is_refused(make, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        make()


def test_small_integers_do_not_overflow_and_a_window_is_a_copy():
    def of_bytes(size: int, seed: int, shift: float, kind: type) -> Window:
        vectors = (np.random.default_rng(seed).normal(shift, 1, (size, 5)) * 30).clip(-127, 127).astype(np.int8)
        return Window(vectors.astype(kind), [3] * size, [[0.2, 0.8]] * size, list(LABELS), "made")

    found = [DriftDetector(of_bytes(100, 0, 0, kind)).check(of_bytes(30, 1, 1.5, kind))["embeddings"] for kind in (np.int8, float)]
    assert found[0] == found[1] and found[0].alarm
    vectors = np.ones((2, 3))
    kept = Window(vectors, (1, 2), torch.tensor([[0.1, 0.9], [0.6, 0.4]]), list(LABELS), "made")
    vectors[0, 0] = 9
    assert kept.embeddings.max() == 1 and kept.answers.tolist() == [1, 0] and kept.rows([0]).lengths.tolist() == [1]
    assert len(joined(kept, Window(vectors, (1, 2), [[0.5, 0.5]] * 2, LABELS, "made"))) == 4  # a list or a tuple of labels
    with pytest.raises(ValueError, match="read-only"):
        kept.embeddings[0, 0] = 5


def test_readers_of_other_settings_are_told_apart():
    classifier, encoder = tiny_classifier(seed=3), sentence_encoder()
    first, length = window_of(["A fine film"], classifier, encoder), encoder.max_length
    try:
        encoder.max_length = 3
        assert window_of(["A fine film"], classifier, encoder).made_by != first.made_by
        encoder.max_length = length
        encoder.model.train()
        again = window_of(["A fine film"], classifier, encoder)
        assert encoder.model.training and np.allclose(again.embeddings, first.embeddings)  # without dropout
    finally:
        encoder.max_length = length
        encoder.model.eval()
    warm = SimpleNamespace(labels=list(LABELS), model=classifier.model, temperature=2.0, predict_proba=classifier.predict_proba)
    made_by = window_of(["A fine film"], warm, encoder).made_by
    assert made_by == window_of(["No"], warm, encoder).made_by
    warm.temperature = torch.tensor(3.0)
    assert window_of(["A fine film"], warm, encoder).made_by != made_by
    weightless = SimpleNamespace(labels=list(LABELS), predict_proba=classifier.predict_proba)
    with pytest.raises(ValueError, match="has no model whose weights"):
        window_of(["A fine film"], weightless, encoder)
    pieces = SimpleNamespace(labels=list(LABELS), classifier=classifier, reading=lambda ids, room: [ids[:room]])
    with pytest.raises(ValueError, match="a lambda has no name"):
        window_of(["A fine film"], pieces, encoder)


@pytest.mark.parametrize("call", [lambda: DriftDetector(["a", "b"]), lambda: DriftDetector(window(50)).check(["a", "b"])])
def test_texts_in_the_place_of_a_window_are_refused(call):
    with pytest.raises(TypeError, match="must be a Window, as window_of makes, got list"):
        call()


def test_reading_texts_changes_nothing_and_knows_who_read():
    classifier = tiny_classifier(seed=3)
    classifier.model.train()
    before = {name: value.clone() for name, value in classifier.model.state_dict().items()}
    first = window_of(["A fine film", "no"], classifier)
    assert classifier.model.training and all((value == before[name]).all() for name, value in classifier.model.state_dict().items())
    assert first.lengths.tolist() == [3, 1] and first.made_by == window_of(["x"], classifier).made_by
    assert first.made_by != window_of(["x"], tiny_classifier(seed=4)).made_by
    with pytest.raises(ValueError, match="The window is empty"):
        window_of([], classifier)
    with pytest.raises(TypeError, match="write \\[text\\]"):
        window_of("one text", classifier)


# Accuracy

def two(*confidences: float) -> np.ndarray:
    return np.array([[1 - confidence, confidence] for confidence in confidences])


def test_on_the_reference_itself_two_estimates_are_the_accuracy():
    generator = np.random.default_rng(0)
    known = two(*generator.uniform(0.5, 1, 200))
    targets = (generator.random(200) < 0.7).astype(int)
    found = estimated_accuracy(known, known, targets)
    assert math.isclose(found["difference of confidences"], targets.mean())
    assert math.isclose(found["thresholded confidence"], targets.mean())


@pytest.mark.parametrize("digits", [0, 1, 2])
def test_equal_confidences_pass_the_bar_in_part(digits):
    generator = np.random.default_rng(0)
    known = two(*generator.uniform(0.5, 1, 400).round(digits))
    targets = (generator.random(400) < 0.8).astype(int)
    assert math.isclose(estimated_accuracy(known, known, targets)["thresholded confidence"], (known.argmax(1) == targets).mean())
    saturated = estimated_accuracy(two(*[1.0] * 100), two(*[1.0] * 100), [0, 1] * 50)
    assert saturated["thresholded confidence"] == 0.5


@pytest.mark.parametrize(("targets", "expected"), [([1, 1, 1], 1.0), ([0, 0, 0], 0.0)])
def test_a_reference_that_is_all_right_or_all_wrong(targets, expected):
    found = estimated_accuracy(two(0.6, 0.9), two(0.6, 0.7, 0.8), targets)
    assert found["thresholded confidence"] == expected and 0 <= found["difference of confidences"] <= 1


@pytest.mark.parametrize(("call", "said"), [
    (lambda: estimated_accuracy(np.empty((0, 2)), two(0.9), [1]), "one at least"),
    (lambda: estimated_accuracy(two(0.9), two(0.9), [2]), "targets"),
    (lambda: estimated_accuracy([[2.0, -1.0]], two(0.9), [1]), "Are these logits"),
    (lambda: estimated_accuracy(two(math.nan), two(0.9), [1]), "row 0"),
    (lambda: confidence_strata([0.5, math.nan], 2), "at 1 stands"),
    (lambda: confidence_strata([0.5], 0), "strata must be"),
    (lambda: neyman_allocation([5, 5], [0.5, 1.5], 6), "accuracies must be shares"),
    (lambda: neyman_allocation([5, 5], [0.5], 6), "must be as many of each"),
    (lambda: neyman_allocation([-5, 20], [0.5, 0.5], 8), "a size must be a whole number of at least 0"),
    (lambda: neyman_allocation([10.5, 10.5], [0.5, 0.5], 8), "a size must be a whole number"),
    (lambda: neyman_allocation(["5", "20"], [0.5, 0.5], 8), "a size must be a whole number"),
    (lambda: texts_to_label(two(*[0.9] * 50), 20), "one number from 0 to 1 for each text"),
    (lambda: confidence_strata([-5, 90], 2), "one number from 0 to 1 for each text"),
    (lambda: stratified_accuracy([0.9, 1], [0, 1], [0.5, 0.6], strata=1), "at 0 stands"),
    (lambda: stratified_accuracy(["yes", "no"], [0, 1], [0.5, 0.6], strata=1), "at 0 stands"),
    (lambda: neyman_allocation([5, 5], [0.5, 0.5], 11), "to 10 (all texts), got 11"),
    (lambda: texts_to_label([0.6] * 10, 40), "got 40"),
    (lambda: stratified_accuracy([True], [0, 1], [0.5, 0.6], strata=1), "must be as many of each"),
    (lambda: stratified_accuracy([True], [7], [0.5, 0.6], strata=1), "from 0 to 1"),
    (lambda: stratified_accuracy([True, True], [0, 0], [0.5, 0.6], strata=1), "0 stands twice"),
    (lambda: accuracy_drop(3, 2, 1, 1), "right must be at most total, got 3 of 2"),
    (lambda: accuracy_drop(0, 0, 1, 1), "total must be a whole number of at least 1"),
    (lambda: accuracy_drop(1, 2, 1, 2, threshold=2), "threshold must be a number from 0 to 1"),
])
def test_bad_numbers_are_refused(call, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        call()


def test_the_allocation_is_the_best_of_all():
    sizes, accuracies, budget = [6, 9, 7], [0.5, 0.9, 0.75], 12
    ways = [(a, b, budget - a - b) for a in range(2, 7) for b in range(2, 10) if 2 <= budget - a - b <= 7]

    def variance(counts):
        return sum((size / 22) ** 2 * share * (1 - share) / count for size, share, count in zip(sizes, accuracies, counts, strict=True))

    assert variance(neyman_allocation(sizes, accuracies, budget)) <= min(map(variance, ways)) + 1e-12


def test_labels_by_strata_are_right_on_average_however_wrong_the_confidence():
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.5, 1, 400)
    right = generator.random(400) < 1.4 - confidence  # the surer, the more often wrong
    found = []
    for seed in range(400):
        rows = texts_to_label(confidence, 60, seed=seed)
        found.append(stratified_accuracy(right[rows], rows, confidence).value)
    assert abs(np.mean(found) - right.mean()) < 0.015


def test_all_labels_bought_give_the_accuracy():
    right = np.random.default_rng(0).random(40) < 0.8
    rows = texts_to_label(np.linspace(0.5, 1, 40), 40)
    found = stratified_accuracy(right[rows], rows, np.linspace(0.5, 1, 40))
    assert math.isclose(found.value, right.mean()) and found.low < found.value < found.high


# Feedback

def put(kept: Feedback, key: str, version: str = "first", **changed: object) -> bool:
    options = {"text": f"text of {key}", "answer": "positive", "confidence": 0.9, "time": 1000.0, **changed}
    return kept.add(key, version=version, **options)


def test_the_text_is_kept_only_when_asked_for(tmp_path):
    text = "A sentence that nobody else would write 7261"
    for asked in (False, True):
        kept = Feedback(tmp_path / f"{asked}.db", LABELS, keep_text=asked, secret=b"mine")
        put(kept, "a", text=text)
        stored = b"".join(path.read_bytes() for path in tmp_path.glob(f"{asked}.db*"))
        assert (text.encode() in stored) == asked and kept.items()["text"].notna().all() == asked
    plain = Feedback(tmp_path / "plain.db", LABELS)
    put(plain, "a", text=text)
    assert plain.items()["digest"][0] != kept.items()["digest"][0]  # the secret counts


WRITER = """
import os, signal, sys
from llm_course import feedback
kept = feedback.Feedback(sys.argv[1], ["negative", "positive"])
start, stop = int(sys.argv[2]), int(sys.argv[3])
for number in range(start, stop):
    kept.add(f"key {number}", "text", "positive", 0.5, version="first", time=1000 + number / 100)
    kept.label(f"key {number}", "negative")
    print(number, flush=True)
"""


def test_killed_writers_that_begin_again_keep_each_item_once(tmp_path):
    path, acknowledged = tmp_path / "feedback.db", set()
    for attempt in range(2):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path), "0", "4000"], stdout=subprocess.PIPE, text=True, env=RULES)
        for _ in range(15 + 30 * attempt):  # it begins again at 0 each time
            acknowledged.add(int(process.stdout.readline()))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found = Feedback(path, LABELS).items()
        assert found["key"].is_unique and {f"key {number}" for number in acknowledged} <= {*found["key"]}
        assert found.set_index("key")["label"][[f"key {number}" for number in acknowledged]].notna().all()


TOGETHER = """
import sys
from llm_course.feedback import Feedback
kept = Feedback(sys.argv[1], ["negative", "positive"], timeout=60)
for number in range(30):
    for key in (f"key {number}", f"own {sys.argv[2]} {number}"):
        kept.add(key, f"text of {key}", "positive", 0.9, version="first", time=1000 + number / 10)
"""


def test_writers_at_the_same_time_lose_nothing_and_add_nothing_twice(tmp_path):
    path = str(tmp_path / "feedback.db")
    writers = [subprocess.Popen([sys.executable, "-c", TOGETHER, path, str(number)], env=RULES) for number in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    found = Feedback(path, LABELS).items()
    assert len(found) == 30 + 2 * 30 and found["key"].is_unique


def test_a_file_that_stays_locked_is_said_and_a_short_lock_is_waited_for(tmp_path):
    kept = Feedback(tmp_path / "feedback.db", LABELS, timeout=0.1)
    other = sqlite3.connect(kept.path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(TimeoutError, match="was locked by another program for 0\\.1 seconds"):
        put(kept, "a")
    assert kept.items().empty  # reading goes on
    patient = Feedback.__new__(Feedback)
    patient.__dict__.update({**kept.__dict__, "timeout": 30.0})
    release = threading.Timer(0.3, lambda: other.execute("COMMIT"))
    release.start()
    assert put(patient, "a")
    release.join()
    other.close()


@pytest.mark.parametrize(("damage", "said"), [
    (lambda path: path.write_bytes(b"not a database, but long enough to be looked at " * 40), "no database or a damaged one"),
    (lambda path: path.write_bytes(path.read_bytes()[:3000]), "damaged"),
    (lambda path: path.write_bytes(path.read_bytes()[:4096] + b"\xff" * (len(path.read_bytes()) - 4096)), "damaged"),
    (lambda path: pragma(path, "user_version = 9"), "has form 9"),
    (lambda path: pragma(path, "application_id = 5"), "of another program"),
])
def test_files_that_are_none_of_ours_are_refused_and_left_alone(tmp_path, damage, said):
    path = tmp_path / "feedback.db"
    kept = Feedback(path, LABELS)
    for number in range(60):
        put(kept, f"key {number}")
    damage(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=said):
        Feedback(path, LABELS)
    assert path.read_bytes() == before


def pragma(path: Path, setting: str):
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA {setting}")
    database.commit()
    database.close()


def test_a_database_of_another_program_is_left_alone(tmp_path):
    database = sqlite3.connect(tmp_path / "theirs.db")
    database.execute("CREATE TABLE answers (key TEXT)")
    database.commit()
    database.close()
    before = (tmp_path / "theirs.db").read_bytes()
    with pytest.raises(ValueError, match="of another program"):
        Feedback(tmp_path / "theirs.db", LABELS)
    assert (tmp_path / "theirs.db").read_bytes() == before and APPLICATION.to_bytes(4, "big") not in before


@pytest.mark.parametrize(("call", "said"), [
    (lambda kept: put(kept, "a", text="another"), "belongs to another text"),
    (lambda kept: put(kept, "a", answer="negative"), "Give a version that has changed a new name"),
    (lambda kept: put(kept, "b", answer="neutral"), "answer must be one of negative, positive"),
    (lambda kept: put(kept, "b", confidence=math.nan), "confidence must be a number from 0 to 1"),
    (lambda kept: put(kept, "b", time=math.nan), "time must be a number"),
    (lambda kept: put(kept, "b", time=900.0), "Time runs backwards"),
    (lambda kept: put(kept, ""), "key must be a text that is not empty"),
    (lambda kept: put(kept, "b", version=None), "version must be a text"),
    (lambda kept: kept.label("a", "neutral"), "label must be one of negative, positive"),
    (lambda kept: kept.label("nobody", "positive"), "There is no answer with the key 'nobody'"),
    (lambda kept: kept.label("a", "negative"), "has the label 'positive' already"),
    (lambda kept: kept.items(since=2, until=1), "since must not lie after until"),
    (lambda kept: Feedback(kept.path, ("positive", "negative")), "in another file"),
    (lambda kept: Feedback(kept.path, LABELS, secret=b"another"), "another secret"),
    (lambda kept: Feedback(kept.path, "ab"), "labels must be a list"),
    (lambda kept: Feedback(kept.path, LABELS, timeout=-1), "timeout must be"),
    (lambda kept: Feedback(kept.path, {*LABELS}), "labels must be a list"),
    (lambda kept: Feedback(kept.path, LABELS, secret=b"\0" * 5), "is the same as none"),
    (lambda kept: put(kept, "b", time=1.7e12), "Is it in milliseconds?"),
])
def test_feedback_that_contradicts_itself_is_refused_and_nothing_changes(tmp_path, call, said):
    kept = Feedback(tmp_path / "feedback.db", LABELS)
    put(kept, "a")
    kept.label("a", "positive")
    before = kept.items()
    with pytest.raises(ValueError, match=re.escape(said)):
        call(kept)
    pd.testing.assert_frame_equal(kept.items(), before)


def test_clocks_may_differ_a_little_and_a_retry_is_never_too_late(tmp_path):
    kept = Feedback(tmp_path / "feedback.db", LABELS)
    put(kept, "a", time=1000.0)
    assert put(kept, "b", time=1000.0 - feedback_module.SLACK) and not put(kept, "a", time=1.0)
    assert kept.items(since=990)["key"].tolist() == ["a"]


@pytest.mark.parametrize("options", [{"secret": 42}, {"secret": "abc"}, {"secret": None}, {"keep_text": "no"}])
def test_settings_of_another_type_are_refused_before_a_file_is_made(tmp_path, options):
    with pytest.raises(TypeError, match="secret must be bytes"):
        Feedback(tmp_path / "feedback.db", LABELS, **options)
    assert not [*tmp_path.iterdir()]


def test_another_program_may_make_the_tables_while_this_one_looks(tmp_path, monkeypatch):
    path, real, opened = tmp_path / "feedback.db", sqlite3.connect, []
    other = threading.Thread(target=lambda: opened.append(Feedback(path, LABELS, timeout=30)))

    class Slow(sqlite3.Connection):
        def execute(self, question: str, *values: object) -> sqlite3.Cursor:
            if question == "PRAGMA user_version" and other.ident is None:
                other.start()
                other.join(0.5)
            return super().execute(question, *values)

    monkeypatch.setattr(sqlite3, "connect", lambda *values, **options: real(*values, factory=Slow, **options))
    Feedback(path, LABELS, timeout=30)
    other.join()
    assert len(opened) == 1


def test_a_clock_that_ran_ahead_is_set_back(tmp_path, monkeypatch):
    kept, now = Feedback(tmp_path / "feedback.db", LABELS), feedback_module.clock.time()
    monkeypatch.setattr(feedback_module.clock, "time", lambda: now + 86400)
    put(kept, "ahead", time=None)
    monkeypatch.setattr(feedback_module.clock, "time", lambda: now)
    with pytest.raises(ValueError, match="ran ahead, call set_back first"):
        put(kept, "a", time=None)
    assert kept.set_back() == 1 and kept.set_back() == 0 and put(kept, "a", time=None)
    assert kept.items()["time"].tolist() == [now, now]


@pytest.mark.parametrize("other", [
    lambda path: put(Feedback(path, ("ham", "spam")), "b", answer="spam"),
    lambda path: sqlite3.connect(path).close(),  # an empty file
])
def test_a_file_that_was_put_in_the_place_of_the_opened_one_is_refused(tmp_path, other):
    kept = Feedback(tmp_path / "feedback.db", LABELS)
    put(kept, "a")
    for path in tmp_path.iterdir():
        path.unlink()
    other(kept.path)
    kept.path.touch()
    before = kept.path.read_bytes()
    for call in (lambda: put(kept, "c"), lambda: kept.label("b", "positive"), kept.items, kept.set_back):
        with pytest.raises(ValueError, match="keeps answers with the labels"):
            call()
    assert kept.path.read_bytes() == before


def test_a_file_that_is_gone_is_said_and_none_is_left_in_its_place(tmp_path):
    kept = Feedback(tmp_path / "feedback.db", LABELS, timeout=1e9)  # longer than SQLite can count
    put(kept, "\ud800 half a sign")
    assert kept.label("\ud800 half a sign", "positive") and kept.items()["label"].tolist() == ["positive"]
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match="is gone"):
        put(kept, "b")
    assert not [*tmp_path.iterdir()]


def test_a_folder_in_the_place_of_the_file_is_said(tmp_path):
    (tmp_path / "feedback.db").mkdir()
    with pytest.raises(OSError, match="cannot be read or written"):
        Feedback(tmp_path / "feedback.db", LABELS)


# Versions

class Line:
    "A version that is a line in a file"

    def __init__(self, line: str, labels: tuple = LABELS):
        self.line, self.labels = line, labels

    def save(self, folder: Path):
        folder.mkdir(exist_ok=True)
        (folder / "line").write_text(self.line)


def three_versions(folder: Path) -> Versions:
    versions = Versions(folder)
    for name in ("first", "second", "third"):
        versions.add(name, Line(name))
    versions.promote("first")
    return versions


def test_a_classifier_comes_back_as_it_was(tmp_path):
    classifier = tiny_classifier(seed=1)
    versions = Versions(tmp_path)
    versions.add("first", classifier)
    versions.promote("first")
    again = TextClassifier.load(Versions(tmp_path).folder_of())
    assert np.allclose(again.logits(["A film"]), classifier.logits(["A film"]), atol=1e-5)
    with pytest.raises(ValueError, match="in this order"):
        versions.add("second", tiny_classifier(labels=["positive", "negative"]))


def test_each_change_is_undone_by_one_call(tmp_path):
    versions = three_versions(tmp_path)
    states = [versions.state]
    for change in (lambda: versions.start_trial("second", share=0.5), lambda: versions.promote("second"),
                   lambda: versions.start_trial("third", shadow=True), lambda: versions.promote("third")):
        change()
        states.append(versions.state)
    assert states[-1] == State("third")
    for expected in reversed(states[:-1]):
        assert versions.roll_back() == expected == Versions(tmp_path).state
    with pytest.raises(ValueError, match="nothing to go back to"):
        versions.roll_back()
    assert versions.state == State("first")


def test_what_is_sent_twice_is_undone_by_one_call(tmp_path):
    versions = three_versions(tmp_path)
    for change in (lambda: versions.promote("second"), lambda: versions.start_trial("third", share=0.2)):
        before = versions.state
        change(), change()
        held = versions.state
        assert versions.roll_back(held) == before
        with pytest.raises(ValueError, match="Perhaps it was already"):
            versions.roll_back(held)
        change()


def test_a_version_whose_save_fails_or_writes_nothing_leaves_nothing(tmp_path):
    class Broken(Line):
        def save(self, folder: Path):
            super().save(folder)
            raise OSError("No space left on device")

    versions = three_versions(tmp_path)
    with pytest.raises(OSError, match="No space left"):
        versions.add("fourth", Broken("half"))
    with pytest.raises(ValueError, match="wrote no files"):
        versions.add("fourth", SimpleNamespace(labels=list(LABELS), save=lambda folder: None))
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"first", "second", "third"} == {*versions.names}
    (tmp_path / "fourth").mkdir()
    (tmp_path / "fourth/left").write_text("of an add that was killed before the name was written")
    assert [path.name for path in versions.add("fourth", Line("x")).iterdir()] == ["line"]


def test_nobody_waits_while_a_version_is_written(tmp_path):
    versions = three_versions(tmp_path)
    versions.promote("second")

    class Slow(Line):
        def save(self, folder: Path):
            super().save(folder)
            assert Versions(tmp_path, timeout=0).roll_back() == State("first")

    versions.add("fourth", Slow("x"))
    assert versions.state == State("first") and versions.names[-1] == "fourth"


def test_files_of_killed_writers_are_cleared_away(tmp_path):
    versions = three_versions(tmp_path)
    (tmp_path / ".llm_course-0123").write_text("half")
    versions.promote("second")
    assert not [*tmp_path.glob(".llm_course-*")]


CHANGER = """
import sys
from llm_course.versions import Versions
versions = Versions(sys.argv[1])
print("ready", flush=True)
while True:
    versions.promote("second")
    versions.roll_back()
    print("turn", flush=True)
"""


def test_a_kill_in_the_middle_leaves_one_state_or_the_other(tmp_path):
    versions = three_versions(tmp_path)
    for turns in (1, 6):
        process = subprocess.Popen([sys.executable, "-c", CHANGER, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=RULES)
        for _ in range(turns):
            process.stdout.readline()
        process.kill()
        process.wait()
        process.stdout.close()
        assert versions.state in (State("first"), State("second"))
        json.loads((tmp_path / "registry.json").read_text())
        while versions.state != State("first"):
            versions.roll_back()
    versions.promote("third")  # no lock was left behind
    assert versions.roll_back() == State("first")


def test_a_change_that_fails_half_way_changes_nothing(tmp_path, monkeypatch):
    versions = three_versions(tmp_path)
    before = (tmp_path / "registry.json").read_bytes()

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        versions.promote("second")
    monkeypatch.undo()
    assert (tmp_path / "registry.json").read_bytes() == before and versions.state == State("first")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".llm_course-")]


def test_routes_are_the_same_in_another_process_and_spread_evenly(tmp_path):
    versions = three_versions(tmp_path)
    versions.start_trial("second", share=0.3)
    keys = [f"user {number}" for number in range(1000)]
    ours = [versions.route(key) for key in keys]
    code = (f"from llm_course.versions import Versions; v = Versions({str(tmp_path)!r})\n"
            "print([v.route(f'user {n}') for n in range(1000)] )")
    theirs = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**RULES, "PYTHONHASHSEED": "7"})
    assert theirs.stdout.strip() == str(ours)
    assert 0.25 < np.mean([route == ("second",) for route in ours]) < 0.35
    first, second = (np.array([hashed_share(key, name) < 0.3 for key in keys]) for name in ("second", "third"))
    assert abs((first & second).mean() - 0.09) < 0.04  # trials are independent of each other


@pytest.mark.parametrize(("call", "said"), [
    (lambda versions: versions.promote("fourth"), "there are first, second, third"),
    (lambda versions: versions.start_trial("first"), "another one than 'first'"),
    (lambda versions: versions.start_trial("second", share=0.0), "share must be above 0"),
    (lambda versions: versions.start_trial("second", share=math.nan), "share must be a number from 0 to 1"),
    (lambda versions: versions.add("second", Line("x")), "a version never changes"),
    (lambda versions: versions.add("fourth", Line("x", ("negative", "neutral", "positive"))), "the others have"),
    (lambda versions: versions.add("../fourth", Line("x")), "name must be letters"),
    (lambda versions: versions.add("Registry.json", Line("x")), "and not registry.json"),
    (lambda versions: versions.add("Second", Line("x")), "a version never changes"),
    (lambda versions: versions.add("fourth", Line("x", (np.int64(0), np.int64(1)))), "must have labels, a list of names"),
    (lambda versions: versions.add("fourth", Line("x", "ab")), "must have labels, a list of names"),
    (lambda versions: versions.add("fourth", SimpleNamespace(save=print)), "must have labels, a list of names"),
    (lambda versions: versions.promote(None), "There is no version None"),
    (lambda versions: Versions(versions.folder, timeout=math.nan), "timeout must be a number"),
    (lambda versions: (versions.start_trial("second", share=1.0), versions.promote("third"),
                       (versions.folder / "second/line").unlink(), versions.roll_back()), "are gone from"),
    (lambda versions: ((versions.folder / "registry.json").unlink(), versions.add("first", Line("x"))), "no registry.json"),
    (lambda versions: ((versions.folder / "registry.json").write_text(
        '{"form": 1, "labels": [], "names": ["a"], "history": [{"current": "a", "trial": "ghost"}]}'), versions.state), "is damaged"),
    (lambda versions: ((versions.folder / "registry.json").write_text(
        '{"form": 1, "labels": [], "names": ["a"], "history": [{"current": "a", "share": "0.5"}]}'), versions.state), "is damaged"),
    (lambda versions: ((versions.folder / "registry.json").write_text(
        '{"form": 1, "names": [], "history": []}'), versions.state), "is damaged"),
    (lambda versions: versions.route(""), "key must be a text"),
    (lambda versions: versions.roll_back(), "nothing to go back to"),
    (lambda versions: ((versions.folder / "second/line").unlink(), versions.promote("second")), "are gone from"),
    (lambda versions: ((versions.folder / "registry.json").write_text("{"), versions.state), "is damaged"),
    (lambda versions: ((versions.folder / "registry.json").write_text('{"form": 2}'), versions.state), "has form 2"),
    (lambda versions: ((versions.folder / "registry.json").write_text(
        '{"form": 1, "labels": [], "names": [], "history": [{"current": "x"}]}'), versions.state), "is damaged"),
])
def test_changes_that_cannot_be_are_refused(tmp_path, call, said):
    versions = three_versions(tmp_path)
    with pytest.raises(ValueError, match=re.escape(said)):
        call(versions)


# Two versions

def items(first: list, second: list, labels: list) -> pd.DataFrame:
    return pd.DataFrame([{"key": str(key), "version": version, "answer": answer, "label": labels[key]}
                         for version, said in (("a", first), ("b", second)) for key, answer in enumerate(said)])


def test_labels_where_both_agree_change_nothing():
    generator = np.random.default_rng(0)
    truth, first, second = (generator.integers(3, size=80) for _ in range(3))
    named = [[f"class {number}" for number in numbers] for numbers in (first, second, truth)]
    told = compare_versions(items(*named), "a", "b")
    plain = compare(truth, second, first)  # the second comes first, so that a gain is above 0
    assert (told.difference, told.p_value) == (plain.difference, plain.p_value)
    assert (told.only_second_right, told.only_first_right) == (plain.only_first, plain.only_second)
    few = [label if a != b else None for a, b, label in zip(*named, strict=True)]
    assert compare_versions(items(named[0], named[1], few), "a", "b") == told


@pytest.mark.parametrize(("table", "names", "said"), [
    (items(["n", "n"], ["p", "p"], ["p", None]), ("a", "b"), "1 of 2 texts on which the versions differ have no label, '1'"),
    (items(["n"], ["p"], ["p"]), ("a", "a"), "Two different versions"),
    (items(["n"], ["p"], ["p"]), ("a", "c"), "got 'a' and 'c'"),
    (items(["n"], ["p"], ["p"]).drop(columns="answer"), ("a", "b"), "answer is not there"),
    (items(["n"], ["p"], ["p"]).drop(columns="label"), ("a", "b"), "label is not there"),
    (items(["n", "p"], ["p", "p"], ["P", "P"]), ("a", "b"), "The label 'P' is none of the answers that were given, 'n', 'p'"),
    (items(["n", "p"], ["p", "n"], ["P", "n"]), ("a", "b"), "The label 'P' is none"),
    (items(["n", "p"], ["p", "n"], [1, "n"]), ("a", "b"), "The label 1 is none"),
    (items(["n"], ["p"], [1]), ("a", "b"), "The label 1 is none"),
    (items(["n", "p"], ["n", "p"], ["p", "p"]).iloc[[0, 3]], ("a", "b"), "Let one run in shadow"),
    (pd.concat([items(["n"], ["p"], ["p"]), items(["n"], ["p"], ["n"])]), ("a", "b"), "'0' has two answers of 'a'"),
    (items(["n"], ["p"], ["p"]).assign(label=["p", "n"]), ("a", "b"), "'0' has two different labels"),
])
def test_versions_that_cannot_be_compared(table, names, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        compare_versions(table, *names)


def test_what_only_one_version_gets_right_has_its_name_whichever_is_asked_first():
    table = items(["n", "n", "p", "p"], ["p", "p", "p", "n"], ["p", "p", "p", "p"])  # b is right on two, a on one
    told, turned = compare_versions(table, "a", "b"), compare_versions(table, "b", "a")
    assert (told.only_first_right, told.only_second_right, told.difference.value) == (1, 2, 0.25)
    assert (turned.only_first_right, turned.only_second_right, turned.difference.value) == (2, 1, -0.25)
    assert "only the second on 2 texts, only the first on 1;" in str(told)


def test_a_label_that_no_version_gave_counts_against_both_and_a_list_is_no_table():
    table = items(["a", "b", "a"], ["b", "b", "b"], ["c", "b", "b"])
    told = compare_versions(table, "a", "b")
    assert (told.only_first_right, told.only_second_right) == (0, 1)  # of the text "2"
    with pytest.raises(TypeError, match="items must be a DataFrame"):
        compare_versions(table.to_dict("records"), "a", "b")
