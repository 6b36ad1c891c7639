"""Opinion monitoring from outside: published run lengths, texts counted once through kills, constant memory, what is refused."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from filelock import FileLock
from scipy.stats import norm

from llm_course.monitoring.kept import KeptState
from llm_course.monitoring.streams import drawn_counts, drawn_positives, hourly_rates, placed_texts, rumour
from llm_course.monitoring.things import Watch, new_texts, plain_text
from llm_course.opinion_monitoring import (
    BayesianChange, Cusum, Monitor, MovingMean, adjusted_share, average_run_length, of_values, rates_of, run_lengths,
    threshold_for,
)

ERRORS = np.array([[160, 40], [20, 180]])
PHONE = {"phone": Watch(("phone",), 0.7)}


class Words:
    "A text with the word good is positive"

    labels = ("negative", "positive")

    def predict(self, texts):
        return [self.labels["good" in text] for text in texts]


def batch(number: int) -> list[str]:
    "Texts of one update: new ones, a copy, and one that names nothing; from 60 on they are worse"
    random_one = random.Random(number)
    texts = [f"phone {number} {place} {'good' if random_one.random() < (0.7 if number < 60 else 0.2) else 'bad'}"
             for place in range(4)]
    return [*texts, f"RT @you: {texts[0].upper()}", "good weather"]


def monitor_at(folder: Path, **options) -> Monitor:
    return Monitor(folder, Words(), PHONE, ERRORS, every=100, **options)


def feed(folder: Path, last: int):
    "What a reader does that was killed perhaps: it repeats the last call that may have been counted, and goes on"
    monitor = monitor_at(folder)
    for number in range(int(monitor.time or 0), last):
        monitor.update(number, batch(number))


# --- run lengths

@pytest.mark.parametrize(("shift", "at_4", "at_5"), [
    (0, 168, 465), (0.25, 74.2, 139), (0.5, 26.6, 38.0), (0.75, 13.3, 17.0), (1, 8.38, 10.4), (1.5, 4.75, 5.75),
    (2, 3.34, 4.01), (2.5, 2.62, 3.11), (3, 2.19, 2.57)])
def test_run_lengths_of_two_sided_cusums_are_the_published_ones(shift, at_4, at_5):
    """Of a normal mean, k = 0.5: the table in Montgomery, Introduction to Statistical Quality Control"""
    for threshold, published in ((4, at_4), (5, at_5)):
        sides = [average_run_length(lambda x, mean=mean: norm.cdf(x, loc=mean), threshold, 200)
                 for mean in (shift - 0.5, -shift - 0.5)[:1 if shift > 2 else 2]]  # else the other side never rings
        assert 1 / sum(1 / side for side in sides) == pytest.approx(published, rel=0.006)


def test_the_chain_is_exact_where_increments_are_whole_numbers():
    generator = np.random.default_rng(3)
    increments = generator.integers(-3, 3, 40)
    height = 5
    moves = np.zeros((height, height))
    for state in range(height):
        for increment in increments:
            to = max(0, state + increment)
            if to < height:
                moves[state, to] += 1 / len(increments)
    exact = np.linalg.solve(np.eye(height) - moves, np.ones(height))[0]
    assert average_run_length(of_values(increments), height, states=height) == pytest.approx(exact)


@pytest.mark.parametrize(("before", "after", "threshold", "simulated"), [
    (0.5, 0.3, 4, 820), (0.5, 0.3, 3, 271), (0.7, 0.55, 3, 462)])
def test_run_lengths_are_right_where_a_step_is_one_answer(before, after, threshold, simulated):
    """Two increments alone, which fall between the states of the chain; simulated with 20,000 and 4,000 streams,
    so with standard errors of 0.7 and 1.6 %: 3 % is four of them, or two"""
    cusum = Cusum(before, after)
    steps = np.repeat([cusum.increment(0, 1), cusum.increment(1, 1)], [round(20 * (1 - before)), round(20 * before)])
    assert average_run_length(of_values(steps), threshold) == pytest.approx(simulated, rel=0.03)


@pytest.mark.parametrize(("increments", "threshold"), [("normal", 35), ("normal", 60), ([-1, 0], 1)])
def test_run_lengths_that_cannot_be_computed_are_refused(increments, threshold):
    distribution = (lambda x: norm.cdf(x, loc=-0.5)) if increments == "normal" else of_values(increments)
    with pytest.raises(ValueError, match="rings so rarely"):
        average_run_length(distribution, threshold)


def test_no_run_without_a_turn_is_shorter_on_average_than_the_bound():
    generator, cusum = np.random.default_rng(0), Cusum(0.5, 0.3)
    total = generator.poisson(5, 200_000)
    found = of_values(cusum.increment(generator.binomial(total, 0.5), total))
    for threshold in (1.0, 2.0, 3.0):
        assert average_run_length(found, threshold, 200) >= math.exp(threshold)


# --- shares

def test_the_adjusted_share_is_that_of_rogan_and_gladen():
    """In epidemiology the same formula corrects a test's sensitivity and specificity"""
    recall, false_positives = rates_of(ERRORS)
    specificity = 1 - false_positives
    for positive in range(20, 90, 7):
        expected = (positive / 100 + specificity - 1) / (recall + specificity - 1)
        assert adjusted_share(positive, 100, ERRORS).value == pytest.approx(min(1, max(0, expected)))


def test_more_texts_do_not_take_the_doubt_of_the_matrix_away():
    wide, long = (adjusted_share(41 * times, 100 * times, ERRORS) for times in (1, 10_000))
    better = adjusted_share(410_000, 1_000_000, ERRORS * 100)
    assert wide.high - wide.low > long.high - long.low > 5 * (better.high - better.low)


@pytest.mark.parametrize(("arguments", "reason"), [
    ((1, 2, [[3, 1], [1, 0]]), "do not trust"), ((1, 2, [[0, 0], [1, 1]]), "both classes"), ((3, 2, ERRORS), "0 to total"),
    ((0, 0, ERRORS), "total"), ((-1, 2, ERRORS), "positive"), ((1, 2, ERRORS / 7), "whole counts"),
    ((1, 2, np.eye(3, dtype=int)), r"\(2, 2\)")])
def test_shares_that_cannot_be_adjusted_are_refused(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        adjusted_share(*arguments)


def test_a_matrix_is_read_alike_in_every_form():
    whole = adjusted_share(60, 100, [[200, 100], [20, 230]])
    assert all(adjusted_share(60, 100, form) == whole for form in (
        np.array([[200, 100], [20, 230]], np.uint8), pd.DataFrame([[200, 100], [20, 230]], ["a", "b"], ["c", "d"])))


# --- rules

def test_a_moving_mean_keeps_no_array_of_the_caller_and_no_small_integers():
    rule, again, buffer = MovingMean(0.5, 3), MovingMean(0.5, 3), np.zeros(2, int)
    for positive in (0, 0, 5):
        buffer[:] = positive
        assert rule.update(buffer, np.full(2, 5)).tolist() == again.update(np.full(2, positive), np.full(2, 5)).tolist()
    small, large = (MovingMean(0.5, 24) for _ in range(2))
    for _ in range(24):
        assert small.update(np.array([8], np.uint8), np.array([12], np.uint8)) == large.update(np.array([8]), np.array([12]))


@pytest.mark.parametrize("make", [lambda: Cusum(0.5, 0.3), lambda: MovingMean(0.5, 3), lambda: BayesianChange(0.5, 0.01)])
@pytest.mark.parametrize(("positive", "total"), [(math.nan, 5), (3, 2), (-1, 2), (1, math.inf), ([0, 3], [1, 2])])
def test_what_is_no_count_of_answers_is_refused(make, positive, total):
    with pytest.raises(ValueError, match="from 0 to total"):
        make().update(positive, total)


@pytest.mark.parametrize(("statistics", "every", "reason"), [
    (np.zeros((3, 2)), math.nan, "every"), (np.zeros((3, 2)), 0, "every"), (np.zeros((0, 2)), 5, "finite"),
    (np.full((3, 2), math.nan), 5, "finite"), (np.zeros(3), 5, "finite"), (np.zeros(()), 5, "finite")])
def test_a_threshold_needs_statistics_and_a_length(statistics, every, reason):
    with pytest.raises(ValueError, match=reason):
        threshold_for(statistics, every)


def test_hours_without_texts_say_nothing():
    cusum, mean, bayes = Cusum(0.5, 0.3), MovingMean(0.5, 3), BayesianChange(0.5, 0.01)
    assert mean.update(0, 0) == 0 and abs(float(bayes.update(0, 0))) < 1e-9
    before = float(cusum.update(1, 6))
    assert before > 0 and cusum.update(0, 0) == before


def test_the_bayesian_rule_keeps_its_memory_and_its_sum_through_extremes():
    bayes, generator = BayesianChange(0.5, 0.01, runs=20), np.random.default_rng(0)
    for step in range(600):
        total = generator.choice([0, 1, 10, 100_000], 3)
        found = bayes.update(generator.binomial(total, 0.0 if step % 50 == 0 else 0.99), total)
        assert np.isfinite(found).all() and found.shape == (3,)
    assert bayes.weights.shape == (20, 3) and np.allclose(bayes.weights.sum(0), 1)


@pytest.mark.parametrize(("make", "reason"), [
    (lambda: Cusum(0.5, 1.0), "after must lie between"), (lambda: Cusum(0.4, 0.4), "differ"), (lambda: Cusum(-1, 0.4), "before"),
    (lambda: MovingMean(2, 3), "expected"), (lambda: MovingMean(0, 3), "between 0 and 1"),
    (lambda: BayesianChange(1.0, 0.1), "between 0 and 1"), (lambda: of_values([1, math.nan]), "finite"),
    (lambda: MovingMean(0.5, 1.5), "window"), (lambda: BayesianChange(0.5, 1), "hazard"),
    (lambda: BayesianChange(0.5, 0.1, runs=1), "runs"), (lambda: average_run_length(of_values([1]), -1), "threshold"),
    (lambda: average_run_length(of_values([1]), 1, 1), "states"), (lambda: of_values([]), "no values")])
def test_settings_that_make_no_rule_are_refused(make, reason):
    with pytest.raises(ValueError, match=reason):
        make()


def test_a_threshold_keeps_its_promise_until_the_first_alarm():
    found = np.random.default_rng(1).random((300, 200))
    lengths, rang = run_lengths(found, threshold_for(found, 80))
    assert 80 <= lengths.sum() / rang.sum() < 82


def test_a_threshold_counts_where_delays_are_counted():
    found = np.random.default_rng(2).random((120, 2000))
    found[:20] **= 1 / 3  # rings three times as often at first
    threshold = threshold_for(found, 80, quiet=20)
    lengths, rang = run_lengths(found[20:, (found[:20] < threshold).all(0)], threshold)
    assert 80 <= lengths.sum() / rang.sum() < 81 and threshold < threshold_for(found, 80) - 0.001


def test_what_rings_at_first_only_has_no_threshold_for_later():
    found = np.random.default_rng(3).random((50, 40))
    found[10:] = 0
    with pytest.raises(ValueError, match="less than once in 20 after it"):
        threshold_for(found, 20, quiet=10)


def test_a_threshold_needs_steps_after_the_quiet_ones():
    with pytest.raises(ValueError, match="over 5 steps"):
        threshold_for(np.zeros((5, 2)), 3, quiet=5)


# --- the monitor

KEEPER = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_opinion_monitoring import feed
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if not child:
        feed(Path(sys.argv[2]), 120)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_monitor_counts_each_text_once(tmp_path):
    """SIGKILL at any moment, again and again; the reader repeats its last call. The state is that of one that lived"""
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", KEEPER, str(Path(__file__).parent), str(tmp_path / "killed")],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])})
    assert process.stdout.readline() == "ready\n"
    kills, status, pause = 0, None, random.Random(51)
    while status != 0:
        process.stdin.write("\n")
        process.stdin.flush()
        child = int(process.stdout.readline())
        if kills < 12:
            time.sleep(pause.uniform(0.005, 0.06))
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                pass
        status = int(process.stdout.readline())
        kills += status == -signal.SIGKILL
    process.stdin.close()
    process.wait()
    process.stdout.close()
    feed(tmp_path / "whole", 120)
    killed, whole = monitor_at(tmp_path / "killed"), monitor_at(tmp_path / "whole")
    assert kills >= 5
    assert killed.kept.read() == whole.kept.read() and whole.alarms
    assert whole.table("phone", 1000)["texts"].tolist() == [4 * 120]  # neither copies nor the weather


def test_what_rang_is_said_again_where_the_answer_was_lost(tmp_path):
    monitor, said = monitor_at(tmp_path), []
    for number in range(120):
        said += (once := monitor.update(number, batch(number)))
        assert monitor_at(tmp_path).update(number, batch(number)) == once
    assert said == monitor.alarms and said[0].direction == "falls" and 50 <= said[0].since <= said[0].time


def test_a_reading_that_fails_changes_nothing(tmp_path):
    monitor_at(tmp_path).update(0, batch(0))
    before = monitor_at(tmp_path).kept.path.read_bytes()

    class Short(Words):
        def predict(self, texts):
            return super().predict(texts)[1:]

    with pytest.raises(ValueError):
        Monitor(tmp_path, Short(), PHONE, ERRORS, every=100).update(1, batch(1))
    assert monitor_at(tmp_path).kept.path.read_bytes() == before


def test_memory_is_constant(tmp_path):
    monitor, sizes = Monitor(tmp_path, Words(), PHONE, ERRORS, every=1.5, remember=50, history=20), []
    for number in range(200):  # it rings all the time
        monitor.update(number, batch(number))
        sizes.append(monitor.kept.path.stat().st_size)
    state = monitor.kept.read()
    assert len(state["recent"]) == 50 and len(state["things"]["phone"]["history"]) == 20 and len(state["alarms"]) == 50
    assert max(sizes[170:]) < 1.05 * max(sizes[130:170])


def test_two_programs_that_feed_one_monitor_wait_for_each_other(tmp_path):
    monitor = monitor_at(tmp_path)
    with FileLock(tmp_path / ".lock"):
        thread = threading.Thread(target=lambda: monitor_at(tmp_path).update(1, batch(1)))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive() and monitor.time is None
    thread.join()
    assert monitor.time == 1
    short = KeptState(tmp_path, monitor.kept.settings, {}, timeout=0.05)
    with FileLock(tmp_path / ".lock"), pytest.raises(TimeoutError, match="another program"), short.changing():
        pass


@pytest.mark.parametrize(("when", "texts", "kind", "reason"), [
    (4, ["a good phone"], ValueError, "Time runs backwards.*of 5 .*of 4"), (5, ["another phone"], ValueError, "Time runs backwards"),
    (5, [], ValueError, "Time runs backwards"), (math.nan, [], ValueError, "time"), (-1, [], ValueError, "time"),
    ("6", [], ValueError, "time"), (6, "a phone", TypeError, "list of strings"), (6, [None], TypeError, "Text 0"),
    (6, [7], TypeError, "Text 0")])
def test_calls_that_cannot_be_counted_are_refused_and_change_nothing(tmp_path, when, texts, kind, reason):
    monitor = monitor_at(tmp_path)
    monitor.update(5, ["a good phone"])
    before = monitor.kept.read()
    with pytest.raises(kind, match=reason):
        monitor.update(when, texts)
    assert monitor.kept.read() == before


def test_an_empty_stream_counts_nothing_and_has_nothing_to_draw(tmp_path):
    monitor = monitor_at(tmp_path)
    assert [monitor.update(number, []) for number in range(3)] == [[], [], []]
    assert monitor.time == 2 and monitor.alarms == [] and monitor.table("phone").empty
    with pytest.raises(ValueError, match="nothing to draw"):
        monitor.dashboard()


@pytest.mark.parametrize(("change", "reason"), [
    (dict(labels=("a", "b", "c")), "two labels"), (dict(watches={}), "a thing to watch"), (dict(every=1), "every"),
    (dict(remember=-1), "remember"), (dict(history=0), "history"), (dict(errors=[[1, 1], [1, 1]]), "do not trust"),
    (dict(labels=("a", "a")), "two labels"), (dict(watches={7: PHONE["phone"]}), "a thing to watch"),
    (dict(watches={"phone": 0.7}), "a thing to watch")])
def test_settings_that_make_no_monitor_are_refused(tmp_path, change, reason):
    classifier = Words()
    classifier.labels = change.pop("labels", Words.labels)
    given = {"watches": PHONE, "errors": ERRORS, **change}
    with pytest.raises(ValueError, match=reason):
        Monitor(tmp_path, classifier, **given)


def test_files_that_are_not_its_own_are_refused(tmp_path):
    monitor = monitor_at(tmp_path)
    monitor.update(1, batch(1))
    with pytest.raises(ValueError, match="other settings: every"):
        Monitor(tmp_path, Words(), PHONE, ERRORS, every=200)
    with pytest.raises(ValueError, match="other settings: watches"):
        Monitor(tmp_path, Words(), {"phone": Watch(("phone",), 0.6)}, ERRORS, every=100)
    whole = monitor.kept.path.read_bytes()
    for damaged, reason in ((whole[:-20], "damaged"), (b"", "damaged"), (whole.replace(b'"time": 1', b'"time": 2'), "digest"),
                            (json.dumps({**json.loads(whole), "form": 9}).encode(), "form 9")):
        monitor.kept.path.write_bytes(damaged)
        with pytest.raises(ValueError, match=reason):
            monitor.update(2, batch(2))
    monitor.kept.path.unlink()
    with pytest.raises(FileNotFoundError, match="count everything again"):
        monitor.update(2, batch(2))


def test_a_state_that_is_gone_is_not_made_anew(tmp_path):
    monitor_at(tmp_path).update(5, ["a good phone"])
    (tmp_path / "state.json").unlink()
    with pytest.raises(FileNotFoundError, match="count everything again"):
        monitor_at(tmp_path)


def test_a_folder_of_others_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"notes\.txt"):
        monitor_at(tmp_path)


@pytest.mark.parametrize("said", [[1], ["Positive"], [], ["positive", "positive"], None])
def test_answers_that_are_no_labels_are_refused_and_nothing_is_counted(tmp_path, said):
    classifier = Words()
    classifier.predict = lambda texts: said
    monitor = Monitor(tmp_path, classifier, PHONE, ERRORS)
    with pytest.raises(ValueError, match="Nothing was counted"):
        monitor.update(1, ["a good phone"])
    assert monitor.time is None and monitor.table("phone").empty


def test_numbers_of_numpy_are_kept(tmp_path):
    class Numbers:
        labels = np.array([0, 1])

        def predict(self, texts):
            return np.array([int("good" in text) for text in texts])

    monitor = Monitor(tmp_path, Numbers(), {"phone": Watch(("phone",), np.float32(0.7))}, ERRORS, every=np.int64(50))
    monitor.update(1, ["a good phone", "a phone"])
    assert monitor.table("phone")[["texts"]].to_numpy().tolist() == [[2]]


def test_others_may_look_while_a_batch_is_read(tmp_path):
    monitor_at(tmp_path).update(1, ["a good phone"])
    with FileLock(tmp_path / ".lock"):
        assert monitor_at(tmp_path).table("phone")["texts"].tolist() == [1]


def test_times_stand_in_their_stretch_and_unknown_things_are_named(tmp_path):
    monitor = monitor_at(tmp_path)
    for number in range(1, 101):
        monitor.update(number / 10, [f"phone {number}"])
    assert np.allclose(monitor.table("phone", 0.1)["time"], np.arange(1, 101) / 10 + 0.05)
    with pytest.raises(ValueError, match="is not watched"):
        monitor.table("camera")


# --- things and streams

@pytest.mark.parametrize(("one", "other"), [("phone 👍", "phone 👎"), ("my phone :)", "my phone :("), ("phone +1", "phone -1"),
                                            ("phone 50%", "phone 50"), ("फोन ले लो", "फोन ला ली"), ("phone ใกล้", "phone ใกล")])
def test_opposite_texts_are_no_copies(one, other):
    watches = {"phone": Watch(("phone", "फोन"), 0.5)}
    assert new_texts([one, other, f"RT @me: {one.upper()}!!"], watches, [], 10)[0]["phone"] == [one, other]


def test_vowel_signs_and_accents_belong_to_their_word():
    watches = {"heart": Watch(("दिल",), 0.5), "cafe": Watch(("cafe\u0301",), 0.5)}
    found, _ = new_texts(["दाल अच्छी है", "Café noir", "दिल"], watches, [], 10)
    assert found == {"heart": ["दिल"], "cafe": ["Café noir"]}


def test_a_copy_renews_its_mark_however_the_calls_are_cut():
    watches, marks, count = PHONE, [], 0
    for number in range(40):
        found, marks = new_texts(["phone rumour bad", f"phone {number} good"], watches, marks, 5)
        count += len(found["phone"])
    assert count == 41 and len(marks) == 5
    texts, marks, apart = ["a phone", "b phone", "a phone"], [], []
    for text in texts:
        found, marks = new_texts([text], watches, marks, 1)
        apart += found["phone"]
    assert apart == new_texts(texts, watches, [], 1)[0]["phone"]


def test_words_are_whole_words_in_any_script_and_phrases_count():
    watches = {"new york": Watch(("New York",), 0.5), "手机": Watch(("手机",), 0.5), "phone": Watch(("phone",), 0.5)}
    texts = ["I love new-york!", "headphones", "这个 手机 很好", "York is new"]
    found, _ = new_texts(texts, watches, [], 10)
    assert found == {"new york": texts[:1], "手机": texts[2:3], "phone": []}


@pytest.mark.parametrize(("given", "reason"), [
    (dict(words=(), expected=0.5), "one word"), (dict(words=("@me",), expected=0.5), "one word"),
    (dict(words=("C++",), expected=0.5), "looked for as 'c'"), (dict(words=("RT America",), expected=0.5), "looked for"),
    (dict(words=("a",), expected=0.1), "between change"), (dict(words=("a",), expected=0.5, change=0.0), "change")])
def test_things_that_cannot_be_watched_are_refused(given, reason):
    with pytest.raises(ValueError, match=reason):
        Watch(**given)


def test_streams_have_the_shares_and_rates_that_were_asked_for():
    labels, answers = [0, 1, 1, 0, 1], [0, 1, 0, 1, 1]
    counts = drawn_counts(hourly_rates(240, 480), 50, seed=3)
    assert abs(counts.sum() / (50 * 10 * 480) - 1) < 0.02
    found = drawn_positives(counts, np.repeat([1.0, 0.0], 120), labels, answers)
    assert abs(found[:120].sum() / counts[:120].sum() - 2 / 3) < 0.01 and abs(found[120:].sum() / counts[120:].sum() - 0.5) < 0.01


@pytest.mark.parametrize(("call", "reason"), [
    (lambda: hourly_rates(0, 10), "hours"), (lambda: hourly_rates(3, 0), "daily"), (lambda: drawn_counts([-1.0]), "rates"),
    (lambda: drawn_counts([1.0], bursts=2), "bursts"), (lambda: drawn_positives(np.ones((1, 1), int), [0.5], [1], [1]), "positive and"),
    (lambda: drawn_positives(np.ones((1, 1), int), [70], [0, 1], [0, 1]), "each share"),
    (lambda: drawn_positives(np.ones(3, int), [0.5] * 3, [0, 1], [0, 1]), "column a stream"),
    (lambda: drawn_counts(np.ones((3, 2)), 2), "rates"), (lambda: hourly_rates(3, 24, busiest=math.nan), "busiest"),
    (lambda: placed_texts([1, 0], [3], [0.5]), "not enough"), (lambda: rumour("a", 0), "copies")])
def test_streams_that_cannot_be_made_are_refused(call, reason):
    with pytest.raises(ValueError, match=reason):
        call()


def test_copies_of_a_rumour_are_one_text():
    assert len({plain_text(text) for text in rumour("The phone, it is said, burns.", 100)}) == 1
