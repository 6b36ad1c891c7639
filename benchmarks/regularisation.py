"""Which remedy against overfitting helps, at 100, 500 and all labels, and what keeps twenty runs of one recipe together.

    python benchmarks/regularisation.py                  # all parts; goes on where an earlier call was stopped
    python benchmarks/regularisation.py --part frozen    # one of them
    python benchmarks/regularisation.py --rows "100 "    # only the rows whose names begin so
    python benchmarks/regularisation.py --small          # a quick try of each part; writes nothing

Movie reviews. Each strength of a remedy is chosen by its validation loss; what is told is the difference on the test
reviews from the run without a remedy that has the same seed, with a 95 % interval over runs; for whole models, the points of
accuracy also with one of a bootstrap in two ways, where seeds and reviews are drawn again. Negative results stay.

- frozen: a small network on the vectors behind layer 5 of the bundled encoder, which stays as it is; twenty networks,
  each with its own draw of labels.
- choose: a whole model is trained, with one seed that is not used again; loss and accuracy on 500 validation reviews, for
  each strength and number of labels. (A strength that was best with 500 labels may ruin a run with all of them.)
- remedies: five other seeds at the strength that was chosen; loss and accuracy on the test reviews. `tiny-bert`, a million
  weights, learns 100 labels in 20 epochs, 500 in 10 and all in 2, at a rate of 1e-3; the bundled encoder, where one run of
  all labels takes ten minutes, 100 labels in 20 epochs at 1e-4. Batches of 16. `none` has the dropout that the model comes
  with.
- seeds: the bundled encoder, 200 labels, the same for all, at a rate of 5e-4, twenty seeds: 3 epochs with and without
  Adam's bias correction, without a warm-up and with one of 0.1 of the steps; 10 epochs with neither and with both. How far
  the runs lie apart, and how many answer like a coin.

Each row is written as it ends. Two processes work (or --processes), with one thread each. Minutes of computing on one core
that does 25 reviews of the bundled encoder a second: frozen 10, choose 60, remedies 120, seeds 110.
"""

import json
import warnings
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from common import bits, interval, make_parts, parser_of_parts, quick_precision, table_of, two_ways
from datasets import Dataset, concatenate_datasets
from safetensors.torch import load_file, save_file

from llm_course.adversarial_training import RDrop
from llm_course.augmentation import SynonymReplacement, UnchangedTexts
from llm_course.callbacks import EarlyStopping
from llm_course.core import cache_folder
from llm_course.data import LABELS, load_dataset
from llm_course.fine_tuning import CrossEntropy, fine_tune, validation_scores
from llm_course.models import TextClassifier
from llm_course.regularisation import AdamVariant, HeadRecipe, WeightAverage, seed_spread, train_heads, with_dropout
from llm_course.transfer_learning import layer_features

NAME = "regularisation"
RATES = {"minilm": 1e-4, "tiny-bert": 1e-3}
STRENGTHS = {  # of a whole model
    "none": (0,), "decoupled decay": (0.1, 1, 10), "L2 inside Adam": (1e-4, 1e-3, 1e-2), "dropout": (0.0, 0.2, 0.3),
    "early stopping": ("loss", "accuracy"), "label smoothing": (0.05, 0.1, 0.2), "average": (0.0, 0.5),
    "augmentation": (1, 2), "R-Drop": (1, 4)}
PLAIN = HeadRecipe()
FROZEN = {  # of small networks
    "none": (PLAIN,), "decoupled decay": tuple(replace(PLAIN, weight_decay=decay) for decay in (1, 3, 10, 30)),
    "L2 inside Adam": tuple(replace(PLAIN, weight_decay=decay, optimizer="adam") for decay in (0.01, 0.03, 0.1, 0.3)),
    "dropout": tuple(replace(PLAIN, dropout=share) for share in (0.1, 0.3, 0.5)), "early stopping": (PLAIN,),
    "label smoothing": tuple(replace(PLAIN, label_smoothing=share) for share in (0.05, 0.1, 0.2)),
    "average": tuple(replace(PLAIN, average_from=share) for share in (0.0, 0.5)), "augmentation": (PLAIN,),
    "R-Drop": tuple(replace(PLAIN, dropout=0.3, r_drop=weight) for weight in (1, 4))}


class Spread(NamedTuple):
    "What `seeds` trains"

    model: str
    labels: int
    arms: tuple[tuple[int, bool, float], ...]  # epochs, whether Adam's bias is corrected, share of the steps that is warm-up
    seeds: int


class Sizes(NamedTuple):
    "How much each part trains"

    labels: tuple[tuple[str, int | None, int], ...]  # whole model, labels (None: all), epochs
    frozen: tuple[tuple[int | None, int], ...]  # labels and epochs of small networks
    networks: int
    seeds: int
    validation: int
    test: int  # at most
    pool: int | None  # training reviews that the small networks draw from; None: all
    spread: Spread


FULL = Sizes((("tiny-bert", 100, 20), ("tiny-bert", 500, 10), ("tiny-bert", None, 2), ("minilm", 100, 20)),
             ((100, 20), (500, 20), (None, 5)), 20, 5, 500, 1004, None,
             Spread("minilm", 200, ((3, False, 0.0), (3, False, 0.1), (3, True, 0.0), (3, True, 0.1),
                                    (10, False, 0.0), (10, True, 0.1)), 20))
SMALL = Sizes((("tiny-bert", 16, 2), ("tiny-bert", 32, 1), ("tiny-bert", None, 1)), ((16, 2), (32, 2), (None, 1)),
              3, 2, 24, 32, 64, Spread("tiny-bert", 16, ((1, False, 0.0), (1, True, 0.1)), 2))


def named(labels: int | None) -> str:
    "How a number of labels is written"
    return "all" if labels is None else str(labels)


def part_of(sizes: Sizes, part: str) -> Dataset:
    "Movie reviews to judge by"
    texts = load_dataset("movies")[part].shuffle(seed=0)
    return texts.select(range(min(sizes.test if part == "test" else sizes.validation, len(texts))))


def drawn(sizes: Sizes, labels: int | None, seed: int) -> Dataset:
    "Labelled reviews to train on"
    texts = load_dataset("movies")["train"].shuffle(seed=seed)
    most = sizes.pool if labels is None and sizes.pool else len(texts)
    return texts.select(range(min(labels or most, len(texts))))


def copies_of(texts: list[str], count: int) -> list[list[str]]:
    "Copies with other words, `count` of each"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnchangedTexts)
        return SynonymReplacement().augment(texts, n=count, seed=0)


# Small networks on frozen vectors


@lru_cache(1)
def frozen_data(sizes: Sizes) -> tuple[torch.Tensor, torch.Tensor, dict]:
    "Vectors of reviews and of their copies, their labels, and those to judge by; computed once for all processes"
    path = cache_folder("benchmarks") / f"{NAME}-{sizes.pool}-{sizes.validation}-{sizes.test}.safetensors"
    if not path.is_file():
        encoder = TextClassifier.from_pretrained("minilm", labels=LABELS, max_length=64)
        pool = drawn(sizes, None, 0)
        parts = {"pool": pool["text"], "copies": [made[0] for made in copies_of(pool["text"], 1)],
                 "validation": part_of(sizes, "validation")["text"], "test": part_of(sizes, "test")["text"]}
        save_file({name: layer_features(encoder, texts)[5].clone() for name, texts in parts.items()}, path)
    found = load_file(path)
    centre, spread = found["pool"].mean(0), found["pool"].std(0)
    scaled = {name: (values - centre) / spread for name, values in found.items()}
    judged = {part: (scaled[part], torch.tensor(part_of(sizes, part)["label"])) for part in ("validation", "test")}
    labels = torch.tensor(drawn(sizes, None, 0)["label"])
    return torch.cat([scaled["pool"], scaled["copies"]]), labels.repeat(2), judged


def frozen(sizes: Sizes, rows: dict, labels: int | None, remedy: str, epochs: int) -> dict:
    "Loss and accuracy of each network on the test reviews, at the strength of the lowest mean validation loss"
    vectors, classes, judged = frozen_data(sizes)
    count = len(classes) // 2
    generator = torch.Generator().manual_seed(1)
    places = torch.stack([torch.randperm(count, generator=generator)[: min(labels or count, count)]
                          for _ in range(sizes.networks)])
    copied = remedy == "augmentation"
    places, epochs = (torch.cat([places, places + count], 1), max(1, epochs // 2)) if copied else (places, epochs)
    best = None
    for recipe in FROZEN[remedy]:
        every = 1 if remedy == "early stopping" else epochs
        curves = train_heads(vectors, classes, places, judged, replace(recipe, epochs=epochs), every=every, seed=1)
        chosen = curves.loc["validation"]["loss"].unstack("network").idxmin()
        validation, test = ([curves.loc[part, epoch, network] for network, epoch in chosen.items()]
                            for part in ("validation", "test"))
        loss = sum(row["loss"] for row in validation)
        if best is None or loss < best[0]:
            said = ", ".join(f"{name} {value}" for name, value in vars(recipe).items() if value != getattr(PLAIN, name))
            said = f"epochs {chosen.min()} to {chosen.max()}" if remedy == "early stopping" else said
            best = loss, {"strength": said, "loss": [float(row["loss"]) for row in test],
                          "accuracy": [float(row["accuracy"]) for row in test]}
    return best[1]


# A whole model


def with_copies(train: Dataset, count: int) -> Dataset:
    "Reviews and copies of them"
    made = copies_of(train["text"], count)
    more = [train.remove_columns([name for name in train.column_names if name not in ("text", "label")])]
    for number in range(count):
        more.append(Dataset.from_dict({"text": [texts[number] for texts in made], "label": train["label"]},
                                      features=more[0].features))
    return concatenate_datasets(more)


def trained(sizes: Sizes, model: str, labels: int | None, epochs: int, remedy: str, strength: float | str, seed: int
            ) -> TextClassifier:
    "A pre-trained model, fine-tuned with one remedy"
    train = drawn(sizes, labels, seed)
    classifier = TextClassifier.from_pretrained(model, labels=LABELS, seed=seed)
    options, seen = {}, None
    if remedy in ("decoupled decay", "L2 inside Adam"):
        options = {"weight_decay": strength, "optimizer": "adamw" if remedy == "decoupled decay" else "adam"}
    elif remedy == "dropout":
        classifier = with_dropout(classifier, strength)
    elif remedy == "early stopping":
        options, seen = {"callbacks": [EarlyStopping(3, measure=strength)]}, part_of(sizes, "validation")
        options["evaluate_every"] = 100 if labels is None else None
    elif remedy == "label smoothing":
        options = {"objective": CrossEntropy(label_smoothing=strength)}
    elif remedy == "average":
        options = {"callbacks": [WeightAverage(strength)]}
    elif remedy == "augmentation":
        train, epochs = with_copies(train, strength), max(1, round(epochs / (1 + strength)))
    elif remedy == "R-Drop":
        options = {"objective": RDrop(weight=strength)}
    fine_tune(classifier, train, seen, epochs=epochs, learning_rate=RATES[model], batch_size=16, seed=seed, progress=False,
              mixed_precision=quick_precision(), **options)
    return classifier


def choose(sizes: Sizes, rows: dict, model: str, labels: int | None, epochs: int, remedy: str, strength: float | str) -> dict:
    "Scores on validation reviews"
    return validation_scores(trained(sizes, model, labels, epochs, remedy, strength, 100), part_of(sizes, "validation"))


def chosen_strength(rows: dict, model: str, labels: int | None, remedy: str) -> float | str | None:
    "The strength of the lowest validation loss; None where one was not tried yet"
    tried = rows.get("choose", {})
    found = {strength: tried.get(f"{model} {named(labels)} {remedy} {strength}") for strength in STRENGTHS[remedy]}
    return None if None in found.values() else min(found, key=lambda strength: found[strength]["loss"])


def other_strength(row: dict, rows: dict, model: str, labels: int | None, epochs: int, remedy: str, seed: int) -> bool:
    "Whether a row was made at another strength than the one that is best now"
    return row["strength"] != chosen_strength(rows, model, labels, remedy)


def remedies(sizes: Sizes, rows: dict, model: str, labels: int | None, epochs: int, remedy: str, seed: int) -> dict:
    "Loss and accuracy on test reviews, and which answers are right"
    strength, judged = chosen_strength(rows, model, labels, remedy), part_of(sizes, "test")
    logits = trained(sizes, model, labels, epochs, remedy, strength, seed).logits(list(judged["text"]))
    targets = torch.tensor(judged["label"])
    right = logits.argmax(-1) == targets
    return {"loss": F.cross_entropy(logits, targets).item(), "accuracy": right.double().mean().item(),
            "right": bits(right.tolist()), "strength": strength}


def seeds(sizes: Sizes, rows: dict, epochs: int, correction: bool, warmup: float, seed: int) -> dict:
    "Scores on test reviews of one seed"
    classifier = TextClassifier.from_pretrained(sizes.spread.model, labels=LABELS, seed=seed)
    run = fine_tune(classifier, drawn(sizes, sizes.spread.labels, 0), epochs=epochs, learning_rate=5e-4, batch_size=16, seed=seed,
                    warmup=warmup, optimizer=AdamVariant(bias_correction=correction), progress=False,
                    mixed_precision=quick_precision())
    last = run.steps[-5:]
    return {**validation_scores(classifier, part_of(sizes, "test")),
            "training loss": sum(row["loss"] for row in last) / len(last)}


WORK = {"frozen": frozen, "choose": choose, "remedies": remedies, "seeds": seeds}


def jobs(sizes: Sizes) -> dict[str, dict[str, tuple]]:
    "The arguments of each row by part and name"
    return {
        "frozen": {f"{named(labels)} {remedy}": (labels, remedy, epochs)
                   for labels, epochs in sizes.frozen for remedy in FROZEN},
        "choose": {f"{model} {named(labels)} {remedy} {strength}": (model, labels, epochs, remedy, strength)
                   for model, labels, epochs in sizes.labels for remedy, strengths in STRENGTHS.items() for strength in strengths},
        "remedies": {f"{model} {named(labels)} {remedy} {seed}": (model, labels, epochs, remedy, seed)
                     for model, labels, epochs in sizes.labels for seed in range(sizes.seeds) for remedy in STRENGTHS},
        "seeds": {f"{epochs} {'corrected' if correction else 'not corrected'} {warmup} {seed}":
                  (epochs, correction, warmup, seed)
                  for seed in range(sizes.spread.seeds) for epochs, correction, warmup in sizes.spread.arms}}


def against_none(model: str, labels: str, remedy: str, scores: list[dict], plain: list[dict]) -> dict:
    "Differences from the runs without a remedy, seed by seed; 1 or -1 where each interval lies above or below zero"
    both = list(zip(scores, plain, strict=True))
    found = {"model": model, "labels": labels, "remedy": remedy, "strength": str(scores[0]["strength"]), "runs": len(scores),
             "loss": interval([row["loss"] - base["loss"] for row, base in both]),
             "points": interval([100 * (row["accuracy"] - base["accuracy"]) for row, base in both])}
    ends = {figure: [(mean - reach, mean + reach)] for figure in ("loss", "points") for mean, reach in [found[figure]]}
    if all("right" in row for pair in both for row in pair):
        ours, theirs = (table_of([row["right"] for row in rows]) for rows in (scores, plain))
        found["points over seeds and reviews"] = two_ways(100 * (ours - theirs))
        ends["points"].append(found["points over seeds and reviews"][1:])
    found["told from zero"] = {figure: int(all(low > 0 for low, _ in each)) - int(all(high < 0 for _, high in each))
                               for figure, each in ends.items()}
    return found


def one_by_one(row: dict) -> list[dict]:
    "The networks of a row"
    return [{"strength": row["strength"], "loss": loss, "accuracy": accuracy}
            for loss, accuracy in zip(row["loss"], row["accuracy"], strict=True)]


def summary(rows: dict[str, dict[str, dict]]) -> dict:
    "Differences from `none` with 95 % intervals, of the remedies that are done; spreads of seeds"
    found, several = {"frozen": [], "remedies": [], "seeds": []}, {}
    for key, row in rows.get("frozen", {}).items():
        labels, remedy = key.split(" ", 1)
        if remedy != "none" and f"{labels} none" in rows["frozen"]:
            found["frozen"].append(against_none("small network", labels, remedy, one_by_one(row),
                                                one_by_one(rows["frozen"][f"{labels} none"])))
    for key, row in rows.get("remedies", {}).items():
        name, seed = key.rsplit(" ", 1)
        several.setdefault(name, {})[seed] = row
    for name, runs in several.items():
        model, labels, remedy = name.split(" ", 2)
        plain = several.get(f"{model} {labels} none", {})
        both = [seed for seed in runs if seed in plain]
        if remedy != "none" and len(both) > 1:
            found["remedies"].append(against_none(model, labels, remedy, [runs[seed] for seed in both],
                                                  [plain[seed] for seed in both]))
    groups = {}
    for key, row in rows.get("seeds", {}).items():
        groups.setdefault(key.rsplit(" ", 1)[0], []).append(row["accuracy"])
    for key, scores in groups.items():
        epochs, correction, warmup = key.split(" ", 1)[0], key.split(" ", 1)[1].rsplit(" ", 1)[0], key.rsplit(" ", 1)[1]
        if len(scores) > 1:
            found["seeds"].append({"epochs": int(epochs), "bias correction": correction, "warm-up": float(warmup),
                                   **seed_spread(scores).to_dict()})
    return {part: told for part, told in found.items() if told}


def main():
    "Make the rows that are missing"
    given = parser_of_parts(__doc__, [*WORK]).parse_args()
    sizes = SMALL if given.small else FULL
    if not given.part or "frozen" in given.part:
        frozen_data(sizes)
    rows = make_parts(NAME, given, sizes, jobs(sizes), WORK, summary, timed=True, stale={"remedies": other_strength})
    if given.small:
        print("summary", json.dumps(summary(rows)))


if __name__ == "__main__":
    main()
