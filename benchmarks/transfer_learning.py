"""What is trained of a pre-trained model, and what it can do in another domain before and after.

    python benchmarks/transfer_learning.py                # all parts; goes on where an earlier call was stopped
    python benchmarks/transfer_learning.py --part ways    # one of them
    python benchmarks/transfer_learning.py --rows "200 "  # only the rows whose names begin so
    python benchmarks/transfer_learning.py --small        # a quick try of each part; writes nothing

The bundled model, batches of 16, trained in bfloat16 where the processor computes in it, judged in float32. A seed draws the
labelled texts, the new head, the order of the batches and dropout, so ways of one seed are compared in pairs.

- steps: the mean seconds of one core for a training step of each way, in float32, the ways by turns.
- rates: accuracy on 300 validation reviews of movies for each way to train and four to six learning rates (one seed, which
  is not used again).
- ways: accuracy on the test reviews at the rate that was best there, three seeds, with 200 labels and with 1,000.
  `head` trains what lies behind the last layer, `last k` so many layers besides.
- domains: a classifier of movie reviews (1,000 labels) meets another domain: accuracy there, and on 500 movie reviews
  again, after 0, 50, 200 and all labels of it; beside it one that never saw a movie review. Everything is trained, or
  the head alone. Three seeds; one learning rate, the best of `rates` for 1,000 labels, which must be there.
- hub: an encoder, a decoder and an encoder-decoder from the Hub, with 200 and 1,000 labels; only on a GPU and with a
  network.

Each row is written as it ends, all ways of the first seed before the second. Two processes work (or --processes), with
one thread each. Minutes on one core that computes in bfloat16 (elsewhere some three times as many): steps 2, rates 5 (200
labels) and 11 (1,000), ways 8 and 13, domains 55.
"""

import time
from collections.abc import Callable
from copy import deepcopy
from functools import lru_cache
from statistics import mean, median
from typing import NamedTuple

import torch
from common import interval, make_parts, over_seeds, parser_of_parts, quick_precision
from datasets import Dataset

from llm_course.data import LABELS, load_dataset
from llm_course.fine_tuning import fine_tune, validation_scores
from llm_course.models import TextClassifier

NAME, TARGETS = "transfer_learning", ("products", "tweets", "opinions")
WAYS = {  # the arguments of fine_tune
    "head": {"trainable": "head"},
    "last 1": {"trainable": 1},
    "last 3": {"trainable": 3},
    "all": {},
    "gradual": {"trainable": "gradual"},
    "all, decay 0.7": {"layer_decay": 0.7},
    "gradual, decay 0.38": {"trainable": "gradual", "layer_decay": 1 / 2.6},
}
HIGH = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
RATES = {"head": (1e-3, 3e-3, 1e-2, 3e-2), "last 1": (*HIGH, 3e-2), "gradual, decay 0.38": HIGH}  # of the others:
USUAL = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
HUB = {"bert-base-uncased": 3e-5, "gpt2": 3e-5, "google/t5-v1_1-base": 1e-3}  # and their usual learning rates


class Sizes(NamedTuple):
    "How much each part trains"

    labels: tuple[tuple[int, int], ...]  # labels and epochs
    seeds: int
    validation: int
    test: int  # at most
    movies: int  # reviews that show what is forgotten
    source: tuple[int, int]  # labels of movie reviews in `domains`, and epochs
    targets: tuple[tuple[int | None, int], ...]  # labels of the other domain and epochs; None: all
    steps: tuple[int, int]  # of a run of `steps`, and its repeats


FULL = Sizes(((200, 4), (1000, 2)), 3, 300, 1004, 500, (1000, 2), ((0, 0), (50, 8), (200, 4), (None, 1)), (16, 3))
SMALL = Sizes(((16, 1),), 2, 16, 16, 16, (16, 1), ((0, 0), (8, 1)), (2, 1))


def drawn(name: str, count: int, seed: int) -> Dataset:
    "Labelled texts of a domain"
    train = load_dataset(name)["train"].shuffle(seed=seed)
    return train.select(range(min(count, len(train))))


def judged(name: str, part: str, most: int) -> Dataset:
    "What accuracy is measured on"
    texts = load_dataset(name)[part]
    return texts.select(range(min(most, len(texts))))


def new_classifier(seed: int, name: str = "minilm") -> TextClassifier:
    "A pre-trained model with a new head"
    return TextClassifier.from_pretrained(name, labels=LABELS, seed=seed)


def trained(classifier: TextClassifier, train: Dataset, epochs: int, rate: float, seed: int, **way) -> TextClassifier:
    "A classifier after its training"
    options = {"mixed_precision": quick_precision(), **way}
    return fine_tune(classifier, train, epochs=epochs, learning_rate=rate, batch_size=16, seed=seed, progress=False,
                     **options).classifier


def accuracy(classifier: TextClassifier, name: str, part: str, most: int) -> float:
    "The share of right answers"
    return validation_scores(classifier, judged(name, part, most))["accuracy"]


def steps(sizes: Sizes, rows: dict) -> dict:
    "Seconds of one core for a step of each way: the median over repeats of the mean over a run"
    (count, repeats), found = sizes.steps, {way: [] for way in WAYS}
    for repeat in range(repeats):
        texts = drawn("movies", 16 * count, repeat)
        for way, options in WAYS.items():
            classifier, start = new_classifier(repeat), time.process_time()
            trained(classifier, texts, 1, 1e-5, repeat, mixed_precision="no", **options)
            found[way].append((time.process_time() - start) / count)
    return {way: median(times) for way, times in found.items()}


def rates(sizes: Sizes, rows: dict, labels: int, epochs: int, way: str, rate: float) -> dict:
    "Accuracy on validation reviews"
    seed = 100
    classifier = trained(new_classifier(seed), drawn("movies", labels, seed), epochs, rate, seed, **WAYS[way])
    return {"accuracy": accuracy(classifier, "movies", "validation", sizes.validation)}


def best_rate(rows: dict, labels: int, way: str) -> float:
    "The learning rate that was best for a way"
    names = {rate: f"{labels} {way} {rate:g}" for rate in RATES.get(way, USUAL)}
    if missing := [name for name in names.values() if name not in rows.get("rates", {})]:
        raise RuntimeError(f"No learning rate is chosen yet. First: --part rates --rows '{missing[0]}'")
    return max(names, key=lambda rate: rows["rates"][names[rate]]["accuracy"])


def ways(sizes: Sizes, rows: dict, labels: int, epochs: int, way: str, seed: int) -> dict:
    "Accuracy on test reviews"
    rate = best_rate(rows, labels, way)
    classifier = trained(new_classifier(seed), drawn("movies", labels, seed), epochs, rate, seed, **WAYS[way])
    return {"accuracy": accuracy(classifier, "movies", "test", sizes.test), "rate": rate}


@lru_cache(1)  # the three domains begin with the same
def of_movies(labels: int, epochs: int, rate: float, seed: int, way: str) -> TextClassifier:
    "A classifier of movie reviews"
    return trained(new_classifier(seed), drawn("movies", labels, seed), epochs, rate, seed, **WAYS[way])


def domains(sizes: Sizes, rows: dict, target: str, start: str, way: str, seed: int) -> dict:
    "Accuracy in the other domain and on movie reviews, by the labels of the other domain"
    found, rate = {}, best_rate(rows, sizes.labels[-1][0], way)
    for labels, epochs in sizes.targets:
        if not epochs and start != "movies":
            continue  # nobody has trained its head
        began = start == "movies"
        classifier = deepcopy(of_movies(*sizes.source, rate, seed, way)) if began else new_classifier(seed)
        if epochs:
            count = len(load_dataset(target)["train"]) if labels is None else labels
            trained(classifier, drawn(target, count, seed), epochs, rate, seed, **WAYS[way])
        found["all" if labels is None else str(labels)] = {
            "target": accuracy(classifier, target, "test", sizes.test),
            "movies": accuracy(classifier, "movies", "test", sizes.movies)}
    return {**found, "rate": rate}


def hub(sizes: Sizes, rows: dict, model: str, labels: int, epochs: int, seed: int) -> dict:
    "Accuracy on test reviews"
    classifier = trained(new_classifier(seed, model), drawn("movies", labels, seed), epochs, HUB[model], seed)
    return {"accuracy": accuracy(classifier, "movies", "test", sizes.test),
            "parameters": sum(weight.numel() for weight in classifier.model.parameters())}


WORK = {"steps": steps, "rates": rates, "ways": ways, "domains": domains, "hub": hub}


def jobs(sizes: Sizes) -> dict[str, dict[str, tuple]]:
    "The arguments of each row by part and name"
    seeds = range(sizes.seeds)
    found = {"steps": {"by turns": ()},
             "rates": {f"{labels} {way} {rate:g}": (labels, epochs, way, rate) for labels, epochs in sizes.labels
                       for way in WAYS for rate in RATES.get(way, USUAL)},
             "ways": {f"{labels} {way} {seed}": (labels, epochs, way, seed) for labels, epochs in sizes.labels
                      for seed in seeds for way in WAYS},
             "domains": {f"{target} {start} {way} {seed}": (target, start, way, seed) for seed in seeds
                         for start in ("movies", "nothing") for way in ("all", "head") for target in TARGETS}}
    if torch.cuda.is_available():
        found["hub"] = {f"{model} {labels} {seed}": (model, labels, epochs, seed) for model in HUB
                        for labels, epochs in sizes.labels for seed in seeds}
    return found


def other_rates(sizes: Sizes) -> dict[str, Callable[..., bool]]:
    "By part: whether a row was trained at a learning rate that is not the best one now"
    def of_ways(row: dict, rows: dict, labels: int, epochs: int, way: str, seed: int) -> bool:
        return row["rate"] != best_rate(rows, labels, way)

    def of_domains(row: dict, rows: dict, target: str, start: str, way: str, seed: int) -> bool:
        return row["rate"] != best_rate(rows, sizes.labels[-1][0], way)

    return {"ways": of_ways, "domains": of_domains}


def by_labels(row: dict) -> dict[str, dict]:
    "What a row of `domains` measured, without its seconds and its rate"
    return {labels: scores for labels, scores in row.items() if isinstance(scores, dict)}


def over_domains(domains: dict[str, dict[str, dict]]) -> dict[str, dict]:
    "Seed by seed the mean of the three domains: lost on movie reviews, and ahead of those that began with nothing"
    points, found = {}, {}
    for key, row in domains.items():
        target, start, way, seed = key.split(" ")
        began = domains.get(f"{target} movies {way} {seed}")
        for labels, nothing in row.items() if start == "nothing" and began else ():
            for name, value in (("lost on movies", began["0"]["movies"] - began[labels]["movies"]),
                                ("ahead of nothing", began[labels]["target"] - nothing["target"])):
                points.setdefault((f"{way} {labels}", name), {}).setdefault(seed, []).append(value)
    for (key, name), by_seed in points.items():
        if all(len(values) == len(TARGETS) for values in by_seed.values()):
            found.setdefault(key, {})[name] = interval([mean(values) for values in by_seed.values()])
    return found


def summary(rows: dict[str, dict[str, dict]]) -> dict:
    "Means and 95 % intervals over seeds; differences seed by seed"
    found, groups = {}, {}
    for key, row in rows.get("ways", {}).items():
        way, seed = key.rsplit(" ", 1)
        groups.setdefault(way, []).append({**row, "seed": seed})
    for key, same in groups.items():
        whole = {row["seed"]: row["accuracy"] for row in groups.get(f"{key.split(' ', 1)[0]} all", [])}
        ahead = [row["accuracy"] - whole[row["seed"]] for row in same if row["seed"] in whole]
        found.setdefault("ways", {})[key] = {
            "accuracy": interval([row["accuracy"] for row in same]), "seeds": len(same), "rate": same[0]["rate"],
            "ahead of all": interval(ahead) if ahead else None}
    if timed := rows.get("steps"):
        found["seconds of a step"] = {way: timed["by turns"][way] for way in WAYS}
    groups, domains = {}, {key: by_labels(row) for key, row in sorted(rows.get("domains", {}).items())}
    for key, row in domains.items():
        for labels, scores in row.items():
            groups.setdefault(f"{key.rsplit(' ', 1)[0]} {labels}", []).append(scores)
    if groups:
        found["domains"] = {key: {where: interval([scores[where] for scores in same]) for where in same[0]}
                            for key, same in groups.items()}
    if means := over_domains(domains):
        found["mean of the domains"] = means
    if made := rows.get("hub"):
        found["hub"] = over_seeds(made, "accuracy")
    return found


def main():
    "Make the rows that are missing"
    given = parser_of_parts(__doc__, [*WORK]).parse_args()
    sizes = SMALL if given.small else FULL
    make_parts(NAME, given, sizes, jobs(sizes), WORK, summary, timed=True, stale=other_rates(sizes))


if __name__ == "__main__":
    main()
