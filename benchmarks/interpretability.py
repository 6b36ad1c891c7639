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
- orders: the probability of the class when the first 10 to 50 of 100 words of each method's order are deleted, and the mean of
  ten random orders; and the rank correlation of each two methods on the same review (of sizes, where one is attention).
- shuffled: the rank correlation of explanations before and after the weights were shuffled, a shuffle for each block of reviews;
  of the numbers, and of their sizes alone where these are kept (attention has no signs).
- attacked: each review that SynonymAttack turns is explained before and after, by Shapley values for its own class: how much of the
  log-odds that it lost is lost at the words that were exchanged. Those with another number of words after it are left out.
- planted: a word stands in each text of one class, labels are drawn by lot; how often each method puts it first. Several
  seeds, each with texts, labels, places and a start of their own, of a tiny model and of the bundled encoder.

Each row is written as it ends; where none is missing the summary is made anew. Two processes work (or --processes), with one thread each.
"""

import dataclasses
import json
from functools import lru_cache
from itertools import combinations
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from common import by_kind, gains, interval, make_parts, parser_of_parts

from llm_course.adversarial_examples import SynonymAttack
from llm_course.data import LABELS, load_dataset
from llm_course.fine_tuning import baseline_classifier, fine_tune
from llm_course.explanations import Explanation
from llm_course.interpretability import (FRACTIONS, METHODS, after_deletion, agreement, explain, faithfulness, found_first,
                                         in_random_order, plant_word, with_shuffled_weights)
from llm_course.intervals import bootstrap
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
    return {"correlation": agreement(*pair).tolist(), "of sizes": agreement(*map(without_signs, pair)).tolist()}


def without_signs(found: Explanation) -> Explanation:
    "The sizes of the numbers alone, as attention has them"
    return dataclasses.replace(found, scores=tuple(np.abs(each) for each in found.scores))


def orders(sizes: Sizes, rows: dict, start: int) -> dict:
    "What is left of the class as words go, by each method's order; and how alike the orders of each two methods are"
    classifier, texts = classifier_of(sizes), block_of(sizes, start)
    told = {method: explain(classifier, texts, method=method, samples=sizes.samples, seed=start) for method in METHODS}
    left = {method: after_deletion(classifier, found) for method, found in told.items()}
    lots = [after_deletion(classifier, in_random_order(told["shapley"], seed=start + lot)) for lot in range(10)]
    whole = 1 / (1 + np.exp(-np.array(told["shapley"].values)))  # two classes
    sizes_of = {name: without_signs(found) for name, found in told.items()}
    alike = {}
    for pair in combinations(METHODS, 2):
        them = sizes_of if "attention" in pair else told
        alike[", ".join(pair)] = agreement(them[pair[0]], them[pair[1]]).tolist()
    return {"whole": whole.tolist(), "agreement": alike,
            "left": {**{method: found.tolist() for method, found in left.items()}, RANDOM: np.mean(lots, 0).tolist()}}


def attacked(sizes: Sizes, rows: dict, start: int) -> dict:
    "For each review that was turned: log-odds lost, those lost at the exchanged words, these words, and all words"
    classifier, texts = classifier_of(sizes), load_dataset("movies")["test"].shuffle(seed=0)
    places = {text: place for place, text in enumerate(texts["text"])}
    report = SynonymAttack(seed=0).attack(classifier, texts.select([places[text] for text in block_of(sizes, start)]),
                                          progress=False)
    found = {"lost": [], "at the words": [], "exchanged": [], "words": [], "left out": 0}
    for result in report.results:
        if result.status != "succeeded":
            continue
        before, after = (explain(classifier, [text], target=result.label, samples=sizes.samples, seed=start).scores[0]
                         for text in (result.text, result.perturbed))
        if len(before) != len(after):
            found["left out"] += 1
            continue
        changed = [(place - 1) // 2 for place, _ in result.changes]  # words stand at the odd places
        for name, value in (("lost", (before - after).sum()), ("at the words", (before - after)[changed].sum()),
                            ("exchanged", len(changed)), ("words", len(before))):
            found[name].append(float(value))
    return found


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


WORK = {"completeness": completeness, "faithfulness": faithful, "orders": orders, "shuffled": shuffled, "attacked": attacked,
        "planted": planted}


def jobs(sizes: Sizes) -> dict[str, dict[str, tuple]]:
    "The arguments of each row by part and name"
    starts = range(0, sizes.reviews, sizes.block)
    return {
        "completeness": {f"{steps} {start}": (steps, start) for steps in sizes.steps for start in starts},
        "faithfulness": {f"{method} {start}": (method, start) for method in (*METHODS, RANDOM) for start in starts},
        "orders": {f"from {start}": (start,) for start in starts},
        "shuffled": {f"{method} {start}": (method, start) for method in METHODS for start in starts},
        "attacked": {f"from {start}": (start,) for start in starts},
        "planted": {f"{model} {seed}": (model, seed) for model, seeds in sizes.planted for seed in range(seeds)},
    }


def joined(rows: list[dict], figure: str) -> np.ndarray:
    "A figure of all reviews of some rows"
    return np.concatenate([row[figure] for row in rows])


def with_an_order(correlations: np.ndarray) -> list[float]:
    "Those of the reviews whose numbers are not all alike"
    return correlations[~np.isnan(correlations)].tolist()


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
        values = with_an_order(joined(some, "correlation"))
        found["shuffled"][method] = {"correlation": interval(values), "reviews": len(values)}
        if kept := [row for row in some if "of sizes" in row]:
            alone = with_an_order(joined(kept, "of sizes"))
            found["shuffled"][method] |= {"of sizes": interval(alone), "reviews of these": len(alone)}
    if some := [*rows.get("orders", {}).values()]:
        found["orders"] = {"whole": interval(joined(some, "whole").tolist()), "reviews": len(joined(some, "whole"))}
        for method in some[0]["left"]:
            values = np.concatenate([row["left"][method] for row in some])
            found["orders"][method] = {f"{100 * share:.0f}": interval(values[:, place].tolist())
                                       for place, share in enumerate(FRACTIONS)}
        alike = {pair: np.concatenate([row["agreement"][pair] for row in some]) for pair in some[0]["agreement"]}
        found["agreement"] = {pair: interval(with_an_order(values)) for pair, values in alike.items()}
    if some := [*rows.get("attacked", {}).values()]:
        lost, at_words, exchanged, words = (joined(some, name) for name in ("lost", "at the words", "exchanged", "words"))
        share = bootstrap(lambda own, at: at.sum() / own.sum(), lost, at_words)
        found["attacked"] = {"at the words, of 100": [100 * each for each in (share.value, share.low, share.high)],
                             "words exchanged, of 100": 100 * exchanged.sum() / words.sum(), "reviews": len(lost),
                             "left out": sum(row["left out"] for row in some)}
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
