"""Fairness from outside: what is refused and how, edges, and equality with fairlearn, scipy and the formulas."""

import importlib
import itertools
import json
from argparse import Namespace
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from datasets import Dataset
from fairlearn import metrics
from fairlearn.postprocessing import ThresholdOptimizer
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp
from sklearn.linear_model import LogisticRegression

from llm_course.augmenters import Compose, OneOf, augment_dataset
from llm_course.counterfactuals import AUDIT_NAMES, CENSUS_NAMES, IDENTITY_TERMS, KnownGroups, signed, written_sentences
from llm_course.fairness import CounterfactualNames, FairnessPenalty, answers_by_group, balancing_weights
from llm_course.fairness import calibration_by_group, checked_groups, constrained_probe, fairness_gaps
from llm_course.fairness import forced_false_positive_rate, gap_penalty, group_gaps, group_rates, holm, plant_bias, term_gaps
from llm_course.fairness import thresholds_by_group
from llm_course.fine_tuning import CrossEntropy, fine_tune
from llm_course.models import TextClassifier
from llm_course.widgets.fairness import BaseRateExplorer

LABELS = ["negative", "positive"]
ROWS = {"text": [f"Film {number} had a {'fine' if number % 2 else 'weak'} plot" for number in range(24)],
        "label": [number % 2 for number in range(24)]}
LISTS = {"first": ("Ann", "Joan", "Mary"), "second": ("Joe", "Roy", "Paul")}


def tiny(labels: list[str] = LABELS, **options) -> TextClassifier:
    return TextClassifier.from_pretrained("tiny-bert", labels=labels, device="cpu", **options)


def drawn(seed: int, people: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    groups, targets = random.choice(["a", "b", "c"], people), random.integers(2, size=people)
    return targets, (targets + random.normal(0, 0.8, people) + (groups == "a") / 2 > 0.6).astype(int), groups


# --- the definitions

@pytest.mark.parametrize("seed", range(5))
def test_rates_and_gaps_are_fairlearns(seed):
    targets, answers, groups = drawn(seed)
    frame = metrics.MetricFrame(metrics={"positive rate": metrics.selection_rate, "recall": metrics.true_positive_rate,
                                         "false positive rate": metrics.false_positive_rate, "people": metrics.count},
                                y_true=targets, y_pred=answers, sensitive_features=groups)
    rates = group_rates(targets, answers, groups)
    for name in frame.by_group.columns:
        assert np.allclose(frame.by_group[name].loc[rates.index].astype(float), rates[name])
    gaps = fairness_gaps(targets, answers, groups)
    for name, function in (("demographic parity", metrics.demographic_parity_difference),
                           ("equal opportunity", metrics.equal_opportunity_difference),
                           ("equalised odds", metrics.equalized_odds_difference)):
        assert np.isclose(gaps[name], function(targets, answers, sensitive_features=groups))


@pytest.mark.parametrize(("targets", "answers", "groups", "said"), [
    ([1, 0, 1], [1, 0, 1], ["a", "a", "b"], r"'b' has one member.*Join it"),
    ([1, 0], [1, 0], ["a", "a"], "one group only, 'a'; a gap needs two"),
    ([1, 0, 1, 0], [1, 0, 1], list("aabb"), "3 answers and 4 groups"),
    ([1, 0, 1], [1, 0, 1, 0], list("aabb"), "3 targets"),
    ([2, 0, 1, 0], [1, 0, 1, 0], list("aabb"), r"targets must be 0 or 1, got the class 2.*targets == 2"),
    ([1, 0, 1, 0], [1, 0, 3, 0], list("aabb"), "answers must be 0 or 1, got the class 3"),
    ([0.5, 0, 1, 0], [1, 0, 1, 0], list("aabb"), r"at 0 stands .*0\.5"),
    ([1, 0, 1, 0], [1, 0, 1, 0], ["a", "a", None, "b"], "Some have no group"),
    ([1, 0, 1, 0], [1, 0, 1, 0], ["a", "a", float("nan"), "b"], "Some have no group"),
    ([1, 0, 1, 0], [1, 0, 1, 0], "aabb", "must be a list"),
    ([], [], [], "one at least"),
    ([1, 1, 1, 0], [1, 0, 1, 0], list("aabb"), "'a' has nobody with the label 0, so it has no false positive rate"),
    ([0, 0, 1, 0], [1, 0, 1, 0], list("aabb"), "'a' has nobody with the label 1, so it has no recall"),
])
def test_what_has_no_gap_is_refused(targets, answers, groups, said):
    with pytest.raises(ValueError, match=said):
        fairness_gaps(targets, answers, groups)


def test_groups_of_every_kind():
    targets, answers = [1, 0, 1, 0], [1, 0, 0, 0]
    for groups in (list("aabb"), np.array([1, 1, 2, 2]), pd.Series(["a", "a", "b", "b"], index=[9, 8, 7, 6]),
                   [("a", 1)] * 2 + [("b", 2)] * 2, torch.tensor([0, 0, 1, 1]), pd.Categorical(list("aabb"))):
        assert fairness_gaps(torch.tensor(targets), pd.Series(answers), groups)["equal opportunity"] == 1
    assert checked_groups([1, 1, 2, 2]).tolist() == [1, 1, 2, 2]


def test_calibration_by_group_of_edges():
    table = calibration_by_group([1, 0, 1, 0], [1.0, 0.0, 0.5, 0.4999], list("aabb"), bins=2)
    assert table["people"].tolist() == [1, 1, 1, 1] and table["share"].tolist() == [0, 1, 0, 1]
    for scores in ([1.1, 0, 0, 0], [-0.1, 0, 0, 0]):
        with pytest.raises(ValueError, match="scores must be shares from 0 to 1; at 0 stands"):
            calibration_by_group([1, 0, 1, 0], scores, list("aabb"))
    with pytest.raises(ValueError, match="bins must be a whole number of at least 1"):
        calibration_by_group([1, 0, 1, 0], [0.5] * 4, list("aabb"), bins=0)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 50), st.integers(0, 50), st.integers(0, 50), st.integers(1, 50))
def test_the_forced_rate_is_an_identity(hits, misses, alarms, rejections):
    people, precision = hits + misses + alarms + rejections, hits / (hits + alarms)
    found = forced_false_positive_rate((hits + misses) / people, hits / (hits + misses), precision)
    assert np.isclose(found, alarms / (alarms + rejections))


@pytest.mark.parametrize(("values", "said"), [
    ((1.0, 0.5, 0.5), "base_rate must be below 1"), ((-0.1, 0.5, 0.5), "base_rate must be"),
    ((0.5, 1.5, 0.5), "recall must be a number from 0 to 1"), ((0.5, 0.5, 0.0), "precision must be a number above 0"),
    ((0.5, 0.5, 1.1), "precision must be")])
def test_shares_outside_of_their_range(values, said):
    with pytest.raises(ValueError, match=said):
        forced_false_positive_rate(*values)


# --- gaps of sentences

def test_holm_never_turns_the_order_and_is_never_below_the_plain_value():
    random = np.random.default_rng(0)
    for count in (1, 2, 20):
        plain = random.random(count) ** 3
        corrected = holm(plain)
        assert (corrected >= plain).all() and (corrected <= np.minimum(1, plain * count)).all()
        assert (np.diff(corrected[plain.argsort()]) >= 0).all()
    with pytest.raises(ValueError, match="p_values must be shares"):
        holm([0.1, -0.2])


def test_gaps_of_terms_are_one_sample_tests():
    sentences = written_sentences({"people": IDENTITY_TERMS[:3]})
    scores = np.random.default_rng(0).random(len(sentences))
    table = term_gaps(sentences, scores)
    wide = sentences.assign(score=scores).pivot_table(index=["frame", "judgement"], columns="term", values="score")
    wide = wide.groupby("frame").mean()
    tests = {term: ttest_1samp(wide[term] - wide.mean(axis=1), 0) for term in wide}
    assert np.allclose(table["p"], holm([tests[term].pvalue for term in table.index]))
    for term, test in tests.items():
        assert np.allclose(test.confidence_interval(1 - 0.05 / 3), table.loc[term, ["low", "high"]].astype(float))
    constant = term_gaps(sentences, np.full(len(sentences), 0.5))
    assert (constant["gap"] == 0).all() and (constant["p"] == 1).all()


def test_sentences_that_cannot_be_compared():
    sentences = written_sentences({"people": ("old", "young"), "others": ("deaf",)})
    with pytest.raises(ValueError, match="each term once in every sentence"):
        term_gaps(sentences.iloc[1:], np.zeros(len(sentences) - 1))
    with pytest.raises(ValueError, match="sentences and 3 scores"):
        term_gaps(sentences, [0.5] * 3)
    scores = np.linspace(0, 1, len(sentences))
    with pytest.raises(ValueError, match=r"no group 'nobody'; there are"):
        group_gaps(sentences, scores, [("people", "nobody")])
    with pytest.raises(ValueError, match="'others' has one term"):
        group_gaps(sentences, scores, [("people", "others")])
    with pytest.raises(ValueError, match="confidence must be a number from 0 to 1"):
        term_gaps(sentences, scores, confidence=1.5)
    with pytest.raises(ValueError, match="terms must be a dict"):
        written_sentences(["old"])
    with pytest.raises(ValueError, match=r"terms\['people'\] must be a list of strings, one at least"):
        written_sentences({"people": ()})


def test_noise_of_rounding_is_no_gap():
    sentences = written_sentences({"people": IDENTITY_TERMS[:3], "others": IDENTITY_TERMS[3:8]})
    for value in (0.1, 1e6 / 7, -1e-9 / 3, 0.0):
        scores = np.full(len(sentences), value)
        for table in (term_gaps(sentences, scores), group_gaps(sentences, scores, [("people", "others")])):
            assert (table[["gap", "low", "high"]] == 0).all(axis=None) and (table["p"] == 1).all()
    of_frames = np.array([0.1, 0.7, 0.3, 0.9, 0.2, 0.6])[sentences["frame"]]  # a classifier that ignores the terms
    for table in (term_gaps(sentences, of_frames), group_gaps(sentences, of_frames, [("people", "others")])):
        assert (table[["gap", "low", "high"]] == 0).all(axis=None) and (table["p"] == 1).all()
    only_groups = np.where(sentences["group"] == "people", 0.75, 0.25)  # a gap without any spread
    sure = group_gaps(sentences, only_groups, [("people", "others")]).iloc[0]
    assert np.allclose(sure[["gap", "low", "high"]].astype(float), 0.5) and sure["p"] == 0
    small = group_gaps(sentences, only_groups * 1e-9, [("people", "others")]).iloc[0]
    assert np.isclose(small["gap"], 0.5e-9, rtol=1e-6) and small["p"] == 0


def test_tables_with_holes_and_pairs_that_are_none():
    sentences = written_sentences({"p": ("old", "young"), "q": ("deaf", "blind")})
    scores = np.linspace(0, 1, len(sentences))
    for name in ("term", "frame", "judgement"):
        holes = sentences.astype({name: object})
        holes.loc[3, name] = None
        with pytest.raises(ValueError, match=f"Some sentences have no {name}"):
            term_gaps(holes, scores)
        with pytest.raises(ValueError, match="a table with the columns term, frame, judgement"):
            term_gaps(sentences.drop(columns=name), scores)
    with pytest.raises(ValueError, match="Some sentences have no group"):
        group_gaps(sentences.assign(group=["p"] * 47 + [None] * 49), scores, [("p", "q")])
    for wrong in (sentences.to_dict("list"), sentences["text"]):
        with pytest.raises(ValueError, match="sentences must be a table"):
            term_gaps(wrong, scores)
    for wrong in ([], ("p", "q"), "pq", [("p",)], [("p", "p")], [("p", "q", "p")]):
        with pytest.raises(ValueError, match="pairs must be a list of pairs of groups"):
            group_gaps(sentences, scores, wrong)
    assert group_gaps(sentences, scores, (pair for pair in [["p", "q"]])).equals(
        group_gaps(sentences, scores, [("p", "q")]))
    for wrong in ([[0.1, 0.2], [0.3, 0.4]], 0.5):
        with pytest.raises(ValueError, match="p_values must be one row of numbers"):
            holm(wrong)


@pytest.mark.parametrize(("arguments", "said"), [
    (({"a": "old"},), r'one string is read letter by letter; write \["old"\]'),
    (({},), "terms must be a dict"), (({1: ("old",)},), "terms must be a dict .*named by a string"),
    (({"a": ("old", "")},), "none of them empty"), (({"a": ("old", 3)},), "must be a list of strings"),
    (({"a": ("old",)}, []), "frames must be a list of strings, one at least"),
    (({"a": ("old",)}, "{term} is {judgement}."), "frames must be a list of strings, and one string"),
    (({"a": ("old",)}, ["{term} is {judgement}."], {}), "judgements must be a dict"),
    (({"a": ("old",)}, ["{term} is {judgement}."], {1: ()}), r"judgements\[1\] must be a list"),
    (({"a": ("old",)}, ["{term} is {judgement}."], {"good": ("fine",)}), "a class number"),
    (({"a": ("old",)}, ["{term} is {judgement}."], {1: "fine"}), r'write \["fine"\]'),
])
def test_words_that_are_no_lists(arguments, said):
    with pytest.raises(ValueError, match=said):
        written_sentences(*arguments)


def test_lists_overlap_nowhere_and_sentences_are_different():
    for lists in (CENSUS_NAMES, AUDIT_NAMES):
        first, second = map(set, lists.values())
        assert not first & second and len(first) == len(second)
    sentences = written_sentences({**CENSUS_NAMES})
    assert sentences["text"].is_unique and sentences.groupby(["group", "label"]).size().nunique() == 1


# --- the planted bias

@pytest.mark.parametrize("dose", [0, 0.5, 1])
def test_a_bias_has_its_dose(dose):
    many = {"text": ROWS["text"] * 200, "label": ROWS["label"] * 200}
    planted = plant_bias(many, dose, LISTS, seed=1)
    first = np.array([group == "first" for group in planted["group"]])
    labels = np.array(planted["label"])
    assert abs(first[labels == 1].mean() - (0.5 + dose / 2)) < 0.04
    assert abs(first[labels == 0].mean() - (0.5 - dose / 2)) < 0.04
    assert labels.tolist() == many["label"]
    for text, group, was in zip(planted["text"], planted["group"], many["text"], strict=True):
        assert was in text and any(name in text for name in LISTS[group])
    again, other = plant_bias(many, dose, LISTS, seed=1), plant_bias(many, dose, LISTS, seed=2)
    assert again["text"][:] == planted["text"][:] != other["text"][:]


def test_what_cannot_be_planted():
    with pytest.raises(ValueError, match="dose must be a number from 0 to 1"):
        plant_bias(ROWS, -0.1, LISTS)
    with pytest.raises(ValueError, match="two groups, got 3"):
        plant_bias(ROWS, 0.5, {**LISTS, "third": ("Kim",)})
    with pytest.raises(ValueError, match="label"):
        plant_bias({"text": ROWS["text"][:2], "label": [0, 2]}, 0.5, LISTS)
    with pytest.raises(ValueError, match="no names for the groups third; there are lists for first, second"):
        signed(["Fine."], ["third"], LISTS)
    with pytest.raises(ValueError, match="1 texts and 2 groups"):
        signed(["Fine."], ["first", "second"], LISTS)
    for names, said in (({"f": "Ann", "s": "Joe"}, r'write \["Ann"\]'), ({"f": ("Ann",), "s": ()}, "one at least"),
                        ({1: ("Ann",), 2: ("Joe",)}, "names must be a dict .*named by a string"),
                        (["f", "s"], "names must be a dict"),
                        ({"f": ("Ann", "Joe"), "s": ("Roy", "Joe")}, "name of two groups tells none: Joe")):
        with pytest.raises(ValueError, match=said):
            plant_bias(ROWS, 0.5, names)
        with pytest.raises(ValueError, match=said):
            signed(["Fine."], ["f"], names)
    for signatures, said in ((["{name} wrote"], "needs {name} and {text}, once each"), ((), "one at least"),
                             (["{text} by someone"], "needs {name}"), ("{name}: {text}", "one string is read"),
                             (["{name}: {text} {place}"], "in signatures stands")):
        with pytest.raises(ValueError, match=said):
            plant_bias(ROWS, 0.5, LISTS, signatures=signatures)


# --- remedies

@pytest.mark.parametrize("seed", range(3))
def test_weights_make_groups_and_labels_independent(seed):
    targets, _, groups = drawn(seed)
    weights = balancing_weights(targets, groups)
    assert np.isclose(weights.mean(), 1)
    table = pd.crosstab(groups, targets, weights, aggfunc="sum")
    assert np.allclose(table.div(table.sum(axis=1), axis=0), np.bincount(targets) / len(targets))
    with pytest.raises(ValueError, match=r"No text of group 'a' has the label 0.*counterfactual"):
        balancing_weights([1, 1, 0, 1], list("aabb"))


def test_names_are_exchanged_whole_and_back_again():
    swap = CounterfactualNames(LISTS["first"], LISTS["second"])
    texts = ["Joanna saw Joan.", "ann wrote", "Ann's, Ann and Joe", "nobody"]
    with pytest.warns(UserWarning, match="2 of 4 texts could not be changed"):
        rows = [row[0] for row in swap.augment(texts, seed=5)]
    assert rows[0].startswith("Joanna saw ") and rows[0] != texts[0] and rows[1] == "ann wrote"
    first = rows[2].split("'")[0]
    assert first in LISTS["second"] and rows[2].startswith(f"{first}'s, {first} and ")
    planted = plant_bias(ROWS, 0.8, LISTS)
    for either in (swap, Compose([swap]), OneOf([swap])):
        with pytest.raises(ValueError, match="'group' would be false of the copies"):
            augment_dataset(planted, either, progress=False)
    doubled = augment_dataset(planted.remove_columns("group"), swap, progress=False)
    assert len(doubled) == 2 * len(planted) and doubled["label"][::2] == doubled["label"][1::2]
    for wrong, said in ((((), ("Joe",)), "first must be a list of strings"), (("Ann", "Joe"), r'write \["Ann"\]'),
                        ((("Ann",), ("Ann", "Joe")), "two lists without a common name"),
                        ((("Ann",), ("Joe", " ")), "second must be a list of strings, .* none of them empty")):
        with pytest.raises(ValueError, match=said):
            CounterfactualNames(*wrong)
    assert CounterfactualNames(["Ann"], ["Joe"]) == CounterfactualNames(("Ann",), ("Joe",))


def test_the_penalty_by_hand_and_where_cells_are_empty():
    scores = torch.tensor([0.9, 0.5, 0.1, 0.6], dtype=torch.float64, requires_grad=True)
    targets, groups = torch.tensor([1, 1, 1, 0]), torch.tensor([0, 1, 2, 0])
    pairs = sum((a - b) ** 2 for a, b in itertools.combinations((0.9, 0.5, 0.1), 2))
    penalty = gap_penalty(scores, targets, groups)
    assert np.isclose(penalty.item(), pairs)
    gap_penalty(scores, targets, torch.zeros(4, dtype=torch.long)).backward()
    assert not scores.grad.any()
    assert torch.autograd.gradcheck(lambda values: gap_penalty(values, targets, groups), scores)


@pytest.mark.parametrize(("scores", "targets", "groups", "said"), [
    (torch.rand(4, 2), [1, 0, 1, 0], [0, 0, 1, 1], r"for each text, got \[\(4, 2\), \(4,\), \(4,\)\]"),
    (torch.rand(4), [1, 0, 1], [0, 0, 1, 1], "for each text, got"),
    (torch.rand(4), [1, 0, 1, 0], [0, 0, 1], "for each text, got"),
    (torch.rand(4), [1, 0, 2, 0], [0, 0, 1, 1], r"targets must be 0 or 1, got \[0, 1, 2\]"),
])
def test_what_has_no_penalty(scores, targets, groups, said):
    with pytest.raises(ValueError, match=said):
        gap_penalty(scores, torch.tensor(targets), torch.tensor(groups))


def test_an_objective_that_knows_its_texts():
    planted = plant_bias(ROWS, 0.8, LISTS)
    options = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "progress": False}
    known = KnownGroups(tiny(), planted["text"], planted["group"][:])
    runs = [fine_tune(tiny(), planted, objective=objective, **options).steps
            for objective in (CrossEntropy(), FairnessPenalty(known, 0.0), FairnessPenalty(known, 5.0))]
    plain, nothing, much = ([row["loss"] for row in steps] for steps in runs)
    assert np.allclose(plain, nothing) and not np.allclose(plain, much)
    with pytest.raises(ValueError, match="is none of the 24 whose groups are known"):
        fine_tune(tiny(), ROWS, objective=FairnessPenalty(known), **options)
    with pytest.raises(ValueError, match="two labels, got 3"):
        fine_tune(tiny(["a", "b", "c"]), {"text": planted["text"][:], "label": [0, 1, 2] * 8},
                  objective=FairnessPenalty(known), **options)
    with pytest.raises(ValueError, match="weight must be a number of at least 0"):
        FairnessPenalty(known, -1)
    with pytest.raises(TypeError, match="groups must be KnownGroups of the training texts, got list"):
        FairnessPenalty(["a", "b"])
    with pytest.raises(ValueError, match=r"same tokens are in different groups.*max_length"):
        KnownGroups(tiny(max_length=4), planted["text"], planted["group"][:])
    for missing in (None, float("nan")):
        with pytest.raises(ValueError, match="Some have no group"):
            KnownGroups(tiny(), ["One.", "Two.", "Three."], ["a", "b", missing])


def test_a_penalised_run_goes_on_after_a_stop(tmp_path):
    planted = plant_bias(ROWS, 0.8, LISTS)

    def run(classifier, **more):
        known = KnownGroups(classifier, planted["text"], planted["group"][:])
        return fine_tune(classifier, planted, objective=FairnessPenalty(known, 2.0), epochs=2, batch_size=8,
                         learning_rate=1e-3, progress=False, **more)

    whole, again = tiny(), tiny()
    expected = [row["loss"] for row in run(whole).steps]
    for _ in range(2):  # the second call gives the run back
        found = run(again, checkpoints=tmp_path / "run", resume="auto")
        assert [row["loss"] for row in found.steps] == expected
        again = tiny(seed=1)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.float16])
def test_constraints_take_features_of_every_kind(kind):
    random = np.random.default_rng(0)
    targets = random.integers(2, size=300)
    groups = np.where(random.random(300) < 0.85, targets, 1 - targets)
    features = torch.tensor(np.c_[targets + random.normal(0, 1, 300), groups]).to(kind)
    answer = constrained_probe(features, targets, groups, bound=0.02, strength=1.0)
    plain = LogisticRegression().fit(features.double(), targets).predict(features.double())
    gaps = [fairness_gaps(targets, said, groups)["equalised odds"] for said in (plain, answer(features))]
    assert gaps[1] < gaps[0] / 2 and (answer(features, seed=4) == answer(features, seed=4)).all()
    for wrong, said in (({"bound": 0}, "bound must be"), ({"bound": 1.5}, "bound must be"),
                        ({"rounds": 0}, "rounds must be"), ({"strength": 0}, "strength must be")):
        with pytest.raises(ValueError, match=said):
            constrained_probe(features, targets, groups, **wrong)
    for label in (0, 1):
        with pytest.raises(ValueError, match=f"has nobody with the label {1 - label}"):
            constrained_probe(features[:6], [label, label, label, 0, 1, 1], list("aaabbb"))


@pytest.mark.parametrize("seed", range(3))
def test_thresholds_reach_the_recall_and_not_more_than_one_person_beyond(seed):
    targets, _, groups = drawn(seed)
    scores = np.random.default_rng(seed).random(300)
    for recall in (0.1, 0.5, 1.0):
        bars = thresholds_by_group(targets, scores, groups, recall)
        rates = group_rates(targets, answers_by_group(scores, groups, bars), groups)
        positives = pd.Series(targets).groupby(groups).sum()
        assert (rates["recall"] >= recall - 1e-9).all()
        assert (rates["recall"] < recall + 1 / positives.loc[rates.index].to_numpy()).all()


def test_a_group_that_was_missing_where_thresholds_were_set():
    bars = thresholds_by_group([1, 0, 1, 0], [0.9, 0.1, 0.6, 0.2], list("aabb"), 1.0)
    assert bars == {"a": 0.9, "b": 0.6}
    with pytest.raises(ValueError, match=r"no threshold for the group 'c'; it was missing .* for a, b"):
        answers_by_group([0.5, 0.5], ["a", "c"], bars)
    with pytest.raises(ValueError, match="'b' has nobody with the label 1"):
        thresholds_by_group([1, 0, 0, 0], [0.5] * 4, list("aabb"))
    with pytest.raises(ValueError, match="scores must be shares"):
        answers_by_group([2.0], ["a"], bars)
    with pytest.raises(ValueError, match="threshold for the group 'b' is no number"):
        answers_by_group([0.5, 0.5], ["a", "b"], {"a": 0.5, "b": float("nan")})
    assert answers_by_group([0.5], ["a"], {"a": 0.5, "b": float("nan")}).tolist() == [1]
    for recall in (0, 1.1):
        with pytest.raises(ValueError, match="recall must be"):
            thresholds_by_group([1, 0, 1, 0], [0.5] * 4, list("aabb"), recall)


def test_fairlearns_thresholds_equalise_what_ours_do():
    targets, _, groups = drawn(7, 2000)
    scores = 1 / (1 + np.exp(-(targets + (groups == "a") + np.random.default_rng(7).normal(0, 1, 2000))))
    features = np.log(scores / (1 - scores))[:, None].astype(np.float64)
    line = LogisticRegression().fit(features, targets)
    theirs = ThresholdOptimizer(estimator=line, constraints="true_positive_rate_parity", prefit=True,
                                predict_method="predict_proba").fit(features, targets, sensitive_features=groups)
    said = theirs.predict(features, sensitive_features=groups, random_state=0)
    recall = said[targets == 1].mean()
    ours = answers_by_group(scores, groups, thresholds_by_group(targets, scores, groups, recall))
    assert fairness_gaps(targets, said, groups)["equal opportunity"] < 0.05
    assert fairness_gaps(targets, ours, groups)["equal opportunity"] < 0.01


def test_a_rate_of_one_is_not_above_it():
    assert "of 100.0% and" in answered(0.75, 0.5, 0.5, 0.6) and "above 100%" in answered(0.8, 0.5, 0.5, 0.6)


def answered(first: float, second: float, recall: float, precision: float) -> str:
    explorer = BaseRateExplorer(first, second)
    explorer.recall.value, explorer.precision.value = recall, precision
    return explorer.describe()


def test_no_other_module_needs_fairlearn():
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "llm_course").rglob("*.py")
               if "fairlearn" in path.read_text(encoding="utf-8")}
    assert sources == {"llm_course/fairness.py"}


def test_datasets_without_a_group_are_not_taken_for_planted_ones():
    with pytest.raises(ValueError, match="2 targets and 0 groups"):
        balancing_weights([1, 0], Dataset.from_dict({"group": []})["group"][:])


# --- the benchmark

def test_the_benchmark_compares_arms_seed_by_seed(monkeypatch):
    """Wherever their rows stand, and gaps by their size; a seed that one of two arms lacks is left out"""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    benchmark = importlib.import_module("fairness")
    assert benchmark.__file__ == str(ROOT / "benchmarks/fairness.py")

    def row(gap: float, accuracy: float) -> dict:
        return {"gap": gap, "accuracy": accuracy}

    rows = {"no remedy 0": row(0.5, 0.6), "no remedy 1": row(0.7, 0.5), "weights 1": row(0.1, 0.8), "weights 0": row(-0.1, 0.8),
            "frozen, no remedy 0": row(0.2, 0.7), "frozen, constraint 2": row(0.1, 0.7)}
    found = benchmark.summary({"remedies": rows})
    assert found["gap"]["weights"] == pytest.approx((0.1, 0)) and found["gaps of the seeds"]["weights"] == [-0.1, 0.1]
    assert set(found["above"]["no remedy"]["accuracy"]) == {"weights", "frozen, no remedy"}
    mean, reach = found["above"]["no remedy"]["accuracy"]["weights"]
    assert mean == pytest.approx(0.25) and reach == pytest.approx(12.7062 * np.std([0.2, 0.3], ddof=1) / np.sqrt(2), rel=1e-4)
    assert found["above"]["no remedy"]["gap"]["weights"][0] == pytest.approx(-0.5)
    assert found["above"]["frozen, no remedy"]["gap"]["weights"][0] == pytest.approx(-0.1)
    assert found["above"]["no bias"] == {"gap": {}, "accuracy": {}} == benchmark.summary({})["above"]["no remedy"]


@pytest.mark.parametrize("name", ["fairness", "interpretability"])
def test_the_summary_is_that_of_the_rows(name, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    benchmark = importlib.import_module(name)
    found = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())
    flat = pd.json_normalize(json.loads(json.dumps(benchmark.summary(found["rows"])))).iloc[0]
    kept = pd.json_normalize(found["summary"]).iloc[0]
    assert [*flat.index] == [*kept.index]
    for key in flat.index:
        np.testing.assert_allclose(flat[key], kept[key], atol=1e-9, err_msg=key)


class Nothing(NamedTuple):
    "Sizes of a benchmark that trains nothing"


def test_complete_rows_get_a_new_summary(tmp_path, monkeypatch):
    """Nothing is made, the machine stays, and a small try writes nothing"""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    common = importlib.import_module("common")
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    old = {"machine": {"cores": 1}, "rows": {"part": {"a 0": {"x": 1.0}}}, "summary": {"old": 1}, "note": "kept"}
    (tmp_path / "some.json").write_text(json.dumps(old))

    def run(small: bool):
        given = Namespace(part=None, small=small, rows="never", processes=1)
        common.make_parts("some", given, Nothing(), {"part": {"a 0": ()}}, {}, lambda rows: {"new": len(rows.get("part", {}))})
        return json.loads((tmp_path / "some.json").read_text())

    assert run(True) == old
    assert run(False) == {**old, "summary": {"new": 1}}


def test_rows_that_are_out_of_date_are_left_out_and_the_others_stay(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import common

    monkeypatch.setattr(common, "RESULTS", tmp_path)
    rows = {"trained": {"a 0": {"rate": 1.0}, "b 0": {"rate": 1.0}, "gone 0": {"rate": 1.0}}, "rates": {"a": {"rate": 1.0}}}
    (tmp_path / "some.json").write_text(json.dumps({"rows": rows, "summary": {}}))
    best = {"a": 1.0, "b": 2.0}
    left = common.make_parts(
        "some", Namespace(part=None, small=False, rows="never", processes=1), Nothing(),
        {"rates": {"a": ("a",)}, "trained": {"a 0": ("a", 0), "b 0": ("b", 0)}}, {"rates": None, "trained": None}, len,
        stale={"trained": lambda row, rows, way, seed: row["rate"] != best[way]})
    assert {part: sorted(each) for part, each in left.items()} == {"rates": ["a"], "trained": ["a 0"]}
    assert json.loads((tmp_path / "some.json").read_text())["rows"] == left
