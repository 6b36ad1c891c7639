"""What compression saves and what it costs: accuracy, time, bytes, memory, slices, calibration and an attack, on movie reviews.

    python benchmarks/compression.py                  # all parts; goes on where an earlier call was stopped
    python benchmarks/compression.py --part students  # one of them
    python benchmarks/compression.py --rows "int8"    # only rows whose names begin so
    python benchmarks/compression.py --small          # a quick try of each part; writes nothing

Models: the bundled encoder of six layers, fine-tuned on all 8,034 reviews (the teacher); the same with the smaller half of the
weights zero; and students of its first and last layer, trained on the same reviews with labels alone, with the teacher (read
twice), and with the teacher and 1,500 labels, where the other reviews join in without a label. One more student reads the
reviews four times, and beside each batch of 16 there are 32 texts without a label that the teacher judges: reviews of which
a quarter of the words is gone (three copies each), the first half of one with the second half of another, and the first 25
words of texts of other domains. The student that has labels alone reads them by the best of four recipes. Each runs in torch,
in ONNX Runtime in float32, and in int8.

- recipes: right answers of 1,000 validation reviews for a student of labels alone, seed 0, that read the reviews twice or four
  times, or once or twice with three copies, each without a quarter of its words. `RECIPE` must be the best of them.
- teachers, students: trained once for each of three seeds and kept in the cache. A seed draws the head, the order, dropout
  and which labels are known. In bfloat16 where the processor computes in it; judged in float32.
- answers: on 1,000 test reviews accuracy, calibration error, accuracy on the shortest and the longest quarter, on the texts
  that the teacher was least sure of, and the share of the teacher's answers that changed. For four of the models the
  share of 40 reviews that stay right under SynonymAttack.
- cost: milliseconds of one text and in batches of 32, in turn in each of seven rounds, medians; megabytes on the disk; and how
  far loading and answering lifts the memory of a process of its own, the median of three. Of the models of seed 0; the
  student that came last has the shape of the others and was not timed.

Each row is written as it ends, and a call that finds all of them writes the summary anew. Two processes work (or --processes), with one thread each; the cost is measured by one.
"""

import argparse
import json
import statistics
import sys
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from common import gains, in_own_process, make_parts, over_seeds, parser_of_parts, peak_memory, quick_precision

from llm_course.adversarial_examples import SynonymAttack
from llm_course.compression import (
    Distillation,
    OnnxClassifier,
    UnlabelledTexts,
    export,
    keep_layers,
    zero_smallest,
)
from llm_course.compressing.onnx_classifier import race
from llm_course.core import cache_folder
from llm_course.data import load_dataset
from llm_course.evaluation import EvaluationReport, evaluate, expected_calibration_error
from llm_course.fine_tuning import fine_tune
from llm_course.models import TextClassifier

NAME, SPARE = "compression", 100  # the seed that draws what is judged
TEACHER, KEPT = "six layers", (0, 5)
STUDENTS = ("two layers, labels", "two layers, teacher", "two layers, 1,500 labels and teacher",
            "two layers, teacher and more texts")
MODELS = (TEACHER, "six layers, half zeros", *STUDENTS)
TIMED = MODELS[:5]
RECIPE = "twice"
RECIPES = {"twice": (2, 0), "four times": (4, 0), "once with copies": (1, 3), "twice with copies": (2, 3)}  # epochs, copies
RUNTIMES = ("torch", "ONNX float32", "int8")
ATTACKED = (f"torch, {TEACHER}", f"int8, {TEACHER}", f"torch, {STUDENTS[0]}", f"torch, {STUDENTS[1]}")


class Sizes(NamedTuple):
    "How much is trained and asked"

    train: int | None  # None: all there are
    known: int  # labels of the student that knows few
    epochs: int  # of a student
    judged: int
    attacked: int
    seeds: int
    rounds: int
    timed: int  # texts of a round


FULL = Sizes(None, 1500, 2, 1000, 40, 3, 7, 64)
SMALL = Sizes(64, 16, 1, 32, 2, 2, 2, 4)


def part_of(name: str, most: int | None, seed: int = SPARE):
    "Some reviews of a part, in an order of its own"
    reviews = load_dataset("movies")[name].shuffle(seed=seed)
    return reviews.select(range(min(most or len(reviews), len(reviews))))


def place_of(sizes: Sizes, model: str, seed: int) -> Path:
    "Where a classifier waits for the other parts"
    size = f"{sizes.train or 'all'}-{sizes.known}-{sizes.epochs}"
    return cache_folder("baselines") / f"compression-{size}-{model}-{seed}".replace(" ", "-").replace(",", "")


def teachers(sizes: Sizes, rows: dict, seed: int) -> dict:
    "Train a teacher"
    train = part_of("train", sizes.train, seed)
    classifier = TextClassifier.from_pretrained("minilm", labels=train.features["label"].names, seed=seed)
    run = fine_tune(classifier, train, batch_size=16, epochs=1, learning_rate=1e-4, seed=seed, progress=False,
                    mixed_precision=quick_precision())
    classifier.save(place_of(sizes, TEACHER, seed))
    return {"seconds": run.seconds, "steps": len(run.steps)}


def teacher_of(sizes: Sizes, seed: int) -> TextClassifier:
    "The teacher of a seed, trained again where it is missing"
    if not (place_of(sizes, TEACHER, seed) / "classifier.json").is_file():
        teachers(sizes, {}, seed)
    return TextClassifier.load(place_of(sizes, TEACHER, seed))


def with_fewer_words(texts: list[str], generator: np.random.Generator) -> list[str]:
    "Copies in which each word is gone with a probability of a quarter"
    found = []
    for text in texts:
        words = text.split()
        found.append(" ".join(word for word, stays in zip(words, generator.random(len(words)) > 0.25, strict=True) if stays) or text)
    return found


def in_halves(texts: list[str], generator: np.random.Generator) -> list[str]:
    "The first half of each with the second half of another"
    pairs = [(text.split(), texts[place].split()) for text, place in zip(texts, generator.permutation(len(texts)), strict=True)]
    return [" ".join([*first[: (len(first) + 1) // 2], *second[len(second) // 2:]]) for first, second in pairs]


def trained(student: TextClassifier, train: Dataset, epochs: int, seed: int, **options: object) -> object:  # the run
    "Train a student as all of them are trained"
    return fine_tune(student, train, batch_size=16, epochs=epochs, learning_rate=3e-4, seed=seed, progress=False,
                     mixed_precision=quick_precision(), **options)


def by_recipe(sizes: Sizes, recipe: str, seed: int) -> tuple[TextClassifier, object]:
    "A student that has labels alone"
    epochs, copies = RECIPES[recipe]
    train, generator = part_of("train", sizes.train, seed), np.random.default_rng(seed)
    train = train.select_columns(["text", "label"])
    copied = [train.map(lambda rows: {"text": with_fewer_words(rows["text"], generator)}, batched=True, batch_size=None,
                        load_from_cache_file=False) for _ in range(copies)]
    student = keep_layers(teacher_of(sizes, seed), KEPT)
    return student, trained(student, concatenate_datasets([train, *copied]), epochs, seed)


def recipes(sizes: Sizes, rows: dict, recipe: str) -> dict:
    "Right answers on validation reviews"
    student, _ = by_recipe(sizes, recipe, 0)
    return {"accuracy": evaluate(student, part_of("validation", sizes.judged)).accuracy.value}


def by_teacher(sizes: Sizes, way: str, seed: int) -> tuple[TextClassifier, object]:
    "A student that asks a teacher"
    train, student, epochs = part_of("train", sizes.train, seed), keep_layers(teacher_of(sizes, seed), KEPT), sizes.epochs
    judge, more = exported(sizes, TEACHER, "int8", seed), None
    if way == STUDENTS[3]:
        generator, texts, epochs = np.random.default_rng(seed), list(train["text"]), 2 * sizes.epochs
        pool = [*in_halves(texts, generator), *(text for _ in range(3) for text in with_fewer_words(texts, generator))]
        for name in ("products", "tweets", "opinions"):
            pool += [" ".join(text.split()[:25]) for text in load_dataset(name)["train"]["text"][: sizes.train]]
        more = UnlabelledTexts(student, pool, 32)
    elif way == STUDENTS[2]:
        more = UnlabelledTexts(student, train["text"][sizes.known :], 32)
        train = train.select(range(sizes.known))
    return student, trained(student, train, epochs, seed, objective=Distillation(judge, share=0.9, unlabelled=more))


def students(sizes: Sizes, rows: dict, way: str, seed: int) -> dict:
    "Train a student of two layers"
    labels_alone = way == STUDENTS[0]
    student, run = by_recipe(sizes, RECIPE, seed) if labels_alone else by_teacher(sizes, way, seed)
    student.save(place_of(sizes, way, seed))
    return {"seconds": run.seconds, "steps": len(run.steps)}


def in_torch(sizes: Sizes, model: str, seed: int) -> TextClassifier:
    "A model that waits, or is made of one"
    if model == MODELS[1]:
        return zero_smallest(teacher_of(sizes, seed), 0.5)
    if model != TEACHER and not (place_of(sizes, model, seed) / "classifier.json").is_file():
        students(sizes, {}, model, seed)
    return teacher_of(sizes, seed) if model == TEACHER else TextClassifier.load(place_of(sizes, model, seed))


def exported(sizes: Sizes, model: str, runtime: str, seed: int) -> OnnxClassifier:
    "The model in ONNX Runtime, exported where it is missing or older than the model"
    precision, classifier = "int8" if runtime == "int8" else "float32", in_torch(sizes, model, seed)
    place = place_of(sizes, f"{model} {precision}", seed)
    made, source = place / "onnx_classifier.json", place_of(sizes, TEACHER if model == MODELS[1] else model, seed)
    if not made.is_file() or made.stat().st_mtime < (source / "classifier.json").stat().st_mtime:
        export(classifier, place, precision)
    return OnnxClassifier.load(place)


def model_in(sizes: Sizes, runtime: str, model: str, seed: int) -> TextClassifier:
    "One of the contestants"
    return in_torch(sizes, model, seed) if runtime == "torch" else exported(sizes, model, runtime, seed)


@lru_cache(1)
def teacher_says(sizes: Sizes, seed: int) -> EvaluationReport:
    "How a teacher answers the test reviews: all models of a seed are held against it"
    return evaluate(teacher_of(sizes, seed), part_of("test", sizes.judged))


def answers(sizes: Sizes, rows: dict, runtime: str, model: str, seed: int) -> dict:
    "Accuracy, and what an accuracy hides"
    classifier, reviews = model_in(sizes, runtime, model, seed), part_of("test", sizes.judged)
    report, first = evaluate(classifier, reviews), teacher_says(sizes, seed)
    lengths = np.array([len(text.split()) for text in reviews["text"]])
    low, high = np.quantile(lengths, (0.25, 0.75))
    margin = np.sort(first.probabilities, axis=1)
    unsure = margin[:, -1] - margin[:, -2] <= np.quantile(margin[:, -1] - margin[:, -2], 0.25)
    row = {"accuracy": float(report.correct.mean()), "changed": float((report.predictions != first.predictions).mean()),
           "calibration": expected_calibration_error(report.probabilities, report.targets),
           "shortest quarter": float(report.correct[lengths <= low].mean()),
           "longest quarter": float(report.correct[lengths >= high].mean()),
           "teacher unsure": float(report.correct[unsure].mean())}
    if f"{runtime}, {model}" in ATTACKED:
        attacked = SynonymAttack(seed=0).attack(classifier, part_of("test", sizes.attacked))
        row["under attack"] = attacked.accuracy_under_attack
    return row


def memory(runtime: str, model: str, small: bool) -> dict:
    "How far loading a model and answering 32 texts lifts the memory of this process, in MB"
    sizes, texts = SMALL if small else FULL, part_of("test", 32)["text"]
    place = place_of(sizes, model if runtime == "torch" else f"{model} {'int8' if runtime == 'int8' else 'float32'}", 0)
    kind = TextClassifier if runtime == "torch" else OnnxClassifier
    kept = []
    return {"megabytes": peak_memory(lambda: kept.append(kind.load(place).logits(texts)))}


def cost(sizes: Sizes, rows: dict) -> dict:
    "Times in turn, bytes, and memory of all contestants"
    contestants = {f"{runtime}, {model}": (runtime, model) for runtime in RUNTIMES for model in TIMED}
    made = {name: model_in(sizes, *each, 0) for name, each in contestants.items()}
    found = race(made, part_of("test", sizes.timed)["text"], sizes.rounds).T.to_dict()
    small = ["--small"] * (sizes == SMALL)  # no "is": a process of its own holds a copy
    for name, (runtime, model) in contestants.items():
        if runtime == "torch" and model == MODELS[1]:
            made[name].save(place_of(sizes, model, 0))
        lifted = [in_own_process(__file__, "--memory", runtime, model, *small)["megabytes"]
                  for _ in range(1 if small else 3)]
        found[name]["memory"] = statistics.median(lifted)
    return found


WORK = {"recipes": recipes, "teachers": teachers, "students": students, "answers": answers, "cost": cost}


def jobs(sizes: Sizes) -> dict[str, dict[str, tuple]]:
    "The rows of each part, and what makes them"
    seeds = range(sizes.seeds)
    return {
        "teachers": {str(seed): (seed,) for seed in seeds},
        "recipes": {name: (name,) for name in RECIPES},
        "students": {f"{way} {seed}": (way, seed) for seed in seeds for way in STUDENTS},
        "answers": {f"{runtime}, {model} {seed}": (runtime, model, seed)
                    for seed in seeds for runtime in RUNTIMES for model in MODELS},
        "cost": {"all": ()},
    }


TITLES = {"changed": "answers that changed", "calibration": "calibration error, points",
          "shortest quarter": "right, shortest quarter", "longest quarter": "right, longest quarter",
          "teacher unsure": "right, teacher unsure", "under attack": "right under attack"}


def less(rows: dict[str, dict], figure: str, other: str) -> dict[str, tuple[float, float]]:
    "A figure of each model less that of another, seed by seed, of rows that have it"
    return gains({key: row for key, row in rows.items() if figure in row}, itemgetter(figure), other)


def summary(rows: dict[str, dict[str, dict]]) -> dict:
    "Means and intervals over seeds, also of differences to the teacher and between two students, seed by seed; the cost"
    reached, taught, more = rows.get("answers", {}), {}, {}
    for runtime in RUNTIMES:
        for kept, taught_by in ((taught, STUDENTS[1]), (more, STUDENTS[3])):
            labels, teacher = (f"{runtime}, {student}" for student in (STUDENTS[0], taught_by))
            for figure in ("accuracy", *TITLES):
                both = less(reached, figure, labels)
                if teacher in both:
                    kept.setdefault(runtime, {})[TITLES.get(figure, figure)] = both[teacher]
    first = f"torch, {TEACHER}"
    apart = {title: less(reached, figure, first) for figure, title in TITLES.items() if figure != "changed"}
    by_length = {key: {"length": row["longest quarter"] - row["shortest quarter"]} for key, row in reached.items()}
    steps = over_seeds(rows.get("students", {}), "steps")
    return {"accuracy": over_seeds(reached, "accuracy"), "gap": less(reached, "accuracy", first),
            "hidden": {title: over_seeds(reached, figure) for figure, title in TITLES.items()} if reached else {},
            "apart": apart, "longest less shortest": less(by_length, "length", first),
            "taught less labels": taught, "more texts less labels": more,
            "recipes": {name: row["accuracy"] for name, row in rows.get("recipes", {}).items()}, "steps": {way: mean for way, (mean, _) in steps.items()},
            "cost": rows.get("cost", {}).get("all", {})}


def main():
    "Make the rows that are missing"
    parser = parser_of_parts(__doc__, [*WORK])
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory:
        torch.set_num_threads(1)
        print(json.dumps(memory(*given.memory, given.small)))
        sys.exit()
    sizes = SMALL if given.small else FULL
    make_parts(NAME, given, sizes, jobs(sizes), WORK, summary, alone={"cost"})


if __name__ == "__main__":
    main()
