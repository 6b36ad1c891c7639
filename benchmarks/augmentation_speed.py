"""Texts a second of our word augmenters, nlpaug's and TextAttack's, side by side in one process.

    python -m venv rivals; rivals/bin/pip install -c constraints.txt -e . -r benchmarks/requirements.txt
    rivals/bin/pip install --no-deps -c constraints.txt -r benchmarks/requirements-no-deps.txt
    rivals/bin/python benchmarks/augmentation_speed.py

Medians of five interleaved repeats. Each changes a tenth of the words of movie reviews: single ones of about 20 words,
and twelve joined, of about 230. What the rivals were supplied with is said in rivals.py. TextAttack gets few texts,
because it needs seconds for each. The cost of long texts is measured up to 100,000 words.
"""

import time
import warnings
from collections.abc import Callable

from common import interleaved, medians, ratios, write
from rivals import stub_flair, stub_nlpaug_tagger, supply_nltk_data

from llm_course.augmentation import RandomDeletion, RandomSwap, SynonymReplacement, TypingNoise, UnchangedTexts
from llm_course.augmentation import RandomInsertion
from llm_course.data import load_dataset
from llm_course.words import STOP_WORDS

supply_nltk_data(STOP_WORDS)
stub_flair()

import nlpaug.augmenter.char as nac  # noqa: E402
import nlpaug.augmenter.word as naw  # noqa: E402
from textattack.augmentation import WordNetAugmenter  # noqa: E402

REPEATS = 5
SHARE = 0.1


def sets_of_texts() -> dict[str, list[str]]:
    "Short and long texts"
    reviews = [text for text in load_dataset("movies")["train"]["text"] if 15 <= len(text.split()) <= 25]
    return {"20 words": reviews[:2000], "230 words": [" ".join(reviews[i : i + 12]) for i in range(0, 2400, 12)]}


def contestants() -> dict[str, dict[str, Callable[[list[str]], list]]]:
    "Task -> name -> what augments a list of texts"
    stub_nlpaug_tagger()
    theirs = {"aug_p": SHARE, "aug_max": None, "stopwords": sorted(STOP_WORDS)}
    synonym, swap = naw.SynonymAug(aug_src="wordnet", **theirs), naw.RandomWordAug(action="swap", **theirs)
    deletion, typing = naw.RandomWordAug(action="delete", **theirs), nac.KeyboardAug(aug_word_p=SHARE, aug_word_max=None)
    attack = WordNetAugmenter(pct_words_to_swap=SHARE, transformations_per_example=1)
    return {
        "synonyms": {"llm_course": SynonymReplacement(SHARE).augment, "nlpaug": synonym.augment,
                     "TextAttack": attack.augment_many},
        "swap": {"llm_course": RandomSwap(SHARE).augment, "nlpaug": swap.augment},
        "deletion": {"llm_course": RandomDeletion(SHARE).augment, "nlpaug": deletion.augment},
        "typing noise": {"llm_course": TypingNoise(SHARE).augment, "nlpaug": typing.augment},
        "insertion": {"llm_course": RandomInsertion(SHARE).augment},
    }


def texts_per_second(augment: Callable, texts: list[str]) -> dict[str, float]:
    "One timing"
    start = time.perf_counter()
    augment(texts)
    return {"texts_per_second": len(texts) / (time.perf_counter() - start)}


def growth() -> list[dict]:
    "Seconds for one text of more and more words, the best of three"
    words = " ".join(sets_of_texts()["230 words"]).split()
    rows = []
    for count in (1_000, 10_000, 100_000):
        text = " ".join((words * (1 + count // len(words)))[:count])
        best = min(1 / texts_per_second(SynonymReplacement(SHARE).augment, [text])["texts_per_second"] for _ in range(3))
        rows.append({"words": count, "seconds": best, "microseconds_per_word": 1e6 * best / count})
    return rows


def main():
    "Measure all tasks and keep the results"
    warnings.simplefilter("ignore", UnchangedTexts)
    results = {}
    for task, methods in contestants().items():
        for size, texts in sets_of_texts().items():
            few = {"20 words": texts[:20], "230 words": texts[:1]}[size]
            for name, augment in methods.items():
                augment(few if name == "TextAttack" else texts[:100])  # tables and caches are loaded

            def measure(name: str, _: int, methods: dict = methods, texts: list = texts, few: list = few) -> dict:
                return texts_per_second(methods[name], few if name == "TextAttack" else texts)

            rows = interleaved(list(methods), REPEATS, measure)
            results[f"{task}, {size}"] = {"medians": medians(rows), "repeats": rows,
                                          "ratios": ratios(rows, "llm_course", "texts_per_second")}
    write("augmentation_speed", {"share_of_words": SHARE, "results": results, "growth": growth()})


if __name__ == "__main__":
    main()
