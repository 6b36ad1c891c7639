"""How people use a notebook: cells run twice, NumPy's numbers, callbacks that fail, numbers that overflow."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny_classifier
from datasets import Dataset

from llm_course import fine_tuning
from llm_course.adversarial_examples import TypoAttack
from llm_course.augmentation import RandomSwap, TypingNoise, augment_dataset
from llm_course.callbacks import Callback, Stop
from llm_course.evaluation import evaluate
from llm_course.fine_tuning import CrossEntropy, MeanAbsoluteError, fine_tune

TEXTS = [f"Film {number} had a {'fine' if number % 2 else 'weak'} plot" for number in range(12)]
ROWS = {"text": TEXTS, "label": [number % 2 for number in range(12)]}
QUICK = {"epochs": 2, "batch_size": 4, "progress": False, "learning_rate": 1e-3}


class Count(Callback):
    "Stops or fails at a step, and remembers what it was told"

    def __init__(self, at: int | None = None, error: type[BaseException] = ZeroDivisionError, when: str = "on_step"):
        self.at, self.error, self.when, self.told = at, error, when, []

    def on_step(self, run):
        self.told.append("step")
        if self.when == "on_step" and len(run.steps) == self.at:
            raise self.error

    def on_end(self, run):
        self.told.append(f"end after {len(run.steps)}")
        if self.when == "on_end":
            raise self.error("at the end")


def test_a_cell_that_is_run_again_starts_goes_on_and_gives_back(tmp_path):
    whole = tiny_classifier()
    expected = fine_tune(whole, ROWS, **QUICK)
    recipe = {**QUICK, "checkpoints": tmp_path / "runs/first", "resume": "auto"}
    with pytest.raises(ConnectionAbortedError):
        fine_tune(tiny_classifier(), ROWS, callbacks=[Count(5, ConnectionAbortedError)], **recipe)
    again = tiny_classifier(seed=1)
    assert fine_tune(again, ROWS, **recipe).steps[3:] != [] and len(expected.steps) == 6
    for classifier in (again, tiny_classifier(seed=2)):
        watch = Count()
        run = fine_tune(classifier, ROWS, callbacks=[watch], **recipe)
        assert [row["loss"] for row in run.steps] == [row["loss"] for row in expected.steps] and not watch.told
        for name, weight in whole.model.state_dict().items():
            assert torch.equal(weight, classifier.model.state_dict()[name]), name


def test_the_three_ways_of_checkpoints_explain_each_other(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(FileNotFoundError, match=r"no checkpoint.*checkpoints=.*resume='auto'"):
        fine_tune(tiny_classifier(), ROWS, resume_from=folder, **QUICK)
    fine_tune(tiny_classifier(), ROWS, checkpoints=folder, **QUICK)
    with pytest.raises(FileExistsError, match=r"an earlier run.*resume_from=.*resume='auto'"):
        fine_tune(tiny_classifier(), ROWS, checkpoints=folder, **QUICK)
    with pytest.raises(ValueError, match=r"batch_size 4 there, 6 here.*another folder"):
        fine_tune(tiny_classifier(), ROWS, checkpoints=folder, resume="auto", **{**QUICK, "batch_size": 6})
    for wrong in ({"resume": "auto"}, {"resume": "auto", "resume_from": folder, "checkpoints": folder},
                  {"resume": "yes", "checkpoints": folder}, {"resume": True, "checkpoints": folder}):
        with pytest.raises(ValueError, match="resume must be 'auto', beside checkpoints="):
            fine_tune(tiny_classifier(), ROWS, **wrong, **QUICK)


@pytest.fixture(scope="module")
def expected() -> dict:
    "What comes of a dict of lists"
    return outcome(ROWS)


def outcome(data: object) -> dict:
    "What training, evaluation, an attack and augmentation make of data"
    classifier = tiny_classifier()
    with pytest.warns(UserWarning, match="12 of 12 validation texts are training texts"):
        losses = [row["loss"] for row in fine_tune(classifier, data, data, **QUICK).steps]
    attack = TypoAttack(tries=1, query_budget=4).attack(classifier, data, progress=False)
    copies = augment_dataset(data, RandomSwap(fraction=0.5), progress=False)
    return {"losses": losses, "evaluated": evaluate(classifier, data).confusion.tolist(), "attacked": attack.results,
            "copies": copies["text"][:]}


@pytest.mark.parametrize("data", [
    pd.DataFrame(ROWS), Dataset.from_dict(ROWS), [dict(zip(ROWS, row, strict=True)) for row in
                                                  zip(*ROWS.values(), strict=True)],
    Dataset.from_dict(ROWS).with_format("torch"), Dataset.from_dict(ROWS).with_format("numpy", columns=["label"]),
    {"text": pd.Series(TEXTS), "label": np.array(ROWS["label"])}, {**ROWS, "label": torch.tensor(ROWS["label"])},
    {**ROWS, "label": ["positive" if label else "negative" for label in ROWS["label"]]},
    {**ROWS, "label": [float(label) for label in ROWS["label"]]},
], ids=["frame", "dataset", "rows", "torch", "numpy", "series", "tensor", "names", "floats"])
def test_data_of_every_kind_give_the_same_answers(data, expected):
    assert outcome(data) == expected


def test_streams_of_rows():
    stream = Dataset.from_dict(ROWS).to_iterable_dataset()
    losses = [row["loss"] for row in fine_tune(tiny_classifier(), ROWS, **QUICK).steps]
    assert [row["loss"] for row in fine_tune(tiny_classifier(), stream, **QUICK).steps] == losses
    assert evaluate(tiny_classifier(), iter(stream)).texts == TEXTS


@pytest.mark.parametrize(("data", "said"), [
    ({"text": TEXTS[:2], "label": [0, 1, 1, 0]}, "not of one length: 2 values of 'text' and 4 values of 'label'"),
    ([{"text": "fine", "label": 1}, {"text": "no label"}], "Row 1 of the .* data is .* expected a dict with"),
    ([*TEXTS], "Row 0 of the .* data is 'Film 0"),
    ({"text": TEXTS}, "has no column 'label'"),
    ({"train": Dataset.from_dict(ROWS), "test": Dataset.from_dict(ROWS)}, "several datasets, train, test"),
    ({**ROWS, "label": [0.5] * 12}, "Row 0 of the .* data has the label 0.5"),
    ({**ROWS, "label": ["good"] * 12}, "Row 0 of the .* data has the label 'good'"),
    (None, "data is None"),
], ids=["lengths", "row", "texts", "no label", "splits", "half", "name", "none"])
def test_data_that_do_not_fit_are_refused_alike(data, said):
    for use in (fine_tune, evaluate, TypoAttack().attack):
        with pytest.raises((ValueError, TypeError), match=said):
            use(tiny_classifier(), data)


def test_numbers_of_numpy_are_numbers(tmp_path):
    ours = fine_tune(tiny_classifier(), ROWS, checkpoints=tmp_path / "run", **QUICK)
    theirs = {"epochs": np.int64(2), "batch_size": np.uint8(4), "learning_rate": np.float64(1e-3), "seed": np.int32(0),
              "progress": np.False_, "warmup": np.float64(0.1), "weight_decay": np.float64(0.01)}
    run = fine_tune(tiny_classifier(), ROWS, **theirs)
    assert [row["loss"] for row in run.steps] == [row["loss"] for row in ours.steps]
    fine_tune(tiny_classifier(), ROWS, **theirs, checkpoints=tmp_path / "run", resume="auto")  # the same settings
    for seed in np.arange(2):
        assert RandomSwap().augment(TEXTS, seed=seed, n=np.int64(2)) == RandomSwap().augment(TEXTS, seed=int(seed), n=2)
    journal = tmp_path / "attack.jsonl"
    for kind in (int, np.int64):
        TypoAttack(tries=kind(1), seed=kind(3), query_budget=kind(9), max_fraction=np.float32(0.5)).attack(
            tiny_classifier(), ROWS, progress=False, resume_from=journal, batch_size=kind(8), window=kind(4))
    assert json.loads(journal.read_text().splitlines()[0])["attack"]["seed"] == 3


def test_augmenting_what_was_augmented():
    once = augment_dataset(ROWS, RandomSwap(fraction=0.5), progress=False)
    twice = augment_dataset(once, TypingNoise(), progress=False)
    assert twice.column_names == once.column_names == ["text", "label", "augmented"]
    marks = dict(zip(twice["text"], twice["augmented"], strict=True))
    assert len(twice) > len(once) and [text for text, made in marks.items() if not made] == TEXTS
    with pytest.raises(ValueError, match=r"'augmented' .*rename"):
        augment_dataset({**ROWS, "augmented": ["yes"] * 12}, TypingNoise(), progress=False)


@pytest.mark.parametrize("when", ["on_step", "on_end"])
def test_a_callback_that_fails_does_not_keep_the_others_from_ending(when):
    first, last, failing = Count(), Count(), Count(3, when=when)
    classifier = tiny_classifier()
    with pytest.raises(ZeroDivisionError):
        fine_tune(classifier, ROWS, callbacks=[first, failing, last], **QUICK)
    steps = 3 if when == "on_step" else 6
    assert first.told[-1] == last.told[-1] == f"end after {steps}"
    assert failing.told.count("end after 6") == (when == "on_end") and not classifier.model.training


def test_errors_of_two_callbacks_arrive_together():
    with pytest.raises(ZeroDivisionError) as caught:
        fine_tune(tiny_classifier(), ROWS, callbacks=[Count(2), Count(error=KeyError, when="on_end")], **QUICK)
    assert any("Count.on_end failed" in note for note in caught.value.__notes__)
    for error in (Stop, KeyboardInterrupt):  # whoever stops a run is told of its end
        stopping = Count(2, error)
        with pytest.warns(UserWarning) if error is KeyboardInterrupt else nothing():
            fine_tune(tiny_classifier(), ROWS, callbacks=[stopping], **QUICK)
        assert stopping.told[-1] == "end after 2"


def nothing():
    "A context that expects nothing"
    import contextlib

    return contextlib.nullcontext()


class Overflow(CrossEntropy):
    "A loss that is infinite in some steps"

    def __init__(self, steps):
        object.__setattr__(self, "left", list(steps))

    def __call__(self, model, batch, backward):
        factor = self.left.pop(0) if self.left else 1.0

        def scaled(loss):
            backward(loss * factor)

        return super().__call__(model, batch, scaled) * factor


@pytest.fixture
def scaled(monkeypatch):
    "A gradient scaler as float16 has it, on the CPU"
    make = fine_tuning.seeded_accelerator

    def with_scaler(*arguments):
        accelerator = make(*arguments)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        return accelerator

    monkeypatch.setattr(fine_tuning, "seeded_accelerator", with_scaler)


def test_a_step_that_overflows_in_float16_is_left_out(scaled):
    run = fine_tune(tiny_classifier(), ROWS, objective=Overflow([1.0, math.inf]), **QUICK)
    assert [math.isfinite(row["loss"]) for row in run.steps] == [True, False, True, True, True, True]
    assert run.plot().lines[1].get_ydata()[-1] < 2  # the smoothed loss goes on
    with pytest.raises(FloatingPointError, match="loss became inf at step 4"):  # no smaller scale can help
        fine_tune(tiny_classifier(), ROWS, objective=Overflow([math.inf] * 6), **QUICK)


def test_without_a_scaler_an_infinite_loss_ends_the_run():
    with pytest.raises(FloatingPointError, match="loss became inf at step 1"):
        fine_tune(tiny_classifier(), ROWS, objective=Overflow([math.inf]), **QUICK)


def test_ratings_of_every_kind():
    rated = {"text": TEXTS, "rating": [0.5 * number for number in range(12)]}
    classifiers = [tiny_classifier(labels=("rating",)) for _ in range(3)]
    kinds = (rated, pd.DataFrame(rated), Dataset.from_dict(rated).with_format("torch"))
    runs = [fine_tune(one, data, objective=MeanAbsoluteError(), **QUICK)
            for one, data in zip(classifiers, kinds, strict=True)]
    assert len({tuple(row["loss"] for row in run.steps) for run in runs}) == 1
    with pytest.raises(ValueError, match="Row 1 of the training data has the rating 'good'"):
        fine_tune(classifiers[0], {"text": ["a", "b"], "rating": [1.0, "good"]}, objective=MeanAbsoluteError())


def test_a_shared_drive_that_cannot_sync_keeps_checkpoints(tmp_path, monkeypatch):
    def refuse(number):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr("os.fsync", refuse)
    classifier = tiny_classifier()
    fine_tune(classifier, ROWS, ROWS, checkpoints=tmp_path / "run", **QUICK)
    shutil.copytree(classifier.save(tmp_path / "saved"), tmp_path / "copy")
    assert (Path(tmp_path) / "run/best/classifier.json").is_file()
