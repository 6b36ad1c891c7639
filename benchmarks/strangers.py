"""Attackers that no defence of the package was trained against: other candidates, other searches, the same balls.

Candidates (each a function from a word in lower case to words in lower case):

- `wordnet_candidates`: every single word of every sense of a word and of its base forms, as TextAttack's PWWS takes
  them: no inflection, any part of speech. `new_to_the_table` leaves those out that the defences were trained on.
- `neighbour_candidates`: the 12 nearest words in the bundled encoder's space, of an inflection that the word can have, its
  opposites and all words of the package's table (which was made from WordNet) left out.
- `aiksaurus_candidates`: Aiksaurus, a thesaurus of another origin, from Debian's package
  libaiksaurus-1.2-data (GPL; read where it is installed, never copied). It is loose, so only words that share two
  meanings with the word or head one of its meanings, the closest 12; brought into the word's inflection where the
  package's table knows the form.

In the ball (all tokens of a text together, as the objectives train):

- `pgd_with_restarts`: PGD from several random points; a text counts as turned where one of them turns it.
- `spsa`: after Uesato et al. 2018, without gradients: each step estimates the slope from pairs of opposite random signs; the
  step goes where all estimates together point.
"""

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import torch

from llm_course.adversarial_examples import all_synonyms, pgd, steepest
from llm_course.core import seed_of
from llm_course.embeddings import embedded
from llm_course.models import SentenceEncoder, TextClassifier, sentence_encoder
from llm_course.word_neighbours import near_words
from llm_course.words import STOP_WORDS, can_be, readings

WORDNET, AIKSAURUS = Path("/usr/share/wordnet"), Path("/usr/share/aiksaurus")
PARTS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
ENDINGS = {  # what WordNet's morphology takes off, and puts in its place
    "noun": (("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"),
             ("ies", "y")),
    "verb": (("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")),
    "adj": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "adv": (),
}
Candidates = Callable[[str], Iterable[str]]


def missing() -> dict[str, str]:
    "What is not installed, and how to get it"
    needs = {"WordNet": (WORDNET / "data.noun", "wordnet-base"),
             "Aiksaurus": (AIKSAURUS / "words.dat", "libaiksaurus-1.2-data")}
    return {name: f"apt-get install {package}" for name, (path, package) in needs.items() if not path.exists()}


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="latin-1").splitlines() if not line.startswith(" ")]


@lru_cache(1)
def _wordnet() -> dict[str, tuple[dict[str, list[str]], dict[str, str], dict[str, list[str]]]]:
    "For each part of speech: the senses of a lemma, the irregular forms, the words of a sense"
    found = {}
    for part in PARTS:
        senses, forms, words = {}, {}, {}
        for line in _lines(WORDNET / f"index.{part}"):
            fields = line.split()
            senses[fields[0]] = fields[-int(fields[2]):]
        for line in _lines(WORDNET / f"{part}.exc"):
            form, lemma, *_ = line.split()
            forms.setdefault(form, lemma)
        for line in _lines(WORDNET / f"data.{part}"):
            fields = line.split()
            count = int(fields[3], 16)
            words[fields[0]] = [word.partition("(")[0] for word in fields[4 : 4 + 2 * count : 2]]
        found[part] = senses, forms, words
    return found


def lemmas(word: str, part: str) -> list[str]:
    "The base forms that WordNet knows a word by"
    senses, forms, _ = _wordnet()[part]
    tried = [word, *([forms[word]] if word in forms else
                     [word[: -len(end)] + new for end, new in ENDINGS[part] if word.endswith(end)])]
    return [each for each in dict.fromkeys(tried) if each in senses]


@lru_cache(None)
def wordnet_candidates(word: str) -> tuple[str, ...]:
    "All single words of all senses of a word"
    found = {name.lower() for part in PARTS for lemma in lemmas(word, part) for sense in _wordnet()[part][0][lemma]
             for name in _wordnet()[part][2][sense]}
    return tuple(sorted(new for new in found if new != word and new.isalpha()))


def new_to_the_table(candidates: Candidates) -> Candidates:
    "The candidates without what the defences were trained on"
    def new(word: str) -> list[str]:
        known = set(all_synonyms(word))
        return [each for each in candidates(word) if each not in known]

    return new


def neighbour_candidates(encoder: SentenceEncoder | None = None, count: int = 12) -> Candidates:
    "Near words of the encoder's space that the table does not hold as synonyms"
    encoder = encoder or sentence_encoder()

    @lru_cache(None)
    def near(word: str) -> tuple[str, ...]:
        known = set(all_synonyms(word))
        found = dict.fromkeys(new for reading in readings(word)
                              for new in near_words(word, reading.tag, encoder, 2 * count))
        return tuple([new for new in found if new not in known and word not in all_synonyms(new)][:count])

    return near


def any_word(pieces: Sequence[str], place: int, protected: frozenset[str]) -> bool:
    "TextAttack's rule: every word but a stop word may change"
    return pieces[place].lower() not in STOP_WORDS


@lru_cache(1)
def _aiksaurus() -> tuple[dict[str, list[int]], list[list[str]]]:
    "The meanings of a word, and the words of a meaning, its two heads first"
    words, meanings = (AIKSAURUS / "words.dat").read_bytes(), (AIKSAURUS / "meanings.dat").read_bytes()
    names, known, place = [], {}, 0
    while place < len(words):  # a name, a zero, the numbers of its meanings, and 0xFFFF
        end = words.index(0, place)
        names.append(words[place:end].decode("latin-1").replace(":", " "))
        place, own = end + 1, []
        while (number := struct.unpack_from(">H", words, place)[0]) != 0xFFFF:
            own.append(number)
            place += 2
        known[names[-1].lower()], place = own, place + 2
    groups = [[]]
    for number, in struct.iter_unpack(">H", meanings):
        if number == 0xFFFF:
            groups.append([])
        else:
            groups[-1].append(names[number].lower())
    return known, groups[:-1]


def _forms(word: str) -> dict[str, str]:
    "How a word in the base form is inflected by rule"
    stem, doubled = word.removesuffix("e"), word + word[-1:]
    y = word[:-1] + "i" if word.endswith("y") and word[-2:-1] not in "aeiou" else word
    plural = y + "es" if y != word or word.endswith(("s", "x", "z", "ch", "sh")) else word + "s"
    past = [stem + "ed", y + "ed", doubled + "ed"]
    return {"": [word], "s": [plural], "d": past, "n": past, "g": [stem + "ing", word + "ing", doubled + "ing"],
            "r": [stem + "er", y + "er", doubled + "er"], "t": [stem + "est", y + "est", doubled + "est"]}


@lru_cache(None)
def aiksaurus_candidates(word: str, count: int = 12) -> tuple[str, ...]:
    "The closest words of Aiksaurus, in the inflection of the word"
    known, groups = _aiksaurus()
    found = []
    for reading in readings(word):
        part = next(name for name, letter in PARTS.items() if letter == reading.tag[0])
        shared = Counter()
        for base in dict.fromkeys([word, *(lemmas(word, part) if WORDNET.exists() else [])]):
            for number in known.get(base, ()):
                shared.update(set(groups[number]))
                shared.update(groups[number][:2])  # the heads of a meaning count twice
        for new, times in shared.most_common():
            if times > 1 and new.isalpha() and new != word:
                forms = [form for form in _forms(new)[reading.tag[1:]] if can_be(form, reading.tag)]
                found += forms[:1]
    return tuple([new for new in dict.fromkeys(found) if new != word and new not in STOP_WORDS][:count])


def _batches(texts: Sequence[str], size: int) -> list[list[int]]:
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    return [order[start : start + size] for start in range(0, len(order), size)]


def pgd_with_restarts(classifier: TextClassifier, texts: Sequence[str], targets: Sequence[int], *, epsilon: float,
                      steps: int = 20, restarts: int = 3, batch_size: int = 16) -> list[bool]:
    "Which texts are still answered rightly after PGD in the ball of a text, from several starts; steps of 2.5 ε / steps"
    right = [bool(answer == target) for answer, target in zip(classifier.logits(texts).argmax(-1), targets, strict=True)]
    for seed in range(restarts):
        left = [number for number, good in enumerate(right) if good]
        for batch in _batches([texts[number] for number in left], batch_size):
            numbers = [left[place] for place in batch]
            found = pgd(classifier, [texts[i] for i in numbers], [targets[i] for i in numbers], epsilon=epsilon,
                        steps=steps, norm="l2", per_token=False, random_start=seed > 0, seed=seed)
            for number, good in zip(numbers, (found.after.argmax(-1) == found.targets).tolist(), strict=True):
                right[number] = good
    return right


def perturbations(classifier: TextClassifier, texts: Sequence[str], targets: Sequence[int], *, epsilon: float,
                  steps: int = 20) -> list[torch.Tensor]:  # for each text (T, D)
    "Where PGD goes on one classifier: to be added to the same texts in another"
    found: list = [None] * len(texts)
    for batch in _batches(texts, 16):
        moved = pgd(classifier, [texts[i] for i in batch], [targets[i] for i in batch], epsilon=epsilon, steps=steps,
                    norm="l2", random_start=False)
        for row, number in enumerate(batch):
            found[number] = moved.perturbation[row][moved.mask[row]].clone()
    return found


@torch.no_grad()
def right_at(classifier: TextClassifier, texts: Sequence[str], targets: Sequence[int],
             moves: Sequence[torch.Tensor]) -> list[bool]:
    "Which texts are answered rightly where they were moved; a text that is read as more or fewer tokens stays"
    right: list = [None] * len(texts)
    for batch in _batches(texts, 16):
        function, vectors, mask = embedded(classifier, [texts[i] for i in batch])
        for row, number in enumerate(batch):
            if len(moves[number]) == int(mask[row].sum()):
                vectors[row][mask[row]] += moves[number]
        for number, answer in zip(batch, function(vectors).argmax(-1).tolist(), strict=True):
            right[number] = answer == targets[number]
    return right


@torch.no_grad()
def spsa(classifier: TextClassifier, text: str, target: int, *, epsilon: float, queries: int, pairs: int = 8,
         seed: int = 0) -> bool:
    "Whether a text is answered rightly after at most so many queries; the sum of all slopes points to the ball's edge"
    function, vectors, _ = embedded(classifier, [text])
    generator = torch.Generator().manual_seed(seed_of(seed, 0, 0) % 2**63)
    moved, total = torch.zeros_like(vectors), torch.zeros_like(vectors)
    if int(function(vectors).argmax(-1)) != target:
        return False
    function_of_many, _, _ = embedded(classifier, [text] * 2 * pairs)
    for _ in range((queries - 1) // (2 * pairs + 1)):
        signs = (torch.randint(2, (pairs, *vectors.shape[1:]), generator=generator) * 2 - 1).to(vectors)
        both = torch.cat([signs, -signs]) * (0.1 * epsilon / vectors[0].numel() ** 0.5)
        scores = function_of_many(vectors + moved + both).float().log_softmax(-1)[:, target]
        total += ((scores[pairs:] - scores[:pairs])[:, None, None] * signs).mean(0, keepdim=True)  # rise of the loss
        moved = epsilon * steepest(total, "l2", (1, 2))
        if int(function(vectors + moved).argmax(-1)) != target:
            return False
    return True
