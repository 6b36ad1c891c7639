"""A word map: what a rare word is read as, and that everything which reads texts reads them so."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_course.adversarial_examples import Draft, SynonymAttack, all_synonyms, promised
from llm_course.adversarial_training import Substitutions, WorstSynonyms, frequent_synonyms
from llm_course.data import load_dataset
from llm_course.fine_tuning import fine_tune
from llm_course.models import TextClassifier
from llm_course.words import STOP_WORDS, replace_words, split_words

WORDS = ["film", "movie", "flick", "picture", "photograph", "image"]
MAP = {"flick": "film", "movie": "film", "gripping": "exciting"}


@pytest.fixture
def reader() -> TextClassifier:
    "An untrained classifier that reads some words as others"
    classifier = TextClassifier.from_pretrained("minilm", labels=["negative", "positive"], device="cpu")
    classifier.word_map = dict(MAP)
    return classifier


@settings(max_examples=25, deadline=None, derandomize=True)
@given(links=st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(WORDS)), max_size=12),
       counts=st.lists(st.integers(0, 6), min_size=len(WORDS), max_size=len(WORDS)), rare=st.integers(1, 7))
def test_each_word_is_read_as_the_end_of_its_chain(links, counts, rare):
    often = dict(zip(WORDS, counts, strict=True))
    texts = [" ".join([word] * times) for word, times in often.items()]
    word_map = frequent_synonyms(texts, rare=rare, candidates=lambda word: [b for a, b in links if a == word])

    def step(word: str) -> str:
        "The most frequent synonym of a rare word, if it is more frequent"
        others = [b for a, b in links if a == word and often[b] > often[word]]
        return max(others, key=lambda new: (often[new], new)) if others and often[word] < rare else word

    for word in WORDS:
        end = word
        while step(end) != end:
            end = step(end)
        assert word_map.get(word, word) == end


def test_the_map_of_real_reviews_keeps_stop_words_and_ends_everywhere():
    texts = load_dataset("movies")["train"]["text"]
    checked, wide = frequent_synonyms(texts), frequent_synonyms(texts, candidates=all_synonyms)
    assert len(checked) > 800 and len(wide) > 10_000
    for word_map in (checked, wide):
        assert STOP_WORDS.isdisjoint(word_map) and set(word_map).isdisjoint(word_map.values())
    assert "risible" not in checked and "misleading" not in checked


def test_words_of_one_reading_are_one_word_to_the_model(reader):
    rows = reader.logits(["A gripping flick.", "An exciting movie.", "A GRIPPING movie.", "A exciting film."])
    assert torch.allclose(rows[[2, 3]], rows[0], atol=1e-6) and not torch.allclose(rows[0], rows[1], atol=1e-6)
    assert reader.predict(["A flick."]) == reader.predict(iter(["A movie."]))


def test_a_saved_classifier_keeps_its_map_and_an_older_one_has_none(reader, tmp_path):
    reader.save(tmp_path / "saved")
    assert TextClassifier.load(tmp_path / "saved", device="cpu").word_map == MAP
    described = json.loads((tmp_path / "saved/classifier.json").read_text())
    del described["word_map"]
    (tmp_path / "saved/classifier.json").write_text(json.dumps(described))
    assert TextClassifier.load(tmp_path / "saved", device="cpu").word_map == {}


def test_a_run_is_not_resumed_with_another_map(reader, tmp_path):
    train = load_dataset("movies")["train"].select(range(16))
    options = {"epochs": 1, "batch_size": 8, "progress": False}
    fine_tune(reader, train, checkpoints=tmp_path, **options)
    reader.word_map = {}
    with pytest.raises(ValueError, match="word_map"):
        fine_tune(reader, train, resume_from=tmp_path, **options)


def test_the_gradient_is_that_of_the_text_as_it_is_read(reader):
    plain = TextClassifier(reader.model, reader.tokenizer, reader.labels, device="cpu")
    text, words = "A gripping and rather photogenic flick, a movie.", ["thrilling", "movie", "unforgettably"]
    places = [i for i, word in enumerate(split_words(text)) if word in ("gripping", "flick")]
    options = {place: words for place in places}
    found = promised(reader, Draft(text, 1), options)
    read = {place: [replace_words(word, MAP) for word in words] for place in places}
    np.testing.assert_allclose(found, promised(plain, Draft(replace_words(text, MAP), 1), read), rtol=1e-5, atol=1e-7)
    assert abs(found[4]) < 1e-7  # a flick and a movie are one word


def test_attacks_and_worst_synonyms_work_through_a_map(reader):
    rows = load_dataset("movies")["train"].select(range(24))
    reader.word_map = frequent_synonyms(rows["text"], rare=2)
    objective = WorstSynonyms(Substitutions(reader, rows["text"]), most=1.0)
    run = fine_tune(reader, rows, objective=objective, epochs=1, batch_size=8, progress=False)
    assert len(run.steps) == 3
    for attack in (SynonymAttack(), SynonymAttack(shortlist=8)):
        report = attack.attack(reader, rows.select(range(4)), progress=False)
        for result in report.results:
            if result.status == "succeeded":
                assert reader.predict([result.perturbed]) != [reader.labels[result.label]]


@pytest.mark.parametrize("texts, rare, error", [("one text", 10, TypeError), (["a text"], 0, ValueError),
                                                (["a text"], float("nan"), ValueError)])
def test_bad_settings_are_refused(texts, rare, error):
    with pytest.raises(error, match=r"texts must be a list|rare must be a number of at least 1"):
        frequent_synonyms(texts, rare=rare)
