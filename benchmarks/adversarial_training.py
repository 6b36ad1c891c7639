"""What each defence buys and what it costs: accuracy before and under four attacks, time and memory.

    python benchmarks/adversarial_training.py --search     # choose settings on the validation part, one seed
    python benchmarks/adversarial_training.py              # the scoreboard: three seeds, the test part, then the costs

Every method fine-tunes the bundled model on the same reviews with the same seeds. Settings are chosen on the
validation part: of those that lose at most three quarters of a point, the one that keeps most under PWWS; where all
lose more, the one that loses least. With all reviews the aim is to keep 35 % and to lose at most one point, so of the
settings that lose at most three quarters of a point and keep at least 40 % it is the one that loses least, and three
methods go on to the test part. Each run is written as it ends; a later call goes on where an earlier one was stopped.
Trainings and attacks run in bfloat16, each on one thread. The costs are measured last, in float32, one at a time.
"""

import argparse
import json
import resource
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import groupby
from multiprocessing import get_context
from typing import NamedTuple

import torch
from common import RESULTS, in_own_process, interleaved, interval, keep, medians, ratios
from datasets import Dataset

from llm_course.adversarial_examples import SynonymAttack, TypoAttack, all_synonyms, checked_synonyms
from llm_course.adversarial_training import (
    FGM,
    PGD,
    AdversarialAugmentation,
    FreeLB,
    RDrop,
    Smart,
    Substitutions,
    SynonymHull,
    UnlabelledTexts,
    VirtualAdversarial,
    WorstSynonyms,
    averaged,
    frequent_synonyms,
    robustness_curve,
    synonym_table,
)
from llm_course.data import load_dataset
from llm_course.fine_tuning import CrossEntropy, fine_tune
from llm_course.models import TextClassifier

LEARNING_RATE = 1e-4
RADII, STEPS = (0.01, 0.03, 0.1), 5
SEEDS = range(3)
AT_MOST_LOST, AT_LEAST_KEPT = 0.0075, 0.4  # in a search; the aim on the test part is 0.01 and 0.35
FILE = RESULTS / "adversarial_training.json"


class Recipe(NamedTuple):
    "How a run trains, and what it is judged on"

    reviews: int
    epochs: int
    batch_size: int
    part: str
    attacked: int  # reviews of the part that are attacked


RECIPES = {
    "search": Recipe(1000, 2, 16, "validation", 100),
    "search with all": Recipe(8034, 3, 32, "validation", 200),
    "test": Recipe(1000, 2, 16, "test", 64),
    "all": Recipe(8034, 3, 32, "test", 200),
}
FOR_COST = Recipe(320, 1, 16, "test", 0)
VARIANTS = {  # the settings that the search compares; the names are those of the objectives' arguments
    "plain": [{}],
    "FGM": [{"epsilon": epsilon} for epsilon in (0.05, 0.1, 0.2)],
    "PGD": [{"epsilon": epsilon, "steps": 3} for epsilon in (0.02, 0.05, 0.1)],
    "FreeLB": [{"epsilon": 0.1, "steps": 3}],
    "virtual adversarial": [{"epsilon": 0.1}],
    "SMART": [{"epsilon": 0.001}],
    "R-Drop": [{"weight": 1.0}],
    "synonym hull": [{"clean_share": 0.5, "moving": moving} for moving in (0.5, 1.0)],
    "worst synonyms": [{"most": most, "clean_share": 0.5} for most in (0.4, 0.8)],
    "augmentation by attack": [{"max_changed": 0.5}],
    "frequent synonyms": [{"rare": 10}],
    "frequent and worst synonyms": [{"rare": 3, "most": 0.4, "clean_share": 0.5}],
}
VARIANTS_WITH_ALL = {  # what is tried with all reviews
    "plain": [{}],
    "worst synonyms": [{"most": most, "clean_share": share} for most, share in ((0.8, 0.5), (0.6, 0.3))],
    "frequent synonyms": [{"rare": rare} for rare in (10, 30)],
    "frequent and worst synonyms": [{"rare": rare, "most": 0.8, "clean_share": share}
                                    for rare, share in ((3, 0.5), (3, 0.7), (2, 0.7))],
    # the mean of the weights of frequent and worst synonyms, one for each clean share, and of plain training
    "averaged weights": [{"rare": 3, "most": 0.8, "clean_shares": shares, "plain_share": plain}
                         for shares, plain in (([0.5], 1 / 2), ([0.5, 0.7], 0), ([0.5, 0.7], 1 / 3), ([0.5, 0.7], 1 / 2))],
}
ON_TEST_WITH_ALL = ("plain", "worst synonyms", "averaged weights")
PLAIN_SHARES = (0, 1 / 3, 1 / 2, 2 / 3, 1)  # the mixtures of the chosen members that meet the test part
METHODS = {**VARIANTS, **VARIANTS_WITH_ALL}
SEARCHES = {"search": VARIANTS, "search with all": VARIANTS_WITH_ALL}
FINDS = {"test": "search", "all": "search with all"}  # which search chooses the settings of a kind of run
OBJECTIVES = {"plain": CrossEntropy, "FGM": FGM, "PGD": PGD, "FreeLB": FreeLB, "SMART": Smart, "R-Drop": RDrop}


def in_precision(precision: str) -> torch.autocast:
    "Within it, answers are computed in bfloat16 if the precision says so"
    return torch.autocast("cuda" if torch.cuda.is_available() else "cpu", torch.bfloat16, enabled=precision == "bf16")


def trained(method: str, options: dict, seed: int, recipe: Recipe, precision: str
            ) -> tuple[TextClassifier, float]:
    "Fine-tune with a method; the classifier, and the seconds that training and attacks in training took"
    size, epochs, batch_size, *_ = recipe
    rows = load_dataset("movies")["train"].shuffle(seed=seed)
    train = rows.select(range(size))
    classifier = TextClassifier.from_pretrained("minilm", labels=["negative", "positive"], seed=seed)
    usual = {"batch_size": batch_size, "learning_rate": LEARNING_RATE, "mixed_precision": precision, "seed": seed,
             "progress": False}
    if "rare" in options:
        options = dict(options)
        candidates = {"checked": checked_synonyms, "all": all_synonyms}[options.pop("words", "all")]
        classifier.word_map = frequent_synonyms(rows["text"], rare=options.pop("rare"), candidates=candidates)
    if method == "augmentation by attack":  # the same number of steps, the second half of them on the larger set
        first = fine_tune(classifier, train, epochs=max(1, epochs - 1), **usual)
        start = time.perf_counter()
        with in_precision(precision):
            defence = AdversarialAugmentation(SynonymAttack(shortlist=8), **options)
            grown = defence.augment(classifier, train.select(range(size // 2)), progress=False)
        attacking = time.perf_counter() - start
        extra = grown.filter(lambda new: new, input_columns="augmented").remove_columns("augmented")
        both = Dataset.from_dict({name: [*train[name], *extra[name]] for name in ("text", "label")})
        run = fine_tune(classifier, both, epochs=1, **usual)
        return classifier, first.seconds + attacking + run.seconds
    if method == "virtual adversarial":
        rest = UnlabelledTexts(classifier, rows.select(range(size, len(rows)))["text"], batch_size)
        objective = VirtualAdversarial(**options, unlabelled=rest)
    elif method == "synonym hull":
        objective = SynonymHull(synonym_table(classifier, count=40), **options)
    elif method == "frequent synonyms":
        objective = CrossEntropy()
    elif method.endswith("worst synonyms"):
        objective = WorstSynonyms(Substitutions(classifier, train["text"]), **options)
    else:
        objective = OBJECTIVES[method](**options)
    run = fine_tune(classifier, train, objective=objective, epochs=epochs, **usual)
    return classifier, run.seconds


def members(options: dict, seed: int, recipe: Recipe, precision: str) -> tuple[list[TextClassifier], float]:
    "What is averaged: plain training first, then one for each clean share; and the seconds of all"
    kinds = [("plain", {})] + [
        ("frequent and worst synonyms", {"rare": options["rare"], "most": options["most"], "clean_share": share})
        for share in options["clean_shares"]
    ]
    found, seconds = zip(*(trained(*kind, seed, recipe, precision) for kind in kinds), strict=True)
    found[0].word_map = found[-1].word_map  # plain training saw the texts as they are
    return list(found), sum(seconds)


def mixed(found: list[TextClassifier], plain_share: float) -> TextClassifier:
    "The mean of the weights with a share for plain training, and equal ones for the others"
    return averaged(found, [plain_share] + [(1 - plain_share) / (len(found) - 1)] * (len(found) - 1))


def judged(classifier: TextClassifier, part: Dataset, attacked: int, everything: bool) -> dict[str, float]:
    "Accuracy on a part, and on its first rows under attack"
    rows, scores = part.select(range(attacked)), {}
    with in_precision("bf16"):
        answers = classifier.logits(list(part["text"])).argmax(-1)
        scores["clean"] = (answers == torch.tensor(part["label"])).double().mean().item()
        report = SynonymAttack().attack(classifier, rows, progress=False)
        scores["attacked, before"], scores["synonyms"] = report.accuracy_before, report.accuracy_under_attack
        if everything:
            scores["typos"] = TypoAttack().attack(classifier, rows, progress=False).accuracy_under_attack
            curve = robustness_curve(classifier, rows, RADII, steps=STEPS)
            scores |= {f"PGD {radius}": value for radius, value in curve.items()}
    return scores


def measured(kind: str, method: str, variants: list[dict], seed: int) -> list[dict]:
    "Train once and judge, on the validation part in a search, else on the test part; mixtures share their members"
    torch.set_num_threads(1)
    part, recipe = load_dataset("movies")[RECIPES[kind].part], RECIPES[kind]
    if method == "averaged weights":
        found, seconds = members(variants[0], seed, recipe, "bf16")
        runs = [(options, mixed(found, options["plain_share"])) for options in variants]
    else:
        [options] = variants
        classifier, seconds = trained(method, options, seed, recipe, "bf16")
        runs = [(options, classifier)]
    return [{"kind": kind, "method": method, "options": options, "seed": seed, "seconds": seconds,
             **judged(classifier, part, recipe.attacked, kind == "test")} for options, classifier in runs]


def trainings(wanted: list[tuple[str, str, dict, int]]) -> list[tuple[str, str, list[dict], int]]:
    "What `measured` is called with: runs that differ in the share of plain training alone become one"
    groups = groupby(wanted, lambda run: (*run[:2], {**run[2], "plain_share": None}, run[3]))
    return [(kind, method, [run[2] for run in runs], seed) for (kind, method, _, seed), runs in groups]


def cost(method: str, options: dict) -> dict[str, float]:
    "Seconds of training and peak memory of a process that trains on 320 reviews, in float32"
    epochs = 2 if method == "augmentation by attack" else 1
    _, seconds = trained(method, options, 0, FOR_COST._replace(epochs=epochs), "no")
    return {"seconds": seconds, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def chosen(rows: list[dict], kind: str) -> dict[str, dict]:
    "The settings of each method that a search found best"
    search = [row for row in rows if row["kind"] == kind]
    plain = next((row["clean"] for row in search if row["method"] == "plain"), 0)
    best = {}
    for method in SEARCHES[kind]:
        tried = [row for row in search if row["method"] == method]
        kept = [row for row in tried if row["clean"] >= plain - AT_MOST_LOST]
        enough = [row for row in kept if row["synonyms"] >= AT_LEAST_KEPT]
        if len(SEARCHES[kind][method]) == 1:
            best[method] = SEARCHES[kind][method][0]
        elif kind == "search with all":
            if enough:
                best[method] = max(enough, key=lambda row: row["clean"])["options"]
        elif tried:
            best[method] = (max(kept, key=lambda row: row["synonyms"]) if kept
                            else max(tried, key=lambda row: row["clean"]))["options"]
    return best


def mixtures(options: dict) -> list[dict]:
    "The settings of averaged weights that meet the test part: the chosen ones with each share of plain training"
    return [{**options, "plain_share": share} for share in PLAIN_SHARES]


def summary(rows: list[dict], kind: str, settings: dict[str, dict]) -> dict[str, dict]:
    "For each method the mean of each score over the seeds that all methods have, and its interval's half-width"
    board = {}
    rows = [row for row in rows if row["kind"] == kind and row["options"] == settings.get(row["method"])]
    seeds = {method: {row["seed"] for row in rows if row["method"] == method} for method in METHODS}
    common = set(SEEDS).intersection(*filter(None, seeds.values()))
    rows = [row for row in rows if row["seed"] in common]
    for method in METHODS:
        runs = [row for row in rows if row["method"] == method]
        if runs:
            board[method] = {"seeds": len(runs), "settings": runs[0]["options"]}
            for name in [name for name, value in runs[0].items() if isinstance(value, float)]:
                board[method][name], board[method][f"{name} ±"] = interval([run[name] for run in runs])
            plain = {row["seed"]: row["clean"] for row in rows if row["method"] == "plain"}
            lost = [plain[run["seed"]] - run["clean"] for run in runs if run["seed"] in plain]
            if lost:
                board[method]["clean lost"], board[method]["clean lost ±"] = interval(lost)
    return board


def write(rows: list[dict], costs: dict | None):
    "Keep all runs and their summary; the file is replaced whole"
    order = list(METHODS)
    rows.sort(key=lambda row: (row["kind"], order.index(row["method"]), str(row["options"]), row["seed"]))
    best = {kind: chosen(rows, kind) for kind in SEARCHES}
    means = [summary(rows, "all", {"plain": {}, "averaged weights": options}).get("averaged weights")
             for options in mixtures(best["search with all"].get("averaged weights", {}))]
    content = {"settings": {**{kind: recipe._asdict() for kind, recipe in RECIPES.items()}, "precision": "bf16",
                            "learning_rate": LEARNING_RATE, "threads_per_run": 1, "pgd_steps": STEPS},
               **{f"chosen by {kind}": settings for kind, settings in best.items()},
               "summary": summary(rows, "test", best["search"]),
               "summary of all reviews": summary(rows, "all", best["search with all"]),
               "summary of mixtures": [{"plain share": mean["settings"]["plain_share"], **mean} for mean in means if mean],
               "cost": costs, "runs": rows}
    keep(FILE.stem, content)


def main():
    "Measure what is missing"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", action="store_true", help="choose settings on the validation part, nothing else")
    parser.add_argument("--only", choices=RECIPES, help="this kind of run only")
    parser.add_argument("--workers", type=int, default=2, help="runs at the same time, one thread each")
    parser.add_argument("--cost", help=argparse.SUPPRESS)  # one measurement, in a process of its own
    arguments = parser.parse_args()
    if arguments.cost:
        print(json.dumps(cost(arguments.cost, json.loads(FILE.read_text())["chosen by search"][arguments.cost])))
        return
    kept = json.loads(FILE.read_text()) if FILE.exists() else {"runs": [], "cost": None}
    rows, costs = kept["runs"], kept["cost"]
    if arguments.search:
        wanted = [(kind, method, options, 0) for kind, variants in SEARCHES.items()
                  for method in variants for options in variants[method]
                  if method == "plain" or len(variants[method]) > 1]
    else:
        wanted = [(kind, method, options, seed) for kind, search in FINDS.items()
                  for seed in SEEDS for method, best in chosen(rows, search).items()
                  if kind == "test" or method in ON_TEST_WITH_ALL
                  for options in (mixtures(best) if method == "averaged weights" else [best])]
    done = [(row["kind"], row["method"], row["options"], row["seed"]) for row in rows]
    wanted = [run for run in wanted if run not in done and arguments.only in (None, run[0])]
    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(measured, *job) for job in trainings(wanted)]):
            rows += future.result()
            write(rows, costs)
            print(len(rows), *future.result(), sep="\n", flush=True)
    if not arguments.search and arguments.only is None and costs is None:
        found = interleaved(list(chosen(rows, "search")), 3, lambda method, _: in_own_process(__file__, "--cost", method))
        costs = {"medians": medians(found), "runs": found,
                 "times plain": {method: 1 / share for method, share in ratios(found, "plain", "seconds").items()}}
        write(rows, costs)


if __name__ == "__main__":
    main()
