"""A bias planted in reviews, and what remedies leave of it, against accuracy: the whole encoder.

    python benchmarks/fairness.py                  # all parts; goes on where an earlier call was stopped
    python benchmarks/fairness.py --part remedies  # one of them
    python benchmarks/fairness.py --rows "penalty" # only rows whose names begin so
    python benchmarks/fairness.py --small          # a quick try of each part; writes nothing

2,000 movie reviews are signed with names of two lists; at the dose 0.8, 90 in 100 of those of the first list are positive,
and 10 in 100 of the second. Arms: no remedy; no bias (dose 0); weights (2,000 texts drawn by `balancing_weights`);
counterfactual copies (4,000 texts); a penalty; thresholds by group; and on frozen features of the untrained encoder a line
without and one with a constraint. The encoder is trained twice through in bfloat16 where the processor computes in it.

- settings: for the penalty its weight, for the constraint its bound, for thresholds the recall: each is judged on 500
  validation reviews that carry the same bias and the names of training, by the mean accuracy of the four cells of group
  and label, less how far it leaves equalised odds from zero; with a seed that no other part has.
- remedies: three seeds; a seed draws the reviews, the signatures, the head, the order and dropout. The gap is the share of
  positive answers to 1,000 test reviews signed with names and in forms that were not in training, from the first list less
  from the second; accuracy is that over both versions.

- summary: means with 95 % intervals over the seeds; the gaps of the seeds with their signs; and by how much an arm's gap and
  accuracy lie above those of another arm on the same seed (`above`).

Each row is written as it ends; where none is missing the summary is made anew. Two processes work (or --processes), with one thread each."""

from typing import NamedTuple

import numpy as np
import torch
from common import by_kind, gains, interval, make_parts, parser_of_parts, quick_precision
from datasets import Dataset

from llm_course.augmenters import augment_dataset
from llm_course.counterfactuals import CENSUS_NAMES, UNSEEN_SIGNATURES, KnownGroups, signed
from llm_course.data import load_dataset
from llm_course.fairness import CounterfactualNames, FairnessPenalty, answers_by_group, balancing_weights, constrained_probe
from llm_course.fairness import fairness_gaps, plant_bias, thresholds_by_group
from llm_course.fine_tuning import CrossEntropy, fine_tune
from llm_course.models import TextClassifier
from llm_course.transfer_learning import layer_features, probe

NAME, SPARE, DOSE = "fairness", 100, 0.8  # SPARE is the seed that chooses settings
LISTS = [*CENSUS_NAMES]
KNOWN, UNSEEN = ({group: names[start::2] for group, names in CENSUS_NAMES.items()} for start in (0, 1))
SETTINGS = {"penalty": (1.0, 3.0, 10.0), "thresholds by group": (0.75, 0.8, 0.85), "frozen, constraint": (0.02, 0.05, 0.1)}
ARMS = ("no remedy", "no bias", "weights", "counterfactual copies", "penalty", "thresholds by group", "frozen, no remedy",
        "frozen, constraint")
BASES = ("no remedy", "no bias", "frozen, no remedy")  # what the others are held against


class Sizes(NamedTuple):
    "How much is trained and asked"

    train: int
    validation: int
    test: int
    epochs: int
    seeds: int


FULL, SMALL = Sizes(2000, 500, 1000, 2, 3), Sizes(80, 120, 16, 1, 2)


def reviews_of(part: str, count: int, seed: int) -> Dataset:
    "Some reviews"
    reviews = load_dataset("movies")[part].shuffle(seed=seed)
    return reviews.select(range(min(count, len(reviews))))


def new(seed: int) -> TextClassifier:
    "A classifier that has learnt nothing of reviews"
    return TextClassifier.from_pretrained("minilm", labels=["negative", "positive"], seed=seed, device="cpu")


def training_texts(arm: str, sizes: Sizes, seed: int) -> Dataset:
    "The signed reviews that an arm is trained on"
    planted = plant_bias(reviews_of("train", sizes.train, seed), 0 if arm == "no bias" else DOSE, KNOWN, seed=seed)
    if arm == "weights":
        weights = balancing_weights(planted["label"], planted["group"][:])
        drawn = np.random.default_rng(seed).choice(len(planted), len(planted), p=weights / weights.sum())
        return planted.select(drawn)
    if arm == "counterfactual copies":
        swap = CounterfactualNames(*(tuple(KNOWN[group]) for group in LISTS))
        return augment_dataset(planted.remove_columns("group"), swap, seed=seed, progress=False).remove_columns("augmented")
    return planted


def trained(arm: str, setting: float | None, sizes: Sizes, seed: int) -> TextClassifier:
    "The encoder, trained as an arm says"
    texts, classifier, objective = training_texts(arm, sizes, seed), new(seed), CrossEntropy()
    if arm == "penalty":
        objective = FairnessPenalty(KnownGroups(classifier, texts["text"], texts["group"][:]), setting)
    fine_tune(classifier, texts, objective=objective, epochs=sizes.epochs, batch_size=32, learning_rate=1e-4, seed=seed,
              progress=False, mixed_precision=quick_precision())
    return classifier


def line_of(arm: str, setting: float | None, sizes: Sizes, seed: int):
    "A line on frozen features: texts and groups to answers"
    texts, encoder = training_texts(arm, sizes, seed), new(seed)

    def features(some: list[str]) -> torch.Tensor:
        return layer_features(encoder, some)[5].double()

    vectors, labels = features(texts["text"][:]), np.array(texts["label"])
    if arm == "frozen, no remedy":
        line = probe(vectors, labels, strength=0.003)
        return lambda some, groups: line.predict(features(some))
    answer = constrained_probe(vectors, labels, texts["group"][:], bound=setting)
    return lambda some, groups: answer(features(some), seed=seed)


def answering(arm: str, setting: float | None, sizes: Sizes, seed: int):
    "What an arm answers: texts and groups to 0 or 1"
    if arm.startswith("frozen"):
        return line_of(arm, setting, sizes, seed)
    classifier = trained(arm, setting, sizes, seed)

    def scores(some: list[str]) -> np.ndarray:
        return classifier.predict_proba(some)[:, 1].double().numpy().clip(0, 1)

    if arm == "thresholds by group":
        known = validation(sizes, seed)
        bars = thresholds_by_group(known["label"], scores(known["text"]), known["group"][:], setting)
        return lambda some, groups: answers_by_group(scores(some), groups, bars)
    return lambda some, groups: (scores(some) > 0.5).astype(int)


def validation(sizes: Sizes, seed: int) -> Dataset:
    "Validation reviews with the bias and the names of training"
    return plant_bias(reviews_of("validation", sizes.validation, seed), DOSE, KNOWN, seed=seed + 1)


def settings(sizes: Sizes, rows: dict, arm: str, setting: float) -> dict:
    "Accuracy of the cells, and the gap of equalised odds, on validation reviews"
    known = validation(sizes, SPARE)
    said, labels, groups = answering(arm, setting, sizes, SPARE)(known["text"][:], known["group"][:]), np.array(
        known["label"]), np.array(known["group"])
    cells = [(said == labels)[(labels == label) & (groups == group)] for label in (0, 1) for group in LISTS]
    odds = fairness_gaps(labels, said, groups)["equalised odds"]
    return {"cells": float(np.mean([cell.mean() for cell in cells if len(cell)])), "odds": float(odds)}


def chosen(rows: dict, arm: str) -> float | None:
    "The setting whose cells are most accurate, less the gap that it leaves"
    def worth(setting: float) -> float:
        row = rows["settings"][f"{arm} {setting:g}"]
        return row["cells"] - row["odds"]
    return max(SETTINGS[arm], key=worth) if arm in SETTINGS else None


def remedies(sizes: Sizes, rows: dict, arm: str, seed: int) -> dict:
    "Gap and accuracy on test reviews with unseen names and signatures"
    setting, test = chosen(rows, arm), reviews_of("test", sizes.test, SPARE)
    answer, labels, said = answering(arm, setting, sizes, seed), np.array(test["label"]), []
    for group in LISTS:
        groups = [group] * len(test)
        said.append(answer(signed(test["text"], groups, UNSEEN, UNSEEN_SIGNATURES, SPARE), groups))
    right = [(some == labels).mean() for some in said]
    return {"gap": float(said[0].mean() - said[1].mean()), "accuracy": float(np.mean(right)), "setting": setting,
            "accuracy of the first list": float(right[0]), "accuracy of the second list": float(right[1])}


def jobs(sizes: Sizes) -> dict[str, dict[str, tuple]]:
    "The rows of each part, and what makes them"
    return {"settings": {f"{arm} {value:g}": (arm, value) for arm, values in SETTINGS.items() for value in values},
            "remedies": {f"{arm} {seed}": (arm, seed) for seed in range(sizes.seeds) for arm in ARMS}}


def summary(rows: dict[str, dict[str, dict]]) -> dict:
    "Means and 95 % intervals over seeds, of a gap its size; and of what lies between two arms, seed by seed"
    some = rows.get("remedies", {})
    made, seeds = by_kind(some), sorted({key.rpartition(" ")[2] for key in some}, key=int)

    def above(other: str, figure: str) -> dict[str, tuple[float, float]]:
        apart = gains(some, lambda row: abs(row[figure]), other)
        return {arm: apart[arm] for arm in ARMS if arm in apart and arm != other}

    return {**{figure: {arm: interval([abs(row[figure]) for row in made[arm]]) for arm in ARMS if arm in made}
               for figure in ("gap", "accuracy")},
            "gaps of the seeds": {arm: [some[f"{arm} {seed}"]["gap"] for seed in seeds if f"{arm} {seed}" in some]
                                  for arm in ARMS if arm in made},
            "above": {other: {figure: above(other, figure) for figure in ("gap", "accuracy")} for other in BASES}}


def main():
    "Make the rows that are missing"
    given = parser_of_parts(__doc__, ["settings", "remedies"]).parse_args()
    sizes = SMALL if given.small else FULL
    make_parts(NAME, given, sizes, jobs(sizes), {"settings": settings, "remedies": remedies}, summary, timed=True)


if __name__ == "__main__":
    main()
