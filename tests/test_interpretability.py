"""Explanations from outside: what is refused, equality with Captum, all kinds of models, and the benchmark at small size."""

import copy
import importlib
import sys
import warnings
from functools import lru_cache

import captum.attr
import numpy as np
import pytest
import torch
from conftest import ROOT, run_tool
from scipy.stats import spearmanr

from llm_course.data import load_dataset
from llm_course.embeddings import input_embeddings
from llm_course.explanations import checked_baselines, hiding_token, read_words
from llm_course.interpretability import (
    METHODS,
    after_deletion,
    agreement,
    explain,
    found_first,
    in_random_order,
    log_odds,
    occlusion,
    plant_word,
    sampled_shapley,
    shapley_values,
    value_of_words,
    with_shuffled_weights,
)
from llm_course.models import TextClassifier

LABELS = ["negative", "positive"]
KINDS = ("tiny-bert", "tiny-gpt", "tiny-t5")
RESULT = ROOT / "benchmarks/results/interpretability.json"
TEXTS = ["Unwatchable, dull film.", "A gorgeous and witty film; not for a second too long!", "no"]


@lru_cache
def tiny(name: str = "tiny-bert") -> TextClassifier:
    return TextClassifier.from_pretrained(name, labels=LABELS, device="cpu")


def forward(classifier: TextClassifier, target: int = 1):
    "What Captum asks: token ids to log-odds"
    def function(ids):
        logits = classifier.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()
        return log_odds(logits, torch.full((len(ids),), target))
    return function


def ends(classifier: TextClassifier, text: str):
    "The words of a text, its token ids and those of its baseline, (1, T) each"
    read, = read_words(classifier, [text])
    ground, = checked_baselines([read], None, classifier.tokenizer)
    return read, torch.tensor([read.token_ids]), torch.tensor([ground])


# --- bad input

@pytest.mark.parametrize(("options", "said"), [
    ({"method": "magic"}, "method must be one of occlusion, .*got 'magic'"),
    ({"target": 2}, "target must be a class, negative, positive, or its number from 0 to 1, got 2"),
    ({"target": -1}, "got -1"), ({"target": True}, "got True"), ({"target": 0.0}, "got 0.0"),
    ({"target": "neutral"}, "target must be one of negative, positive, got 'neutral'"),
    ({"steps": 0}, "steps must be a whole number of at least 1, got 0"), ({"steps": 1.5}, "steps"),
    ({"samples": 0}, "samples"), ({"batch_size": 0}, "batch_size"), ({"seed": -1}, "seed"),
    ({"baselines": [[0, 0]]}, "one baseline for each text, got 1 for 3"),
    ({"baselines": [[0], [0], [0]]}, "The baseline of text 0 has 1 tokens and the text"),
])
def test_what_cannot_be_asked_is_refused(options, said):
    """Before the model is asked, and it stays in the mode that it was in"""
    classifier = copy.deepcopy(tiny())
    classifier.model.train()
    with pytest.raises(ValueError, match=said):
        explain(classifier, TEXTS, **options)
    assert classifier.model.training


@pytest.mark.parametrize("text", ["", " ", "...", "?! — ;"])
def test_a_text_of_no_words(text):
    with pytest.raises(ValueError, match=r"Text 1 has no word to explain.*Leave such texts out"):
        explain(tiny(), ["fine", text])


def test_texts_that_are_none():
    with pytest.raises(TypeError, match="write \\[text\\]"):
        explain(tiny(), "a film")
    with pytest.raises(TypeError, match="not a string"):
        explain(tiny(), [None])
    assert len(explain(tiny(), [])) == 0 and explain(tiny(), []).table.empty


def test_a_baseline_with_a_token_that_is_none():
    read, = read_words(tiny(), TEXTS[2:])
    outside = [len(tiny().tokenizer), *read.token_ids[1:]]
    with pytest.raises(ValueError, match="The baseline of text 0 has the token"):
        explain(tiny(), TEXTS[2:], baselines=[outside])


def test_what_is_not_about_the_same_texts():
    with pytest.raises(ValueError, match="not about the same texts"):
        agreement(explain(tiny(), TEXTS[:1]), explain(tiny(), TEXTS[1:2]))
    with pytest.raises(ValueError, match="as many of each"):
        plant_word(TEXTS, [True])
    with pytest.raises(ValueError, match="at most 12"):
        shapley_values(lambda kept: kept.sum(1), 13)
    with pytest.raises(ValueError, match="fractions"):
        after_deletion(tiny(), explain(tiny(), TEXTS), (1.2,))


def test_attention_of_an_encoder_decoder():
    """It is refused, and the model attends as before"""
    before = tiny("tiny-t5").model.config._attn_implementation
    with pytest.raises(ValueError, match="Choose another method"):
        explain(tiny("tiny-t5"), TEXTS, method="attention")
    assert tiny("tiny-t5").model.config._attn_implementation == before


# --- equality with the reference

@pytest.mark.parametrize("kind", ["tiny-bert", "tiny-gpt"])
def test_numbers_equal_captums(kind):
    classifier = tiny(kind)
    read, ids, ground = ends(classifier, TEXTS[1])
    layer = captum.attr.LayerIntegratedGradients(forward(classifier), input_embeddings(classifier.model))
    theirs = layer.attribute(ids, ground, n_steps=24, method="riemann_middle").sum(-1)[0]
    ours = explain(classifier, TEXTS[1:2], method="integrated gradients", target=1, steps=24).scores[0]
    np.testing.assert_allclose(ours, [theirs[list(tokens)].sum().item() for tokens in read.tokens], atol=1e-4)
    groups = torch.zeros_like(ids)
    for word, tokens in enumerate(read.tokens, start=1):
        groups[0, list(tokens)] = word
    first = [tokens[0] for tokens in read.tokens]
    theirs = captum.attr.FeatureAblation(forward(classifier)).attribute(ids, ground, feature_mask=groups)[0, first]
    ours = explain(classifier, TEXTS[1:2], method="occlusion", target=1).scores[0]
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4)


def test_shapley_values_equal_captums():
    """Captum counts what is never hidden as one more player, whose coming changes nothing"""
    classifier = tiny()
    read, ids, ground = ends(classifier, "Not a bad film")
    groups = torch.zeros_like(ids)
    for word, tokens in enumerate(read.tokens, start=1):
        groups[0, list(tokens)] = word
    theirs = captum.attr.ShapleyValues(forward(classifier)).attribute(ids, ground, feature_mask=groups)
    value = lambda kept: forward(classifier)(read.hidden(kept, ground[0].tolist())).detach()  # noqa: E731
    ours = shapley_values(value, 4)
    np.testing.assert_allclose(ours, theirs[0, [tokens[0] for tokens in read.tokens]].numpy(), atol=1e-4)
    many = sampled_shapley(value, 4, orders=400)
    assert (many - ours).abs().max() < 0.3 * ours.abs().max()


# --- what holds for each model and each method

@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_add_up(kind):
    found = explain(tiny(kind), TEXTS, method="integrated gradients", steps=64)
    change = np.abs(np.array(found.values) - np.array(found.baselines))
    assert (np.abs(found.missing) <= 0.01 * change + 1e-3).all()
    assert np.abs(explain(tiny(kind), TEXTS, method="shapley", samples=20).missing).max() < 1e-4


@pytest.mark.parametrize("method", list(METHODS))
def test_an_explanation_depends_on_nothing_else(method):
    """Not on the batch, the mode of the model or the texts beside it; the same call gives the same numbers"""
    classifier = copy.deepcopy(tiny())
    weights = {name: value.clone() for name, value in classifier.model.state_dict().items()}
    options = {"method": method, "target": "positive", "steps": 4, "samples": 20}
    found = explain(classifier, TEXTS, **options)
    classifier.model.train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = [explain(classifier, [text], batch_size=3, **options) for text in TEXTS]
    assert classifier.model.training and not any(weight.grad is not None for weight in classifier.model.parameters())
    for scores, alone in zip(found.scores, again, strict=True):
        np.testing.assert_allclose(scores, alone.scores[0], atol=1e-4)
    assert all(torch.equal(weights[name], value) for name, value in classifier.model.state_dict().items())


def test_of_two_classes_one_is_the_other_turned_round():
    for method in ("occlusion", "integrated gradients", "shapley"):
        one, two = (explain(tiny(), TEXTS, method=method, target=label, steps=8, samples=20) for label in LABELS)
        for left, right in zip(one.scores, two.scores, strict=True):
            np.testing.assert_allclose(left, -right, atol=1e-4)
        np.testing.assert_allclose(one.values, [-value for value in two.values], atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_classifier_of_three_classes(method):
    """The class of each text is the most probable; its log-odds are against both others, and the numbers of all add up"""
    three = TextClassifier.from_pretrained("tiny-bert", labels=["negative", "neutral", "positive"], seed=3, device="cpu")
    with torch.no_grad():
        three.model.classifier.out_proj.weight.mul_(20)  # a head that was never trained is nearly undecided
    found = explain(three, TEXTS, method=method, steps=100, samples=60)
    p = three.predict_proba(TEXTS)
    assert found.targets == tuple(p.argmax(1).tolist()) and found.labels == ("negative", "neutral", "positive")
    np.testing.assert_allclose(found.values, p.max(1).values.logit(), atol=1e-4)
    if method in ("shapley", "integrated gradients"):
        assert np.abs(found.missing).max() < 0.02
    named, numbered = (explain(three, TEXTS, method=method, target=target, samples=60) for target in ("neutral", 1))
    for ours, theirs in zip(named.scores, numbered.scores, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(named.values, p[:, 1].logit(), atol=1e-4)
    after = after_deletion(three, named, (0.5, 1.0))
    assert after.shape == (3, 2) and np.allclose(after[:, 1], three.predict_proba(
        [text.without(range(len(text.words))) for text in named.texts])[:, 1], atol=1e-5)


@pytest.mark.parametrize("target", [0, 1, 2])
def test_numbers_of_three_classes_equal_captums(target):
    three = TextClassifier.from_pretrained("tiny-bert", labels=["negative", "neutral", "positive"], device="cpu")
    read, ids, ground = ends(three, TEXTS[1])
    theirs = captum.attr.LayerIntegratedGradients(forward(three, target), input_embeddings(three.model)).attribute(
        ids, ground, n_steps=16, method="riemann_middle").sum(-1)[0]
    found = explain(three, [TEXTS[1]], method="integrated gradients", target=target, steps=16)
    np.testing.assert_allclose(found.scores[0], [theirs[list(tokens)].sum().item() for tokens in read.tokens], atol=1e-4)


def test_a_word_that_was_cut_off_counts_nothing():
    classifier = TextClassifier.from_pretrained("tiny-bert", labels=LABELS, device="cpu", max_length=6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that texts were cut
        scores = explain(classifier, ["a film that I liked very much indeed"], method="occlusion", target=1).scores[0]
    assert len(scores) == 8 and not scores[-3:].any() and scores[:2].all()


def test_a_classifier_with_a_word_map_and_one_with_a_single_output():
    mapped = TextClassifier(tiny().model, tiny().tokenizer, LABELS, device="cpu", word_map={"flick": "film"})
    np.testing.assert_allclose(explain(mapped, ["a dull flick"], target=1).scores[0],
                               explain(tiny(), ["a dull film"], target=1).scores[0], atol=1e-4)
    single = TextClassifier.from_pretrained("tiny-bert", labels=["rating"], device="cpu")
    found = explain(single, ["a dull film"])
    np.testing.assert_allclose(found.values, single.logits(["a dull film"])[:, 0], atol=1e-4)


def test_a_text_is_never_read_as_markup():
    page = explain(tiny(), ['<img src=x onerror="alert(1)"> & "film"'], samples=20)._repr_html_()
    assert "<img" not in page and 'onerror="' not in page and "&lt;img" in page


# --- tests of explanations

def test_a_planted_word_and_an_order_by_lot():
    planted = plant_word(TEXTS, [True, False, True], "thursday", seed=3)
    assert ["thursday" in text for text in planted] == [True, False, True]
    assert [text.replace("thursday", "").split() for text in planted] == [text.split() for text in TEXTS]
    assert planted == plant_word(TEXTS, [True, False, True], "thursday", seed=3)
    found = explain(tiny(), ["a Thursday film"], method="occlusion")
    order = found.order(0)
    assert found_first(found, "thursday")[0] == (order[0] == 1)
    dealt = in_random_order(explain(tiny(), TEXTS), seed=1)
    assert all(sorted(a) == sorted(b) for a, b in zip(dealt.scores, explain(tiny(), TEXTS).scores, strict=True))


def test_shuffling_forgets_and_leaves_the_classifier():
    texts = load_dataset("movies")["test"]["text"][:8]
    before = tiny().logits(texts)
    forgot = with_shuffled_weights(tiny(), seed=1)
    assert torch.equal(tiny().logits(texts), before) and not torch.allclose(forgot.logits(texts), before, atol=1e-2)
    for name, weight in forgot.model.named_parameters():
        assert torch.equal(weight.flatten().sort().values, tiny().model.get_parameter(name).flatten().sort().values)
    one, two = (explain(model, texts[:3], method="occlusion", target=1) for model in (tiny(), forgot))
    expected = [spearmanr(a, b).statistic for a, b in zip(one.scores, two.scores, strict=True)]
    np.testing.assert_allclose(agreement(one, two), expected)


def test_occlusion_asks_once_for_each_word():
    asked = []

    def value(kept):
        asked.extend(kept.tolist())
        return kept.float().sum(1)

    assert occlusion(value, 3).tolist() == [1, 1, 1] and len(asked) == 4


@pytest.mark.slow
def test_the_benchmark_runs_whole_at_small_size():
    before = RESULT.read_bytes() if RESULT.is_file() else None
    output = run_tool(sys.executable, ROOT / "benchmarks/interpretability.py", "--small", timeout=1500,
                      PYTHONWARNINGS="ignore", HF_HUB_OFFLINE="1")
    assert {line.split()[0] for line in output.splitlines() if line.strip()} >= {
        "completeness", "faithfulness", "shuffled", "planted", "summary"}
    assert (RESULT.read_bytes() if RESULT.is_file() else None) == before


def test_the_benchmark_compares_methods_review_by_review(monkeypatch):
    """Of the same block, wherever its row stands; a block that one of two methods lacks is left out"""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    benchmark = importlib.import_module("interpretability")
    assert benchmark.__file__ == str(ROOT / "benchmarks/interpretability.py")

    def row(*values: float) -> dict:
        return {"comprehensiveness": [*values], "sufficiency": [-value for value in values]}

    rows = {"faithfulness": {"shapley 0": row(0.5, 0.7), "shapley 50": row(0.4), "random order 50": row(0.1),
                             "random order 0": row(0.2, 0.3), "lime 0": row(0.4, 0.5)}}
    found = benchmark.summary(rows)["above"]
    assert found["random order"]["shapley"]["comprehensiveness"][0] == pytest.approx((0.3 + 0.4 + 0.3) / 3)
    assert found["random order"]["lime"]["sufficiency"][0] == pytest.approx(-0.2)
    assert found["shapley"]["lime"]["comprehensiveness"][0] == pytest.approx(-0.15)
    assert "shapley" not in found["shapley"] and benchmark.summary({})["above"] == {}


def test_what_cannot_be_hidden_or_deleted_is_refused():
    read, = read_words(tiny(), ["A dull film."])
    ground, = checked_baselines([read], None, tiny().tokenizer)
    kept = torch.tensor([[True, True, False]])
    for baseline, choice in ((ground[:-1], kept), ([*ground, 1], kept), (ground, kept.int()), (ground, kept[:, :2])):
        with pytest.raises(ValueError, match=r"must be True or False|must have as many"):
            read.hidden(choice, baseline)
    for gone in ([-1], [3], [True]):
        with pytest.raises(ValueError, match="counted from 0 to 2"):
            read.without(gone)
    for target in (2, -1, "good"):
        with pytest.raises(ValueError, match="target must be"):
            value_of_words(tiny(), read, ground, target)
    for baseline in ([token + 0.5 for token in ground], [float("nan")] * len(ground), [-1] * len(ground)):
        with pytest.raises(ValueError, match="whole numbers"):
            explain(tiny(), ["A dull film."], baselines=[baseline])
    assert explain(tiny(), ["A dull film."], baselines=iter([ground])).missing.shape == (1,)


def test_no_word_is_hidden_behind_the_end_of_a_text():
    class Bare:
        mask_token_id = unk_token_id = None
        pad_token_id = 7

    assert hiding_token(Bare) == 7
    with pytest.raises(ValueError, match="Give baselines"):
        hiding_token(Bare, 7)


@pytest.mark.parametrize("method", METHODS)
def test_words_that_were_cut_off_get_nothing(method):
    short = TextClassifier.from_pretrained("tiny-bert", labels=LABELS, device="cpu", max_length=16)
    text = "a film that I liked very much indeed " * 20
    with pytest.warns(UserWarning, match="1 of 1 texts are longer than 16 tokens"):
        found = explain(short, [text], method=method, target=1, samples=20, steps=2)
    read = [bool(tokens) for tokens in found.texts[0].tokens]
    assert 5 < sum(read) < 20 and not found.scores[0][~np.array(read)].any() and found.scores[0].any()


def test_words_that_were_replaced_are_not_replaced_again():
    plain, text = tiny(), "a dull film"
    swapping = TextClassifier(plain.model, plain.tokenizer, LABELS, device="cpu",
                              word_map={"dull": "gorgeous", "gorgeous": "dull"})
    found, expected = explain(swapping, [text]), explain(plain, ["a gorgeous film"])
    assert found.texts[0].words == ("a", "gorgeous", "film") and found.targets == expected.targets
    assert np.allclose(found.scores[0], expected.scores[0], atol=1e-5)
    assert np.allclose(after_deletion(swapping, found), after_deletion(plain, expected), atol=1e-5)
    assert swapping.word_map == {"dull": "gorgeous", "gorgeous": "dull"}
