"""Searches from outside: killed in the middle, in several processes at once, over data and files that cannot be searched with."""

import copy
import itertools
import math
import platform
import signal
import sqlite3
import subprocess
import sys
import warnings
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from conftest import ROOT, tiny_classifier
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_course.callbacks import Callback, EarlyStopping, Stop
from llm_course.fine_tuning import CrossEntropy, validation_scores
from llm_course.hyperparameters import (Between, EpochReport, Halving, expected_maximum, expected_optimism, gaussian_process,
                                        grid_points, search, search_over, train_head)
from llm_course.regularisation import WeightAverage
from llm_course.trials.studies import free_trials

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


X = {"x": Between(0, 1)}


def of_x(attempt) -> float:
    "A score that costs nothing"
    return attempt.parameters["x"]


def changed_classifier(seed: int, dropout: float | None = None, frozen: int = 0):
    "The same weights, and another dropout or some that do not learn"
    classifier = tiny_classifier(seed=seed % 1000)
    for module in classifier.model.modules():
        if dropout is not None and isinstance(module, torch.nn.Dropout):
            module.p = dropout
    for value in list(classifier.model.parameters())[:frozen]:
        value.requires_grad_(False)
    return classifier


def at_rate(factor: float):
    "An optimizer that holds a number"
    return lambda groups, learning_rate: torch.optim.SGD(groups, lr=learning_rate * factor)


class Weighted:
    "An objective of a plain class"

    def __init__(self, smoothing: float):
        self.smoothing = smoothing

    def __call__(self, model, batch, back):
        return CrossEntropy(self.smoothing)(model, batch, back)


class StopsAtOnce(Callback):
    "Ends a run at its first evaluation"

    def on_evaluation(self, run):
        if run.evaluations[-1]["epoch"] >= 1:
            raise Stop


# --- killed, and gone on

KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import test_hyperparameters as tests

class Nothing(tests.Callback):
    "A power cut in one step of the run; the name is that of the callback that the whole search has"
    left = {after}
    def on_step(self, run):
        Nothing.left -= 1
        if Nothing.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

tests.searched(storage={storage!r}, trials={trials}, sampler={sampler!r}, pruner=tests.Halving(), callbacks=[Nothing()])
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
    pd.testing.assert_frame_equal(again.trials[COLUMNS], whole.trials[COLUMNS], check_exact=True)
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
    pd.testing.assert_frame_equal(found.trials[["state", "score", "x"]], alone.trials[["state", "score", "x"]],
                                  check_exact=True)


def test_a_search_may_grow(tmp_path):
    whole, storage = searched(trials=4), tmp_path / "search.db"
    assert len(searched(trials=2, storage=storage).trials) == 2
    grown = searched(trials=4, storage=storage)
    pd.testing.assert_frame_equal(grown.trials[COLUMNS], whole.trials[COLUMNS], check_exact=True)


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
                            "gave the same one, or the same weights, twice"),
    "nothing as a classifier": ({"classifier_factory": lambda seed: None}, ValueError, "must make a classifier, got None"),
    "callbacks in the space": ({"space": {"callbacks": ["a", "b"]}}, ValueError, "'callbacks' is nothing that"),
    "no callbacks": ({"callbacks": [Callback]}, TypeError, "is no Callback.*write Callback"),
    "sizes that are no whole numbers": ({"space": {"batch_size": Between(2, 8)}}, ValueError,
                                        r"batch_size is a whole number; write Between\(2, 8, whole=True"),
    "a pruner by its name": ({"pruner": "halving"}, TypeError, "pruner must be a pruner of Optuna"),
    "a pruner that is a class": ({"pruner": Halving}, TypeError, "pruner must be a pruner of Optuna"),
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
    damaged = [tmp_path / f"damaged{number}.db" for number in range(3)]
    search_over(of_x, X, trials=3, storage=tmp_path / "good.db")
    good = (tmp_path / "good.db").read_bytes()
    changed = bytearray(good)
    changed[20_000:-5_000:97] = b"U" * len(changed[20_000:-5_000:97])
    for path, content in zip(damaged, (b"SQLite format 3\0" + bytes(range(256)) * 16, good[:len(good) // 2], changed), strict=True):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"damaged.*Give another file"):
            search_over(of_x, X, trials=3, storage=path)
    optuna.create_study(study_name="cats", storage=f"sqlite:///{theirs}")
    before = [path.read_bytes() for path in (text, other)]
    for path, said in ((text, "is no SQLite file"), (other, "database of another program: it holds the tables cats"),
                       (theirs, "holds the study 'cats'"), (tmp_path, "is a folder"), ("sqlite:///a.db", "must be a file"),
                       (3, "must be a file"), (":memory:", "None")):
        with pytest.raises(ValueError, match=said):
            searched(storage=path)
    assert [path.read_bytes() for path in (text, other)] == before


@pytest.mark.parametrize(("changed", "said"), [
    ({"seed": 4}, r"seed \(3 there, 4 here\)"), ({"epochs": 1}, r"options \(epochs 3 there, 1 here\)"),
    ({"space": {**SPACE, "weight_decay": Between(0, 0.2)}}, "space"), ({"sampler": "random"}, "sampler"),
    ({"pruner": Halving()}, "pruner"), ({"pruner": Halving(factor=2)}, "pruner"), ({"score": "accuracy"}, "score"),
    ({"train": {"text": TEXTS[:14], "label": TRAIN["label"][:14]}}, "training data"), ({"validation": TRAIN}, "validation data"),
    ({"classifier_factory": lambda seed: tiny_classifier(seed=1)}, "model"),
    ({"classifier_factory": lambda seed: changed_classifier(seed, dropout=0.5)}, r"model \(dropout"),
    ({"classifier_factory": lambda seed: changed_classifier(seed, frozen=3)}, r"model \(parameters"),
    ({"callbacks": [EarlyStopping(1)]}, "callbacks"), ({"optimizer": at_rate(1000)}, "options"),
    ({"objective": Weighted(0.5)}, "options"),
])
@pytest.mark.filterwarnings("ignore:16 of 16 validation texts")
def test_a_storage_of_another_search_is_refused(tmp_path, changed, said):
    storage = tmp_path / "search.db"
    searched(trials=1, storage=storage)
    with pytest.raises(ValueError, match=f"holds another search. Other than here: .*{said}.*another file"):
        searched(trials=1, storage=storage, **changed)
    assert len(searched(trials=1, storage=storage).trials) == 1


@pytest.mark.parametrize("callback", [lambda: EarlyStopping(1), lambda: WeightAverage(0.0)])
@pytest.mark.filterwarnings("ignore:16 of 16 validation texts")
def test_a_trial_is_scored_by_the_weights_that_it_ended_with(callback):
    """A callback that puts back the best weights, or a mean, ends a run with others than those of the last look"""
    made = []
    found = searched(trials=1, score="loss", callbacks=[callback()], epochs=4, space={"learning_rate": [0.05]},
                     classifier_factory=lambda seed: made.append(tiny_classifier(seed=0)) or made[-1])
    assert math.isclose(found.trials["score"].iloc[0], validation_scores(made[-1], JUDGED)["loss"], rel_tol=1e-5)


@pytest.mark.parametrize("which", [0, 1, 2, 3])
@pytest.mark.filterwarnings("ignore:PatientPruner")
def test_a_setting_that_holds_another_value_is_another_search(tmp_path, which):
    pairs = ((({"optimizer": at_rate(rate)}) for rate in (1, 1000)), ({"objective": Weighted(held)} for held in (0.0, 0.5)),
             ({"callbacks": [EarlyStopping(patience)]} for patience in (1, 2)),
             ({"pruner": optuna.pruners.PatientPruner(optuna.pruners.PercentilePruner(share), 1)} for share in (3.0, 90.0)))
    first, second = pairs[which]
    searched(trials=1, storage=tmp_path / "search.db", **first)
    assert len(searched(trials=2, storage=tmp_path / "search.db", **first).trials) == 2
    with pytest.raises(ValueError, match="holds another search"):
        searched(trials=2, storage=tmp_path / "search.db", **second)


def test_a_storage_is_the_file_of_that_name(tmp_path):
    search_over(of_x, X, trials=2, storage=tmp_path / "run.db")
    names = ["run%2Edb", "a?b.db", "a?mode=ro.db", "a#b.db", "{x} ä.db"]
    for name in names:
        assert len(search_over(of_x, X, trials=3, storage=tmp_path / name).trials) == 3
        assert len(search_over(lambda attempt: 1 / 0, X, trials=3, storage=tmp_path / name).trials) == 3
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".lock"} == {"run.db", *names}
    assert len(search_over(of_x, X, trials=2, storage=tmp_path / "run.db").trials) == 2


def test_trials_of_a_machine_that_is_gone_are_said_and_can_be_freed(tmp_path):
    storage = tmp_path / "search.db"
    search_over(of_x, X, trials=3, storage=storage)
    with sqlite3.connect(storage) as database:  # as if trial 1 had been lost with its machine
        database.execute("UPDATE trials SET state = 'RUNNING' WHERE number = 1")
        database.execute("UPDATE trial_user_attributes SET value_json = replace(value_json, ?, 'lost') WHERE key = 'process'",
                         (platform.node(),))
    database.close()
    with pytest.warns(UserWarning, match=r"Trials 1 are under way on the machine 'lost'.*free_trials\("):
        assert search_over(of_x, X, trials=3, storage=storage).counts == {"complete": 2, "running": 1}
    assert free_trials(storage, "lost") == [1]
    found = search_over(of_x, X, trials=3, storage=storage)
    assert found.counts == {"complete": 3} and found.stopped == 1
    assert found.trials["x"].equals(search_over(of_x, X, trials=3).trials["x"])


def test_new_objects_around_the_same_weights_are_refused():
    base = tiny_classifier()
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    with pytest.raises(ValueError, match="or the same weights, twice"):
        searched(classifier_factory=lambda seed: copy.copy(base))
    assert all(torch.equal(value, before[name]) for name, value in base.model.state_dict().items())


def test_a_hyperparameter_cannot_have_the_name_of_a_column_or_no_name():
    for name, said in (("seconds", "is a column of the table"), ("state", "is a column"), ("trial", "is a column"),
                       (1, "named by a text"), ("", "named by a text")):
        with pytest.raises(ValueError, match=said):
            search_over(lambda attempt: 1 / 0, {name: Between(0, 1)}, trials=1)


def test_failed_trials_of_an_earlier_call_are_said_to_be_of_one(tmp_path):
    storage = tmp_path / "search.db"
    with pytest.raises(RuntimeError, match=r"first 3 trials failed, the last with: ZeroDivisionError.*kept in .*search.db"):
        search_over(lambda attempt: 1 / 0, X, trials=3, storage=storage)
    with pytest.raises(RuntimeError, match=r"failed in an earlier call.*raise trials or give another file"):
        search_over(of_x, X, trials=3, storage=storage)
    assert search_over(of_x, X, trials=5, storage=storage).counts == {"failed": 3, "complete": 2}


@pytest.mark.parametrize("pruner", [optuna.pruners.HyperbandPruner(), optuna.pruners.SuccessiveHalvingPruner()])
@pytest.mark.filterwarnings("ignore")
def test_a_pruner_that_learns_while_it_runs_may_be_given_again(tmp_path, pruner):
    def rising(attempt):
        for epoch in range(1, 10):
            attempt.report(epoch, attempt.parameters["x"], epoch == 9)
        return attempt.parameters["x"]

    for trials in (3, 5):
        assert len(search_over(rising, X, trials=trials, storage=tmp_path / "search.db", pruner=pruner).trials) == trials


def test_callbacks_from_a_generator_act_in_each_trial():
    found = searched(trials=3, callbacks=(callback for callback in [StopsAtOnce()]))
    assert found.trials["epochs seen"].tolist() == [1, 1, 1]


def test_a_run_that_a_callback_stops_before_it_was_scored_says_so():
    class Early(Callback):
        def on_step(self, run):
            raise Stop

    with pytest.raises(RuntimeError, match="a callback stopped the run before it was scored"):
        searched(callbacks=[Early()])


def test_choices_may_be_of_numpy_and_ranges(tmp_path):
    for among in ([np.int64(1), np.int64(2)], range(1, 3), np.array([1, 2])):
        found = search_over(of_x, {"x": among}, trials=2, sampler="grid", storage=tmp_path / "search.db")
        assert found.trials["x"].tolist() == [1, 2] and type(found.best["x"]) is int
    for among in ([1, True], [0.0, 0], [math.nan, 1.0], [np.array([1])], "ab"):
        with pytest.raises(ValueError, match="different values"):
            search_over(of_x, {"x": among}, trials=1)
    bounds = Between(np.float32(0.5), np.float32(1), log=True)
    assert len(search_over(of_x, {"x": bounds}, trials=2, storage=tmp_path / "bounds.db").trials) == 2


def test_a_storage_that_is_lost_during_a_search_is_named(tmp_path):
    storage = tmp_path / "search.db"

    def losing(attempt):
        if attempt.number == 1:
            storage.write_bytes(b"")
        return 1.0

    with pytest.raises(OSError, match=r"search\.db can no longer be read or written"):
        search_over(losing, X, trials=3, storage=storage)


@pytest.mark.filterwarnings("ignore")
def test_a_score_that_is_no_number_in_the_middle_ends_a_trial_as_in_optuna():
    ends = []
    for pruner in (Halving(), optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)):
        def score(attempt):
            for epoch in range(1, 10):
                attempt.report(epoch, math.nan if attempt.number == 3 and epoch > 2 else 0.1 * attempt.number + epoch)
            return 1.0

        ends.append(search_over(score, X, trials=6, sampler="random", pruner=pruner).trials["epochs seen"].tolist())
    assert ends[0] == ends[1] and ends[0][3] == 3


def test_a_report_is_that_of_a_whole_epoch_and_the_last_is_known():
    heard = []
    listener = EpochReport(SimpleNamespace(report=lambda *told: heard.append(told)), "loss")
    for epoch in (0.5, 1.0, 2.0):
        row = {"epoch": epoch, "step": 10 * epoch, "loss": 3.0}
        listener.on_evaluation(SimpleNamespace(evaluations=[row], total_steps=20))
    assert heard == [(1, 3.0, False), (2, 3.0, True)]


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


@some
@given(most=st.integers(1, 200), names=st.integers(1, 5))
def test_a_grid_is_even_and_fills_what_it_may(most, names):
    points = grid_points({f"x{place}": Between(0, 1) for place in range(names)}, most)
    counts = [len({point[name] for point in points}) for name in points[0]]
    assert len(points) == math.prod(counts) <= most and max(counts) <= 2 * min(counts)
    assert (min(counts) + 1) ** names > most  # no grid that is alike for all is finer
    alike = min(counts)
    larger = (math.prod(others) for others in itertools.product(range(alike, 2 * alike + 1), repeat=names))
    assert names > 3 or len(points) == max(size for size in larger if size <= most)


def test_a_grid_of_whole_numbers_on_a_log_scale_repeats_none():
    for high, most in ((64, 20), (8, 8), (1000, 300)):
        sizes = [point["size"] for point in grid_points({"size": Between(1, high, log=True, whole=True)}, most)]
        assert len(set(sizes)) == len(sizes) <= most and sizes == sorted(sizes)
    assert len(grid_points({"x": Between(1.0, 4.0, whole=True)}, 9)) == 4


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
