"""A simulated month, many times: when each signal rings, how often it rings for nothing, and how far estimates of accuracy are off.

    python benchmarks/in_use.py                 # all months; goes on where an earlier call was stopped
    python benchmarks/in_use.py --rows "0.05"   # only months whose names begin so
    python benchmarks/in_use.py --small         # a quick try; writes nothing

A month has 28 days of 30 texts. The classifier is the baseline of the lessons, trained on 3,000 movie reviews; the texts are
movie reviews that it was not trained on, about 7,000, and 3,362 tweets. A seed draws a reference of 400 reviews, and texts for
each day without replacement. Kinds of months: nothing changes; from day 11 on the share of tweets grows by 0.01, 0.02, 0.05
or 0.1 a day, to at most 0.9; all at once, 0.9 from day 11 on; the labels of 0.03 more of the texts a day are turned around.
Of the first kind there are four times as many months, for false alarms are rare. Months are drawn from the same texts, so
their intervals say what chance does in the draw, and nothing of other reviews and tweets.

For each month: the first day from 11 on on which each signal rings, at 0.05 false alarms a week for 35 tests; the alarms of
the four signals without labels on days without drift; and for the last week, estimated less true accuracy of five estimates.
The labels ring by the last 100 of 10 a day. One more row: how much surer than right the classifier is on all texts of a kind,
over which its interval goes. Nothing is chosen by these results. Each row is written as it ends. Two processes work (or --processes)."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from common import by_kind, interval, make_parts, parser_of_parts

from llm_course.data import load_dataset
from llm_course.fine_tuning import baseline_classifier
from llm_course.in_use import SIGNALS, DriftDetector, accuracy_drop, estimated_accuracy, stratified_accuracy, texts_to_label
from llm_course.windows import Window, joined, window_of

NAME, START, DAYS = "in_use", 10, 28
RATES = {"nothing changes": 0.0, "0.01 a day": 0.01, "0.02 a day": 0.02, "0.05 a day": 0.05, "0.1 a day": 0.1,
         "all at once": 0.9, "the meaning changes": 0.0}


class Sizes(NamedTuple):
    "How much is drawn"

    months: int  # of each kind
    texts: int | None  # of each kind of texts, at most; None: all
    reference: int
    day: int
    permutations: int


FULL, SMALL = Sizes(100, None, 400, 30, 999), Sizes(2, 330, 60, 8, 799)


@lru_cache(1)
def known(most: int | None) -> dict[str, tuple[Window, np.ndarray]]:
    "What is watched of all texts, and their labels; read once a process"
    movies, tweets = load_dataset("movies"), load_dataset("tweets")
    unseen = movies["train"].shuffle(seed=0).select(range(3000, len(movies["train"])))  # baseline_classifier took the others
    parts = {"movies": (movies["validation"], movies["test"], unseen), "tweets": tuple(tweets.values())}
    classifier, found = baseline_classifier("movies", size=3000), {}
    for name, some in parts.items():
        texts = [text for part in some for text in part["text"]][:most]
        labels = np.array([label for part in some for label in part["label"]])[:most]
        found[name] = window_of(texts, classifier), labels
    return found


def surer(sizes: Sizes, rows: dict, name: str) -> dict:
    "How far the mean confidence is above the accuracy, on all texts"
    window, labels = known(sizes.texts)[name]
    mean, width = interval((window.confidence - (window.answers == labels)).tolist())
    return {"texts": len(labels), "right": float((window.answers == labels).mean()), "surer": [float(mean), float(width)]}


def drawn(kind: str, sizes: Sizes, seed: int) -> tuple[Window, np.ndarray, list[tuple[Window, np.ndarray]]]:
    "A reference with labels, and the days with theirs"
    generator, texts = np.random.default_rng(seed), known(sizes.texts)
    left = {name: list(generator.permutation(len(labels))) for name, (_, labels) in texts.items()}
    first, left["movies"] = left["movies"][:sizes.reference], left["movies"][sizes.reference:]
    days = []
    for day in range(1, DAYS + 1):
        after = max(0, day - START)
        share = min(0.9, RATES[kind] * (bool(after) if kind == "all at once" else after))
        count = int(sizes.day * share + 0.5)
        rows = {"movies": [left["movies"].pop() for _ in range(sizes.day - count)],
                "tweets": [left["tweets"].pop() for _ in range(count)]}
        labels = np.concatenate([texts[name][1][some] for name, some in rows.items() if some])
        turned = generator.random(len(labels)) < (0.03 * after if kind == "the meaning changes" else 0)
        days.append((joined(*(texts[name][0].rows(some) for name, some in rows.items() if some)),
                     np.where(turned, 1 - labels, labels)))
    return texts["movies"][0].rows(first), texts["movies"][1][first], days


def estimates(reference: Window, labels: np.ndarray, week: Window, truth: np.ndarray, seed: int) -> dict[str, float]:
    "Estimated less true accuracy"
    right, budget = week.answers == truth, min(100, len(week) // 2)
    found = estimated_accuracy(week.probabilities, reference.probabilities, labels)
    some = np.random.default_rng(seed).choice(len(week), budget, replace=False)
    rows = texts_to_label(week.confidence, budget, seed=seed)
    found |= {f"{budget} labels at random": right[some].mean(),
              f"{budget} labels by strata": stratified_accuracy(right[rows], rows, week.confidence).value}
    return {name: round(float(value - right.mean()), 5) for name, value in found.items()}


def month(sizes: Sizes, rows: dict, kind: str, seed: int) -> dict:
    "When each signal rings, false alarms, and the errors of estimates in the last week"
    reference, labels, days = drawn(kind, sizes, seed)
    detector = DriftDetector(reference, tests=35, permutations=sizes.permutations)
    before, generator, bought, rings = reference.answers == labels, np.random.default_rng(seed), [], []
    for window, truth in days:
        some = generator.choice(len(window), min(10, len(window)), replace=False)
        bought.append((window.answers == truth)[some])
        lately = np.concatenate(bought[-10:])
        drop = accuracy_drop(int(lately.sum()), len(lately), int(before.sum()), len(before), detector.threshold)
        rings.append({**{name: drift.alarm for name, drift in detector.check(window).items()}, "labels": drop.alarm})
    clean = rings if RATES[kind] == 0 else rings[:START]  # of the texts; the labels may have changed
    first = {name: next((day for day, ring in enumerate(rings, 1) if day > START and ring[name]), None) for name in rings[0]}
    return {"first": first, "false alarms": sum(ring[name] for ring in clean for name in SIGNALS), "clean days": len(clean),
            "errors": estimates(reference, labels, joined(*(window for window, _ in days[-7:])),
                                np.concatenate([truth for _, truth in days[-7:]]), seed)}


def summary(rows: dict[str, dict[str, dict]]) -> dict:
    "By kind of month: share that rang and median day of each signal, errors; false alarms in a month without drift"
    found = {"rang": {}, "errors": {}, "root mean square": {}}
    found["surer than right"] = {name: row["surer"] for name, row in rows.get("texts", {}).items()}
    months = by_kind(rows.get("months", {}))
    for kind in RATES:
        if kind not in months:
            continue
        some = months[kind]
        found["rang"][kind] = {}
        for name in some[0]["first"]:
            days = [row["first"][name] for row in some if row["first"][name] is not None]
            found["rang"][kind][name] = [len(days) / len(some), float(np.median(days)) if days else None]
        found["errors"][kind] = {name: interval([row["errors"][name] for row in some]) for name in some[0]["errors"]}
        found["root mean square"][kind] = {name: float(np.sqrt(np.mean([row["errors"][name] ** 2 for row in some])))
                                           for name in some[0]["errors"]}
        if kind == "nothing changes":
            mean, width = map(float, interval([row["false alarms"] for row in some]))
            found["false alarms"] = {"mean": mean, "low": mean - width, "high": mean + width, "months": len(some)}
    return found


def main():
    "Make the rows that are missing"
    given = parser_of_parts(__doc__, ["texts", "months"]).parse_args()
    sizes = SMALL if given.small else FULL
    jobs = {"texts": {name: (name,) for name in ("movies", "tweets")},
            "months": {f"{kind} {seed}": (kind, seed) for seed in range(4 * sizes.months) for kind in RATES
                       if seed < sizes.months or kind == "nothing changes"}}
    rows = make_parts(NAME, given, sizes, jobs, {"texts": surer, "months": month}, summary, alone=["texts"])
    print(summary(rows))


if __name__ == "__main__":
    main()
