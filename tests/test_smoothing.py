"""Certificates against brute force: what is certified cannot be turned by any combination, and planted faults are seen."""

import hashlib
from collections import Counter
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_course import smoothing
from llm_course.adversarial_examples import SynonymAttack, TypoAttack, checked_synonyms
from llm_course.data import load_dataset
from llm_course.evaluation import evaluate
from llm_course.identity import fingerprint
from llm_course.models import TextClassifier
from llm_course.smoothing import (
    PerturbationSets,
    RandomSmoothing,
    SmoothCertificate,
    certified_accuracy,
    certified_shares,
    certify_reading,
    from_table,
    lower_bound,
    substitutes_of,
)
from llm_course.words import begins_with_vowel, split_words

WORDS = ("odd", "strange", "eerie", "film", "movie", "awful")
SOMEWHERE = settings(max_examples=40, deadline=None, derandomize=True)
texts = st.lists(st.tuples(st.sampled_from(["", "a ", "an "]), st.sampled_from(WORDS)), min_size=1, max_size=3).map(
    lambda pairs: " and ".join(article + word for article, word in pairs))
groups = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3, unique=True)
tables = st.dictionaries(st.sampled_from(WORDS), st.lists(st.sampled_from(WORDS), min_size=1, max_size=2, unique=True))


class Arbitrary(TextClassifier):
    "Answers by a digest of the text as it is read: nearly every text has an answer of its own"

    def __init__(self, salt: int, ones: int = 50, word_map: dict[str, str] | None = None):
        self.salt, self.ones, self.word_map, self.labels = salt, ones, word_map or {}, ["zero", "one"]

    def says(self, read: str) -> int:
        return int(int(hashlib.sha256(f"{self.salt} {read}".encode()).hexdigest(), 16) % 100 < self.ones)

    def _tokens(self, texts):
        return self._replaced(texts), 0

    def logits_of_tokens(self, read, *, batch_size, max_tokens):
        return torch.eye(2)[[self.says(text) for text in read]].reshape(-1, 2)


def agreeing(pieces: list[str], words: dict[int, str]) -> str:
    "The text with other words; the article before each of them agrees (written without the package's own)"
    new = list(pieces)
    for place, word in words.items():
        new[place] = word
        if place > 1 and new[place - 2] in ("a", "an"):
            new[place - 2] = "an" if begins_with_vowel(word) else "a"
    return "".join(new)


as_drawn = agreeing  # before any word that is drawn, the article is set anew


def every_text(text: str, table: dict[str, list[str]]) -> list[tuple[str, int]]:
    "All that a table makes of a text, and how many words were changed"
    pieces = split_words(text)
    places = [place for place in range(1, len(pieces), 2) if pieces[place] in table]
    return [(agreeing(pieces, {place: word for place, word in zip(places, words, strict=True) if word}),
             sum(word is not None for word in words))
            for words in product(*([None, *table[pieces[place]]] for place in places))]


def exact_share(text: str, sets: dict[str, tuple[str, ...]], rule: Arbitrary) -> float:
    "The share of all draws that are answered with one, by going through all of them"
    pieces = split_words(text)
    places = [place for place in range(1, len(pieces), 2) if pieces[place] in WORDS]
    drawn = [as_drawn(pieces, dict(zip(places, words, strict=True)))
             for words in product(*(sets[pieces[place]] for place in places))]
    return sum(rule.says(each) for each in drawn) / len(drawn)


def violations(text: str, chosen: list[list[str]], table: dict[str, list[str]], salt: int) -> list[str]:
    "Substituted texts whose answer has a smaller share of all draws than is certified"
    sets = {word: tuple(sorted({word, *group})) for word, group in zip(WORDS, chosen, strict=True)}
    rule = Arbitrary(salt, 70)
    smooth = RandomSmoothing(rule, SimpleNamespace(digest="", of=lambda word: sets.get(word, (word,))))
    overlaps = tuple(sorted(smooth.overlaps(text, from_table(table)).values()))
    share = exact_share(text, sets, rule)
    certificate = SmoothCertificate("one", share, overlaps, None)
    return [other for other, changes in every_text(text, table)
            if exact_share(other, sets, rule) < certificate.after(changes) - 1e-9]


cases = {"text": texts, "chosen": st.lists(groups, min_size=len(WORDS), max_size=len(WORDS)), "table": tables,
         "salt": st.integers(0, 99)}


@SOMEWHERE
@given(**cases)
def test_no_substitution_takes_more_than_the_certificate_allows(text, chosen, table, salt):
    assert not violations(text, chosen, table, salt)


@pytest.mark.parametrize("fault", ["sets count as equal", "sizes are forgotten", "articles are left"])
def test_a_wrong_certificate_is_seen(monkeypatch, fault):
    if fault == "sets count as equal":
        monkeypatch.setattr(RandomSmoothing, "overlap", lambda self, pieces, place, word: 1.0)
    elif fault == "sizes are forgotten":
        monkeypatch.setattr(smoothing, "max", min, raising=False)
    else:  # an article that is not drawn anew tells what stood there
        monkeypatch.setitem(globals(), "as_drawn", lambda pieces, words: "".join(
            words.get(place, piece) for place, piece in enumerate(pieces)))
    found = []

    @settings(max_examples=300, deadline=None, derandomize=True, database=None)
    @given(**cases)
    def search(text, chosen, table, salt):
        found.extend(violations(text, chosen, table, salt))

    search()
    assert found


def test_draws_are_uniform_and_independent_of_each_other():
    sets = PerturbationSets(lambda word: {"odd": ["strange", "eerie"], "film": ["movie"]}.get(word, ()), words=WORDS)
    smooth, text = RandomSmoothing(Arbitrary(0), sets, seed=3), "an odd film"
    counts = Counter(smooth.drawn(text, 6000))
    assert len(counts) == 6 and all(850 < count < 1150 for count in counts.values())
    assert counts.keys() == {"an odd film", "a strange film", "an eerie film", "an odd movie", "a strange movie",
                             "an eerie movie"}
    one, two = smooth.drawn(text, 6000), smooth.drawn(text, 6000, "certificate")
    assert 900 < sum(a == b for a, b in zip(one, two, strict=True)) < 1100
    assert one == smooth.drawn(text, 6000) and smooth.drawn(text, 20) == smooth.drawn("a strange movie", 20)


def test_the_bound_is_as_sure_as_it_says():
    generator = torch.Generator().manual_seed(0)
    for truth in (0.55, 0.9):
        counts = (torch.rand(2000, 100, generator=generator) < truth).sum(1).tolist()
        missed = sum(lower_bound(count, 100, 0.95) > truth for count in counts) / len(counts)
        assert missed < 0.065


@SOMEWHERE
@given(text=texts, table=tables, salt=st.integers(0, 99), most=st.sampled_from([None, 0, 1, 2]),
       word_map=st.dictionaries(st.sampled_from(WORDS), st.sampled_from(WORDS), max_size=4))
def test_reading_agrees_with_brute_force(text, table, salt, most, word_map):
    rule = Arbitrary(salt, 70, word_map)
    [found] = certify_reading(rule, [{"text": text, "label": 1}], from_table(table), most=most, most_readings=10_000)
    everything = [other for other, changes in every_text(text, table) if most is None or changes <= most]
    right = [label == "one" for label in rule.predict(everything)]
    assert found.status == ("misread" if not right[0] else "certified" if all(right) else "turned")
    if most is None:
        assert len({rule.as_read([other])[0] for other in everything}) <= found.readings
        if not found.outside:
            assert found.readings == 1 and found.status != "turned"
    [few] = certify_reading(rule, [{"text": text, "label": 1}], from_table(table), most=most, most_readings=1)
    assert few.status == found.status or (few.status == "unknown" and found.readings > 1)


def test_a_map_that_is_trusted_blindly_is_seen(monkeypatch):
    "A planted fault: all that an attacker writes counts as read alike"
    monkeypatch.setattr(smoothing, "readings_of", lambda classifier, pieces, options: {})
    rows, table = [{"text": "an odd film", "label": 1}], {"odd": list(WORDS[1:]), "film": list(WORDS)}
    wrong = 0
    for salt in range(20):
        rule = Arbitrary(salt, 70, {"movie": "film"})
        [found] = certify_reading(rule, rows, from_table(table))
        wrong += found.status == "certified" and set(rule.predict([each for each, _ in every_text(
            "an odd film", table)])) != {"one"}
    assert wrong


@pytest.fixture(scope="module")
def untrained() -> TextClassifier:
    return TextClassifier.from_pretrained("tiny-bert", labels=["negative", "positive"], device="cpu")


def test_it_takes_the_place_of_a_classifier(untrained):
    smooth, rows = RandomSmoothing(untrained, draws=5), load_dataset("movies")["test"].select(range(6))
    report = evaluate(smooth, rows)
    assert report.logits.argmax(-1).tolist() == [smooth.labels.index(label) for label in smooth.predict(rows["text"])]
    assert report.accuracy == evaluate(smooth, rows, batch_size=1).accuracy
    names = {fingerprint(each) for each in (untrained, smooth, RandomSmoothing(untrained, draws=6),
                                            RandomSmoothing(untrained, draws=5, seed=1))}
    assert len(names) == 4 and fingerprint(smooth) == fingerprint(RandomSmoothing(untrained, draws=5))
    with pytest.raises(TypeError, match="only probabilities"):
        SynonymAttack(shortlist=4).attack(smooth, rows, progress=False)
    again = TypoAttack(query_budget=20).attack(smooth, rows, progress=False)
    assert again.results == TypoAttack(query_budget=20).attack(smooth, rows, batch_size=3, window=2, progress=False).results


def test_checked_synonyms_never_turn_an_answer(untrained):
    smooth, rows = RandomSmoothing(untrained, draws=5), load_dataset("movies")["test"].select(range(30))
    attack, label = SynonymAttack(candidates=checked_synonyms), smooth.predict(rows["text"])
    right = [{"text": text, "label": smooth.labels.index(answer)}
             for text, answer in zip(rows["text"], label, strict=True)]
    report = attack.attack(smooth, right, progress=False)
    assert report.accuracy_under_attack == 1 and sum(r.status == "failed" for r in report.results) > 5
    substitutes = substitutes_of(attack)
    overlaps = [smooth.overlaps(text, substitutes) for text in rows["text"]]
    assert {value for each in overlaps for value in each.values()} == {1.0}
    found = smooth.certify(rows["text"], substitutes, draws=60, confidence=0.95)
    assert all(each.certified == (each.label is not None) for each in found)
    assert certified_accuracy(smooth, right, substitutes, draws=60, confidence=0.95).value >= 0.8


def test_words_from_elsewhere_are_not_certified(untrained):
    smooth = RandomSmoothing(untrained, draws=5)
    for new in ("carburettor", "x", "Bob", "the", "two words", "semi-dry", "monday"):
        assert smooth.overlaps("Here is a good film.", lambda pieces, new=new: {7: [new]})[7] < 0.5
    assert smooth.overlaps("Here is a good film.", lambda pieces: {7: ["good"], 5: ["an"]}) == {7: 1.0, 5: 0.0}
    assert smooth.overlaps("It is.", from_table({})) == {}


@pytest.mark.parametrize(("call", "error", "said"), [
    (lambda tiny: RandomSmoothing(tiny, draws=0), ValueError, "draws"),
    (lambda tiny: RandomSmoothing(tiny, seed=-1), ValueError, "seed"),
    (lambda tiny: RandomSmoothing(SimpleNamespace(labels=["one"])), ValueError, "two labels"),
    (lambda tiny: RandomSmoothing(tiny).predict("one text"), TypeError, "list"),
    (lambda tiny: RandomSmoothing(tiny).certify(["a"], from_table({}), confidence=1.5), ValueError, "confidence"),
    (lambda tiny: RandomSmoothing(tiny).certify(["a"], from_table({}), draws=0), ValueError, "draws"),
    (lambda tiny: RandomSmoothing(tiny).certify(["a"], from_table({}), most=-1), ValueError, "most"),
    (lambda tiny: RandomSmoothing(tiny).drawn("a", 0), ValueError, "draws"),
    (lambda tiny: PerturbationSets(most=0), ValueError, "most"),
    (lambda tiny: certify_reading(tiny, [], from_table({})), ValueError, "certified"),
    (lambda tiny: certify_reading(tiny, [{"text": "a", "label": 0}], from_table({}), most_readings=0), ValueError, "most"),
    (lambda tiny: certify_reading(tiny, [{"text": "a", "label": 7}], from_table({})), ValueError, "label"),
    (lambda tiny: certified_shares([]), ValueError, "one certificate"),
])
def test_bad_input_is_refused(untrained, call, error, said):
    with pytest.raises(error, match=said):
        call(untrained)
