"""What is trained of a pre-trained model, and what it can do in another domain before and after.

    python benchmarks/transfer_learning.py                # all parts; goes on where an earlier call was stopped
    python benchmarks/transfer_learning.py --part ways    # one of them
    python benchmarks/transfer_learning.py --rows "200 "  # only the rows whose names begin so
    python benchmarks/transfer_learning.py --small        # a quick try of each part; writes nothing

The bundled model, in float32, batches of 16. A seed draws the labelled texts, the new head, the order of the batches
and dropout.

- rates: accuracy on 300 validation reviews of movies for each way to train and three learning rates (one seed, which
  is not used again).
- ways: accuracy on the test reviews at the rate that was best there, three seeds, with 200 labels and with 1,000; and
  the seconds of a training step. `head` trains what lies behind the last layer, `last k` so many layers besides.
- domains: a classifier of movie reviews (1,000 labels) meets another domain: accuracy there, and on movie reviews
  again, after 0, 50, 200 and all labels of it; beside it one that never saw a movie review. Everything is trained, or
  the head alone. Three seeds; one learning rate, the best of `ways` for 1,000 labels.
- hub: three models of about equal size from the Hub, an encoder, a decoder and an encoder-decoder, with 200 and 1,000
  labels; only on a GPU and with a network.

Each row is written as it ends. Two processes work (or --processes), with one thread each. Seconds are those of a
machine that other work shares.
"""

import argparse
import json
import multiprocessing
import time
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import torch
from common import RESULTS, interval, keep
from datasets import Dataset

from llm_course.data import LABELS, load_dataset
from llm_course.fine_tuning import fine_tune, validation_scores
from llm_course.models import TextClassifier
from llm_course.training.settings import hardware_precision

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
RATES = {"head": (1e-3, 3e-3, 1e-2)}  # of the others:
USUAL = (1e-4, 3e-4, 1e-3)
HUB = {"bert-base-uncased": 3e-5, "gpt2": 3e-5, "google/t5-v1_1-base": 1e-3}  # and their usual learning rates


class Sizes(NamedTuple):
    "How much each part trains"

    labels: tuple[tuple[int, int], ...]  # labels and epochs
    seeds: int
    validation: int
    test: int  # at most
    source: tuple[int, int]  # labels of movie reviews in `domains`, and epochs
    targets: tuple[tuple[int | None, int], ...]  # labels of the other domain and epochs; None: all


FULL = Sizes(((200, 4), (1000, 2)), 3, 300, 1004, (1000, 2), ((0, 0), (50, 8), (200, 4), (None, 1)))
SMALL = Sizes(((16, 1),), 2, 16, 16, (16, 1), ((0, 0), (8, 1)))


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


def trained(classifier: TextClassifier, train: Dataset, epochs: int, rate: float, seed: int, **way) -> float:
    "Train a classifier; the median seconds of a step"
    run = fine_tune(classifier, train, epochs=epochs, learning_rate=rate, batch_size=16, seed=seed, progress=False,
                    mixed_precision="no", **way)
    times = [0.0, *(row["seconds"] for row in run.steps)]
    return median(after - before for before, after in pairwise(times))


def rates(sizes: Sizes, rows: dict, labels: int, epochs: int, way: str, rate: float) -> dict:
    "Accuracy on validation reviews"
    classifier, seed = new_classifier(100), 100
    trained(classifier, drawn("movies", labels, seed), epochs, rate, seed, **WAYS[way])
    return {"accuracy": validation_scores(classifier, judged("movies", "validation", sizes.validation))["accuracy"]}


def best_rate(rows: dict, labels: int, way: str) -> float:
    "The learning rate that was best for a way"
    found = {rate: rows["rates"][f"{labels} {way} {rate:g}"]["accuracy"] for rate in RATES.get(way, USUAL)}
    return max(found, key=found.get)


def ways(sizes: Sizes, rows: dict, labels: int, epochs: int, way: str, seed: int) -> dict:
    "Accuracy on test reviews"
    classifier, rate = new_classifier(seed), best_rate(rows, labels, way)
    seconds = trained(classifier, drawn("movies", labels, seed), epochs, rate, seed, **WAYS[way])
    found = validation_scores(classifier, judged("movies", "test", sizes.test))["accuracy"]
    return {"accuracy": found, "rate": rate, "seconds of a step": seconds}


def domains(sizes: Sizes, rows: dict, target: str, start: str, way: str, seed: int) -> dict:
    "Accuracy in the other domain and on movie reviews, by the labels of the other domain"
    found, most = {}, sizes.labels[-1][0]
    for labels, epochs in sizes.targets:
        if not labels and start != "movies" and epochs == 0:
            continue  # nobody has trained its head
        classifier = new_classifier(seed)
        if start == "movies":
            reviews, times = sizes.source
            trained(classifier, drawn("movies", reviews, seed), times, best_rate(rows, most, way), seed, **WAYS[way])
        if epochs:
            count = len(load_dataset(target)["train"]) if labels is None else labels
            trained(classifier, drawn(target, count, seed), epochs, best_rate(rows, most, way), seed, **WAYS[way])
        scores = {name: validation_scores(classifier, judged(name, "test", sizes.test))["accuracy"]
                  for name in (target, "movies")}
        found["all" if labels is None else str(labels)] = {"target": scores[target], "movies": scores["movies"]}
    return found


def hub(sizes: Sizes, rows: dict, model: str, labels: int, epochs: int, seed: int) -> dict:
    "Accuracy on test reviews"
    classifier = new_classifier(seed, model)
    fine_tune(classifier, drawn("movies", labels, seed), epochs=epochs, learning_rate=HUB[model], batch_size=16,
              seed=seed, progress=False, mixed_precision=hardware_precision(classifier.device))
    return {"accuracy": validation_scores(classifier, judged("movies", "test", sizes.test))["accuracy"],
            "parameters": sum(weight.numel() for weight in classifier.model.parameters())}


WORK = {"rates": rates, "ways": ways, "domains": domains, "hub": hub}


def jobs(sizes: Sizes) -> dict[str, dict[str, tuple]]:
    "The arguments of each row by part and name"
    seeds = range(sizes.seeds)
    found = {"rates": {f"{labels} {way} {rate:g}": (labels, epochs, way, rate) for labels, epochs in sizes.labels
                       for way in WAYS for rate in RATES.get(way, USUAL)},
             "ways": {f"{labels} {way} {seed}": (labels, epochs, way, seed) for labels, epochs in sizes.labels
                      for way in WAYS for seed in seeds},
             "domains": {f"{target} {start} {way} {seed}": (target, start, way, seed) for target in TARGETS
                         for start in ("movies", "nothing") for way in ("all", "head") for seed in seeds}}
    if torch.cuda.is_available():
        found["hub"] = {f"{model} {labels} {seed}": (model, labels, epochs, seed) for model in HUB
                        for labels, epochs in sizes.labels for seed in seeds}
    return found


def done(job: tuple) -> tuple[str, str, dict]:
    "One row, in a process of its own"
    part, key, arguments, sizes, rows = job
    torch.set_num_threads(1)
    start = time.perf_counter()
    row = WORK[part](sizes, rows, *arguments)
    return part, key, {**row, "seconds": round(time.perf_counter() - start, 1)}


def summary(rows: dict[str, dict[str, dict]]) -> dict:
    "Means and 95 % intervals"
    found, groups = {}, {}
    for key, row in rows.get("ways", {}).items():
        groups.setdefault(key.rsplit(" ", 1)[0], []).append(row)
    if groups:
        found["ways"] = {key: {"accuracy": interval([row["accuracy"] for row in same]), "seeds": len(same),
                               "rate": same[0]["rate"],
                               "seconds of a step": median(row["seconds of a step"] for row in same)}
                         for key, same in groups.items()}
    groups = {}
    for key, row in rows.get("domains", {}).items():
        for labels, scores in row.items():
            if labels != "seconds":
                groups.setdefault(f"{key.rsplit(' ', 1)[0]} {labels}", []).append(scores)
    if groups:
        found["domains"] = {key: {where: interval([scores[where] for scores in same]) for where in same[0]}
                            for key, same in groups.items()}
    return found


def main():
    "Make the rows that are missing"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=[*WORK], action="append")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--rows", default="", metavar="BEGINNING", help="make only rows whose names begin so")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    sizes, path = SMALL if given.small else FULL, RESULTS / f"{NAME}.json"
    rows = json.loads(path.read_text())["rows"] if path.is_file() and not given.small else {}
    with multiprocessing.get_context("spawn").Pool(given.processes) as pool:
        for part, wanted in jobs(sizes).items():
            if given.part and part not in given.part:
                continue
            rows[part] = {key: row for key, row in rows.get(part, {}).items() if key in wanted}
            missing = [(part, key, made, sizes, rows) for key, made in wanted.items()
                       if key not in rows[part] and key.startswith(given.rows)]
            for _, key, row in pool.imap_unordered(done, missing):
                rows[part][key] = row
                print(part, key, row, flush=True)
                if not given.small:
                    keep(NAME, {"rows": rows, "summary": summary(rows)})


if __name__ == "__main__":
    main()
