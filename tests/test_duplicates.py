"""Near-duplicates: groups against all pairs, hashing against rare words, odd texts, any order."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_course import data
from llm_course.data_preparation import duplicate_groups
from llm_course.duplicates import jaccard, near_duplicate_groups, near_duplicates, word_set

WORDS = st.lists(st.sampled_from("good bad film plot the a of and dull bright ! ?".split()), max_size=8).map(" ".join)
many = settings(max_examples=150, deadline=None, derandomize=True)


def brute_groups(texts: list[str], threshold: float) -> list[int]:
    "The first text of each text's connected component, by comparing all pairs again until nothing changes"
    sets, first = [word_set(text) for text in texts], list(range(len(texts)))
    alike = [(i, j) for j in range(len(sets)) for i in range(j) if jaccard(sets[i], sets[j]) >= threshold]
    changed = True
    while changed:
        changed = False
        for i, j in alike:
            if first[i] != first[j]:
                first[i] = first[j] = min(first[i], first[j])
                changed = True
    return first


def partition(groups: np.ndarray, texts: list[str]) -> set[frozenset[str]]:
    "Which different texts stand together"
    return {frozenset(texts[i] for i in np.flatnonzero(groups == first)) for first in set(groups.tolist())}


def with_planted(count: int, seed: int) -> list[str]:
    "So many texts of made-up words, every third followed by copies that lost up to a quarter of their words"
    rng, texts = random.Random(seed), []
    while len(texts) < count:
        words = [f"w{int(rng.paretovariate(0.6)) % 30_000}" for _ in range(rng.randint(5, 60))]
        texts.append(" ".join(words))
        for _ in range(rng.choice([0, 0, 1, 3])):
            texts.append(" ".join(word for word in words if rng.random() > rng.choice([0.0, 0.1, 0.25])))
    return texts[:count]


@many
@given(texts=st.lists(WORDS, max_size=14), threshold=st.sampled_from([0.3, 0.5, 0.8, 0.9, 1.0]))
def test_groups_are_the_connected_components_of_all_pairs(texts, threshold):
    expected = brute_groups(texts, threshold)
    assert near_duplicate_groups(texts, threshold).tolist() == expected
    assert duplicate_groups(texts, threshold).tolist() == expected  # lesson 10's


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 0.95, 1.0])
def test_hashing_finds_what_rare_words_find(threshold):
    texts = with_planted(3000, seed=1)
    exact, hashed = (near_duplicate_groups(texts, threshold, exact_up_to=limit) for limit in (10_000, 0))
    pairs = near_duplicates(texts, threshold)
    assert len(pairs) > 100 and all(exact[i] == exact[j] for i, j in pairs)
    assert np.mean([hashed[i] == hashed[j] for i, j in pairs]) >= 0.999
    assert all(exact[i] == exact[j] for i, j in enumerate(hashed))  # it joins nothing that is not alike


@pytest.mark.parametrize("exact_up_to", [10_000, 0])
def test_long_chains_and_many_variants_are_one_group(exact_up_to):
    chain = [" ".join(f"w{i}" for i in range(start, start + 40)) for start in range(600)]
    variants = [" ".join(["the same long text but for the last of all its words namely", f"x{i}"]) for i in range(600)]
    random.Random(0).shuffle(chain)
    assert near_duplicate_groups(chain + variants, exact_up_to=exact_up_to).tolist() == [0] * 600 + [600] * 600


@pytest.mark.parametrize("exact_up_to", [10_000, 0])
def test_odd_texts(exact_up_to):
    texts = ["", "!!!", " ", "?", "! ", "\n\t", "?!", "Ünïcode — 東京", "ünïcode 東京", "\ud800"]
    assert near_duplicate_groups(texts, exact_up_to=exact_up_to).tolist() == [0, 1, 0, 3, 1, 0, 6, 7, 7, 9]
    assert near_duplicate_groups([], exact_up_to=exact_up_to).tolist() == []
    assert near_duplicate_groups(["a"], exact_up_to=exact_up_to).tolist() == [0]
    assert near_duplicate_groups({"text": ["a", "A"]}, exact_up_to=exact_up_to).tolist() == [0, 0]


@pytest.mark.parametrize("exact_up_to", [10_000, 0])
def test_order_does_not_matter_and_a_seed_gives_the_same(exact_up_to):
    texts = list(dict.fromkeys(with_planted(800, seed=2)))
    groups = near_duplicate_groups(texts, exact_up_to=exact_up_to, seed=3)
    assert (groups == near_duplicate_groups(texts, exact_up_to=exact_up_to, seed=3)).all()
    assert groups.dtype.kind == "i" and all(groups[first] == first <= i for i, first in enumerate(groups))
    shuffled = random.Random(0).sample(texts, len(texts))
    again = near_duplicate_groups(shuffled, exact_up_to=exact_up_to, seed=3)
    assert partition(groups, texts) == partition(again, shuffled)


def test_equal_texts_are_one_group_and_all_pairs():
    texts = ["one text", "another", "One text!"] * 700
    assert near_duplicate_groups(texts).tolist() == [0, 1, 0] * 700 == duplicate_groups(texts).tolist()
    pairs = near_duplicates(texts)
    assert len(pairs) == 1400 * 1399 // 2 + 700 * 699 // 2 and pairs[:2] == [(0, 2), (0, 3)] and pairs == sorted(pairs)


@pytest.mark.parametrize("function", [near_duplicates, near_duplicate_groups, duplicate_groups])
def test_what_cannot_be_read_is_refused(function):
    for threshold in (0, -1, 1.01, float("nan"), None, "0.8"):
        with pytest.raises(ValueError, match="threshold must be above 0 and at most 1, got"):
            function(["a", "b"], threshold)
    with pytest.raises(TypeError, match=r"write \[text\]"):
        function("one text")
    with pytest.raises(TypeError, match="Text 1 is None"):
        function(["a", None])


def test_settings_of_groups_are_checked():
    with pytest.raises(ValueError, match="exact_up_to must be a whole number of at least 0"):
        near_duplicate_groups(["a"], exact_up_to=-1)
    with pytest.raises(ValueError, match="seed must be"):
        near_duplicate_groups(["a"], seed=-1)


def test_the_old_place_still_has_them():
    assert (data.word_set, data.jaccard, data.near_duplicates) == (word_set, jaccard, near_duplicates)
