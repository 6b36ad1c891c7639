"""Fifty labels and the rest without: what each way to use the rest gains, which texts to ask about, which labels are wrong.

    python benchmarks/few_labels.py                      # all parts; goes on where an earlier call was stopped
    python benchmarks/few_labels.py --part settings      # one of them
    python benchmarks/few_labels.py --rows "plain "      # only the rows whose names begin so
    python benchmarks/few_labels.py --small              # a quick try of each part; writes nothing

A large validation part would be a cheat: whoever has 500 labels to choose settings by has no few labels. So settings are
chosen where labels are plenty, on another task, and used as they are on movie reviews. Every method has three.

- settings: each method with each setting on product reviews, 50 labels and the rest without, two draws (seeds 100 and
  101); accuracy on their validation and test parts.
- methods: the best setting on movie reviews, 50 labels and the others without, five draws; accuracy on the test reviews,
  each method on the same labels. Besides, as measures: twice the labels, and all of them.
- questions: a straight line on frozen vectors asks for 20 labels at a time, up to 200, by each strategy; ten draws.
- wrong: of all training reviews 5, 10 and 20 in a hundred get another label; what confident learning finds, by our code and
  by cleanlab; three draws. And what the raters say of the reviews that it flags as they are.

Methods: `frozen` is a straight line on the mean vector behind layer 5 of the bundled encoder, which stays as it is, each
number brought to the pool's mean 0 and deviation 1; `frozen, threshold`, `frozen, calibrated` and `frozen, by class` learn
three times from their own answers, the second after a temperature that cross-validation on the labels gave. `plain` is
fine-tuning, 12 epochs in batches of 16. `contrastive` has SetFit's two steps with another loss: the contrastive loss over a
batch, two dropout masks of each text, then a straight line on the tuned vectors. `threshold` and `by class` fine-tune once
more, in 2 epochs (12 of 200 texts or fewer), on the labels and on the plain classifier's own answers, `taught by frozen` on
those of the line that learnt by class. `consistency` (after
UDA) and `virtual adversarial` take texts without labels into each of their steps, 12 epochs. Learning rate 1e-4 wherever it
is no setting. The line of `frozen` has three strengths to choose from.

Each row is written as it ends. Two processes work (or --processes), with one thread each. Minutes of computing on one core
that trains on 25 reviews of the bundled encoder a second and answers 80: settings 45, methods 70, questions 8, wrong 3.
"""

import warnings
from collections.abc import Sequence
from functools import lru_cache, partial
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import torch
from common import gains, make_parts, over_seeds, parser_of_parts, quick_precision
from datasets import Dataset
from safetensors.torch import load_file, save
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from llm_course.adversarial_training import VirtualAdversarial
from llm_course.augmentation import easy_data_augmentation
from llm_course.core import cache_folder
from llm_course.data import LABELS, load_dataset, load_ratings
from llm_course.evaluation import fit_temperature
from llm_course.few_labels import Badge, Consistency, ContrastiveTuning, KCentre, LeastConfidence, RandomSampling
from llm_course.few_labels import PseudoLabels, check_unlabelled, choose_next, label_issues, pseudo_labels
from llm_course.fine_tuning import CrossEntropy, fine_tune
from llm_course.folders import write_whole
from llm_course.labelling.situation import TextsWithCopies
from llm_course.models import TextClassifier
from llm_course.training.passes import UnlabelledTexts
from llm_course.transfer_learning import layer_features, probe

NAME, LAYER, DEVELOPED_ON, SHOWN_ON = "few_labels", 5, "products", "movies"
SETTINGS = {  # three for each method
    "frozen": (0.003, 0.01, 0.03),  # strength of the line
    "frozen, threshold": (0.8, 0.9, 0.95),
    "frozen, calibrated": (0.8, 0.9, 0.95),
    "frozen, by class": (0.05, 0.1, 0.2),  # share of the texts that each class gives
    "plain": (5e-5, 1e-4, 2e-4),  # learning rate
    "contrastive": (0.05, 0.1, 0.3),  # temperature
    "threshold": (0.7, 0.8, 0.9),
    "by class": (0.02, 0.05, 0.1),
    "taught by frozen": (0.02, 0.05, 0.1),
    "consistency": (0.6, 0.7, 0.8),  # threshold
    "virtual adversarial": (0.3, 1.0, 3.0),  # epsilon
}
STRATEGIES = {"random": RandomSampling(), "least confidence": LeastConfidence(), "k-centre": KCentre(), "BADGE": Badge()}


class Sizes(NamedTuple):
    "How much each part computes"

    model: str
    labels: int
    epochs: int
    pool: int  # texts with and without labels, at most
    judged: int  # at most
    settings: int  # draws
    methods: int  # draws
    questions: tuple[int, int, int]  # labels at a time, at most, and draws
    wrong: tuple[tuple[float, ...], int]  # shares, and draws


FULL = Sizes("minilm", 50, 12, 10_000, 2_000, 2, 5, (20, 200, 10), ((0.05, 0.1, 0.2), 3))
SMALL = Sizes("tiny-bert", 20, 1, 80, 24, 1, 2, (10, 30, 2), ((0.1,), 1))


class Task(NamedTuple):
    "Texts to learn from, labels known and unknown, and texts to be judged by"

    pool: Dataset
    vectors: np.ndarray  # (N, D), each number with mean 0 and deviation 1
    judged: Dataset
    judged_vectors: np.ndarray
    few: np.ndarray  # places with labels
    rest: np.ndarray

    def right(self, answers: Sequence[int]) -> float:
        "Accuracy"
        return float((np.asarray(answers) == np.array(self.judged["label"])).mean())

    def labels(self, places: Sequence[int]) -> np.ndarray:
        "Those that the data have"
        return np.array(self.pool["label"])[places]


@lru_cache(2)
def texts_of(sizes: Sizes, domain: str) -> tuple[Dataset, Dataset]:
    "Texts to learn from and to be judged by"
    parts = load_dataset(domain)
    held = parts["test"] if domain == SHOWN_ON else Dataset.from_dict(
        {name: [*parts["validation"][name], *parts["test"][name]] for name in ("text", "label")})
    pool, held = (part.select(range(min(most, len(part)))) for part, most in (
        (parts["train"], sizes.pool), (held, sizes.judged)))
    check_unlabelled(pool["text"], held["text"])
    return pool, held


@lru_cache(2)
def vectors_of(sizes: Sizes, domain: str) -> tuple[np.ndarray, np.ndarray]:
    "Vectors of both, computed once for all processes"
    path = cache_folder("benchmarks") / f"{NAME}-{domain}-{sizes.model}-{sizes.pool}-{sizes.judged}.safetensors"
    if not path.is_file():
        encoder = new_classifier(sizes, 0)
        found = {name: layer_features(encoder, part["text"])[LAYER if sizes.model == "minilm" else -1].clone()
                 for name, part in zip(("pool", "judged"), texts_of(sizes, domain), strict=True)}
        write_whole(path, save(found))
    found = load_file(path)
    centre, spread = found["pool"].mean(0), found["pool"].std(0)
    return tuple(((found[name] - centre) / spread).double().numpy() for name in ("pool", "judged"))


def task_of(sizes: Sizes, domain: str, seed: int, labels: int | None = None) -> Task:
    "A draw of labels; the first 50 of 100 are the 50"
    (pool, judged), (vectors, judged_vectors) = texts_of(sizes, domain), vectors_of(sizes, domain)
    order, count = np.random.default_rng(seed).permutation(len(pool)), labels or sizes.labels
    return Task(pool, vectors, judged, judged_vectors, order[:count], order[count:])


def new_classifier(sizes: Sizes, seed: int) -> TextClassifier:
    "A pre-trained model with a new head"
    return TextClassifier.from_pretrained(sizes.model, labels=LABELS, max_length=64, seed=seed)


def tuned(sizes: Sizes, task: Task, seed: int, rate: float = 1e-4, extra: PseudoLabels | None = None,
          epochs: int | None = None, make: object = None) -> TextClassifier:
    "Fine-tuned on the labels, with pseudo-labels beside them where there are some"
    places, labels = task.few, task.labels(task.few)
    if extra is not None:
        places, labels = np.append(places, task.rest[extra.places]), np.append(labels, extra.labels)
    train = Dataset.from_dict({"text": task.pool.select(places)["text"], "label": labels.tolist()})
    classifier = new_classifier(sizes, seed)
    fine_tune(classifier, train, objective=make(classifier) if make else CrossEntropy(), batch_size=16, seed=seed,
              epochs=epochs or sizes.epochs, learning_rate=rate, progress=False, mixed_precision=quick_precision())
    return classifier


def judged_by(task: Task, classifier: TextClassifier) -> dict:
    "Accuracy of a classifier"
    return {"accuracy": task.right(classifier.logits(task.judged["text"]).argmax(-1))}


# --- methods: a setting to a row


def line(vectors: np.ndarray, labels: np.ndarray, strength: float = 0.01) -> LogisticRegression:
    "A straight line"
    return LogisticRegression(C=strength, max_iter=1000).fit(vectors, labels)


def frozen(sizes: Sizes, task: Task, seed: int, strength: float) -> dict:
    "A line on frozen vectors"
    found = line(task.vectors[task.few], task.labels(task.few), strength)
    return {"accuracy": task.right(found.predict(task.judged_vectors))}


def from_own_answers(task: Task, choose: object) -> tuple[LogisticRegression, PseudoLabels]:
    "A line that learns three times from what it says, and the last it learnt from"
    rest, known = task.vectors[task.rest], task.labels(task.few)
    found, chosen = line(task.vectors[task.few], known), None
    for _ in range(3):
        chosen = choose(found.predict_proba(rest))
        found = line(np.vstack([task.vectors[task.few], rest[chosen.places]]), np.append(known, chosen.labels))
    return found, chosen


def told(task: Task, chosen: PseudoLabels) -> dict:
    "How many pseudo-labels there were, how sure, how many of them right, and how many say 1"
    truth = task.labels(task.rest[chosen.places])
    return {"taken": len(chosen.places), **({} if not len(truth) else {
        "precision": float((truth == chosen.labels).mean()), "confidence": float(chosen.confidence.mean()),
        "positive": float(chosen.labels.mean())})}


def frozen_rounds(sizes: Sizes, task: Task, seed: int, setting: float, by_class: bool) -> dict:
    "A line on frozen vectors that learns from its own answers"
    found, chosen = from_own_answers(task, chooser(task, setting, by_class))
    return {"accuracy": task.right(found.predict(task.judged_vectors)), **told(task, chosen)}


def chooser(task: Task, setting: float, by_class: bool) -> object:
    "By a threshold, or the surest texts of each class"
    most = max(1, round(setting * len(task.rest)))
    return partial(pseudo_labels, threshold=0.0, per_class=most) if by_class else partial(pseudo_labels, threshold=setting)


def frozen_calibrated(sizes: Sizes, task: Task, seed: int, threshold: float) -> dict:
    "As by threshold, with probabilities that the labels have made honest, as far as so few can"
    known = task.labels(task.few)
    margins = cross_val_predict(LogisticRegression(C=0.01, max_iter=1000), task.vectors[task.few], known, cv=5,
                                method="decision_function")
    temperature = fit_temperature(np.stack([-margins / 2, margins / 2], axis=1), known)

    def choose(said: np.ndarray) -> PseudoLabels:
        softer = said ** (1 / temperature)
        return pseudo_labels(softer / softer.sum(1, keepdims=True), threshold)

    found, chosen = from_own_answers(task, choose)
    return {"accuracy": task.right(found.predict(task.judged_vectors)), "temperature": temperature, **told(task, chosen)}


def plain(sizes: Sizes, task: Task, seed: int, rate: float) -> dict:
    "Fine-tuning"
    return judged_by(task, tuned(sizes, task, seed, rate))


def contrastive(sizes: Sizes, task: Task, seed: int, temperature: float) -> dict:
    "SetFit's two steps with another loss: pairs of a batch, then a line"
    classifier = tuned(sizes, task, seed, make=lambda _: ContrastiveTuning(temperature))
    few, judged = (layer_features(classifier, texts)[-1].numpy() for texts in (
        task.pool.select(task.few)["text"], task.judged["text"]))
    return {"accuracy": task.right(probe(few, task.labels(task.few)).predict(judged))}


def answers_of_plain(sizes: Sizes, task: Task, seed: int) -> np.ndarray:  # (N - 50, C)
    "What the plain classifier says of the texts without labels; computed once"
    key = f"{NAME}-answers-{sizes.model}-{sizes.pool}-{sizes.epochs}-{len(task.pool)}-{len(task.few)}-{seed}"
    path = cache_folder("benchmarks") / f"{key}.safetensors"
    if not path.is_file():
        said = tuned(sizes, task, seed).predict_proba(task.pool.select(task.rest)["text"])
        write_whole(path, save({"answers": said.contiguous()}))
    said = load_file(path)["answers"].double()
    return (said / said.sum(-1, keepdim=True)).numpy()


def own_answers(sizes: Sizes, task: Task, seed: int, setting: float, by_class: bool) -> dict:
    "Fine-tuned on the labels and on what the plain classifier says"
    return once_more(sizes, task, seed, chooser(task, setting, by_class)(answers_of_plain(sizes, task, seed)))


def once_more(sizes: Sizes, task: Task, seed: int, chosen: PseudoLabels) -> dict:
    "Fine-tuned on the labels and on pseudo-labels: of very many, a thousand drawn by chance"
    if len(chosen.places) > 1000:
        kept = np.sort(np.random.default_rng(seed).permutation(len(chosen.places))[:1000])
        chosen = PseudoLabels(*(values[kept] for values in chosen))
    epochs = 2 if len(chosen.places) > 200 else None
    return {**judged_by(task, tuned(sizes, task, seed, extra=chosen, epochs=epochs)), **told(task, chosen)}


def taught(sizes: Sizes, task: Task, seed: int, share: float) -> dict:
    "Fine-tuned on the labels and on what the frozen line says that learnt by class"
    teacher, _ = from_own_answers(task, chooser(task, 0.1, True))
    return once_more(sizes, task, seed, chooser(task, share, True)(teacher.predict_proba(task.vectors[task.rest])))


def consistent(sizes: Sizes, task: Task, seed: int, threshold: float) -> dict:
    "Fine-tuning that asks for the same answers to changed texts"
    texts = some_unlabelled(task, seed)
    return judged_by(task, tuned(sizes, task, seed, make=lambda classifier: Consistency(
        TextsWithCopies(classifier, texts, easy_data_augmentation(), 16, seed=seed), threshold=threshold)))


def smooth(sizes: Sizes, task: Task, seed: int, epsilon: float) -> dict:
    "Fine-tuning that asks for the same answers nearby"
    texts = some_unlabelled(task, seed)
    return judged_by(task, tuned(sizes, task, seed, make=lambda classifier: VirtualAdversarial(
        epsilon=epsilon, unlabelled=UnlabelledTexts(classifier, texts, 8))))


def some_unlabelled(task: Task, seed: int) -> list[str]:
    "As many as the steps of a run can draw from; copies of all would take longer than the run"
    return task.pool.select(task.rest[:2000])["text"]


METHODS = {
    "frozen": frozen, "frozen, threshold": partial(frozen_rounds, by_class=False),
    "frozen, calibrated": frozen_calibrated, "frozen, by class": partial(frozen_rounds, by_class=True), "plain": plain, "contrastive": contrastive,
    "threshold": partial(own_answers, by_class=False), "by class": partial(own_answers, by_class=True),
    "taught by frozen": taught, "consistency": consistent, "virtual adversarial": smooth}


# --- rows


def settings(sizes: Sizes, rows: dict, method: str, setting: float, seed: int) -> dict:
    "Accuracy on the task where settings are chosen"
    return METHODS[method](sizes, task_of(sizes, DEVELOPED_ON, seed), seed, setting)


def chosen_setting(rows: dict, method: str) -> float:
    "The one that was best, over the draws"
    means = over_seeds(rows.get("settings", {}), "accuracy")
    found = {setting: means[f"{method} {setting:g}"][0] for setting in SETTINGS[method] if f"{method} {setting:g}" in means}
    if len(found) < len(SETTINGS[method]):
        raise RuntimeError(f"No setting is chosen yet. First: --part settings --rows '{method} '")
    return max(found, key=found.get)


def methods(sizes: Sizes, rows: dict, method: str, labels: int | None, seed: int) -> dict:
    "Accuracy on movie reviews"
    setting = chosen_setting(rows, method)
    task = task_of(sizes, SHOWN_ON, seed, labels)
    return {**METHODS[method](sizes, task, seed, setting), "setting": setting}


def questions(sizes: Sizes, rows: dict, strategy: str, seed: int) -> dict:
    "Accuracy after each so many labels"
    task, (step, most, _) = task_of(sizes, SHOWN_ON, seed), sizes.questions
    shape, known, found = (len(task.pool), len(LABELS)), {}, {}

    def learn(places: list[int], numbers: list[int]) -> tuple[np.ndarray, np.ndarray]:
        return line(task.vectors[places], np.array(numbers)).predict_proba(task.vectors), task.vectors

    while len(known) < most:
        chosen = choose_next(known, learn, STRATEGIES[strategy], step, shape, seed)
        known |= {place: int(task.labels([place])[0]) for place in chosen}
        if len({*known.values()}) > 1:
            now = line(task.vectors[[*known]], np.array([*known.values()]))
            found[str(len(known))] = task.right(now.predict(task.judged_vectors))
    return found


def wrong(sizes: Sizes, rows: dict, share: float, seed: int) -> dict:
    "What confident learning finds of planted errors, and what the raters say of what it finds without any"
    from cleanlab.filter import find_label_issues
    task, rng = task_of(sizes, SHOWN_ON, seed), np.random.default_rng(seed)
    truth = task.labels(np.arange(len(task.pool)))
    planted = rng.random(len(truth)) < share
    given = np.where(planted, 1 - truth, truth)
    said = cross_val_predict(LogisticRegression(C=0.01, max_iter=1000), task.vectors, given, cv=5, method="predict_proba")
    found = {"ours": label_issues(said, given), "cleanlab": find_label_issues(
        given, said, return_indices_ranked_by="self_confidence", n_jobs=1)}
    row = {f"{name} {figure}": float(value) for name, places in found.items() for figure, value in (
        ("flagged", len(places)), ("precision", planted[places].mean()), ("recall", planted[places].sum() / max(1, planted.sum())))}
    order = given != said.argmax(1)  # the plain rule: all answers that differ
    row |= {"differing precision": float(planted[order].mean()), "differing recall": float(planted[order].sum() / max(1, planted.sum()))}
    clean = cross_val_predict(LogisticRegression(C=0.01, max_iter=1000), task.vectors, truth, cv=5, method="predict_proba")
    flagged = np.isin(np.arange(len(truth)), label_issues(clean, truth))
    against = against_the_label(task.pool["text"])
    row |= {"raters against, flagged": float(against[flagged].mean()), "raters against, others": float(against[~flagged].mean()),
            "area": float(roc_auc_score(flagged, against)) if flagged.any() else float("nan")}
    return row


def against_the_label(texts: Sequence[str]) -> np.ndarray:  # (N,)
    "The share of raters who lie on the other side of zero than the label; zero counts as half"
    frame = load_ratings(SHOWN_ON)
    ratings = dict(zip(frame["text"], frame["ratings"], strict=True))
    return np.array([np.mean([(1 - np.sign(r) * np.sign(np.mean(ratings[text]))) / 2 for r in ratings[text]]) for text in texts])


WORK = {"settings": settings, "methods": methods, "questions": questions, "wrong": wrong}


def jobs(sizes: Sizes) -> dict[str, dict[str, tuple]]:
    "The arguments of each row by part and name"
    draws, (_, _, asked), (shares, planted) = range(sizes.methods), sizes.questions, sizes.wrong
    twice = 2 * sizes.labels
    more = {f"{method}, {twice} labels {seed}": (method, twice, seed) for seed in draws for method in ("frozen", "plain")}
    everything = {"frozen, all labels 0": ("frozen", 10**6, 0)}
    return {
        "settings": {f"{method} {setting:g} {100 + draw}": (method, setting, 100 + draw) for draw in range(sizes.settings)
                     for method, values in SETTINGS.items() for setting in values},
        "methods": {f"{method} {seed}": (method, None, seed) for seed in draws for method in METHODS} | more | everything,
        "questions": {f"{strategy} {seed}": (strategy, seed) for seed in range(asked) for strategy in STRATEGIES},
        "wrong": {f"{share:g} {seed}": (share, seed) for seed in range(planted) for share in shares}}


def other_setting(row: dict, rows: dict, method: str, labels: int | None, seed: int) -> bool:
    "Whether a row was made with a setting that is not the best one now"
    return row["setting"] != chosen_setting(rows, method)


def above(rows: dict[str, dict], figure: str, base: str) -> dict[str, tuple[float, float]]:
    "How far the others lie above the base on the same draws"
    found = gains({key: row for key, row in rows.items() if figure in row}, itemgetter(figure), base)
    return {kind: pair for kind, pair in found.items() if kind != base}


def summary(rows: dict[str, dict[str, dict]]) -> dict:
    "Means and 95 % intervals"
    found, made, asked = {}, rows.get("methods", {}), rows.get("questions", {})
    for figure in ("accuracy", "precision", "confidence", "positive", "taken"):
        found[figure] = over_seeds(made, figure)
    found |= {f"gain over {base}": above(made, "accuracy", base) for base in ("plain", "frozen")}
    found["settings"] = {key.rpartition(" ")[0]: row["setting"] for key, row in made.items()}
    counts = sorted({int(count) for row in asked.values() for count in row if count.isdecimal()})
    found["questions"] = {str(count): over_seeds(asked, str(count)) for count in counts}
    found["gain over random"] = {str(count): above(asked, str(count), "random") for count in counts}
    flawed = rows.get("wrong", {})
    figures = {figure for row in flawed.values() for figure in row if figure != "seconds"}
    found["wrong"] = {figure: over_seeds(flawed, figure) for figure in sorted(figures)}
    return found


def main():
    "Make the rows that are missing"
    given = parser_of_parts(__doc__, [*WORK]).parse_args()
    sizes = SMALL if given.small else FULL
    warnings.filterwarnings("ignore", ".*texts are longer than.*")
    make_parts(NAME, given, sizes, jobs(sizes), WORK, summary, timed=True, stale={"methods": other_setting})


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
