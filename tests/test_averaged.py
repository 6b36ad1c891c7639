"""The mean of several classifiers' weights: what it answers, and which classifiers have none."""

import pytest
import torch

from llm_course.adversarial_training import averaged
from llm_course.data import load_dataset
from llm_course.fine_tuning import fine_tune
from llm_course.models import TextClassifier

TEXTS = ["A great film.", "Dull and far too long."]


def new(seed: int = 0, **options) -> TextClassifier:
    "An untrained classifier"
    options = {"labels": ["negative", "positive"], "device": "cpu", **options}
    return TextClassifier.from_pretrained("minilm", seed=seed, **options)


def test_equal_shares_are_the_mean_and_one_share_is_the_classifier_itself():
    some = [new(seed) for seed in range(3)]
    logits = [each.logits(TEXTS) for each in some]
    torch.testing.assert_close(averaged(some).logits(TEXTS), sum(logits) / 3, atol=1e-6, rtol=1e-4)
    assert (averaged(some, [0, 1, 0]).logits(TEXTS) == logits[1]).all()
    assert (averaged(some[:1]).logits(TEXTS) == logits[0]).all()
    assert all((each.logits(TEXTS) == before).all() for each, before in zip(some, logits, strict=True))


def test_every_weight_is_the_mean_and_the_result_can_be_trained_and_saved(tmp_path):
    train = load_dataset("movies")["train"].select(range(16))
    some = [new(), new()]
    some[0].word_map = some[1].word_map = {"flick": "film"}
    for seed, classifier in enumerate(some):
        fine_tune(classifier, train, epochs=1, batch_size=8, learning_rate=1e-3, seed=seed, progress=False)
    mean = averaged(some, [0.25, 0.75])
    first, second, both = (dict(each.model.named_parameters()) for each in (*some, mean))
    assert any((first[name] != second[name]).any() for name in both)
    for name, values in both.items():
        torch.testing.assert_close(values, 0.25 * first[name] + 0.75 * second[name], atol=1e-7, rtol=1e-6)
    assert mean.word_map == {"flick": "film"} and not mean.model.training
    mean.save(tmp_path / "mean")
    assert (TextClassifier.load(tmp_path / "mean", device="cpu").logits(TEXTS) == mean.logits(TEXTS)).all()
    run = fine_tune(mean, train, epochs=1, batch_size=8, progress=False)
    assert len(run.steps) == 2


@pytest.mark.parametrize(
    "shares, message",
    [([0.5], "2 classifiers need as many shares, got 1"), ([0.7, 0.7], "sum 1, got 1.4"),
     ([1.5, -0.5], "from 0 to 1"), ([float("nan"), 1.0], "from 0 to 1")],
)
def test_shares_that_are_none_are_refused(shares, message):
    with pytest.raises(ValueError, match=message):
        averaged([new(), new()], shares)


def test_classifiers_that_do_not_fit_are_refused():
    read = new()
    read.word_map = {"flick": "film"}
    others = {"labels": new(labels=["bad", "good"]), "max_length": new(max_length=16), "word_map": read}
    for name, other in others.items():
        with pytest.raises(ValueError, match=f"0 and 1 differ in {name}"):
            averaged([new(), other])
    smaller = new()
    smaller.model.bert.encoder.layer = smaller.model.bert.encoder.layer[:5]
    with pytest.raises(ValueError, match="one architecture"):
        averaged([new(), smaller])
    with pytest.raises(ValueError, match="at least one classifier"):
        averaged([])
