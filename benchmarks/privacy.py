"""What a budget of privacy costs, and what an attack finds: 2,000 movie reviews, three ways to train, three budgets.

    python benchmarks/privacy.py                   # goes on where an earlier call was stopped
    python benchmarks/privacy.py --part rates      # one part
    python benchmarks/privacy.py --rows "LoRA"     # only rows whose names begin so
    python benchmarks/privacy.py --small           # a quick try; writes nothing

Ways: the frozen encoder with its output layer trained (770 weights), its last layer besides, and LoRA of rank 1 beside all
matrices. All begin as the bundled encoder, whose pooler stays as it is: noise is added to every weight that is trained, and
in a first trial the pooler's 147,840 weights drowned what 2,000 reviews say. With a budget they read the reviews four times
in steps of 500, without one twice in steps of 32. Budgets: epsilon 1 and 8 at delta 0.00005, and none. (In a second trial, in
steps of 128 with one rate for all weights, the last layer and LoRA learnt nothing with a budget. A step's noise is divided by
the texts that are expected in it, and for one epsilon it grows far more slowly than their number. And the output layer begins
at chance: in few steps it needs a higher rate than a layer may bear. So with a budget it has a rate of its own here. Beside the
last layer no rate above 0.03 was tried for it: what that way can reach with a budget is not known.)

- rates: learning rates of each way, with a budget of 8 and with none, judged on 500 validation reviews with a seed that no
  other part has. A budget of 1 takes the rates of 8. What this search tells of the reviews is not in the account.
- trained: three seeds draw the reviews, the head, the batches, the noise and dropout. Accuracy is that on the whole test
  part; found is the share of the training reviews that have a lower loss than all but 1 of 100 test reviews; epsilon is
  what the accountant says at the end.

Each row is written as it ends. Two processes work (or --processes), with one thread each."""

import statistics
from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from common import by_kind, make_parts, over_seeds, parser_of_parts

from llm_course.data import load_dataset
from llm_course.fine_tuning import fine_tune
from llm_course.models import TextClassifier
from llm_course.privacy import DifferentialPrivacy, true_positives_at

NAME, DELTA, SPARE = "privacy", 5e-5, 100  # SPARE is the seed that chooses rates
WAYS = ("output layer", "last layer", "LoRA")
RATES = {  # of all weights, or of the output layer and of all others
    "output layer": {"8": ((1e-1,), (3e-1,), (1.0,)), "none": ((1e-2,), (3e-2,), (1e-1,))},
    "last layer": {"8": ((1e-2, 1e-3), (3e-2, 1e-4), (3e-2, 1e-3)), "none": ((3e-4,), (1e-3,), (3e-3,))},
    "LoRA": {"8": ((1e-1, 3e-3), (1e-1, 3e-2), (3e-1, 1e-3), (3e-1, 3e-3), (3e-1, 1e-2), (3e-1, 3e-2), (3e-1, 1e-1)), "none": ((1e-3,), (3e-3,), (1e-2,))}}
BUDGETS = {"1": 1.0, "8": 8.0, "none": None}


class Sizes(NamedTuple):
    "How much is trained and asked"

    reviews: int
    batch: int  # of a step with a budget
    epochs: int  # with a budget
    asked: int | None  # None: the whole test part
    validation: int
    seeds: int


FULL = Sizes(2000, 500, 4, None, 500, 3)
SMALL = Sizes(48, 16, 1, 24, 24, 1)


def losses_of(classifier: TextClassifier, reviews) -> tuple[np.ndarray, float]:
    "The loss of each review, and the share of right answers"
    logits, labels = classifier.logits(reviews["text"]), torch.tensor(reviews["label"])
    right = (logits.argmax(-1) == labels).double().mean().item()
    return F.cross_entropy(logits, labels, reduction="none").numpy(), right


def drawn(part: str, count: int, seed: int):
    "Some reviews of a part"
    return load_dataset("movies")[part].shuffle(seed=seed).select(range(count))


def new(labels: list[str], way: str, seed: int) -> TextClassifier:
    "A classifier in which those weights may be trained that the way trains, the pooler never"
    classifier = TextClassifier.from_pretrained("minilm", labels=labels, seed=seed, device="cpu")
    if way == "LoRA":
        classifier = classifier.with_adapter("lora", rank=1, seed=seed)
    for name, weight in classifier.model.named_parameters():
        if "pooler" in name or (way == "output layer" and not name.startswith("classifier.")):
            weight.requires_grad_(False)
    return classifier


def weights_of(classifier: TextClassifier, way: str) -> int:
    "How many weights are trained"
    return sum(weight.numel() for name, weight in classifier.model.named_parameters() if weight.requires_grad
               and (way != "last layer" or name.startswith("classifier.") or ".layer.5." in name))


def with_head_rate(classifier: TextClassifier, head_rate: float) -> Callable:
    "What makes an optimiser in which the output layer has a rate of its own"
    head = {id(weight) for name, weight in classifier.model.named_parameters() if "classifier." in name}

    def make(groups: list[dict], rate: float) -> torch.optim.Optimizer:
        parts = [{**group, "params": some, "lr": head_rate if of_head else rate} for group in groups for of_head in (True, False)
                 if (some := [weight for weight in group["params"] if (id(weight) in head) == of_head])]
        return torch.optim.AdamW(parts, lr=rate)
    return make


def run_of(reviews, sizes: Sizes, way: str, budget: str, rates: tuple[float, ...], seed: int):
    "A classifier and its training on these reviews, with a budget or with none"
    classifier, epsilon = new(reviews.features["label"].names, way, seed), BUDGETS[budget]
    recipe = {"learning_rate": rates[-1], "trainable": 1 if way == "last layer" else "all", "seed": seed, "progress": False}
    if len(rates) == 2:
        recipe["optimizer"] = with_head_rate(classifier, rates[0])
    if epsilon is None:
        run = fine_tune(classifier, reviews, epochs=min(2, sizes.epochs), batch_size=min(32, sizes.batch), **recipe)
    else:
        run = fine_tune(classifier, reviews, epochs=sizes.epochs, batch_size=sizes.batch,
                        privacy=DifferentialPrivacy(epsilon, DELTA, seed=seed), **recipe)
    return classifier, run


def tried(sizes: Sizes, rows: dict, way: str, budget: str, *rates: float) -> dict:
    "Right answers and loss on validation reviews"
    classifier, _ = run_of(drawn("train", sizes.reviews, SPARE), sizes, way, budget, rates, SPARE)
    losses, right = losses_of(classifier, drawn("validation", sizes.validation, SPARE))
    return {"accuracy": right, "loss": float(losses.mean())}


def name_of(way: str, budget: str, rates: tuple[float, ...]) -> str:
    "The name of a row of rates"
    return f"{way} {budget} {' and '.join(f'{rate:g}' for rate in rates)}"


def chosen(rows: dict, way: str, budget: str) -> tuple[float, ...]:
    "The rates with the most right answers on validation reviews, and of several those with the lowest loss"
    searched = "none" if budget == "none" else "8"

    def worth(rates: tuple[float, ...]) -> tuple[float, float]:
        row = rows["rates"][name_of(way, searched, rates)]
        return row["accuracy"], -row["loss"]
    return max(RATES[way][searched], key=worth)


def trained(sizes: Sizes, rows: dict, way: str, budget: str, seed: int) -> dict:
    "A classifier, judged and attacked"
    rates, test, reviews = chosen(rows, way, budget), load_dataset("movies")["test"], drawn("train", sizes.reviews, seed)
    classifier, run = run_of(reviews, sizes, way, budget, rates, seed)
    inside, _ = losses_of(classifier, reviews)
    outside, right = losses_of(classifier, test if sizes.asked is None else test.select(range(sizes.asked)))
    return {"accuracy": right, "found": true_positives_at(0.01, -inside, -outside), "rates": rates,
            "weights": weights_of(classifier, way),
            "epsilon": run.steps[-1].get("epsilon"), "milliseconds": 1000 * run.seconds / len(run.steps)}


def other_rates(row: dict, rows: dict, way: str, budget: str, seed: int) -> bool:
    "Whether a row was trained at rates that are not the best now"
    return tuple(row["rates"]) != chosen(rows, way, budget)


def summary(rows: dict[str, dict[str, dict]]) -> dict:
    "Means and 95 % intervals over seeds; the milliseconds are medians"
    places = {f"{way} {budget}": place for place, (way, budget) in enumerate(product(WAYS, BUDGETS))}
    made = dict(sorted(rows.get("trained", {}).items(), key=lambda row: places[row[0].rpartition(" ")[0]]))
    groups, found = by_kind(made), {figure: over_seeds(made, figure) for figure in ("accuracy", "found")}
    return {**found, "weights": {key: group[0]["weights"] for key, group in groups.items()},
            "milliseconds": {key: statistics.median(row["milliseconds"] for row in group) for key, group in groups.items()}}


def main():
    "Make the rows that are missing"
    given = parser_of_parts(__doc__, ["rates", "trained"]).parse_args()
    sizes = SMALL if given.small else FULL
    searched = {name_of(way, budget, rates): (way, budget, *rates)
                for way in WAYS for budget, some in RATES[way].items() for rates in some}
    jobs = {f"{way} {budget} {seed}": (way, budget, seed)
            for seed in range(sizes.seeds) for budget in BUDGETS for way in WAYS}
    make_parts(NAME, given, sizes, {"rates": searched, "trained": jobs}, {"rates": tried, "trained": trained}, summary,
               stale={"trained": other_rates})


if __name__ == "__main__":
    main()
