"""Accuracy against the share of weights that are trained, its cost, and what an attack leaves: movie reviews.

    python benchmarks/parameter_efficient.py                  # all parts; goes on where an earlier call was stopped
    python benchmarks/parameter_efficient.py --part accuracy  # one of them
    python benchmarks/parameter_efficient.py --rows "200"     # only rows whose names begin so
    python benchmarks/parameter_efficient.py --small          # a quick try of each part; writes nothing

Arms: all weights, what lies behind the last layer alone (pooler and head), LoRA beside all matrices (rank 8), LoRA beside
query and value (rank 8), LoRA of rank 1, AdaLoRA (from 12 to 8 on average), adapters of 16 neurons, a prefix of 10. All begin
as the bundled encoder. They are trained in bfloat16 where the processor computes in it, for time and memory in float32, and
judged in float32.

- rates: accuracy on 500 validation reviews for four or five learning rates an arm, with a seed that no other part has: for 200
  labels as they are trained later, for all labels with 2,000 reviews read once.
- two rates: the same for all labels read once, with the best two of these rates: what is stable in a short run may not be in a
  long one.
- accuracy: on the whole test part with the best rate; 200 labels (10 times) and all 8,034 (once), three
  seeds. A seed draws the labels, the head, the new parts, the order and dropout. Beside it the weights that were
  trained, and the bytes of what was saved.
- attack: the share of 60 test reviews that stay right under SynonymAttack, for the classifiers of all labels.
  The differences from all weights have intervals of a bootstrap in two ways: seeds and reviews are drawn again.
- time: the milliseconds of a step of 16 reviews on a CPU, the median of seven rounds. All ways take turns in a round, so that
  a machine whose speed drifts treats all alike; the share of the time of all weights is taken round by round.
- memory: how far 12 steps lift the memory of a process of their own above that which holds the weights, the median of three.

Each row is written as it ends. Two processes work (or --processes), with one thread each; time is measured by one, on a
machine that does nothing else. A classifier of all labels is kept in the cache between accuracy and attack, and trained
again where it is missing.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from common import (
    bits,
    in_own_process,
    interleaved,
    make_parts,
    medians,
    over_seeds,
    parser_of_parts,
    peak_memory,
    quick_precision,
    right_answers,
    table_of,
    two_ways,
)

from llm_course.adversarial_examples import SynonymAttack
from llm_course.core import cache_folder
from llm_course.data import load_dataset
from llm_course.fine_tuning import FineTuningRun, fine_tune, validation_scores
from llm_course.models import TextClassifier
from llm_course.parameter_efficient import training_cost
from llm_course.training.layers import depths

NAME, SPARE, PLACES = "parameter_efficient", 100, (0, 1)  # the seed that chooses rates, and how many are tried with all labels
WAYS = {  # the method, its options, and the learning rates that are tried
    "all weights": (None, {}, (3e-5, 5e-5, 1e-4, 2e-4)),
    "head": (None, {"trainable": "head"}, (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)),
    "LoRA": ("lora", {"rank": 8}, (2e-4, 5e-4, 1e-3, 2e-3, 5e-3)),
    "LoRA, query and value": ("lora", {"rank": 8, "targets": ["query", "value"]}, (3e-4, 1e-3, 3e-3, 1e-2)),
    "LoRA, rank 1": ("lora", {"rank": 1}, (3e-4, 1e-3, 3e-3, 1e-2)),
    "AdaLoRA": ("adalora", {"rank": 8}, (2e-3, 5e-3, 1e-2, 2e-2)),
    "adapter": ("adapter", {"size": 16}, (5e-4, 1e-3, 2e-3, 5e-3)),
    "prefix": ("prefix", {"length": 10}, (3e-3, 1e-2, 3e-2, 1e-1))}


class Sizes(NamedTuple):
    "How much each part trains and asks"

    few: tuple[int, int]  # labels, and times through them
    all: tuple[int | None, int]  # None: all there are
    trial: tuple[int, int]  # for the rates of all labels
    judged: int | None  # validation and test reviews
    attacked: int
    seeds: int
    rounds: int


FULL = Sizes((200, 10), (None, 1), (2000, 1), None, 60, 3, 7)
SMALL = Sizes((32, 1), (64, 1), (32, 1), 16, 2, 2, 2)


def new(way: str, seed: int, device: str | None = None) -> TextClassifier:
    "A classifier that has learnt nothing of reviews"
    method, options, _ = WAYS[way]
    labels = load_dataset("movies")["train"].features["label"].names
    base = TextClassifier.from_pretrained("minilm", labels=labels, seed=seed, device=device)
    return base.with_adapter(method, seed=seed, **options) if method else base


def trained(way: str, count: int | None, epochs: int, rate: float, seed: int) -> tuple[TextClassifier, float]:
    "A classifier and the seconds that its steps took"
    reviews, classifier = load_dataset("movies")["train"].shuffle(seed=seed), new(way, seed)
    reviews = reviews.select(range(min(count or len(reviews), len(reviews))))
    run = fine_tune(classifier, reviews, epochs=epochs, batch_size=16, learning_rate=rate, seed=seed, progress=False,
                    trainable=WAYS[way][1].get("trainable", "all"), mixed_precision=quick_precision())
    return classifier, run.seconds


def part_of(name: str, most: int | None):
    "The first reviews of a part, in an order of its own"
    reviews = load_dataset("movies")[name].shuffle(seed=SPARE)
    return reviews.select(range(min(most or len(reviews), len(reviews))))


def rates(sizes: Sizes, rows: dict, size: str, way: str, rate: float) -> dict:
    "Accuracy on validation reviews"
    count, epochs = sizes.few if size == "200" else sizes.trial
    classifier, _ = trained(way, count, epochs, rate, SPARE)
    return {"accuracy": validation_scores(classifier, part_of("validation", sizes.judged or 500))["accuracy"]}


def by_accuracy(rows: dict, size: str, way: str) -> list[float]:
    "The rates, that with the highest accuracy on the validation part first"
    return sorted(WAYS[way][2], key=lambda rate: -rows["rates"][f"{size} {way} {rate:g}"]["accuracy"])


def two_rates(sizes: Sizes, rows: dict, way: str, place: int) -> dict:
    "Accuracy on validation reviews of one of the best two rates with all labels"
    rate = by_accuracy(rows, "all", way)[place]
    classifier, _ = trained(way, *sizes.all, rate, SPARE)
    return {"accuracy": validation_scores(classifier, part_of("validation", sizes.judged or 500))["accuracy"], "rate": rate}


def best_rate(rows: dict, size: str, way: str) -> float:
    "The rate with the highest accuracy on the validation part"
    if size == "200":
        return by_accuracy(rows, size, way)[0]
    return max((rows["two rates"][f"{way} {place}"] for place in PLACES), key=lambda row: row["accuracy"])["rate"]


def other_rate(row: dict, rows: dict, size: str, way: str, seed: int) -> bool:
    "Whether a row was made at another rate than the one that is best now"
    return row["rate"] != best_rate(rows, size, way)


def place_of(sizes: Sizes, size: str, way: str, seed: int) -> Path:
    "Where a classifier waits for the attack"
    return cache_folder("baselines") / f"few-{'small' if sizes == SMALL else 'full'}-{size}-{way}-{seed}".replace(" ", "-")


def accuracy(sizes: Sizes, rows: dict, size: str, way: str, seed: int) -> dict:
    "Accuracy on test reviews, what was trained, and the bytes of what is saved"
    rate, (count, epochs) = best_rate(rows, size, way), sizes.few if size == "200" else sizes.all
    classifier, seconds = trained(way, count, epochs, rate, seed)
    count = training_cost(classifier)["trained"]
    if way == "head":  # all behind the last layer
        places = depths(classifier.model)
        count = sum(weight.numel() for name, weight in classifier.model.named_parameters()
                    if places[name] == max(places.values()))
    with tempfile.TemporaryDirectory() as folder:
        place = classifier.save(f"{folder}/saved")
        size_on_disk = sum(path.stat().st_size for path in place.iterdir())
    if size == "all":
        classifier.save(place_of(sizes, size, way, seed))
    whole = training_cost(new("all weights", seed))["weights"]
    right = right_answers(classifier, part_of("test", sizes.judged))
    return {"accuracy": right.count("1") / len(right), "right": right, "rate": rate, "trained": count, "share": count / whole,
            "bytes": size_on_disk, "seconds": seconds}


def attack(sizes: Sizes, rows: dict, way: str, seed: int) -> dict:
    "What stays right under attack"
    place = place_of(sizes, "all", way, seed)
    if not (place / "classifier.json").is_file():
        accuracy(sizes, rows, "all", way, seed)
    classifier = TextClassifier.load(place)
    report = SynonymAttack(seed=0).attack(classifier, part_of("test", sizes.attacked))
    return {"before": report.accuracy_before, "under attack": report.accuracy_under_attack,
            "right": bits([result.status not in ("misread", "succeeded") for result in report.results])}


def training_of(way: str, count: int) -> Callable[[], FineTuningRun]:
    "What trains so many steps of 16 reviews; the classifier is built, and all of its weights are read"
    reviews = load_dataset("movies")["train"].shuffle(seed=SPARE).select(range(16 * count))
    classifier = new(way, 0, "cpu")
    for weight in classifier.model.parameters():
        weight.sum()  # a file of weights comes into memory as they are read
    return partial(fine_tune, classifier, reviews, epochs=1, batch_size=16, learning_rate=1e-5, progress=False,
                   trainable=WAYS[way][1].get("trainable", "all"))


def lifted(way: str, count: int) -> dict:
    "How far so many steps lift the memory of this process, in MB"
    training_of(way, 2)()  # loads what is loaded once
    return {"megabytes": peak_memory(training_of(way, count))}


def milliseconds(sizes: Sizes, way: str) -> dict:
    "Of a step, the median of some"
    run = training_of(way, 3 if sizes == SMALL else 8)()
    apart = [after["seconds"] - before["seconds"] for before, after in pairwise(run.steps)]
    return {"milliseconds": 1000 * statistics.median(apart)}


def time(sizes: Sizes, rows: dict) -> dict:
    "Milliseconds of a step of all ways, which take turns"
    rounds = interleaved([*WAYS], sizes.rounds, lambda way, _: milliseconds(sizes, way))
    return {"milliseconds": {way: row["milliseconds"] for way, row in medians(rounds).items()},
            "rounds": {way: [row["milliseconds"] for row in each] for way, each in rounds.items()}}


def memory(sizes: Sizes, rows: dict, way: str) -> dict:
    "How far some steps lift the memory of a process, in MB, the median of some"
    small = ["--small"] * (sizes == SMALL)
    found = [in_own_process(__file__, "--memory", way, *small)["megabytes"] for _ in range(1 if small else 3)]
    return {"megabytes": statistics.median(found)}


def jobs(sizes: Sizes) -> dict[str, dict[str, tuple]]:
    "The rows of each part, and what makes them"
    seeds = range(sizes.seeds)
    return {
        "rates": {f"{size} {way} {rate:g}": (size, way, rate)
                  for size in ("200", "all") for way in WAYS for rate in WAYS[way][2]},
        "two rates": {f"{way} {place}": (way, place) for way in WAYS for place in PLACES},
        "accuracy": {f"{size} {way} {seed}": (size, way, seed)
                     for size in ("200", "all") for seed in seeds for way in WAYS},
        "attack": {f"{way} {seed}": (way, seed) for seed in seeds for way in WAYS},
        "time": {"all ways": ()},
        "memory": {way: (way,) for way in WAYS},
    }


WORK = {"rates": rates, "two rates": two_rates, "accuracy": accuracy, "attack": attack, "time": time, "memory": memory}


def less_all_weights(rows: dict[str, dict], beginning: str = "") -> dict[str, tuple[float, float, float]]:
    "How many more reviews each way answers rightly than all weights do; seeds and reviews are drawn again"
    found = {}
    for way in WAYS:
        names = [(f"{beginning}{way} {seed}", f"{beginning}all weights {seed}") for seed in range(FULL.seeds)]
        if way != "all weights" and all("right" in rows.get(name, {}) for pair in names for name in pair):
            ours, theirs = (table_of([rows[name]["right"] for name in column]) for column in zip(*names, strict=True))
            found[way] = two_ways(ours - theirs)
    return found


def summary(rows: dict[str, dict[str, dict]]) -> dict:
    "Means and 95 % intervals over seeds; how far each way is from training all weights, over seeds and reviews; times"
    reached, attacked = rows.get("accuracy", {}), rows.get("attack", {})
    rounds = rows.get("time", {}).get("all ways", {}).get("rounds", {})
    shares = {way: [one / whole for one, whole in zip(times, rounds["all weights"], strict=True)]
              for way, times in rounds.items()}
    return {"accuracy": over_seeds(reached, "accuracy"),
            "share": {key.partition(" ")[2].rpartition(" ")[0]: row["share"] for key, row in reached.items()},
            "gap": less_all_weights(reached, "all "), "under attack": over_seeds(attacked, "under attack"),
            "gap under attack": less_all_weights(attacked),
            "share of the time": {way: [statistics.median(each), min(each), max(each)] for way, each in shares.items()}}


def main():
    "Make the rows that are missing"
    parser = parser_of_parts(__doc__, [*WORK])
    parser.add_argument("--memory", choices=[*WAYS], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory:
        torch.set_num_threads(1)
        print(json.dumps(lifted(given.memory, 2 if given.small else 12)))
        sys.exit()
    sizes = SMALL if given.small else FULL
    make_parts(NAME, given, sizes, jobs(sizes), WORK, summary, alone={"time"}, stale={"accuracy": other_rate})


if __name__ == "__main__":
    main()
