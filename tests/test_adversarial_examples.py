"""Attacks keep their promises: the ball, the padding, the published algorithm, the budget, and what a kill leaves."""

import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2ForSequenceClassification

from llm_course.adversarial_examples import NORMS as BALLS
from llm_course.adversarial_examples import (
    AttackReport,
    Draft,
    Perturbed,
    SynonymAttack,
    TextFoolerAttack,
    TypoAttack,
    embedded,
    fgsm,
    hotflip,
    pgd,
    project,
    stable_probabilities,
    steepest,
)
from llm_course.attacks import report as report_room
from llm_course.attacks import vectors as vector_room
from llm_course.attacks.constraints import Constraint
from llm_course.data import load_dataset
from llm_course.models import TextClassifier
from llm_course.words import STOP_WORDS, may_change, readings, split_words

some = settings(max_examples=40, deadline=None, derandomize=True,
                suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
NORMS = st.sampled_from(["linf", "l2"])
ATTACKS = [SynonymAttack(), SynonymAttack(reconsider=False), SynonymAttack(shortlist=4), TextFoolerAttack(), TypoAttack(seed=5)]


class AddsUp:
    "A classifier of one number for each word; what it was asked stands in `asked`"

    def __init__(self, opinions: dict[str, float], labels=("negative", "positive"), bias: float = 0.0):
        self.opinions, self.labels, self.bias, self.asked = opinions, list(labels), bias, []

    def predict_proba(self, texts, batch_size=32):
        self.asked += texts
        sums = [self.bias + sum(self.opinions.get(word.lower(), 0.0) for word in split_words(text)[1::2])
                for text in texts]
        rows = [[0.0] * (len(self.labels) - 1) + [total] for total in sums]
        return torch.tensor(rows, dtype=torch.float64).reshape(-1, len(self.labels)).softmax(-1)


@pytest.fixture(scope="module")
def classifier() -> TextClassifier:
    "Not trained, which does not matter here"
    return TextClassifier.from_pretrained("minilm", labels=["negative", "positive"], max_length=48)


@pytest.fixture(scope="module")
def reviews():
    "Five short reviews"
    rows = load_dataset("movies")["test"].select(range(100))
    return rows.filter(lambda text: 6 <= len(text.split()) <= 9, input_columns="text").select(range(5))


def as_read(classifier, texts) -> dict:
    "Texts with the answers of a classifier as labels"
    return {"text": list(texts), "label": stable_probabilities(classifier, list(texts)).argmax(1).tolist()}


# Gradients


@settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(norm=NORMS, per_token=st.booleans(), start=st.booleans(), words=st.lists(st.integers(0, 9), min_size=2, max_size=4))
def test_padding_is_never_moved_and_changes_nothing(classifier, norm, per_token, start, words):
    texts = ["a fine film " * count for count in words]
    options = {"epsilon": 0.2, "steps": 2, "norm": norm, "per_token": per_token, "random_start": start}
    found = pgd(classifier, texts, [1] * len(texts), **options)
    assert not found.perturbation[~found.mask].any()
    sizes = found.perturbation.double()
    sizes = sizes.abs() if norm == "linf" else torch.linalg.vector_norm(sizes, dim=(2,) if per_token else (1, 2))
    assert (sizes <= 0.2 * (1 + 1e-6)).all() and sizes.max() > 0.05
    alone = pgd(classifier, texts[:1], [1], **options)
    length = int(found.mask[0].sum())
    assert alone.perturbation.shape[1] == length
    if norm == "l2":  # the sign of a gradient near zero is noise
        torch.testing.assert_close(found.perturbation[0, :length], alone.perturbation[0], rtol=1e-2, atol=1e-4)


def test_a_projection_ends_inside_and_moves_nothing_that_is_inside():
    generator = torch.Generator().manual_seed(0)
    for seed in range(200):
        norm, axes = BALLS[seed % 2], (2,) if seed % 4 < 2 else (1, 2)
        epsilon, size = [0.0, 0.01, 1.0, 100.0][seed % 3], 10.0 ** (seed % 13 - 6)
        shape = [int(n) for n in torch.randint(1, 5, (3,), generator=generator)]
        outside = size * torch.randn(shape, generator=generator)
        inside = project(outside, epsilon, norm, axes)
        moved = inside.double()
        length = moved.abs() if norm == "linf" else torch.linalg.vector_norm(moved, dim=axes)
        assert (length <= epsilon * (1 + 1e-6)).all()
        torch.testing.assert_close(project(inside, epsilon, norm, axes), inside, rtol=1e-6, atol=0)
        small = outside * (0.99 * epsilon / (outside.norm() + 1e-30))
        torch.testing.assert_close(project(small, epsilon, norm, axes), small, rtol=1e-6, atol=0)
    for seed in range(40):  # and there is no nearer point
        norm, epsilon = BALLS[seed % 2], 0.01 * 2.0 ** (seed % 10)
        outside = 3 * epsilon * torch.randn(1, 2, 3, generator=generator, dtype=torch.float64)
        nearest = project(outside, epsilon, norm, (1, 2))
        others = outside + epsilon * torch.randn(200, 2, 3, generator=generator, dtype=torch.float64)
        distances = torch.linalg.vector_norm(project(others, epsilon, norm, (1, 2)) - outside, dim=(1, 2))
        assert (distances >= torch.linalg.vector_norm(nearest - outside) - 1e-9 * epsilon).all()
    assert not project(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), 0.0, "l2", (1,)).any()


@pytest.mark.parametrize("size", [1e-44, 1e-40, 1e-25, 1.0, 1e25])
def test_the_steepest_direction_of_a_classifier_that_is_very_sure(size):
    for norm in BALLS:
        expected = torch.ones(1, 3, 4) / (1.0 if norm == "linf" else math.sqrt(12))
        torch.testing.assert_close(steepest(size * torch.ones(1, 3, 4), norm, (1, 2)), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("seed", range(20))
def test_linear_classifiers_in_any_number_of_dimensions_reach_the_worst_case(seed):
    generator, norm, epsilon = torch.Generator().manual_seed(seed), BALLS[seed % 2], [0.0, 0.03, 1.0, 5.0][seed % 4]
    weights, points = torch.randn(2, 7, 1 + seed, generator=generator, dtype=torch.float64)
    signs, weight = torch.randint(2, (7,), generator=generator), weights[0]

    def linear(inputs):
        return torch.stack([torch.zeros(len(inputs), dtype=inputs.dtype), inputs @ weight + 0.3], -1)

    worst = (2 * signs - 1) * (points @ weight + 0.3) - epsilon * torch.linalg.vector_norm(weight, 1 if norm == "linf" else 2)
    attacked = [fgsm(linear, points, signs, epsilon=epsilon, norm=norm)]
    if epsilon:
        attacked.append(pgd(linear, points, signs, epsilon=epsilon, norm=norm, steps=60, step_size=epsilon))
    for found in attacked:
        torch.testing.assert_close((2 * signs - 1) * found.after[:, 1], worst, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found.losses[-1], F.softplus(-worst), rtol=1e-6, atol=1e-6)


def test_pgd_is_the_loop_of_its_definition():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3)).double()
    inputs, targets = torch.randn(5, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    for norm in BALLS:
        delta = torch.zeros_like(inputs)
        for _ in range(7):
            moved = (inputs + delta).requires_grad_()
            [gradient] = torch.autograd.grad(F.cross_entropy(network(moved), targets, reduction="sum"), moved)
            if norm == "linf":
                delta = (delta + 0.05 * gradient.sign()).clamp(-0.2, 0.2)
            else:
                delta = delta + 0.05 * gradient / gradient.norm(dim=1, keepdim=True)
                delta = delta * (0.2 / delta.norm(dim=1, keepdim=True)).clamp(max=1)
        found = pgd(network, inputs, targets, epsilon=0.2, steps=7, step_size=0.05, norm=norm, random_start=False)
        torch.testing.assert_close(found.perturbation, delta, rtol=1e-9, atol=1e-9)
        assert all(parameter.grad is None for parameter in network.parameters())
    first, again, other = (pgd(network, inputs, targets, epsilon=0.3, steps=1, seed=seed).perturbation for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_one_full_step_of_pgd_is_fgsm(classifier, reviews):
    texts, labels = list(reviews["text"][:3]), [0, 1, 0]
    one = fgsm(classifier, texts, labels, epsilon=0.5, norm="l2")
    same = pgd(classifier, texts, labels, epsilon=0.5, norm="l2", steps=1, step_size=0.5, random_start=False)
    torch.testing.assert_close(one.perturbation, same.perturbation)


def test_a_flip_puts_words_and_no_special_token(classifier):
    flips = hotflip(classifier, "A long film that rewards patience.", 1, count=8)
    special = set(classifier.tokenizer.all_special_tokens)
    assert len(flips) == 8 and not special & {*flips["replacement"], *flips["token"]}
    with pytest.raises(ValueError, match="count"):
        hotflip(classifier, "A film.", 1, count=0)


def test_embeddings_give_the_logits_of_the_text(classifier, reviews):
    texts = list(reviews["text"][:3])
    function, embeddings, mask = embedded(classifier, texts)
    torch.testing.assert_close(function(embeddings).detach().cpu(), classifier.logits(texts), rtol=1e-4, atol=1e-5)
    assert mask.shape == embeddings.shape[:2]
    found = fgsm(classifier, texts, [0, 1, 0], epsilon=0.0)
    assert not found.perturbation.any() and not found.fooled.any()


@pytest.mark.parametrize("side", ["left", "right"])
def test_embeddings_of_a_decoder_give_the_logits_of_the_text(side):
    torch.manual_seed(0)
    tokenizer = TextClassifier.from_pretrained("minilm", labels=["a", "b"]).tokenizer
    tokenizer.padding_side = side
    config = GPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=64, vocab_size=len(tokenizer), num_labels=2,
                        pad_token_id=tokenizer.pad_token_id)
    decoder = TextClassifier(GPT2ForSequenceClassification(config), tokenizer, ["a", "b"], max_length=32)
    texts = ["Good.", "A much longer text than the first one, with more words.", "Not bad at all."]
    function, embeddings, mask = embedded(decoder, texts)
    torch.testing.assert_close(function(embeddings).detach(), decoder.logits(texts), rtol=1e-4, atol=1e-5)
    found = pgd(decoder, texts, [0, 1, 0], epsilon=0.5, steps=2, norm="l2")
    assert not found.perturbation[~mask].any() and found.losses[-1].mean() > found.losses[0].mean()


@pytest.mark.parametrize("options, words", [
    ({"epsilon": -1.0}, "epsilon"), ({"epsilon": math.inf}, "epsilon"), ({"epsilon": True}, "epsilon"),
    ({"epsilon": 1.0, "norm": "l1"}, "norm"), ({"epsilon": 1.0, "targets": [2, 0]}, "0 to 1"),
    ({"epsilon": 1.0, "targets": [0]}, "needs a target"), ({"epsilon": 1.0, "inputs": []}, "one input"),
])
def test_bad_input_of_gradient_attacks(classifier, options, words):
    options = {"inputs": ["a", "b"], "targets": [0, 1], **options}
    inputs, targets = options.pop("inputs"), options.pop("targets")
    for function in (fgsm, pgd):
        with pytest.raises(ValueError, match=words):
            function(classifier, inputs, targets, **options)


def test_more_bad_input_of_gradient_attacks(classifier):
    for options, words in (({"steps": -1}, "steps"), ({"steps": 0}, "steps"), ({"step_size": -0.5}, "step_size"),
                           ({"seed": -1}, "seed")):
        with pytest.raises(ValueError, match=words):
            pgd(classifier, ["a"], [0], epsilon=1.0, **options)
    with pytest.raises(TypeError, match="one string"):
        fgsm(classifier, "a film", [0], epsilon=1.0)


# Words


def pwws_one_by_one(classifier, text: str, label: int, table: dict[str, list[str]]) -> str:
    "The algorithm as TextAttack runs it, one text at a time, with saliencies of all words and no memory"
    def row(pieces):
        return stable_probabilities(classifier, ["".join(pieces)])[0]

    def loss(pieces):
        return 1 - row(pieces)[label]

    def put(pieces, place, word):
        return [*pieces[:place], word, *pieces[place + 1 :]]

    current = split_words(text)
    places = [i for i in range(1, len(current), 2) if may_change(current, i)]
    saliency = np.array([loss(put(current, i, "[UNK]")) for i in places])
    gains = np.array([max((loss(put(current, i, w)) for w in table.get(current[i].lower(), [])), default=0.0)
                      for i in places])
    weight = np.exp(saliency) / np.exp(saliency).sum() * gains if places else np.array([])
    for i in [places[k] for k in np.argsort(-weight, kind="stable")]:
        texts = [put(current, i, word) for word in sorted(table.get(current[i].lower(), []))]
        losses = [loss(pieces) for pieces in texts]
        if texts and max(losses) > loss(current):
            current = texts[int(np.argmax(losses))]
        if row(current).argmax() != label:
            break
    return "".join(current)


VOCABULARY = [f"w{chr(97 + i)}{chr(97 + j)}" for i in range(4) for j in range(3)]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data(), classes=st.integers(2, 3), window=st.integers(1, 4), batch_size=st.integers(1, 7))
def test_pwws_is_the_published_algorithm_whatever_the_window(data, classes, window, batch_size):
    generator = Random(data.draw(st.integers(0, 10**6)))
    opinions = {word: generator.gauss(0.3, 1) for word in VOCABULARY}
    table = {word: generator.sample([w for w in VOCABULARY if w != word], generator.randint(0, 4))
             for word in VOCABULARY}
    classifier = AddsUp(opinions, labels=[str(c) for c in range(classes)])
    texts = [" ".join(generator.choices([*VOCABULARY, "the", "of"], k=generator.randint(0, 7))) for _ in range(5)]
    rows = {"text": texts, "label": [classes - 1] * 5}
    report = SynonymAttack(candidates=lambda word: table.get(word, ())).attack(
        classifier, rows, window=window, batch_size=batch_size, progress=False)
    for result in report.results:
        if result.status != "misread":
            assert result.perturbed == pwws_one_by_one(classifier, result.text, classes - 1, table)
        assert (result.status == "succeeded") == (
            result.status != "misread"
            and stable_probabilities(classifier, [result.perturbed])[0].argmax() != classes - 1)


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_batches_and_windows_do_not_change_the_result(classifier, reviews, attack):
    rows = as_read(classifier, reviews["text"])
    reports = [attack.attack(classifier, rows, batch_size=batch_size, window=window, progress=False)
               for batch_size, window in ((32, 32), (7, 2), (1, 5))]
    assert reports[0].results == reports[1].results == reports[2].results


def test_a_shortlist_asks_less_and_turns_as_many(classifier, reviews):
    rows = as_read(classifier, reviews["text"])
    whole, listed = (SynonymAttack(shortlist=size).attack(classifier, rows, progress=False) for size in (None, 8))
    assert listed.queries_per_text < whole.queries_per_text
    assert listed.count("succeeded") >= whole.count("succeeded") - 1


def test_shortlists_follow_the_gradient_and_end_when_all_was_tried():
    draft, sure = Draft("A dull film, and an awful story of boring people.", 1), np.array([0.1, 0.9])
    draft.row = sure  # no answer is better than this one, so nothing is ever replaced
    attack, generator = SynonymAttack(shortlist=2), np.random.default_rng(0)
    left = {(place, word) for place, words in attack.options(draft, Random(0)).items() for word in words}
    assert len(left) > 20
    search, size = attack.search(draft, Random(0)), 2
    question = next(search)
    while left:
        pairs = [(place, word) for place, words in question.items() for word in words]
        assert set(pairs) == left
        promises = generator.normal(size=len(pairs))
        expected = [pairs[i] for i in np.argsort(-promises)[:size]]
        places = list(dict.fromkeys(place for place, _ in expected))
        question = search.send(promises)
        for place in places:
            assert question == [draft.with_word(place, word) for at, word in expected if at == place]
            try:
                question = search.send(np.array([sure] * len(question)))
            except StopIteration:
                assert left == set(expected) and place == places[-1]
        left, size = left - set(expected), 2 * size
    assert not draft.changes


PLEASANT = {"text": ["A good and great and funny film with many pleasant scenes."] * 2, "label": [1, 1]}


@pytest.mark.parametrize("kind", [SynonymAttack, TextFoolerAttack, TypoAttack])
@pytest.mark.parametrize("budget", [1, 2, 5, 20])
def test_the_budget_holds_for_each_text(kind, budget):
    classifier = AddsUp({"good": 3.0, "great": 2.0, "funny": 2.0})
    report = kind(query_budget=budget).attack(classifier, PLEASANT, progress=False)
    assert all(1 <= result.queries <= budget for result in report.results)
    assert len(classifier.asked) <= 2 * budget + 2  # two: asked again on the edge of rounding


class NoLonger(Constraint):
    "A new word has no more letters than the old one"

    def allowed_words(self, pieces, place, words):
        return [word for word in words if len(word) <= len(pieces[place])]


class Briefly(SynonymAttack):
    "An attack with a constraint of its own"

    @property
    def constraints(self):
        return *super().constraints, NoLonger()


def test_a_constraint_of_ones_own_holds():
    report = Briefly().attack(AddsUp({"good": 3.0, "great": 2.0, "funny": 2.0}), PLEASANT, progress=False)
    for result in report.results:
        pieces = split_words(result.text)
        assert result.changes and all(len(new) <= len(pieces[place]) for place, new in result.changes)
    kept = SynonymAttack(protected_words=["Good", "great", "funny", "film"], candidates=lambda word: ["dull"])
    [result, _] = kept.attack(AddsUp({"good": 3.0}), PLEASANT, progress=False).results
    assert {split_words(result.text)[place] for place, _ in result.changes} <= {"pleasant", "scenes", "many"}


def test_any_other_class_than_the_label_is_a_success():
    three = AddsUp({"good": 3.0, "dear": -3.0, "full": 2.0}, labels=["bad", "so-so", "fine"])
    report = SynonymAttack().attack(three, {"text": ["good"], "label": [2]}, progress=False)
    assert report.success_rate == 1 and report.results[0].perturbed == "dear"


def test_nothing_to_change_is_counted():
    sure = AddsUp({"the": 1.0, "x": 2.0})
    nothing = SynonymAttack().attack(sure, {"text": ["the of", "<b> & x"], "label": [1, 1]}, progress=False)
    assert nothing.count("nothing to change") == 2 and nothing.success_rate == 0 and nothing.queries_per_text == 1
    assert math.isnan(nothing.changed_fraction) and "0 of 0" in nothing._repr_html_()


def test_what_moved_into_the_wing_is_the_same_and_is_read_from_old_pickles():
    assert AttackReport is report_room.AttackReport and Perturbed is vector_room.Perturbed
    for name in (b"AttackReport", b"Perturbed", b"AttackedText", b"tags_kept"):
        found = pickle.loads(b"cllm_course.adversarial_examples\n" + name + b"\n.")  # as version 0.1.0 named it
        assert found.__name__.encode() == name


def test_a_shortlist_needs_a_model():
    with pytest.raises(TypeError, match="only probabilities"):
        SynonymAttack(shortlist=3).attack(AddsUp({}), {"text": ["a"], "label": [0]})
    with pytest.raises(ValueError, match="shortlist"):
        SynonymAttack(shortlist=0)


@pytest.mark.parametrize("count", [8, pytest.param(40, marks=pytest.mark.slow)])
def test_constraints_of_textfooler(count):
    rows = load_dataset("movies")["test"].select(range(count))
    rows = {"text": rows["text"], "label": [1] * count}
    classifier = AddsUp({word: 0.3 for text in rows["text"] for word in split_words(text.lower())[1::2]})
    report = TextFoolerAttack(max_fraction=0.2, min_similarity=0.9).attack(classifier, rows, progress=False)
    changed = [(result, dict(result.changes)) for result in report.results if result.changes]
    assert len(changed) > count // 2
    for result, changes in changed:
        pieces = split_words(result.text)
        assert len(changes) <= 0.2 * result.words and result.similarity >= 0.9
        for place, new in changes.items():
            assert pieces[place].lower() not in STOP_WORDS and new[0].isupper() == pieces[place][0].isupper()
            tags = {reading.tag for reading in readings(pieces[place].lower())}
            assert tags & {reading.tag for reading in readings(new.lower())}
    assert TextFoolerAttack(min_similarity=1.0).attack(classifier, rows, progress=False).count("succeeded") == 0
    none = TextFoolerAttack(max_fraction=0.0).attack(classifier, rows, progress=False)
    assert none.count("nothing to change") == none.attacked and none.queries_per_text == 1


# Bad input


BAD_DATA = [
    ({"text": [], "label": []}, ValueError, "empty"), ([], ValueError, "empty"), (iter(()), ValueError, "empty"),
    ({"text": ["a"]}, ValueError, "no column 'label'"), ({"text": ["a"], "label": [2]}, ValueError, "label 2"),
    ({"text": ["a"], "label": [-1]}, ValueError, "label -1"), ({"text": ["a"], "label": ["x"]}, ValueError, "'x'"),
    ({"text": [None], "label": [1]}, TypeError, "not a string"),
    ([{"text": "a", "label": 0}, {"text": "b", "label": 5}], ValueError, "Row 1"),
    (({"text": t, "label": 1} for t in ("a", 3)), TypeError, "Row 1"), (["a"], ValueError, "expected a dict"),
]


@pytest.mark.parametrize("data, kind, words", BAD_DATA, ids=range(len(BAD_DATA)))
def test_bad_data_is_told(data, kind, words):
    with pytest.raises(kind, match=words):
        SynonymAttack().attack(AddsUp({"a": 1.0}), data, progress=False)


@pytest.mark.parametrize("make, words", [
    (lambda: SynonymAttack(query_budget=0), "query_budget"), (lambda: SynonymAttack(query_budget=2.5), "query_budget"),
    (lambda: TypoAttack(max_fraction=1.1), "max_fraction"), (lambda: TypoAttack(seed=-1), "seed"),
    (lambda: TypoAttack(shortest=1), "shortest"), (lambda: TypoAttack(tries=0), "tries"),
    (lambda: TextFoolerAttack(min_similarity=1.5), "min_similarity"),
    (lambda: SynonymAttack(protected_words="good"), "protected_words"),
    (lambda: SynonymAttack().attack(AddsUp({}, labels=["one"]), {"text": ["a"], "label": [0]}), "two labels"),
    (lambda: SynonymAttack().attack(AddsUp({}), {"text": ["a"], "label": [0]}, window=0), "window"),
    (lambda: SynonymAttack().attack(AddsUp({}), {"text": ["a"], "label": [0]}, batch_size=-1), "batch_size"),
])
def test_bad_settings_are_told(make, words):
    with pytest.raises(ValueError, match=words):
        make()


# Streams and interruptions


def stream(count: int):
    "Rows that no memory holds"
    return ({"text": f"A good film, number {i}, with a fine story.", "label": 1} for i in range(count))


def test_memory_does_not_grow_with_the_stream():
    classifier = AddsUp({"good": 2.0, "fine": 1.0})
    peaks = []
    for count in (40, 40, 400):  # the first fills caches
        tracemalloc.start()
        classifier.asked = classifier.asked[:0]
        report = SynonymAttack().attack(_forgetful(classifier), stream(count), window=8, progress=False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(report.results) == count
    per_text = (peaks[2] - peaks[1]) / 360
    assert per_text < 4000, per_text  # bytes: a result with two short texts; what was asked of it takes several times more


def _forgetful(classifier: AddsUp) -> AddsUp:
    "The same classifier, which keeps no list of what it was asked"
    class Forgetful(AddsUp):
        def predict_proba(self, texts, batch_size=32):
            rows = super().predict_proba(texts, batch_size)
            self.asked.clear()
            return rows
    return Forgetful(classifier.opinions, classifier.labels)


SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
from test_adversarial_examples import AddsUp, TypoAttack, stream

class Slow(AddsUp):
    def predict_proba(self, texts, batch_size=32):
        time.sleep(0.02)
        return super().predict_proba(texts, batch_size)

TypoAttack(seed=2).attack(Slow({{"good": 2.0, "fine": 1.0}}), stream(200), window=4, progress=False,
                          resume_from=sys.argv[1])
"""


def test_a_kill_loses_no_finished_text(tmp_path):
    path, script = tmp_path / "attack.jsonl", tmp_path / "run.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    process = subprocess.Popen([sys.executable, script, path], env=environment)
    end = time.monotonic() + 120
    while not path.is_file() or path.read_bytes().count(b"\n") < 20:
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = path.read_bytes().rpartition(b"\n")[0].splitlines()
    assert 20 <= len(kept) < 201
    with open(path, "ab") as file:
        file.write(b'{"position": 7, "te')  # as if torn
    classifier, attack = AddsUp({"good": 2.0, "fine": 1.0}), TypoAttack(seed=2)
    again = attack.attack(classifier, stream(200), window=4, progress=False, resume_from=path)
    lines = path.read_bytes().splitlines()
    assert lines[: len(kept)] == kept and len(lines) == 201 and again.fresh == 200 - (len(kept) - 1)
    positions = [json.loads(line)["position"] for line in lines[1:]]
    assert sorted(positions) == list(range(200))
    whole = attack.attack(AddsUp({"good": 2.0, "fine": 1.0}), stream(200), progress=False)
    assert again.results == whole.results
    classifier.asked.clear()
    assert attack.attack(classifier, stream(200), progress=False, resume_from=path).results == whole.results
    assert not classifier.asked  # all was there


def test_a_file_of_something_else_is_refused_and_kept(tmp_path):
    rows = {"text": ["A good film.", "A fine film."], "label": [1, 1]}
    classifier, path = AddsUp({"good": 2.0, "fine": 1.0}), tmp_path / "attack.jsonl"
    SynonymAttack().attack(classifier, rows, progress=False, resume_from=path)
    before = path.read_bytes()
    for attack, other, data, words in (
        (SynonymAttack(seed=1), classifier, rows, "its attack"),
        (SynonymAttack(reconsider=False), classifier, rows, "its attack"),
        (SynonymAttack(), AddsUp({}, labels=["a", "b"]), rows, "its classifier"),
        (SynonymAttack(), classifier, {"text": rows["text"], "label": [1, 0]}, "its dataset"),
        (SynonymAttack(), classifier, stream(2), "its dataset"),
    ):
        with pytest.raises(ValueError, match=words):
            attack.attack(other, data, progress=False, resume_from=path)
        assert path.read_bytes() == before
    path.write_bytes(before.replace(b'"position": 0', b'"position"; 0'))
    with pytest.raises(ValueError, match=r"Line 2 of .* is damaged"):
        SynonymAttack().attack(classifier, rows, progress=False, resume_from=path)
    for content in (b"my shopping list", b"my shopping list\n", b"[1]\n", b'{"a": 1}\n'):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="no file of an attack"):
            SynonymAttack().attack(classifier, rows, progress=False, resume_from=path)
        assert path.read_bytes() == content


def test_a_stream_that_changed_is_noticed(tmp_path):
    classifier, path = AddsUp({"good": 2.0, "fine": 1.0}), tmp_path / "attack.jsonl"
    SynonymAttack().attack(classifier, stream(3), progress=False, resume_from=path)
    with pytest.raises(ValueError, match="Text 0 of the data"):
        SynonymAttack().attack(classifier, ({**row, "label": 0} for row in stream(3)), progress=False, resume_from=path)
    more = SynonymAttack().attack(classifier, stream(5), progress=False, resume_from=path)
    assert len(more.results) == 5 and more.fresh == 2


def test_another_training_is_another_classifier(tmp_path, classifier):
    from llm_course.adversarial_examples import fingerprint
    other = TextClassifier.from_pretrained("minilm", labels=["negative", "positive"], max_length=48, seed=1)
    same = TextClassifier.from_pretrained("minilm", labels=["negative", "positive"], max_length=48)
    assert fingerprint(classifier) == fingerprint(same) != fingerprint(other)


def test_progress_goes_to_stderr_outside_of_notebooks(capsys):
    SynonymAttack().attack(AddsUp({"good": 2.0}), {"text": ["good"], "label": [1]})
    assert "1/1" in capsys.readouterr().err
