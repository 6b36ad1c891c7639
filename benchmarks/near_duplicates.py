"""Groups of near-duplicates by rare words, which is exact, and by hashing: seconds, and what hashing misses.

25,000 texts of IMDb's length: 230 words on average, few of 2,000, joined from the sentences of the bundled sets. Both
ways take turns in one process on one core. Seconds of the processor stand beside those of the clock.

Recall is the share of all pairs of texts with different word sets, at least as similar as the threshold, whose texts
stand in one group by hashing. It is measured on tweets, and on movies with planted near-duplicates: 3,000 reviews come
a second time with some words left out and as many made up, so that their similarities lie between the threshold and 1.

    python benchmarks/near_duplicates.py [--repeats 3] [--texts 25000]
"""

import argparse
import math
import random
import time
from importlib.metadata import version

from common import interleaved, medians, ratios, write

from llm_course.data import BUNDLED_DATASETS, load_ratings
from llm_course.duplicates import jaccard, near_duplicate_groups, near_duplicates, word_set

THRESHOLDS, SEEDS, PLANTED = (0.5, 0.7, 0.8, 0.9), (0, 1, 2), 3000
RARE_WORDS, HASHING = "rare words", "hashing"


def long_texts(count: int, seed: int = 0) -> list[str]:
    "Sentences of the bundled sets, joined to lengths that are log-normal as those of IMDb's reviews nearly are"
    rng, texts = random.Random(seed), []
    sentences = [text for name in BUNDLED_DATASETS for text in load_ratings(name)["text"]]
    for _ in range(count):
        length, parts = min(2000.0, max(20.0, rng.lognormvariate(math.log(175), 0.68))), []
        while sum(len(part.split()) for part in parts) < length:
            parts.append(rng.choice(sentences))
        texts.append(" ".join(parts))
    return texts


def timing(method: str, texts: list[str], threshold: float) -> dict[str, float]:
    "Seconds to group the texts, and how many groups there are"
    clock, processor = time.perf_counter(), time.process_time()
    groups = near_duplicate_groups(texts, threshold, exact_up_to=len(texts) if method == RARE_WORDS else 0)
    return {"seconds": time.perf_counter() - clock, "processor_seconds": time.process_time() - processor,
            "groups": len(set(groups.tolist()))}


def equal_texts(count: int = 2000) -> dict[str, float]:
    "Seconds for copies of one text: all pairs, and the one group; the best of three"
    seconds = {}
    for function in (near_duplicates, near_duplicate_groups):
        starts = []
        for _ in range(3):
            start = time.perf_counter()
            function(["the same text again"] * count)
            starts.append(time.perf_counter() - start)
        seconds[function.__name__] = min(starts)
    return {"texts": count, "seconds": seconds}


def variant(text: str, least: float, rng: random.Random) -> str:
    "The text with some words replaced by made-up ones, at least so similar as a set of words"
    words = sorted(word_set(text))
    shared = rng.randint(math.ceil(2 * least * len(words) / (1 + least) - 1e-9), len(words))
    return " ".join(rng.sample(words, shared) + [f"new{rng.randrange(10**9)}" for _ in words[shared:]])


def planted_movies(threshold: float) -> list[str]:
    "All reviews, and variants of some that have twenty different words or more"
    rng, reviews = random.Random(f"planted at {threshold}"), list(load_ratings("movies")["text"])
    chosen = rng.sample([text for text in reviews if len(word_set(text)) >= 20], PLANTED)
    return reviews + [variant(text, threshold, rng) for text in chosen]


def found(texts: list[str], threshold: float) -> dict:
    "What hashing finds of the pairs and groups that there are, for each seed"
    sets, exact = [word_set(text) for text in texts], near_duplicate_groups(texts, threshold, exact_up_to=len(texts))
    pairs = [(i, j) for i, j in near_duplicates(texts, threshold) if sets[i] != sets[j]]
    close = sum(jaccard(sets[i], sets[j]) < threshold + 0.05 for i, j in pairs)
    rows = []
    for seed in SEEDS:
        hashed = near_duplicate_groups(texts, threshold, exact_up_to=0, seed=seed)
        together = sum(hashed[i] == hashed[j] for i, j in pairs)
        rows.append({"seed": seed, "pairs_together": int(together), "recall": float(together / len(pairs)),
                     "groups": len(set(hashed.tolist()))})
    return {"texts": len(texts), "pairs": len(pairs), "pairs_within_0.05_of_the_threshold": close,
            "groups": len(set(exact.tolist())), "hashing": rows}


def main():
    "Measure and keep the results"
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--texts", type=int, default=25_000)
    arguments = parser.parse_args()
    recall = {}
    for threshold in THRESHOLDS:
        for name, texts in (("movies, planted", planted_movies(threshold)),
                            ("tweets", list(load_ratings("tweets")["text"]))):
            recall[f"{name}, {threshold}"] = found(texts, threshold)
            print(name, threshold, recall[f"{name}, {threshold}"], flush=True)
    least = min(row["recall"] for result in recall.values() for row in result["hashing"])
    texts, times = long_texts(arguments.texts), {}
    for threshold in (0.8, 0.5):
        rows = interleaved([RARE_WORDS, HASHING] if threshold == 0.8 else [HASHING], arguments.repeats,
                           lambda method, _, threshold=threshold: timing(method, texts, threshold))
        times[str(threshold)] = {"medians": medians(rows), "ratios": ratios(rows, HASHING, "seconds"), "repeats": rows}
    write("near_duplicates", {"datasketch": version("datasketch"), "texts": len(texts),
                              "words_per_text": sum(len(text.split()) for text in texts) / len(texts),
                              "longest": max(len(text.split()) for text in texts), "times": times,
                              "equal_texts": equal_texts(), "least_recall": least, "recall": recall})


if __name__ == "__main__":
    main()
