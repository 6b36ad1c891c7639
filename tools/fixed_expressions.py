"""The lines of llm_course/assets/expressions.txt.gz: words that mean something together and so stay together.

Each line is one expression in lower case, in one of its inflections: phrasal verbs, compound nouns and phrases of
WordNet as far as all their words are common, and those of fixed_expressions.txt.
"""

import re
from pathlib import Path

from synonym_table import WordNet, forms_of, plain, written_small

from llm_course.words import STOP_WORDS

OWN = Path(__file__).with_suffix(".txt")
POSSESSIVES = ("my", "your", "his", "her", "its", "our", "their")
LONGEST = 5  # words of an expression


def own_expressions() -> list[str]:
    "The lines of our own list"
    return [line for line in OWN.read_text().splitlines() if line and not line.startswith("#")]


def inflected(words: list[str], part: str, wordnet: WordNet, common: set[str]) -> set[str]:
    "A phrasal verb with each form of its verb, a compound noun in the plural too"
    place = {"v": 0, "n": next((i - 1 for i, word in enumerate(words) if i and word in STOP_WORDS), len(words) - 1)}
    if part not in place or not plain(words[place[part]]):
        return {" ".join(words)}
    at = place[part]
    return {" ".join([*words[:at], form, *words[at + 1:]])
            for form in forms_of(words[at], part, wordnet, common).values()}


def lines_of_expressions(wordnet: WordNet, common: set[str]) -> list[str]:
    "All expressions, sorted"
    found = set(own_expressions())
    for lemma, part in wordnet.senses:
        words = lemma.split("_")
        if not 1 < len(words) <= LONGEST or not all(re.fullmatch(r"[a-z]+('s)?", word) for word in words):
            continue
        usual = all(word in common or word in STOP_WORDS or word == "one's" for word in words)
        if usual and not set(words) <= STOP_WORDS and written_small(lemma, part, wordnet):
            found |= inflected(words, part, wordnet, common)
    return sorted({each.replace("one's", own) for each in found for own in POSSESSIVES})
