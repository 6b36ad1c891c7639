"""Searches from outside: killed in the middle, in several processes at once, over data and files that cannot be searched with."""

import json
import math
import signal
import sqlite3
import subprocess
import sys
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from conftest import ROOT, tiny_classifier
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_course.callbacks import Callback
from llm_course.hyperparameters import (Between, Halving, expected_maximum, expected_optimism, gaussian_process, grid_points,
                                        search, search_over, train_head)

TEXTS = [f"Film {number} had a {'fine' if number % 2 else 'weak'} plot" for number in range(24)]
TRAIN = {"text": TEXTS[:16], "label": [number % 2 for number in range(16)]}
JUDGED = {"text": TEXTS[16:], "label": [number % 2 for number in range(8)]}
SPACE = {"learning_rate": Between(1e-4, 1e-1, log=True), "batch_size": [2, 4, 8], "weight_decay": Between(0, 0.1)}
QUICK = {"epochs": 3, "progress": False, "seed": 3}
COLUMNS = ["state", "score", *SPACE, "epochs seen"]
some = settings(max_examples=60, deadline=None, derandomize=True)


def searched(**changed):
    "A search over a tiny classifier"
    options = {"classifier_factory": lambda seed: tiny_classifier(seed=seed % 1000), "train": TRAIN, "validation": JUDGED,
               "space": SPACE, "trials": 3, "score": "loss", **QUICK, **changed}
    return search(options.pop("classifier_factory"), options.pop("train"), options.pop("validation"), options.pop("space"),
                  **options)


# --- killed, and gone on

KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import test_hyperparameters as tests

class Kill(tests.Callback):
    "A power cut in one step of the run"
    left = {after}
    def on_step(self, run):
        Kill.left -= 1
        if Kill.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

tests.searched(storage={storage!r}, trials={trials}, sampler={sampler!r}, pruner=tests.Halving(), callbacks=[Kill()])
"""


def in_a_process(storage: Path, after: int, trials: int, sampler: str) -> int:
    "The exit status of a process that searches and dies after so many steps; 0: it came to its end"
    code = KILLED.format(tests=str(ROOT / "tests"), storage=str(storage), after=after, trials=trials, sampler=sampler)
    return subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, timeout=300).returncode


@pytest.mark.parametrize(("sampler", "kills"), [("tpe", [45, 30]), ("random", [20])])
def test_a_search_killed_by_sigkill_ends_with_the_trials_of_one_that_never_was(tmp_path, sampler, kills):
    trials, storage = 14, tmp_path / "search.db"
    whole = searched(trials=trials, sampler=sampler, pruner=Halving(), callbacks=[Nothing()])
    assert {"complete", "pruned"} <= set(whole.counts)
    for after in kills:
        assert in_a_process(storage, after, trials, sampler) == -signal.SIGKILL
    assert in_a_process(storage, 10**9, trials, sampler) == 0
    seen = []
    again = searched(trials=trials, sampler=sampler, pruner=Halving(), storage=storage, callbacks=[Nothing(seen)])
    assert again.stopped == len(kills) and not seen, "a finished search trains nothing"
    pd.testing.assert_frame_equal(again.trials[COLUMNS], whole.trials[COLUMNS])
    assert again.best == whole.best and again.number == whole.number


class Nothing(Callback):
    "Counts steps"

    def __init__(self, seen: list | None = None):
        self.seen = seen if seen is not None else []

    def on_step(self, run):
        self.seen.append(len(run.steps))


def test_several_processes_share_a_storage_and_no_trial_is_made_twice(tmp_path):
    storage = tmp_path / "search.db"
    code = ("import sys, time; from llm_course.hyperparameters import Between, search_over\n"
            "def score(attempt):\n    time.sleep(0.02)\n    print(attempt.number, flush=True)\n    return attempt.parameters['x']\n"
            f"search_over(score, {{'x': Between(0, 1)}}, trials=20, sampler='random', storage={str(storage)!r})")
    together = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(3)]
    numbers = [int(line) for process in together for line in process.communicate(timeout=300)[0].split()]
    assert sorted(numbers) == list(range(20)) and all(process.returncode == 0 for process in together)
    found = search_over(lambda attempt: 1 / 0, {"x": Between(0, 1)}, trials=20, sampler="random", storage=storage)
    alone = search_over(lambda attempt: attempt.parameters["x"], {"x": Between(0, 1)}, trials=20, sampler="random")
    pd.testing.assert_frame_equal(found.trials[["state", "score", "x"]], alone.trials[["state", "score", "x"]])


def test_a_search_may_grow(tmp_path):
    whole, storage = searched(trials=4), tmp_path / "search.db"
    assert len(searched(trials=2, storage=storage).trials) == 2
    grown = searched(trials=4, storage=storage)
    pd.testing.assert_frame_equal(grown.trials[COLUMNS], whole.trials[COLUMNS])


# --- what is refused

BAD = {
    "no space": ({"space": {}}, ValueError, "at least one hyperparameter"),
    "an unknown name": ({"space": {"rate": [1]}}, ValueError, "'rate' is nothing that a search may set; fine_tune takes objective"),
    "a name of its own": ({"space": {"checkpoints": ["a"]}}, ValueError, "'checkpoints' is nothing that"),
    "an unknown option": ({"lr": 3}, ValueError, "'lr' is nothing that a search may set"),
    "given twice": ({"batch_size": 8}, ValueError, "'batch_size' is in the space and is given beside it"),
    "no choices": ({"space": {"batch_size": []}}, ValueError, "batch_size must be a Between, or a list of different values"),
    "no trials": ({"trials": 0}, ValueError, "trials must be a whole number of at least 1, got 0"),
    "a sampler": ({"sampler": "bayes"}, ValueError, "sampler must be one of tpe, random, grid, got 'bayes'"),
    "a score": ({"score": "f1"}, ValueError, "score must be one of accuracy, loss, got 'f1'"),
    "a seed": ({"seed": -1}, ValueError, "seed must be a whole number from 0"),
    "the same classifier": ({"classifier_factory": lru_cache(lambda seed: tiny_classifier())}, ValueError,
                            "gave the same one twice"),
    "no validation": ({"validation": None}, ValueError, "A search needs validation data"),
    "one class": ({"train": {"text": TEXTS[:4], "label": [1] * 4}}, ValueError, "holds one class only"),
    "rates that are none": ({"space": {"learning_rate": [-1.0, -2.0, -3.0]}}, RuntimeError,
                            "All of the first 3 trials failed, the last with: ValueError: learning_rate must be"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_searched_is_refused(name):
    changed, error, said = BAD[name]
    with pytest.raises(error, match=said):
        searched(**changed)


@pytest.mark.parametrize(("bounds", "said"), [
    ((0, 1, True), "On a log scale low must be above 0, got 0"), ((-1, 1, True), "On a log scale low must be above 0, got -1"),
    ((2, 1), "low must be below high, got 2 and 1"), ((1, 1), "low must be below high"), ((math.nan, 1), "the bound low must be"),
    ((0, math.inf), "the bound high must be"), (("a", 1), "the bound low must be"), ((0.5, 2, False, True), "must be a whole number"),
])
def test_bounds_that_are_none(bounds, said):
    with pytest.raises(ValueError, match=said):
        Between(*bounds)


def test_a_storage_of_something_else_is_left_as_it_was(tmp_path):
    text, other, theirs = tmp_path / "notes.txt", tmp_path / "other.db", tmp_path / "theirs.db"
    text.write_text("not a database, and rather long")
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE cats (name TEXT)")
    database.close()
    optuna.create_study(study_name="cats", storage=f"sqlite:///{theirs}")
    before = [path.read_bytes() for path in (text, other)]
    for path, said in ((text, "is no SQLite file"), (other, "database of another program: it holds the tables cats"),
                       (theirs, "holds the study 'cats'"), (tmp_path, "is a folder"), ("sqlite:///a.db", "must be a file")):
        with pytest.raises(ValueError, match=said):
            searched(storage=path)
    assert [path.read_bytes() for path in (text, other)] == before


@pytest.mark.parametrize(("changed", "said"), [
    ({"seed": 4}, r"seed \(3 there, 4 here\)"), ({"epochs": 1}, r"options \(epochs 3 there, 1 here\)"),
    ({"space": {**SPACE, "weight_decay": Between(0, 0.2)}}, "space"), ({"sampler": "random"}, "sampler"),
    ({"pruner": Halving()}, "pruner"), ({"pruner": Halving(factor=2)}, "pruner"), ({"score": "accuracy"}, "score"),
    ({"train": {"text": TEXTS[:14], "label": TRAIN["label"][:14]}}, "training data"), ({"validation": TRAIN}, "validation data"),
    ({"classifier_factory": lambda seed: tiny_classifier(seed=1)}, "model"),
])
@pytest.mark.filterwarnings("ignore:16 of 16 validation texts")
def test_a_storage_of_another_search_is_refused(tmp_path, changed, said):
    storage = tmp_path / "search.db"
    searched(trials=1, storage=storage)
    with pytest.raises(ValueError, match=f"holds another search. Other than here: .*{said}.*another file"):
        searched(trials=1, storage=storage, **changed)
    assert len(searched(trials=1, storage=storage).trials) == 1


# --- what is kept

def test_failed_trials_are_kept_and_counted_and_the_search_goes_on():
    found = searched(space={"learning_rate": [1e-3, -1.0]}, sampler="random", trials=8)
    assert found.counts["failed"] >= 1 and found.counts["complete"] >= 1 and len(found.trials) == 8
    failed = found.trials[found.trials["state"] == "failed"]
    assert (failed["learning_rate"] == -1).all() and failed["error"].str.contains("learning_rate must be").all()
    assert found.best == {"learning_rate": 1e-3} and "failed" in repr(found)


def test_an_interruption_returns_what_was_done_and_the_trial_is_made_again(tmp_path):
    class Press(Nothing):
        def on_step(self, run):
            super().on_step(run)
            if len(self.seen) == 9:
                raise KeyboardInterrupt

    storage, press = tmp_path / "search.db", Press()
    with pytest.warns(UserWarning, match="Interrupted"):
        part = searched(storage=storage, sampler="random", space={"batch_size": [8]}, trials=4, callbacks=[press])
    assert len(part.trials) == 1 and part.stopped == 1
    whole = searched(storage=storage, sampler="random", space={"batch_size": [8]}, trials=4, callbacks=[press])
    assert len(whole.trials) == 4 and whole.counts == {"complete": 4} and whole.stopped == 1


def test_a_trial_is_the_run_that_fine_tune_makes_with_its_seed():
    from llm_course.core import seed_of
    from llm_course.fine_tuning import fine_tune
    found = searched(trials=2, sampler="grid", space={"learning_rate": Between(1e-4, 1e-1, log=True)})
    for number, row in found.trials.iterrows():
        seed = seed_of(3, number, 1) % 2**32
        run = fine_tune(tiny_classifier(seed=seed % 1000), TRAIN, JUDGED, learning_rate=row["learning_rate"], epochs=3, seed=seed,
                        progress=False)
        assert run.evaluations[-1]["loss"] == row["score"] and row["epochs seen"] == 3


def test_a_trial_that_was_trained_to_its_end_is_not_pruned():
    found = searched(trials=12, sampler="random", pruner=Halving())
    assert found.counts["pruned"] > 2 and set(found.trials["epochs seen"][found.trials["state"] == "pruned"]) == {1}
    assert set(found.trials["epochs seen"][found.trials["state"] == "complete"]) == {3}


def test_optuna_is_as_loud_as_before():
    level = optuna.logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        searched(pruner=optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=1))
    assert optuna.logging.get_verbosity() == level


# --- samplers, curves, luck

@some
@given(low=st.floats(1e-6, 1e3), factor=st.floats(1.01, 1e6), share=st.floats(0, 1), log=st.booleans())
def test_a_share_of_the_way_lies_between_the_ends(low, factor, share, log):
    between = Between(low, low * factor, log=log)
    assert low * 0.999999 <= between.at(share) <= low * factor * 1.000001
    other = between.at(min(1, share + 0.1))
    assert other >= between.at(share)


@some
@given(low=st.integers(1, 50), width=st.integers(1, 60), share=st.floats(0, 1), log=st.booleans())
def test_whole_numbers_are_whole_and_within(low, width, share, log):
    value = Between(low, low + width, log=log, whole=True).at(share)
    assert type(value) is int and low <= value <= low + width


@some
@given(most=st.integers(1, 200), counts=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_a_grid_has_at_most_so_many_points_all_different(most, counts):
    space = {f"x{place}": list(range(count)) for place, count in enumerate(counts)} | {"y": Between(0, 1)}
    points = grid_points(space, most)
    assert 1 <= len(points) <= most and len({tuple(point.values()) for point in points}) == len(points)


def test_every_sampler_draws_the_same_again_and_other_trials_for_another_seed():
    def drawn(sampler: str, seed: int) -> list:
        found = search_over(lambda attempt: attempt.parameters["x"], {"x": Between(0, 1), "y": [1, 2]}, trials=13, sampler=sampler,
                            seed=seed)
        return found.trials["x"].tolist()

    for sampler in ("tpe", "random"):
        assert drawn(sampler, 0) == drawn(sampler, 0) != drawn(sampler, 1)
    assert drawn("random", 0) != drawn("tpe", 0) and drawn("random", 0)[:10] == drawn("tpe", 0)[:10]


def test_halving_decides_as_optunas_pruner_whichever_way_is_good():
    curves = np.random.default_rng(1).random((60, 10)).cumsum(1)
    for factor, first in ((2, 1), (3, 1), (3, 2)):
        for maximise in (True, False):
            ends = []
            for pruner in (Halving(first, factor), optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=factor)):
                def score(attempt):
                    for epoch, value in enumerate(curves[attempt.number], 1):
                        attempt.report(epoch, value)
                    return value

                found = search_over(score, {"x": Between(0, 1)}, trials=60, sampler="random", pruner=pruner, maximise=maximise)
                ends.append(found.trials["epochs seen"].tolist())
            assert ends[0] == ends[1] and len(set(ends[0])) > 2


def test_the_margin_of_a_guess_holds_as_often_as_it_says():
    """Curves drawn from the process itself: nine of ten truths lie within 1.645 deviations"""
    draw, at = np.random.default_rng(0), np.linspace(0, 1, 40)
    likeness = np.exp(-((at[:, None] - at) ** 2) / (2 * 0.15**2))
    curves = draw.multivariate_normal(np.zeros(40), likeness, size=300, method="eigh")
    inside = []
    for curve in curves:
        places = draw.choice(40, 12, replace=False)
        mean, deviation = gaussian_process(at[places], curve[places], at, noise=1e-3)
        rest = np.setdiff1d(np.arange(40), places)
        inside.append(np.mean(np.abs(mean - curve)[rest] < 1.645 * deviation[rest]))
    assert 0.8 < np.mean(inside) < 0.97


@pytest.mark.parametrize("count", [1, 2, 10, 100])
def test_the_largest_of_some_normal_numbers(count):
    drawn = np.random.default_rng(0).standard_normal((200_000 // count, count)).max(1)
    assert abs(expected_maximum(count) - drawn.mean()) < 4 * drawn.std() / math.sqrt(len(drawn)) + 1e-3


def test_optimism_is_what_a_simulation_finds_where_trials_share_what_is_hard():
    draw = np.random.default_rng(0)
    hard = draw.random(4000)  # how many of all trials get a review right
    right = draw.random((30, 4000)) < hard
    found = []
    for _ in range(600):
        seen = draw.choice(4000, 100, replace=False)
        scores = right[:, seen].mean(1)
        found.append(scores.max() - right[scores.argmax()].mean())
    expected = expected_optimism(right) * math.sqrt(40)
    assert abs(np.mean(found) - expected) < 0.15 * expected


def test_a_head_learns_and_is_the_same_again():
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, 64)
    vectors = (labels[:, None] - 0.5 + draw.standard_normal((64, 6))).astype(np.float32)
    first, again = (train_head(vectors, labels, epochs=20, seed=1) for _ in range(2))
    assert (first == again).all() and ((vectors @ first[:-1] + first[-1] > 0) == labels).mean() > 0.8
    assert not (first == train_head(vectors, labels, epochs=20, seed=2)).all()


# --- the benchmark

def test_the_result_says_what_its_rows_say():
    path = ROOT / "benchmarks/results/hyperparameters.json"
    if not path.exists():
        pytest.skip("not measured yet")
    found = json.loads(path.read_text())
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import hyperparameters as benchmark
    again = benchmark.summary(found["rows"])
    assert json.loads(json.dumps(again)) == found["summary"]
    assert torch.get_num_threads() >= 1
