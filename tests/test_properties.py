"""What must hold for any texts: order, probabilities, splits."""

import math
import tempfile
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_course.data import SPLITS, jaccard, load_dataset, near_duplicates, word_set
from llm_course.models import TextClassifier, length_batches
from llm_course.tokens import UnknownTokens

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=120)
LINES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=40).filter(str.strip)
WORDS = st.lists(st.sampled_from("good bad film plot the a of and dull bright".split()), max_size=8).map(" ".join)
some = settings(max_examples=25, deadline=None, derandomize=True,
                suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(scope="module")
def classifier() -> TextClassifier:
    "Two classes, and a window that some texts exceed"
    return TextClassifier.from_pretrained("minilm", labels=["negative", "positive"], max_length=24)


@some
@given(texts=st.lists(TEXTS, max_size=9), batch_size=st.integers(1, 10), chunk_size=st.integers(1, 10))
def test_batches_and_chunks_do_not_change_the_answers(classifier, texts, batch_size, chunk_size):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of long texts: another test
        alone = [classifier.logits([text])[0] for text in texts]
        together = classifier.logits((text for text in texts), batch_size=batch_size, chunk_size=chunk_size)
    assert together.shape == (len(texts), 2) and together.isfinite().all()
    for one, row in zip(alone, together, strict=True):
        torch.testing.assert_close(row, one, rtol=1e-3, atol=1e-4)


@some
@given(texts=st.lists(TEXTS, min_size=1, max_size=6))
def test_probabilities_and_labels_agree(classifier, texts):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        probabilities, labels = classifier.predict_proba(texts), classifier.predict(texts)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(len(texts)))
    assert (probabilities >= 0).all()
    assert labels == [classifier.labels[i] for i in probabilities.argmax(1).tolist()]


@some
@given(text=TEXTS)
def test_long_texts_are_cut_and_said_once(classifier, text):
    whole = len(classifier.tokenizer(text)["input_ids"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        classifier.logits([text, text])
    token_ids, cut = classifier.tokenize([text, text])
    assert all(len(ids) == min(whole, 24) for ids in token_ids)
    said = [str(warning.message) for warning in caught if warning.category is not UnknownTokens]  # another fault
    assert cut == (2 if whole > 24 else 0) and len(said) == (whole > 24) and all("were cut there" in text for text in said)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(1, 60)), batch_size=st.integers(1, 9), max_tokens=st.none() | st.integers(60, 200))
def test_length_batches_cover_each_text_once(lengths, batch_size, max_tokens):
    batches = length_batches(lengths, batch_size, max_tokens)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        assert max_tokens is None or max(lengths[i] for i in batch) * len(batch) <= max_tokens


@settings(max_examples=150, deadline=None, derandomize=True)
@given(texts=st.lists(WORDS, max_size=14), threshold=st.sampled_from([0.3, 0.5, 0.8, 0.9, 1.0]))
def test_near_duplicates_are_those_of_all_pairs(texts, threshold):
    sets = [word_set(text) for text in texts]
    expected = [(i, j) for j in range(len(sets)) for i in range(j) if jaccard(sets[i], sets[j]) >= threshold]
    assert near_duplicates(texts, threshold) == sorted(expected)


@some
@given(texts=st.lists(LINES, min_size=30, max_size=50, unique_by=lambda text: word_set(text)),
       ending=st.sampled_from(["csv", "json", "jsonl", "parquet"]), seed=st.integers(0, 3))
def test_a_file_is_read_whole_split_once_and_balanced(texts, ending, seed):
    frame = pd.DataFrame({"text": texts, "label": [i % 3 == 0 for i in range(len(texts))]}).astype({"label": int})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"reviews.{ending}"
        if ending == "csv":
            frame.to_csv(path, index=False)
        elif ending == "parquet":
            frame.to_parquet(path)
        else:
            frame.to_json(path, orient="records", lines=ending == "jsonl", force_ascii=False)
        parts, again = load_dataset(path, threshold=1.0, seed=seed), load_dataset(path, threshold=1.0, seed=seed)
    assert tuple(parts) == SPLITS
    read = {text: label for part in parts.values() for text, label in zip(part["text"], part["label"], strict=True)}
    assert read == dict(zip(texts, frame["label"], strict=True))
    assert sum(map(len, parts.values())) == len(texts)  # each text in one split only
    for split in SPLITS:
        assert parts[split]["text"] == again[split]["text"]
        assert parts[split].column_names == ["text", "label", "rating"]
        assert abs(sum(parts[split]["label"]) - len(parts[split]) / 3) <= 2
        assert all(math.isnan(rating) for rating in parts[split]["rating"])


@some
@given(texts=st.lists(WORDS.filter(bool), min_size=40, max_size=60))
def test_no_near_duplicate_crosses_a_split(texts):
    frame = pd.DataFrame({"text": texts, "label": [i % 2 for i in range(len(texts))]})
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says how many were removed
        frame.to_csv(f"{folder}/words.csv", index=False)
        parts = load_dataset(f"{folder}/words.csv", threshold=0.8)
    where = [(split, text) for split in SPLITS for text in parts[split]["text"]]
    for i, j in near_duplicates([text for _, text in where], 0.8):
        assert where[i][0] == where[j][0]


@pytest.mark.parametrize("name", ["movies", "products", "tweets", "opinions"])
def test_bundled_splits_share_no_near_duplicate_and_no_document(name):
    from llm_course.data import load_ratings
    frame = load_ratings(name)
    split = frame["split"].to_numpy()
    assert not [(i, j) for i, j in near_duplicates(list(frame["text"])) if split[i] != split[j]]
    if name in {"products", "opinions"}:
        assert (frame.groupby("document")["split"].nunique() == 1).all()
    parts = load_dataset(name)
    shares = [sum(part["label"]) / len(part) for part in parts.values()]
    assert max(shares) - min(shares) < 0.02
