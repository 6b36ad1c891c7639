"""What a budget of privacy costs, and what an attack finds: 2,000 movie reviews, three ways to train, three budgets.

    python benchmarks/privacy.py                   # goes on where an earlier call was stopped
    python benchmarks/privacy.py --part rates      # one part
    python benchmarks/privacy.py --rows "LoRA"     # only rows whose names begin so
    python benchmarks/privacy.py --small           # a quick try; writes nothing

Ways: the frozen encoder with a head (pooler and output), its last layer besides, and LoRA of rank 8 beside all matrices. All
begin as the bundled encoder, and read 2,000 reviews twice, in steps of 128 reviews (32 without a budget). Budgets: epsilon
1 and 8 at delta 0.00005, and none.

- rates: three learning rates of each way, with a budget of 8 and with none, judged on 500 validation reviews with a seed
  that no other part has. A budget of 1 takes the rate of 8. What this search tells of the reviews is not in the account.
- trained: three seeds draw the reviews, the head, the batches, the noise and dropout. Accuracy is that on the whole test
  part; found is the share of the training reviews that have a lower loss than all but 1 of 100 test reviews; epsilon is
  what the accountant says at the end.

Each row is written as it ends. Two processes work (or --processes), with one thread each."""

import statistics
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from common import interval, make_parts, parser_of_parts

from llm_course.data import load_dataset
from llm_course.fine_tuning import fine_tune
from llm_course.models import TextClassifier
from llm_course.privacy import DifferentialPrivacy, true_positives_at

NAME, DELTA, SPARE = "privacy", 5e-5, 100  # SPARE is the seed that chooses rates
WAYS = {"head": (None, "head"), "last layer": (None, 1), "LoRA": ("lora", "all")}  # the adapter, and what is trained
RATES = {"head": (1e-3, 3e-3, 1e-2), "last layer": (3e-4, 1e-3, 3e-3), "LoRA": (5e-4, 1.5e-3, 5e-3)}
BUDGETS = {"1": 1.0, "8": 8.0, "none": None}


class Sizes(NamedTuple):
    "How much is trained and asked"

    reviews: int
    batch: int
    epochs: int
    asked: int | None  # None: the whole test part
    validation: int
    seeds: int


FULL = Sizes(2000, 128, 2, None, 500, 3)
SMALL = Sizes(48, 16, 1, 24, 24, 1)


def losses_of(classifier: TextClassifier, reviews) -> tuple[np.ndarray, float]:
    "The loss of each review, and the share of right answers"
    logits, labels = classifier.logits(reviews["text"]), torch.tensor(reviews["label"])
    right = (logits.argmax(-1) == labels).double().mean().item()
    return F.cross_entropy(logits, labels, reduction="none").numpy(), right


def drawn(part: str, count: int, seed: int):
    "Some reviews of a part"
    return load_dataset("movies")[part].shuffle(seed=seed).select(range(count))


def run_of(reviews, sizes: Sizes, way: str, budget: str, rate: float, seed: int):
    "A classifier and its training on these reviews, with a budget or with none"
    (adapter, trainable), epsilon = WAYS[way], BUDGETS[budget]
    labels = reviews.features["label"].names
    classifier = TextClassifier.from_pretrained("minilm", labels=labels, seed=seed, device="cpu")
    classifier = classifier.with_adapter(adapter, seed=seed) if adapter else classifier
    privacy = None if epsilon is None else DifferentialPrivacy(epsilon, DELTA, seed=seed)
    run = fine_tune(classifier, reviews, epochs=sizes.epochs, batch_size=sizes.batch if privacy else min(32, sizes.batch),
                    learning_rate=rate, trainable=trainable, seed=seed, progress=False, privacy=privacy)
    return classifier, run


def rates(sizes: Sizes, rows: dict, way: str, budget: str, rate: float) -> dict:
    "Right answers and loss on validation reviews"
    classifier, _ = run_of(drawn("train", sizes.reviews, SPARE), sizes, way, budget, rate, SPARE)
    losses, right = losses_of(classifier, drawn("validation", sizes.validation, SPARE))
    return {"accuracy": right, "loss": float(losses.mean())}


def chosen(rows: dict, way: str, budget: str) -> float:
    "The rate with the most right answers on validation reviews, and of several the one with the lowest loss"
    def worth(rate: float) -> tuple[float, float]:
        row = rows["rates"][f"{way} {'none' if budget == 'none' else '8'} {rate:g}"]
        return row["accuracy"], -row["loss"]
    return max(RATES[way], key=worth)


def trained(sizes: Sizes, rows: dict, way: str, budget: str, seed: int) -> dict:
    "A classifier, judged and attacked"
    rate, test, reviews = chosen(rows, way, budget), load_dataset("movies")["test"], drawn("train", sizes.reviews, seed)
    classifier, run = run_of(reviews, sizes, way, budget, rate, seed)
    inside, _ = losses_of(classifier, reviews)
    outside, right = losses_of(classifier, test if sizes.asked is None else test.select(range(sizes.asked)))
    return {"accuracy": right, "found": true_positives_at(0.01, -inside, -outside), "rate": rate,
            "epsilon": run.steps[-1].get("epsilon"), "milliseconds": 1000 * run.seconds / len(run.steps)}


def summary(rows: dict[str, dict[str, dict]]) -> dict:
    "Means and 95 % intervals over seeds; the milliseconds are medians"
    groups = {}
    for key, row in rows.get("trained", {}).items():
        groups.setdefault(key.rpartition(" ")[0], []).append(row)
    found = {figure: {key: interval([row[figure] for row in group]) for key, group in groups.items()}
             for figure in ("accuracy", "found")}
    return {**found, "milliseconds": {key: statistics.median(row["milliseconds"] for row in group)
                                      for key, group in groups.items()}}


def main():
    "Make the rows that are missing"
    given = parser_of_parts(__doc__, ["rates", "trained"]).parse_args()
    sizes = SMALL if given.small else FULL
    searched = {f"{way} {budget} {rate:g}": (way, budget, rate)
                for way in WAYS for budget in ("8", "none") for rate in RATES[way]}
    jobs = {f"{way} {budget} {seed}": (way, budget, seed)
            for seed in range(sizes.seeds) for budget in BUDGETS for way in WAYS}
    make_parts(NAME, given, sizes, {"rates": searched, "trained": jobs}, {"rates": rates, "trained": trained}, summary)


if __name__ == "__main__":
    main()
