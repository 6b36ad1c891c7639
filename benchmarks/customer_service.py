"""Intents of the typed questions at 1, 5 and 9 examples each, and what is out of scope, by every way of lesson 50.

    python benchmarks/customer_service.py                     # all parts; goes on where an earlier call was stopped
    python benchmarks/customer_service.py --part settings     # one of them
    python benchmarks/customer_service.py --small             # a quick try of each part; writes nothing

- settings: three learning rates of fine-tuning and three of contrastive tuning, nine examples of each intent, one draw
  (seed 100), judged on the validation part. The best is used below as it is.
- intents: five draws of 1 and of 5 examples of each of 34 intents, and all 9 (where only the seed of training differs).
  Heading and answer join them as two more examples; `questions only` leaves them out. Accuracy on the 136 test questions that
  have an intent, and the area under the curve of each score for telling the 80 out of scope from them.

Ways: `frozen` is the bundled encoder as it is: nearest example, nearest mean, and a line (logistic regression) on vectors of
length one. `fine-tuned` trains all of it with a head, 20 epochs in batches of 16. `contrastive` is `ContrastiveTuning(0.1)`,
10 epochs in batches of 64 with two dropout masks, and then the same three on the tuned vectors. Scores of what is out of
scope: confidence and energy of the line or the head, distance to the nearest mean and to the nearest example.

All questions were typed by the authors of the course: the figures compare ways, and say nothing about customers. Each row is
written as it ends. Two processes work (or --processes), with one thread each. Minutes of computing on one core that trains on
50 such short questions of the bundled encoder a second: settings 15, intents 50.
"""

import warnings
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from common import interval, make_parts, parser_of_parts, quick_precision
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from llm_course.customer_service import NearestExamples, draw_of_each, energy
from llm_course.data import load_dataset, support_answers
from llm_course.evaluation import area_under_curve
from llm_course.few_labels import ContrastiveTuning
from llm_course.fine_tuning import fine_tune
from llm_course.models import TextClassifier
from llm_course.transfer_learning import layer_features

NAME, LONGEST = "customer_service", 96  # tokens that are read
RATES = {"fine-tuned": (5e-5, 1e-4, 2e-4), "contrastive": (5e-5, 1e-4, 2e-4)}


class Sizes(NamedTuple):
    "How much each part computes"

    model: str
    intents: int  # that take part, the first by the alphabet
    counts: tuple[int, ...]  # examples of each
    epochs: dict[str, int]
    judged: int  # questions of the test part, at most
    draws: int


FULL = Sizes("minilm", 34, (1, 5, 9), {"fine-tuned": 20, "contrastive": 10}, 1000, 5)
SMALL = Sizes("tiny-bert", 4, (1, 2), {"fine-tuned": 1, "contrastive": 1}, 1000, 2)


class Task(NamedTuple):
    "Examples to learn from, and questions to be judged by"

    names: list[str]
    texts: list[str]
    labels: np.ndarray
    judged: list[str]
    truth: np.ndarray  # class numbers; as many as there are names: out of scope


@lru_cache(1)
def parts_of(intents: int) -> tuple[list[str], dict[str, tuple[list[str], np.ndarray]]]:
    "Names of the intents, and texts and labels of each part; the last label is out of scope"
    parts, found = load_dataset("support"), {}
    names = parts["train"].features["label"].names
    for split, part in parts.items():
        labels = np.array(part["label"])
        kept = np.flatnonzero((labels < intents) | (labels == len(names) - 1))
        found[split] = [part["text"][row] for row in kept.tolist()], np.minimum(labels[kept], intents)
    return names[:intents], found


def task_of(sizes: Sizes, count: int, seed: int, judged: str, answers: bool = True) -> Task:
    "A draw of examples, with headings and answers or without"
    names, parts = parts_of(sizes.intents)
    texts, labels = parts["train"]
    inside = np.flatnonzero(labels < len(names))
    chosen = inside[draw_of_each(labels[inside], count, seed)]
    learnt, numbers = [texts[place] for place in chosen], labels[chosen]
    if answers:
        shop = support_answers().loc[names]
        learnt += [*shop["heading"], *(f"{heading}. {answer}" for heading, answer in shop.to_numpy())]
        numbers = np.concatenate([numbers, np.arange(len(names)), np.arange(len(names))])
    asked, truth = parts[judged]
    return Task(names, learnt, numbers, asked[: sizes.judged], truth[: sizes.judged])


def new_classifier(sizes: Sizes, task: Task, seed: int) -> TextClassifier:
    "The encoder with a new head"
    return TextClassifier.from_pretrained(sizes.model, labels=task.names, max_length=LONGEST, seed=seed)


def vectors_of(classifier: TextClassifier, texts: list[str]) -> np.ndarray:
    "Behind the last layer, of length one"
    return torch.nn.functional.normalize(layer_features(classifier, texts)[-1], dim=-1).double().numpy()


def areas_of(task: Task, scores: dict[str, np.ndarray]) -> dict[str, float]:
    "How well each score tells what has an intent from what has none"
    fits = (task.truth < len(task.names)).astype(int)
    return {f"area by {name}": area_under_curve(fits, values) for name, values in scores.items()}


def by_logits(task: Task, logits: np.ndarray) -> dict[str, float]:
    "Areas by confidence and by energy"
    return areas_of(task, {"confidence": softmax(logits, axis=1).max(1), "energy": -energy(logits)})


def on_vectors(task: Task, classifier: TextClassifier) -> dict[str, float]:
    "Three ways on the vectors of a classifier"
    learnt, asked = vectors_of(classifier, task.texts), vectors_of(classifier, task.judged)
    inside, near = task.truth < len(task.names), NearestExamples(learnt, task.labels)
    with warnings.catch_warnings():  # as many classes as texts, where each has one example: so it is meant
        warnings.simplefilter("ignore", UserWarning)
        logits = LogisticRegression(C=10, max_iter=3000).fit(learnt, task.labels).decision_function(asked)
    cosines, places = near.nearest(asked)
    said = {"nearest example": task.labels[places], "nearest mean": near.scores(asked).argmax(1), "line": logits.argmax(1)}
    row = {f"right by {way}": float((answers == task.truth)[inside].mean()) for way, answers in said.items()}
    return row | by_logits(task, logits) | areas_of(task, {
        "distance to a mean": near.scores(asked).max(1), "distance to an example": cosines})


def frozen(sizes: Sizes, task: Task, seed: int, rate: float) -> dict[str, float]:
    "The encoder as it is"
    return on_vectors(task, new_classifier(sizes, task, seed))


def fine_tuned(sizes: Sizes, task: Task, seed: int, rate: float) -> dict[str, float]:
    "All of it, with its head; distances are those of its vectors"
    classifier = new_classifier(sizes, task, seed)
    fine_tune(classifier, {"text": task.texts, "label": task.labels.tolist()}, epochs=sizes.epochs["fine-tuned"], batch_size=16,
              learning_rate=rate, mixed_precision=quick_precision(), seed=seed, progress=False)
    logits, inside = np.asarray(classifier.logits(task.judged), float), task.truth < len(task.names)
    distances = {name: value for name, value in on_vectors(task, classifier).items() if name.startswith("area by distance")}
    return {"right by head": float((logits.argmax(1) == task.truth)[inside].mean())} | by_logits(task, logits) | distances


def contrastive(sizes: Sizes, task: Task, seed: int, rate: float) -> dict[str, float]:
    "Texts of one intent near each other, then the three ways"
    classifier = new_classifier(sizes, task, seed)
    fine_tune(classifier, {"text": task.texts, "label": task.labels.tolist()}, objective=ContrastiveTuning(0.1),
              epochs=sizes.epochs["contrastive"], batch_size=64, learning_rate=rate, mixed_precision=quick_precision(),
              seed=seed, progress=False)
    return on_vectors(task, classifier)


WAYS = {"frozen": frozen, "frozen, questions only": frozen, "fine-tuned": fine_tuned, "contrastive": contrastive}


def settings(sizes: Sizes, rows: dict, way: str, rate: float) -> dict:
    "Accuracy on the validation part with all examples"
    found = WAYS[way](sizes, task_of(sizes, max(sizes.counts), 100, "validation"), 100, rate)
    return {"right": max(value for name, value in found.items() if name.startswith("right"))}


def chosen_rate(rows: dict, way: str) -> float:
    "The learning rate that was best; 0 for what is not trained"
    found = {rate: rows.get("settings", {}).get(f"{way} {rate:g}") for rate in RATES.get(way, ())}
    if None in found.values():
        raise RuntimeError(f"No learning rate is chosen yet. First: --part settings --rows '{way} '")
    return max(found, key=lambda rate: found[rate]["right"], default=0.0)


def intents(sizes: Sizes, rows: dict, way: str, count: int, seed: int) -> dict:
    "Accuracy and areas on the test part"
    rate = chosen_rate(rows, way)
    task = task_of(sizes, count, seed, "test", answers="questions only" not in way)
    return {**WAYS[way](sizes, task, seed, rate), "rate": rate}


def jobs(sizes: Sizes) -> dict[str, dict[str, tuple]]:
    "The arguments of each row by part and name"
    return {"settings": {f"{way} {rate:g}": (way, rate) for way, rates in RATES.items() for rate in rates},
            "intents": {f"{way}; {count} {seed}": (way, count, seed) for count in sizes.counts for seed in range(sizes.draws)
                        for way in WAYS}}


def other_rate(row: dict, rows: dict, way: str, count: int, seed: int) -> bool:
    "Whether a row was made with a learning rate that is not the best one now"
    return row["rate"] != chosen_rate(rows, way)


def summary(rows: dict[str, dict[str, dict]]) -> dict:
    "Means and 95 % intervals over the draws: accuracy and area by number of examples and by way"
    values: dict[str, dict[str, dict[str, list[float]]]] = {"right": {}, "area": {}}
    for key, row in rows.get("intents", {}).items():
        way, _, rest = key.partition("; ")
        for name, value in row.items():
            kind, _, by = name.partition(" by ")
            if kind in values:
                values[kind].setdefault(rest.split()[0], {}).setdefault(f"{way}: {by}", []).append(value)
    found = {kind: {count: {way: interval(each) for way, each in of_way.items()} for count, of_way in of_count.items()}
             for kind, of_count in values.items()}
    return {**found, "rates": {way: chosen_rate(rows, way) for way in RATES if all(
        f"{way} {rate:g}" in rows.get("settings", {}) for rate in RATES[way])}}


def main():
    "Make the rows that are missing"
    given = parser_of_parts(__doc__, ["settings", "intents"]).parse_args()
    sizes = SMALL if given.small else FULL
    rows = make_parts(NAME, given, sizes, jobs(sizes), {"settings": settings, "intents": intents}, summary,
                      stale={"intents": other_rate})
    print(summary(rows))


if __name__ == "__main__":
    main()
