"""What a budget of privacy costs, and what an attack finds: 2,000 movie reviews, three ways to train, three budgets.

    python benchmarks/privacy.py                   # goes on where an earlier call was stopped
    python benchmarks/privacy.py --rows "LoRA"     # only rows whose names begin so
    python benchmarks/privacy.py --small           # a quick try; writes nothing

Ways: the frozen encoder with a head (pooler and output), its last layer besides, and LoRA of rank 8 beside all matrices. All
begin as the bundled encoder, and read 2,000 reviews twice, in steps of 128 reviews (32 without a budget). Budgets: epsilon
1 and 8 at delta 0.00005, and none. The learning rates are usual ones for each way, with and without a budget, and were not
searched. Three seeds draw the reviews, the head, the batches, the noise and dropout.

- accuracy: on the whole test part.
- found: the share of the training reviews that have a lower loss than all but 1 of 100 test reviews.
- epsilon: what the accountant says at the end.
"""

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

NAME, DELTA = "privacy", 5e-5
WAYS = {  # the adapter, what is trained, and the learning rates with and without a budget
    "head": (None, "head", 3e-3, 3e-3), "last layer": (None, 1, 1e-3, 5e-4), "LoRA": ("lora", "all", 2e-3, 1e-3)}
BUDGETS = {"1": 1.0, "8": 8.0, "none": None}


class Sizes(NamedTuple):
    "How much is trained and asked"

    reviews: int
    batch: int
    epochs: int
    asked: int | None  # None: the whole test part
    seeds: int


FULL = Sizes(2000, 128, 2, None, 3)
SMALL = Sizes(48, 16, 1, 24, 1)


def losses_of(classifier: TextClassifier, reviews) -> tuple[np.ndarray, float]:
    "The loss of each review, and the share of right answers"
    logits, labels = classifier.logits(reviews["text"]), torch.tensor(reviews["label"])
    right = (logits.argmax(-1) == labels).double().mean().item()
    return F.cross_entropy(logits, labels, reduction="none").numpy(), right


def trained(sizes: Sizes, rows: dict, way: str, budget: str, seed: int) -> dict:
    "A classifier, judged and attacked"
    adapter, trainable, private_rate, rate = WAYS[way]
    movies, epsilon = load_dataset("movies"), BUDGETS[budget]
    reviews = movies["train"].shuffle(seed=seed).select(range(sizes.reviews))
    test = movies["test"] if sizes.asked is None else movies["test"].select(range(sizes.asked))
    labels = movies["train"].features["label"].names
    classifier = TextClassifier.from_pretrained("minilm", labels=labels, seed=seed, device="cpu")
    classifier = classifier.with_adapter(adapter, seed=seed) if adapter else classifier
    privacy = None if epsilon is None else DifferentialPrivacy(epsilon, DELTA, seed=seed)
    run = fine_tune(classifier, reviews, epochs=sizes.epochs, batch_size=sizes.batch if privacy else min(32, sizes.batch),
                    learning_rate=private_rate if privacy else rate, trainable=trainable, seed=seed, progress=False,
                    privacy=privacy)
    (inside, _), (outside, right) = losses_of(classifier, reviews), losses_of(classifier, test)
    return {"accuracy": right, "found": true_positives_at(0.01, -inside, -outside),
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
    given = parser_of_parts(__doc__, ["trained"]).parse_args()
    sizes = SMALL if given.small else FULL
    jobs = {f"{way} {budget} {seed}": (way, budget, seed)
            for seed in range(sizes.seeds) for budget in BUDGETS for way in WAYS}
    make_parts(NAME, given, sizes, {"trained": jobs}, {"trained": trained}, summary)


if __name__ == "__main__":
    main()
