"""Whether explanations add up and whether they are true: six methods on 200 movie reviews, and planted words.

    python benchmarks/interpretability.py                     # all parts; goes on where an earlier call was stopped
    python benchmarks/interpretability.py --part planted      # one of them
    python benchmarks/interpretability.py --rows "lime "      # only the rows whose names begin so
    python benchmarks/interpretability.py --small             # a quick try of each part; writes nothing

The classifier is the baseline of the lessons; the reviews are of its test set, at most 30 words long.

- completeness: how far the numbers of integrated gradients are from the change that they share out, for several numbers
  of steps: the share of reviews within 1 % of it, and the mean and the largest difference.
- faithfulness: comprehensiveness and sufficiency of each method, and of a random order (one deal for each review), each the
  mean over the shares deleted; means with 95 % intervals, and by how much a method's lie above those of a random order, and of
  Shapley values, on the same review (`above`).
- shuffled: the rank correlation of explanations before and after the weights were shuffled, on the first half of the reviews.
- planted: a word stands in each text of one class, labels are drawn by lot; how often each method puts it first. Several
  seeds, each with texts, labels, places and a start of their own, of a tiny model and of the bundled encoder.

Each row is written as it ends; where none is missing the summary is made anew. Two processes work (or --processes), with one thread each.
"""

import json
from functools import lru_cache
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from common import by_kind, gains, interval, make_parts, parser_of_parts

from llm_course.data import LABELS, load_dataset
from llm_course.fine_tuning import baseline_classifier, fine_tune
from llm_course.interpretability import (METHODS, agreement, explain, faithfulness, found_first, in_random_order, plant_word,
                                         with_shuffled_weights)
from llm_course.models import TextClassifier

NAME = "interpretability"
RANDOM = "random order"
RECIPES = {"tiny-bert": (400, 4, 1e-3), "minilm": (200, 3, 3e-4)}  # texts, epochs, learning rate of a planted word


class Sizes(NamedTuple):
    "How much is asked"

    reviews: int
    block: int  # reviews of a row
    steps: tuple[int, ...]
    samples: int  # questions of shapley and lime
    planted: tuple[tuple[str, int], ...]  # models and their seeds
    texts: int  # with a planted word, for each seed
    bundled: bool = True  # else a tiny model stands for the baseline


FULL = Sizes(200, 50, (16, 32, 64), 200, (("tiny-bert", 5), ("minilm", 3)), 100)
SMALL = Sizes(6, 3, (4, 8), 20, (("tiny-bert", 1),), 4, False)


@lru_cache(1)
def classifier_of(sizes: Sizes) -> TextClassifier:
    "What is explained"
    if sizes.bundled:
        return baseline_classifier("movies")
    return TextClassifier.from_pretrained("tiny-bert", labels=LABELS)


@lru_cache(1)
def reviews_of(sizes: Sizes) -> list[str]:
    "Test reviews of at most 30 words"
    texts = load_dataset("movies")["test"].shuffle(seed=0)["text"]
    return [text for text in texts if 4 <= len(text.split()) <= 30][: sizes.reviews]


def block_of(sizes: Sizes, start: int) -> list[str]:
    "The reviews of a row"
    return reviews_of(sizes)[start: start + sizes.block]


def completeness(sizes: Sizes, rows: dict, steps: int, start: int) -> dict:
    "What is missing of the change, and the change"
    found = explain(classifier_of(sizes), block_of(sizes, start), method="integrated gradients", steps=steps)
    return {"missing": found.missing.tolist(),
            "change": (np.array(found.values) - np.array(found.baselines)).tolist()}


def faithful(sizes: Sizes, rows: dict, method: str, start: int) -> dict:
    "Comprehensiveness and sufficiency of each review"
    classifier, texts = classifier_of(sizes), block_of(sizes, start)
    if method == RANDOM:
        found = in_random_order(explain(classifier, texts, method="gradient times input"), seed=start)
    else:
        found = explain(classifier, texts, method=method, samples=sizes.samples, seed=start)
    return {name: values.tolist() for name, values in faithfulness(classifier, found).items()}


def shuffled(sizes: Sizes, rows: dict, method: str, start: int) -> dict:
    "Correlations before and after"
    classifier, texts = classifier_of(sizes), block_of(sizes, start)
    pair = [explain(model, texts, method=method, target="positive", samples=sizes.samples)
            for model in (classifier, with_shuffled_weights(classifier, seed=start))]
    return {"correlation": agreement(*pair).tolist()}


def short(part: str, seed: int, count: int) -> list[str]:
    "Reviews to plant a word into"
    texts = load_dataset("movies")[part].shuffle(seed=seed)["text"]
    return [text for text in texts if 6 <= len(text.split()) <= 24][:count]


def planted(sizes: Sizes, rows: dict, model: str, seed: int) -> dict:
    "For each method: in how many of the texts it puts the planted word first"
    count, epochs, rate = RECIPES[model]
    count = count if sizes.bundled else 100
    labels = np.random.default_rng(seed).integers(2, size=count)
    train = {"text": plant_word(short("train", seed, count), labels == 1, seed=seed), "label": labels.tolist()}
    classifier = TextClassifier.from_pretrained(model, labels=LABELS, seed=seed)
    fine_tune(classifier, train, epochs=epochs, learning_rate=rate, batch_size=16, seed=seed, progress=False)
    fresh = short("test", seed, sizes.texts)
    texts = plant_word(fresh, [True] * len(fresh), seed=seed + 1)
    found = {method: int(found_first(explain(classifier, texts, method=method, target="positive", samples=sizes.samples,
                                             steps=64, seed=seed), "thursday").sum()) for method in METHODS}
    right = sum(label == "positive" for label in classifier.predict(texts))
    return {**found, "called positive": right, "texts": len(texts)}


WORK = {"completeness": completeness, "faithfulness": faithful, "shuffled": shuffled, "planted": planted}


def jobs(sizes: Sizes) -> dict[str, dict[str, tuple]]:
    "The arguments of each row by part and name"
    starts = range(0, sizes.reviews, sizes.block)
    return {
        "completeness": {f"{steps} {start}": (steps, start) for steps in sizes.steps for start in starts},
        "faithfulness": {f"{method} {start}": (method, start) for method in (*METHODS, RANDOM) for start in starts},
        "shuffled": {f"{method} {start}": (method, start) for method in METHODS for start in list(starts)[:2]},
        "planted": {f"{model} {seed}": (model, seed) for model, seeds in sizes.planted for seed in range(seeds)},
    }


def joined(rows: list[dict], figure: str) -> np.ndarray:
    "A figure of all reviews of some rows"
    return np.concatenate([row[figure] for row in rows])


def summary(rows: dict[str, dict[str, dict]]) -> dict:
    "Means with 95 % intervals over reviews; of planted words mean, lowest and highest of the trainings"
    found, kinds = {part: {} for part in (*WORK, "above")}, {part: by_kind(rows.get(part, {})) for part in WORK}
    for steps, some in kinds["completeness"].items():
        missing, change = (np.abs(joined(some, name)) for name in ("missing", "change"))
        found["completeness"][steps] = {"within 1 %, of 100": round(100 * float((missing <= 0.01 * change).mean()), 1),
                                        "mean error": round(float(missing.mean()), 4),
                                        "largest error": round(float(missing.max()), 4), "reviews": len(missing)}
    for method, some in kinds["faithfulness"].items():
        values = {name: joined(some, name).tolist() for name in ("comprehensiveness", "sufficiency")}
        found["faithfulness"][method] = {**{name: interval(each) for name, each in values.items()},
                                         "reviews": len(values["sufficiency"])}
    for other in (RANDOM, "shapley"):
        apart = {name: gains(rows.get("faithfulness", {}), itemgetter(name), other)
                 for name in ("comprehensiveness", "sufficiency")}
        if methods := [method for method in apart["sufficiency"] if method != other]:
            found["above"][other] = {method: {name: each[method] for name, each in apart.items()} for method in methods}
    for method, some in kinds["shuffled"].items():
        values = joined(some, "correlation")
        values = values[~np.isnan(values)].tolist()  # no order where all numbers are alike
        found["shuffled"][method] = {"correlation": interval(values), "reviews": len(values)}
    for model, runs in kinds["planted"].items():
        shares = {method: [row[method] / row["texts"] for row in runs] for method in METHODS}
        found["planted"][model] = {"trainings": len(runs), **{
            method: (float(np.mean(each)), min(each), max(each)) for method, each in shares.items()}}
    return found


def main():
    "Make the rows that are missing"
    given = parser_of_parts(__doc__, [*WORK]).parse_args()
    sizes = SMALL if given.small else FULL
    rows = make_parts(NAME, given, sizes, jobs(sizes), WORK, summary, timed=True)
    if given.small:
        print("summary", json.dumps(summary(rows)))


if __name__ == "__main__":
    main()
