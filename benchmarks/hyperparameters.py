"""Grid, random and TPE at equal budgets: on frozen features with many repeats, and once for real; and what the best score promises.

    python benchmarks/hyperparameters.py                   # all parts; goes on where an earlier call was stopped
    python benchmarks/hyperparameters.py --part samplers   # one of them
    python benchmarks/hyperparameters.py --small           # a quick try of each part; writes nothing

Movie reviews. The search sees training and validation reviews only; the test part judges what it chose.

- samplers: a linear head on the bundled encoder's vectors, 200 training and 200 validation reviews (drawn anew for each
  seed), four hyperparameters, twenty seeds. A search of 64 trials by chance and by TPE is read after 4, 8, 16, 32 and
  64 trials; the grid is made for each of these budgets. The lowest validation loss, and the test accuracy of that trial.
- curse: the same searches by chance, by validation accuracy, on 50, 100, 200, 400 and 800 validation reviews: by how much
  the best score after 50 trials is above its accuracy on the test part; what `expected_optimism` says; and nested splits.
- real: `search` fine-tunes the bundled encoder on 500 reviews; learning rate, batch size, epochs and weight decay; sixteen
  trials by each sampler, and by chance with `Halving` (three epochs each); scored on 200 validation reviews. The winner's
  test accuracy is that of its own run's settings and seed, trained once more. The search goes on where it was stopped.

Each row is written as it ends. Two processes work (or --processes), with one thread each.
"""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from common import interval, make_parts, parser_of_parts

from llm_course.core import seed_of
from llm_course.data import load_dataset
from llm_course.fine_tuning import fine_tune, validation_scores
from llm_course.hyperparameters import Between, Halving, expected_optimism, head_logits, search, search_over, train_head
from llm_course.models import TextClassifier, sentence_encoder

NAME, SEARCHES = "hyperparameters", Path(__file__).parents[1] / "checkpoints-of-searches"
HEAD = {"learning_rate": Between(1e-4, 10, log=True), "batch_size": Between(4, 128, log=True, whole=True),
        "epochs": Between(1, 16, whole=True), "weight_decay": Between(1e-4, 10, log=True)}
RATE, BATCH, DECAY = Between(1e-5, 1e-2, log=True), Between(8, 64, log=True, whole=True), Between(1e-4, 1, log=True)
REAL = {"learning_rate": RATE, "batch_size": BATCH, "epochs": Between(1, 3, whole=True), "weight_decay": DECAY}
PRUNED = {"learning_rate": RATE, "batch_size": BATCH, "weight_decay": DECAY}  # each trial is given three epochs
ARMS = ("grid", "random", "tpe", "random, halving")


class Sizes(NamedTuple):
    "How much each part does"

    texts: int | None  # of each split; None: all
    labels: int  # of a head
    validation: int
    budgets: tuple[int, ...]
    seeds: int
    trials: int  # of the curse
    shown: tuple[int, ...]  # validation reviews of the curse
    real: int  # trials
    real_labels: int
    real_validation: int


FULL = Sizes(None, 200, 200, (4, 8, 16, 32, 64), 20, 50, (50, 100, 200, 400, 800), 16, 500, 200)
SMALL = Sizes(60, 30, 20, (2, 4), 2, 5, (10, 20), 2, 16, 16)


@lru_cache
def features(part: str, texts: int | None) -> tuple[np.ndarray, np.ndarray]:
    "Vectors and labels of a split, the same for all rows of a process"
    rows = load_dataset("movies")[part].shuffle(seed=0)
    rows = rows.select(range(min(len(rows), texts or 1200)))
    return sentence_encoder().encode(rows["text"]).numpy(), np.array(rows["label"])


def drawn(sizes: Sizes, part: str, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    "Some of a split's vectors and labels, another draw for each seed"
    vectors, labels = features(part, sizes.texts)
    rows = np.random.default_rng(seed).permutation(len(labels))[:count]
    return vectors[rows], labels[rows]


class Head:
    "A trial of a head: its validation loss or accuracy; beside it, its answers are kept"

    def __init__(self, sizes: Sizes, seed: int, validation: int, accuracy: bool):
        self.train = drawn(sizes, "train", sizes.labels, seed)
        self.validation, self.test = drawn(sizes, "validation", validation, seed), features("test", sizes.texts)
        self.accuracy, self.right, self.tested = accuracy, [], []

    def answers(self, weights: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        "Logits, finite in any case"
        return np.nan_to_num(head_logits(weights, vectors), nan=0.0, posinf=1e6, neginf=-1e6)

    def __call__(self, attempt) -> float:
        with np.errstate(all="ignore"):
            weights = train_head(*self.train, seed=attempt.seed, **attempt.parameters)
            logits, tested = (self.answers(weights, part[0]) for part in (self.validation, self.test))
        labels = self.validation[1]
        self.right.append((logits > 0) == labels)
        self.tested.append(float(((tested > 0) == self.test[1]).mean()))
        return float(self.right[-1].mean() if self.accuracy else np.logaddexp(0, -(2 * labels - 1) * logits).mean())


def samplers(sizes: Sizes, rows: dict, sampler: str, seed: int) -> dict:
    "Lowest validation loss and the test accuracy of that trial, by the number of trials"
    found = {}
    for budget in sizes.budgets if sampler == "grid" else sizes.budgets[-1:]:
        head = Head(sizes, seed, sizes.validation, accuracy=False)
        result = search_over(head, HEAD, trials=budget, sampler=sampler, maximise=False, seed=seed)
        for most in (budget,) if sampler == "grid" else sizes.budgets:
            losses = result.trials["score"].iloc[:most].to_numpy()
            found[str(most)] = {"loss": float(losses.min()), "accuracy": head.tested[int(losses.argmin())]}
    return found


def curse(sizes: Sizes, rows: dict, shown: int, seed: int) -> dict:
    "How much too high the best score is, as measured and as derived; and the score on reviews left out of the choice"
    head = Head(sizes, seed, shown, accuracy=True)
    result = search_over(head, HEAD, trials=sizes.trials, sampler="random", seed=seed)
    right, half = np.array(head.right), shown // 2
    nested = int(right[:, :half].mean(1).argmax())
    return {"best score": result.score, "accuracy": head.tested[result.number], "derived": expected_optimism(right),
            "nested score": float(right[nested, half:].mean()), "nested accuracy": head.tested[nested]}


def new_classifier(seed: int) -> TextClassifier:
    "What each trial begins with"
    return TextClassifier.from_pretrained("minilm", labels=["negative", "positive"], seed=seed)


def real(sizes: Sizes, rows: dict, arm: str, seed: int) -> dict:
    "One search, and the test accuracy of what it chose"
    movies, small = load_dataset("movies"), sizes.texts is not None
    train = movies["train"].shuffle(seed=seed).select(range(sizes.real_labels))
    validation = movies["validation"].shuffle(seed=seed).select(range(sizes.real_validation))
    halving, options = "halving" in arm, {"epochs": 3} if "halving" in arm else {}
    result = search(new_classifier, train, validation, PRUNED if halving else REAL, trials=sizes.real,
                    sampler=arm.split(",")[0], pruner=Halving() if halving else None, seed=seed, progress=False,
                    storage=None if small else SEARCHES / f"{arm} {seed}.db", **options)
    winner = new_classifier(own := seed_of(seed, result.number, 1) % 2**32)
    fine_tune(winner, train, validation, seed=own, progress=False, **options, **result.best)
    test = movies["test"].select(range(min(len(movies["test"]), sizes.texts or 10**6)))
    return {"best score": result.score, "accuracy": validation_scores(winner, test)["accuracy"], "best": result.best,
            "scores": result.trials["score"].tolist(), "states": result.counts,
            "epochs": int(result.trials["epochs seen"].sum())}


def of_other_trials(row: dict, rows: dict, arm: str, seed: int) -> bool:
    "Whether a search had another number of trials than it has now"
    return len(row["scores"]) != FULL.real


def jobs(sizes: Sizes) -> dict[str, dict[str, tuple]]:
    "The rows of each part, and what makes them"
    seeds = range(sizes.seeds)
    return {"samplers": {f"{sampler} {seed}": (sampler, seed) for sampler in ("grid", "random", "tpe") for seed in seeds},
            "curse": {f"{shown} {seed}": (shown, seed) for shown in sizes.shown for seed in seeds},
            "real": {f"{arm} {seed}": (arm, seed) for arm in ARMS for seed in range(1)}}


WORK = {"samplers": samplers, "curse": curse, "real": real}


def grouped(rows: dict[str, dict]) -> dict[str, list[dict]]:
    "The rows of all seeds together"
    found = {}
    for key, row in rows.items():
        found.setdefault(key.rsplit(" ", 1)[0], []).append(row)
    return found


def summary(rows: dict[str, dict[str, dict]]) -> dict:
    "Means and 95 % intervals over seeds"
    found = {}
    if rows.get("samplers"):
        each = grouped(rows["samplers"])
        found["samplers"] = {f"{sampler} {budget}": {figure: interval([row[budget][figure] for row in group])
                                                     for figure in ("loss", "accuracy")}
                             for sampler, group in each.items() for budget in group[0]}
        for other in ("random", "grid"):
            pairs = list(zip(each.get(other, []), each.get("tpe", []), strict=False))
            for name, figure, sign in ((f"TPE ahead of {other}", "loss", 1), (f"accuracy of TPE above {other}", "accuracy", -1)):
                found[name] = {budget: interval([sign * (a[budget][figure] - b[budget][figure]) for a, b in pairs])
                               for budget in (pairs[0][0] if len(pairs) > 1 else {})}
    if rows.get("curse"):
        found["curse"] = {shown: {
            "too high": interval([row["best score"] - row["accuracy"] for row in group]),
            "derived": interval([row["derived"] for row in group]),
            "nested": interval([row["nested score"] - row["nested accuracy"] for row in group]),
            "accuracy": interval([row["accuracy"] for row in group]),
            "nested accuracy": interval([row["nested accuracy"] for row in group]),
        } for shown, group in grouped(rows["curse"]).items()}
    if rows.get("real"):
        found["real"] = {key.rsplit(" ", 1)[0]: {name: row[name] for name in ("best score", "accuracy", "epochs", "best")}
                         for key, row in rows["real"].items()}
    return found


def main():
    "Make the rows that are missing"
    given = parser_of_parts(__doc__, [*WORK]).parse_args()
    sizes = SMALL if given.small else FULL
    make_parts(NAME, given, sizes, jobs(sizes), WORK, summary, stale={"real": of_other_trials})


if __name__ == "__main__":
    main()
