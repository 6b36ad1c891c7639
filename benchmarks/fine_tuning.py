"""What decides a fine-tuning run: optimisers, learning rate and batch size, epochs, labels, and Trainer beside fine_tune.

    python benchmarks/fine_tuning.py                    # all parts; goes on where an earlier call was stopped
    python benchmarks/fine_tuning.py --part optimisers  # one of them
    python benchmarks/fine_tuning.py --small            # a quick try of each part; writes nothing

Every part trains the bundled model on movie reviews, in float32. A seed draws the reviews, the new head, the order of
the batches and dropout.

- optimisers: the loss at the end of 24 steps over the same 32 reviews, for six learning rates of each optimiser.
- grid: one epoch for each learning rate and batch size, judged on the validation part.
- epochs: ten epochs, with and without dropout and weight decay; after each one the loss on the training reviews with
  dropout off, and on validation reviews.
- labels: test accuracy of the encoder and of TF-IDF with logistic regression. Of a run the epoch with the highest
  validation accuracy is kept, and of TF-IDF the strength of the penalty, in the same way.
- trainer: test accuracy after the same epoch with fine_tune and with transformers.Trainer, for ten seeds.

Each run is written as it ends. Seconds are those of a machine that other work shares.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from common import RESULTS, interval, keep
from datasets import Dataset
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from training_speed import CONTESTANTS, contest

from llm_course.callbacks import Callback
from llm_course.data import LABELS, load_dataset
from llm_course.fine_tuning import fine_tune, validation_scores
from llm_course.models import TextClassifier


class Sizes(NamedTuple):
    "How much each part trains"

    seeds: int
    trainer_seeds: int
    rates: int  # learning rates of each optimiser, and of the grid
    memorised: int  # reviews that the optimisers learn by heart, in batches of 8
    grid: int  # reviews of the grid
    long: int  # reviews of the long runs
    epochs: int  # of the long runs
    validation: int  # reviews that settings are judged on
    test: int  # reviews that the last two parts are judged on
    labels: tuple[tuple[int, int], ...]  # reviews and the most epochs
    trainer: int  # reviews of the last part


FULL = Sizes(3, 10, 6, 32, 480, 200, 10, 300, 1004, ((50, 10), (200, 6), (800, 3), (3000, 1), (8034, 1)), 1600)
SMALL = Sizes(2, 2, 1, 8, 16, 16, 2, 16, 32, ((8, 2), (16, 1)), 32)
OPTIMISERS = {  # how it is made, its weight decay, its lowest learning rate; each further one is about 3 times as high
    "SGD": (lambda groups, rate: torch.optim.SGD(groups, lr=rate), 0.0, -2.5),
    "SGD with momentum": (lambda groups, rate: torch.optim.SGD(groups, lr=rate, momentum=0.9), 0.0, -3.0),
    "Adam": (lambda groups, rate: torch.optim.Adam(groups, lr=rate), 0.0, -4.5),
    "Adam with L2": (lambda groups, rate: torch.optim.Adam(groups, lr=rate), 0.01, -4.5),
    "AdamW": (lambda groups, rate: torch.optim.AdamW(groups, lr=rate), 0.01, -4.5),
}
RATES, BATCH_SIZES = (1e-4, 3e-5, 3e-4, 1e-3), (32, 8, 128)
ARMS = {"neither": (0.0, 0.0), "dropout": (0.1, 0.0), "weight decay": (0.0, 10.0)}
PENALTIES = (1, 10, 100)  # C of the logistic regression
NAME = "fine_tuning"


def drawn(size: int, seed: int) -> Dataset:
    "Training reviews"
    return load_dataset("movies")["train"].shuffle(seed=seed).select(range(size))


def first(part: str, size: int) -> Dataset:
    "The first reviews of the validation or the test part"
    return load_dataset("movies")[part].select(range(size))


def new_classifier(seed: int, dropout: float | None = None) -> TextClassifier:
    "The bundled model with a new head; a dropout of None leaves it as it came"
    classifier = TextClassifier.from_pretrained("minilm", labels=LABELS, seed=seed)
    for module in classifier.model.modules():
        if dropout is not None and isinstance(module, torch.nn.Dropout):
            module.p = dropout
    return classifier


def optimisers_wanted(sizes: Sizes) -> list[dict]:
    "Each optimiser with each of its learning rates"
    return [{"optimiser": name, "learning_rate": float(f"{10 ** (lowest + step / 2):.0e}")}
            for name, (_, _, lowest) in OPTIMISERS.items() for step in range(sizes.rates)]


def optimiser_run(sizes: Sizes, seed: int, optimiser: str, learning_rate: float) -> dict:
    "The mean loss of the last four of 24 steps over the same reviews"
    make, decay, _ = OPTIMISERS[optimiser]
    run = fine_tune(new_classifier(seed), drawn(sizes.memorised, seed), epochs=6, batch_size=8, optimizer=make,
                    learning_rate=learning_rate, weight_decay=decay, seed=seed, progress=False)
    return {"loss": statistics.mean(row["loss"] for row in run.steps[-4:])}


def grid_wanted(sizes: Sizes) -> list[dict]:
    "Each learning rate with each batch size"
    return [{"learning_rate": rate, "batch_size": size} for rate in RATES[:sizes.rates]
            for size in BATCH_SIZES[:sizes.rates]]


def grid_run(sizes: Sizes, seed: int, learning_rate: float, batch_size: int) -> dict:
    "Validation loss and accuracy after one epoch"
    classifier = new_classifier(seed)
    fine_tune(classifier, drawn(sizes.grid, seed), epochs=1, learning_rate=learning_rate, batch_size=batch_size,
              seed=seed, progress=False)
    return validation_scores(classifier, first("validation", sizes.validation))


class AtRest(Callback):
    "After each epoch the loss on the training reviews with dropout off"

    def __init__(self, train: Dataset):
        self.train, self.losses = train, []

    def on_evaluation(self, run):
        "Look at the training reviews as validation looks at others"
        self.losses.append(validation_scores(run.classifier, self.train)["loss"])


def epochs_run(sizes: Sizes, seed: int, arm: str) -> dict:
    "For each epoch: the loss while training, that of the same reviews at its end, and the validation scores"
    (dropout, decay), train = ARMS[arm], drawn(sizes.long, seed)
    at_rest = AtRest(train)
    run = fine_tune(new_classifier(seed, dropout), train, first("validation", sizes.validation), epochs=sizes.epochs,
                    batch_size=16, learning_rate=2e-4, weight_decay=decay, callbacks=[at_rest], seed=seed,
                    progress=False)
    ends = [row["step"] for row in run.evaluations]
    while_training = [statistics.mean(row["loss"] for row in run.steps[start:end])
                      for start, end in zip([0, *ends], ends, strict=False)]
    return {"while training": while_training, "at rest": at_rest.losses,
            **{f"validation {name}": [row[name] for row in run.evaluations] for name in ("loss", "accuracy")}}


class MostAccurate(Callback):
    "Keep the weights of the highest validation accuracy; of equal ones the last"

    def on_evaluation(self, run):
        "Copy the weights if no epoch before had more right answers"
        accuracies = [row["accuracy"] for row in run.evaluations]
        if accuracies[-1] == max(accuracies):
            self.epoch, self.weights = len(accuracies), copy.deepcopy(run.classifier.model.state_dict())


def accuracy_of(classifier: TextClassifier, part: Dataset) -> float:
    "The share of right answers"
    answers = classifier.logits(list(part["text"])).argmax(-1)
    return (answers == torch.tensor(part["label"])).double().mean().item()


def word_counts(train: Dataset, validation: Dataset, test: Dataset) -> tuple[float, float]:
    "Test accuracy of TF-IDF with logistic regression, and the C that the validation part chose"
    made = {penalty: make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
                                   LogisticRegression(C=penalty, max_iter=1000)).fit(train["text"], train["label"])
            for penalty in PENALTIES}
    best = max(made, key=lambda penalty: made[penalty].score(validation["text"], validation["label"]))
    return made[best].score(test["text"], test["label"]), best


def labels_run(sizes: Sizes, seed: int, reviews: int, epochs: int) -> dict:
    "Test accuracy of the encoder and of word counts, trained on the same reviews"
    train, validation, test = drawn(reviews, seed), first("validation", sizes.validation), first("test", sizes.test)
    classifier = new_classifier(seed)
    best = MostAccurate()
    fine_tune(classifier, train, validation, epochs=epochs, batch_size=8 if reviews < 800 else 32,
              learning_rate=1e-4, callbacks=[best], seed=seed, progress=False)
    classifier.model.load_state_dict(best.weights)
    counted, penalty = word_counts(train, validation, test)
    return {"encoder": accuracy_of(classifier, test), "word counts": counted, "epoch kept": best.epoch, "C": penalty}


def trainer_run(sizes: Sizes, seed: int, contestant: str) -> dict:
    "Test accuracy, and texts per second, of one contestant of the benchmark of training speed"
    found = contest(contestant, seed, sizes.trainer)
    return {name: found[name] for name in ("test_accuracy", "examples_per_second")}


class Part(NamedTuple):
    "What is run, and with which settings"

    run: Callable[..., dict]
    wanted: Callable[[Sizes], list[dict]]
    seeds: Callable[[Sizes], int] = lambda sizes: sizes.seeds


PARTS = {
    "optimisers": Part(optimiser_run, optimisers_wanted),
    "labels": Part(labels_run, lambda sizes: [{"reviews": size, "epochs": most} for size, most in sizes.labels]),
    "epochs": Part(epochs_run, lambda sizes: [{"arm": arm} for arm in list(ARMS)[:2 if sizes == SMALL else None]]),
    "grid": Part(grid_run, grid_wanted),
    "trainer": Part(trainer_run, lambda sizes: [{"contestant": name} for name in CONTESTANTS],
                    lambda sizes: sizes.trainer_seeds),
}


def means(runs: list[dict]) -> list[dict]:
    "For each setting the mean over its seeds and the half-width of its 95 % interval"
    groups: dict[str, list[dict]] = {}
    for run in runs:
        groups.setdefault(json.dumps(run["settings"]), []).append(run)
    found = []
    for settings, group in groups.items():
        row = {**json.loads(settings), "seeds": len(group)}
        for name, value in group[0]["measured"].items():
            if isinstance(value, list):
                row[name] = [statistics.mean(values) for values in
                             zip(*(run["measured"][name] for run in group), strict=True)]
            else:
                row[name], row[f"{name} ±"] = interval([run["measured"][name] for run in group])
        found.append(row)
    return found


def differences(runs: list[dict]) -> dict[str, dict[str, float]]:
    "How much more accurate fine_tune is than each other contestant, seed by seed: mean and 95 % interval"
    found = {(run["settings"]["contestant"], run["seed"]): run["measured"]["test_accuracy"] for run in runs}
    ours, *others = CONTESTANTS
    result = {}
    for other in others:
        more = [found[ours, seed] - found[other, seed] for name, seed in found
                if name == ours and (other, seed) in found]
        if len(more) > 1:
            result[other] = dict(zip(("mean", "±", "seeds"), (*interval(more), len(more)), strict=True))
    return result


def content_of(runs: dict[str, list[dict]], sizes: Sizes) -> dict:
    "What is written: the sizes, and of each part its means and its runs"
    parts = {name: {"means": means(rows), "runs": rows} for name, rows in runs.items() if rows}
    if "trainer" in parts:
        parts["trainer"]["fine_tune more accurate by"] = differences(runs["trainer"])
    return {"data": "movies, float32", "sizes": sizes._asdict(), "parts": parts}


def rounded(value: object) -> object:
    "Numbers with five digits after the point"
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 5) if isinstance(value, float) else value


def measure(part: str, sizes: Sizes, runs: list[dict]):
    "Run what a part still lacks; a generator of the runs so far"
    done = [(run["settings"], run["seed"]) for run in runs]
    for seed in range(PARTS[part].seeds(sizes)):
        for settings in PARTS[part].wanted(sizes):
            if (settings, seed) not in done:
                start = time.perf_counter()
                found = rounded(PARTS[part].run(sizes, seed, **settings))
                seconds = round(time.perf_counter() - start, 1)
                runs.append({"settings": settings, "seed": seed, "measured": found, "seconds": seconds})
                print(part, runs[-1], flush=True)
                yield runs


def main():
    "Measure what is missing, or try each part at small size"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, help="this one only")
    parser.add_argument("--small", action="store_true", help="a few reviews each; nothing is written")
    arguments = parser.parse_args()
    path, sizes = RESULTS / f"{NAME}.json", SMALL if arguments.small else FULL
    kept = json.loads(path.read_text())["parts"] if path.exists() and not arguments.small else {}
    runs = {name: kept.get(name, {}).get("runs", []) for name in PARTS}
    for part in [arguments.part] if arguments.part else PARTS:
        for _ in measure(part, sizes, runs[part]):
            if not arguments.small:
                keep(NAME, rounded(content_of(runs, sizes)))
    if arguments.small:
        print(json.dumps(rounded(content_of(runs, sizes))))


if __name__ == "__main__":
    main()
