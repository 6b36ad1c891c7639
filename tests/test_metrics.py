"""Scores of data from anywhere: each kind of column is read, and what would give a wrong number is refused."""

import math

import datasets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from llm_course import evaluation
from llm_course.evaluation import (
    area_under_curve,
    average_precision,
    bootstrap,
    bootstrap_scores,
    calibration_error_of_chance,
    calibration_table,
    compare,
    confusion_matrix,
    evaluate,
    expected_calibration_error,
    fit_temperature,
    plot_reliability,
    plot_slices,
    precision_recall_curve,
    regression_scores,
    roc_curve,
    scores_by_class,
    scores_of,
    slice_accuracy,
    wilson_interval,
)
from llm_course.widgets.evaluation import ThresholdSlider

NAN = float("nan")
TARGETS, ANSWERS = [1, 1, 0, 0, 1], [1, 0, 0, 1, 1]
POSITIVE = [0.875, 0.25, 0.125, 0.75, 0.625]  # exact in bfloat16
BOTH = [[1 - share, share] for share in POSITIVE]
LOGITS = [[0.0, 2.0], [1.0, -0.5], [0.5, -1.0], [0.0, 1.0], [-0.5, 0.25]]
KINDS = {  # ways in which people hold a column
    "tuple": tuple,
    "NumPy": np.array,
    "NumPy numbers": lambda values: list(np.array(values)),
    "torch": torch.tensor,
    "torch numbers": lambda values: list(torch.tensor(values)),
    "bfloat16": lambda values: torch.tensor(values, dtype=torch.bfloat16),
    "with a gradient": lambda values: torch.tensor(values, dtype=torch.float32, requires_grad=True),
    "pandas": lambda values: pd.Series(values, index=range(7, 7 + len(values))),
    "pandas, nullable": lambda values: pd.Series(values).convert_dtypes(),
    "datasets": lambda values: datasets.Dataset.from_dict({"column": values})["column"],
}
TABLES = {"lists": list, "NumPy": np.array, "float32": lambda rows: np.array(rows, dtype=np.float32),
          "torch": torch.tensor, "bfloat16": lambda rows: torch.tensor(rows, dtype=torch.bfloat16),
          "with a gradient": lambda rows: torch.tensor(rows, requires_grad=True), "pandas": pd.DataFrame,
          "datasets": lambda rows: datasets.Dataset.from_dict({"column": rows})["column"]}


class Silent:
    "A classifier that must not be asked"

    labels = ("negative", "positive")

    def logits(self, *_, **__):
        "Fail the test"
        raise AssertionError("it answered before the settings were looked at")


@pytest.fixture(autouse=True)
def no_figures():
    "None stays open"
    yield
    plt.close("all")


# --- every kind of column is read

@pytest.mark.parametrize("kind", KINDS)
def test_columns_of_any_kind_give_the_same_numbers(kind):
    targets, answers, positive = map(KINDS[kind], (TARGETS, ANSWERS, POSITIVE))
    assert confusion_matrix(targets, answers, np.int64(2)).tolist() == [[1, 1], [1, 2]]
    assert compare(targets, answers, targets) == compare(TARGETS, ANSWERS, TARGETS)
    pd.testing.assert_frame_equal(precision_recall_curve(targets, positive), precision_recall_curve(TARGETS, POSITIVE))
    pd.testing.assert_frame_equal(roc_curve(targets, positive), roc_curve(TARGETS, POSITIVE))
    assert area_under_curve(targets, positive) == area_under_curve(TARGETS, POSITIVE) == 4 / 6
    assert average_precision(targets, positive) == average_precision(TARGETS, POSITIVE)
    pd.testing.assert_frame_equal(regression_scores(positive, answers, resamples=20),
                                  regression_scores(POSITIVE, ANSWERS, resamples=20))
    assert bootstrap(np.mean, answers, resamples=20).value == pytest.approx(3 / 5)
    assert expected_calibration_error(np.array(BOTH), targets) == expected_calibration_error(np.array(BOTH), TARGETS)
    assert fit_temperature(LOGITS, targets) == fit_temperature(LOGITS, TARGETS)
    assert slice_accuracy(answers, targets)["accuracy"].tolist() == [1 / 2, 2 / 3]
    assert ThresholdSlider(targets, positive).confusion.tolist() == [[1, 1], [1, 2]]


@pytest.mark.parametrize("kind", TABLES)
def test_tables_of_any_kind_give_the_same_numbers(kind):
    both, logits = TABLES[kind](BOTH), TABLES[kind](LOGITS)
    pd.testing.assert_frame_equal(calibration_table(both, TARGETS), calibration_table(np.array(BOTH), TARGETS))
    by_hand = (2 * (1 - 0.875) + 2 * 0.75 + (1 - 0.625)) / 5  # two right, two wrong, one right
    assert expected_calibration_error(both, TARGETS) == pytest.approx(by_hand, abs=1e-12)
    assert fit_temperature(logits, TARGETS) == fit_temperature(LOGITS, TARGETS)
    np.testing.assert_array_equal(calibration_error_of_chance(both, draws=5),
                                  calibration_error_of_chance(np.array(BOTH), draws=5))
    pd.testing.assert_frame_equal(precision_recall_curve(TARGETS, both), precision_recall_curve(TARGETS, POSITIVE))
    assert area_under_curve(TARGETS, both) == area_under_curve(TARGETS, POSITIVE)
    assert plot_reliability(both, TARGETS).get_xlim()[0] == 0.5


@pytest.mark.parametrize("kind", [np.array, torch.tensor, list, lambda rows: torch.tensor(rows).bfloat16(),
                                  lambda rows: np.array(rows, dtype=float), pd.DataFrame])
def test_matrices_of_any_kind_give_the_same_scores(kind):
    confusion = [[8, 2], [1, 9]]
    assert scores_of(kind(confusion)) == scores_of(np.array(confusion))
    assert bootstrap_scores(kind(confusion), resamples=np.int64(50), seed=np.uint8(3)) == bootstrap_scores(
        np.array(confusion), resamples=50, seed=3)


def test_many_texts_do_not_overflow_a_narrow_type():
    for narrow in (np.float16, np.uint16, np.int16):
        assert scores_of(np.full((2, 2), 30_000, dtype=narrow))["accuracy"] == 0.5


def test_whole_numbers_among_objects_are_classes():
    targets = np.array(TARGETS, dtype=object)
    assert confusion_matrix(targets, pd.Series(ANSWERS, dtype=object), 2).tolist() == [[1, 1], [1, 2]]


def test_booleans_are_classes_0_and_1():
    said = np.array(POSITIVE) >= 0.5
    assert confusion_matrix([True, True, False, False, True], said, 2).tolist() == [[1, 1], [1, 2]]
    assert slice_accuracy(torch.tensor([True, False]), "ab".split() * 2)["accuracy"].tolist() == [0.5]


def test_shares_have_the_scores_of_their_counts():
    counts = np.random.default_rng(0).integers(1, 90, size=(6, 3, 3))
    for name, values in scores_of(counts / counts.sum((1, 2), keepdims=True)).items():
        np.testing.assert_allclose(values, scores_of(counts)[name])


def test_no_texts_have_a_matrix_of_zeros():
    assert confusion_matrix([], [], 3).tolist() == np.zeros((3, 3)).tolist()


@pytest.mark.parametrize(("correct", "total"), [(np.int64(3), np.int32(4)), (torch.tensor(3), torch.tensor(4))])
def test_wilson_takes_whole_numbers_of_any_kind(correct, total):
    assert wilson_interval(correct, total, np.float32(0.5)) == wilson_interval(3, 4, 0.5)


# --- slices

@pytest.mark.parametrize(("groups", "names"), [
    ([1.0, NAN, 2.0, NAN], [1.0, 2.0, NAN]), (["a", None, "b", NAN], ["a", "b", NAN]),
    (np.array([1.0, NAN, 2.0, NAN]), [1.0, 2.0, NAN]), (np.array(["a", None, "b", None], dtype=object), ["a", "b", NAN]),
    (pd.Series(["a", None, "b", None], dtype="category"), ["a", "b", NAN]),
    (pd.Series([1, None, 2, None], dtype="Int64"), [1, 2, NAN]),
    (pd.cut([0.5, 9.0, 1.5, 9.0], [0, 1, 2]), [pd.Interval(0, 1), pd.Interval(1, 2), NAN]),
    (torch.tensor([1.0, NAN, 2.0, NAN]), [1.0, 2.0, NAN]),
    (datasets.Dataset.from_dict({"g": ["a", None, "b", None]})["g"], ["a", "b", NAN])])
def test_texts_without_a_group_are_a_slice_of_their_own(groups, names):
    table = slice_accuracy([True, False, True, True], groups)
    assert table["texts"].tolist() == [1, 1, 2] and table["accuracy"].tolist() == [1, 1, 0.5]
    assert [None if pd.isna(name) else name for name in table.index] == [None if pd.isna(n) else n for n in names]
    labels = [label.get_text() for label in plot_slices(table).get_xticklabels()]
    assert labels[-1] == "missing\n2 texts" and len(labels) == 3


@pytest.mark.parametrize(("groups", "names"), [
    ([("a", 1), ("b", 1), ("a", 1)], [("a", 1), ("b", 1)]), ([1, "1", 1], [1, "1"]), ([True, False, True], [False, True]),
    ([torch.tensor(3), torch.tensor(4), torch.tensor(3)], [3, 4]), (("b", "a", "b"), ["a", "b"]),
    ((name for name in "aba"), ["a", "b"]), (pd.Series(["x", "y", "x"], index=[5, 6, 7]), ["x", "y"])])
def test_slices_of_any_hashable_kind(groups, names):
    table = slice_accuracy([1, 0, 1], groups)
    assert list(table.index) == names and table["texts"].sum() == 3
    assert table["accuracy"].to_dict() == {name: float(names.index(name) == names.index(table.index[
        table["texts"].argmax()])) for name in names}
    assert len(plot_slices(table).get_xticklabels()) == 2


# --- wrong numbers are refused

CURVE, ERROR = precision_recall_curve, expected_calibration_error
EYE = np.eye(2, dtype=int)
REFUSED = [  # function, what it is given, words of the message
    (confusion_matrix, ([0, 0, 0], [2, 2, 2], 2), "predictions must be class numbers from 0 to 1; at 0 stands"),
    (confusion_matrix, ([1, 1], [-1, -1], 2), "at 0 stands"),
    (confusion_matrix, ([0, 1, 1], [1], 2), "3 targets and 1 predictions"),
    (confusion_matrix, ([1], [0.9], 2), "at 0 stands .*0.9"),
    (confusion_matrix, ([0, NAN], [0, 1], 2), "targets .* at 1 stands"),
    (confusion_matrix, ([0, None], [0, 1], 2), "targets .* at 1 stands None"),
    (confusion_matrix, (["0", "1"], [0, 1], 2), "targets .* at 0 stands"),
    (confusion_matrix, ([[0], [1]], [0, 1], 2), r"the shape \(2, 1\)"),
    (confusion_matrix, (1, 1, 2), r"the shape \(\)"),
    (confusion_matrix, ([0, 1], [0, 1], 2.0), "classes must be a whole number"),
    (confusion_matrix, ([], [], 0), "classes must be a whole number"),
    (scores_of, ([[1, 2, 3], [4, 5, 6]],), r"the shape \(2, 3\)"),
    (scores_of, ([1, 2],), r"the shape \(2,\)"),
    (scores_of, (np.zeros((0, 0)),), r"the shape \(0, 0\)"),
    (scores_of, ([["a", "b"], ["c", "d"]],), "one row and one column"),
    (scores_of, ([[1, -1], [0, 2]],), "0 or more"),
    (scores_of, ([[1, NAN], [0, 2]],), "0 or more"),
    (bootstrap_scores, (np.ones((2, 3), int),), r"the shape \(2, 3\)"),
    (bootstrap_scores, (np.ones((4, 2, 2), int),), "one matrix"),
    (bootstrap_scores, ([[3, -1], [0, 2]],), "0 or more"),
    (bootstrap_scores, ([[0.5, 0.5], [0, 1]],), "whole numbers"),
    (bootstrap_scores, (np.zeros((2, 2), int),), "not all 0"),
    (compare, ([1, 0], [1], [1, 0]), "2 targets and 1 first and 2 second"),
    (compare, ([1, 0], [1, 0], [1, 0, 1]), "3 second"),
    (compare, ([], [], []), "0 targets"),
    (compare, ([1, 0], [1, 0], [0.2, 0.8]), "second must be class numbers"),
    (compare, ([1, 0], [1, -1], [1, 0]), "first .* at 1 stands"),
    (compare, ([1, 0], ["1", "0"], [1, 0]), "first must be class numbers"),
    (compare, ([1, 0], [[1], [0]], [1, 0]), "first .* shape"),
    (calibration_table, (BOTH, TARGETS[:4]), "5 probabilities and 4 targets"),
    (calibration_table, ([], []), "shape"),
    (calibration_table, (np.ones((0, 2)), []), "0 probabilities"),
    (calibration_table, (BOTH, TARGETS, 2.5), "bins must be a whole number"),
    (calibration_table, (BOTH, TARGETS, 0), "bins must be a whole number"),
    (ERROR, (POSITIVE, TARGETS), r"got \(5,\)"),
    (ERROR, ([[p] for p in POSITIVE], TARGETS), r"got \(5, 1\)"),
    (ERROR, (LOGITS, TARGETS), "Are these logits"),
    (ERROR, (torch.tensor(LOGITS), TARGETS), "Are these logits"),
    (ERROR, ([[0.5, NAN], [0.5, 0.5]], [0, 1]), "row 0"),
    (ERROR, (BOTH, [1, 1, 0, 0, 2]), "at 4 stands"),
    (ERROR, (BOTH, POSITIVE), "targets must be class numbers"),
    (calibration_error_of_chance, (LOGITS,), "Are these logits"),
    (calibration_error_of_chance, (POSITIVE,), r"got \(5,\)"),
    (calibration_error_of_chance, (BOTH, 0), "bins"),
    (calibration_error_of_chance, (BOTH, 10, 0), "draws"),
    (calibration_error_of_chance, (BOTH, 10, 5, -1), "seed"),
    (calibration_error_of_chance, (np.ones((0, 2)),), "0 probabilities"),
    (plot_reliability, (LOGITS, TARGETS), "Are these logits"),
    (plot_reliability, (BOTH, TARGETS[:4]), "5 probabilities and 4 targets"),
    (fit_temperature, (LOGITS, [0, 1, 2, 0, 1]), "from 0 to 1; at 2 stands"),
    (fit_temperature, (LOGITS, [0, 1, -1, 0, 1]), "at 2 stands"),
    (fit_temperature, (LOGITS, TARGETS[:3]), "5 logits and 3 targets"),
    (fit_temperature, (LOGITS, POSITIVE), "targets must be class numbers"),
    (fit_temperature, (POSITIVE, TARGETS), r"got \(5,\)"),
    (fit_temperature, ([[0.0, NAN], [0.0, 1.0]], [0, 1]), "row 0"),
    (fit_temperature, (BOTH, TARGETS), "Are these probabilities"),
    (fit_temperature, (np.ones((0, 2)), []), "0 logits"),
    (wilson_interval, (4, 3), "4 of 3"),
    (wilson_interval, (-1, 3), "correct must be a whole number"),
    (wilson_interval, (0, 0), "total must be a whole number"),
    (wilson_interval, (0.85, 1000), "correct must be a whole number"),
    (wilson_interval, (True, 3), "correct must be a whole number"),
    (wilson_interval, (1, 2, 95), "confidence"),
    (wilson_interval, (1, 2, 1.0), "confidence"),
    (wilson_interval, (1, 2, 0), "confidence"),
    (wilson_interval, (1, 2, NAN), "confidence"),
    (CURVE, ([0, 5, 5], [0.2, 0.4, 0.9]), "targets .* from 0 to 1; at 1 stands"),
    (CURVE, ([0, 0], [0.2, 0.4]), "0 positive"),
    (CURVE, ([0, 1, 1], [0.2, 0.4]), "3 targets and 2 scores"),
    (CURVE, ([0, 1], [0.2, NAN]), "scores must be numbers; at 1"),
    (CURVE, ([0, 1], np.array([0.2, None])), "scores must be one number for each text"),
    (CURVE, ([0, 1], ["0.2", "0.4"]), "scores must be one number for each text"),
    (CURVE, ([0, 1], np.ones((2, 3)) / 3), r"the shape \(2, 3\)"),
    (CURVE, (TARGETS, LOGITS), "Are these logits"),
    (CURVE, ([-1, 1], [0.2, 0.4]), "targets .* at 0 stands"),
    (roc_curve, ([0, 0], [0.2, 0.4]), "0 positive"),
    (roc_curve, ([1, 1], [0.2, 0.4]), "0 negative of 2"),
    (roc_curve, ([0, 1, 1], [0.2, 0.4]), "3 targets and 2 scores"),
    (roc_curve, (TARGETS, LOGITS), "Are these logits"),
    (area_under_curve, ([1, 1], [0.2, 0.4]), "0 negative of 2"),
    (area_under_curve, ([0, 1], [0.2, NAN]), "scores must be numbers; at 1"),
    (average_precision, ([0, 0], [0.2, 0.4]), "0 positive"),
    (average_precision, ([0, 2], [0.2, 0.4]), "targets .* at 1 stands"),
    (scores_by_class, (EYE, ["a"]), "1 labels need as many rows"),
    (scores_by_class, (np.ones((3, 2, 2), int), ["a", "b"]), r"got \(3, 2, 2\)"),
    (scores_by_class, ([[1, -1], [0, 2]], ["a", "b"]), "0 or more"),
    (regression_scores, (POSITIVE, POSITIVE[:4]), "5 targets and 4 predictions"),
    (regression_scores, ([], []), "0 targets"),
    (regression_scores, (POSITIVE, [NAN] * 5), "predictions must be numbers; at 0"),
    (regression_scores, (["1", "2"], [1.0, 2.0]), "targets must be one number for each text"),
    (bootstrap, (np.mean,), "at least one column"),
    (bootstrap, (np.mean, []), "0 rows"),
    (bootstrap, (np.mean, [1, 2], [1]), "2 rows of column 0 and 1 rows of column 1"),
    (ThresholdSlider, ([0, 1], [-1.0, 2.5]), "from 0 to 1, got -1 to 2.5"),
    (ThresholdSlider, ([0, 2], [0.2, 0.4]), "targets .* at 1 stands"),
    (ThresholdSlider, ([0, 1, 1], [0.2, 0.4]), "3 targets and 2 scores"),
    (slice_accuracy, ([True], []), "1 texts and 0 slices"),
    (slice_accuracy, ([], []), "0 texts"),
    (slice_accuracy, ([0.9, 1], ["a", "b"]), "correct .* at 0 stands"),
    (slice_accuracy, ([True, None], ["a", "b"]), "correct .* at 1 stands"),
    (slice_accuracy, ([True, False], "ab"), "groups must be a list"),
    (slice_accuracy, ([True, False], [["a"], ["b"]]), "one slice for each text"),
    (slice_accuracy, ([True, False], np.ones((2, 2))), "one slice for each text"),
]
SETTINGS = [("resamples", 0), ("resamples", 2.5), ("confidence", 0), ("confidence", 1), ("confidence", 95),
            ("confidence", NAN), ("confidence", "0.95"), ("seed", -1), ("seed", 0.5), ("seed", None)]


@pytest.mark.parametrize(("function", "given", "words"), REFUSED)
def test_what_would_give_a_wrong_number_is_refused(function, given, words):
    with pytest.raises(ValueError, match=words):
        function(*given)
    assert not plt.get_fignums()  # no empty picture stays


def test_each_public_function_of_numbers_has_refusals():
    shown = {"Estimate", "EvaluationReport", "Comparison", "plot_confusion", "plot_slices", "SCORES"}
    refusing = {function.__name__ for function, *_ in REFUSED} - {"ThresholdSlider"}
    assert refusing | {"evaluate"} == set(evaluation.__all__) - shown


@pytest.mark.parametrize(("setting", "value"), SETTINGS)
def test_settings_that_cannot_be(setting, value):
    with pytest.raises(ValueError, match=setting):
        bootstrap_scores(EYE, **{setting: value})
    with pytest.raises(ValueError, match=setting):
        regression_scores(POSITIVE, ANSWERS, **{setting: value})
    with pytest.raises(ValueError, match=setting):  # before a text is answered
        evaluate(Silent(), {"text": ["a", "b"], "label": [0, 1]}, **{setting: value})
    if setting != "confidence":
        with pytest.raises(ValueError, match=setting):
            compare([0, 1], [0, 1], [0, 1], **{setting: value})


def test_rare_positives_stay_on_the_picture():
    slider = ThresholdSlider([1] + [0] * 19, [0.3] + [0.4] * 19)
    assert slider.plot().get_ylim()[0] < 0.05
    assert math.isclose(slider.curve["precision"].min(), 0, abs_tol=1e-12)
