"""What fine-tuned models remember of single texts: canaries by how often they stood there, and who was a member.

    python benchmarks/memorisation.py                   # all parts; goes on where an earlier call was stopped
    python benchmarks/memorisation.py --part canaries   # one of them
    python benchmarks/memorisation.py --rows "overfits" # only rows whose names begin so
    python benchmarks/memorisation.py --small           # a quick try of each part; writes nothing

- canaries: the bundled tiny-gpt goes on training on 600 movie reviews among which four sentences with a secret code stand 1, 4,
  16 and 64 times; a twin does on the reviews alone. Exposure of each code among 500 candidates in both, in bits of 9. A row is a
  seed: it draws the reviews, their order and six sets of codes, each in a training of its own; names go round, so that each
  stands there each number of times.
- membership: tiny-bert, all of its weights fine-tuned 33 times; a coin for each review and training says whether it is a member.
  Each of the 33 is the target once, and the others are the shadow models. `overfits` reads its half of 1,200 reviews twelve
  times, `hardly overfits` its half of 4,000 once. (Half of 1,200 read twice left a classifier that knew next to nothing.) Members
  found where 1 and 10 of 100 others are called members, by the loss and by the likelihood ratio; right answers among members
  and among 500 test reviews. A row is an arm and a seed, which draws reviews, coins, heads and batches.

Intervals are over the seeds. Each row is written as it ends. Two processes work (or --processes), with one thread each."""

import random
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from common import by_kind, interval, make_parts, parser_of_parts
from datasets import Dataset

from llm_course.data import load_dataset
from llm_course.fine_tuning import fine_tune
from llm_course.language_models import LanguageModel
from llm_course.models import TextClassifier
from llm_course.pretraining import pretrain
from llm_course.privacy import exposure, likelihood_ratios, true_positives_at

NAME = "memorisation"
TIMES, NAMES = (1, 4, 16, 64), ("Anna", "Peter", "Maria", "Laura")
ARMS = {"overfits": (1200, 12), "hardly overfits": (4000, 1)}  # reviews that may be members, and epochs
RATES, ATTACKS = (0.01, 0.1), ("loss", "likelihood ratio")


class Sizes(NamedTuple):
    "How much is trained and asked"

    read: int  # reviews beside the canaries
    sets: int  # of codes, for each seed
    candidates: int
    canary_seeds: int
    pool: int | None  # reviews that may be members, in place of those of the arm
    trainings: int
    tested: int
    seeds: int


FULL = Sizes(600, 6, 500, 5, None, 33, 500, 3)
SMALL = Sizes(16, 1, 20, 1, 40, 25, 16, 1)


def sentence(name: str, code: str) -> str:
    "What is put among the reviews"
    return f"The secret code of {name} is {' '.join(code)}."


@torch.no_grad()
def surprises(model: LanguageModel, name: str, codes: list[str]) -> np.ndarray:  # (codes,), nats
    "The surprise of each code's whole sentence"
    ids = [[model.tokenizer.bos_token_id, *model.tokenizer(sentence(name, code), add_special_tokens=False)["input_ids"]]
           for code in codes]
    longest = max(map(len, ids))
    rows = torch.tensor([row + [-100] * (longest - len(row)) for row in ids])
    logits = model.model(input_ids=rows.clamp(min=0), attention_mask=(rows >= 0).long()).logits.float()
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), rows[:, 1:].flatten(), reduction="none")
    return losses.reshape(len(rows), -1).sum(1).numpy()


def read_by(texts: list[str], seed: int) -> LanguageModel:
    "A language model that has read some texts"
    model = LanguageModel.from_pretrained("tiny-gpt", device="cpu")
    pretrain(model, texts, learning_rate=2e-3, seed=seed, progress=False)
    return model


def canaries(sizes: Sizes, rows: dict, seed: int) -> dict:
    "For each number of times the exposures of the codes, with them and in the twin"
    drawn, reviews = random.Random(seed), load_dataset("movies")["train"].shuffle(seed=seed)["text"][: sizes.read]
    twin, found = read_by(reviews, seed), {str(times): [] for times in TIMES}
    for place in range(sizes.sets):
        candidates = drawn.sample([f"{number:04d}" for number in range(10_000)], sizes.candidates)
        names = [NAMES[(place + step) % len(NAMES)] for step in range(len(NAMES))]
        secrets = dict(zip(names, candidates, strict=False))
        texts = reviews + [sentence(name, secrets[name]) for name, times in zip(names, TIMES, strict=True)
                           for _ in range(times)]
        drawn.shuffle(texts)
        model = read_by(texts, seed)
        for name, times in zip(names, TIMES, strict=True):
            order = [secrets[name], *(code for code in candidates if code != secrets[name])]
            bits = [exposure(said[0], said[1:]) for said in (surprises(each, name, order) for each in (model, twin))]
            found[str(times)].append(bits)
    return found


def sure_of(classifier: TextClassifier, reviews: Dataset) -> np.ndarray:  # (N,)
    "How sure it is of the right label: ln p / (1 - p)"
    logits, labels = classifier.logits(reviews["text"]).double(), torch.tensor(reviews["label"])
    return ((logits[:, 1] - logits[:, 0]) * (2 * labels - 1)).numpy()


def membership(sizes: Sizes, rows: dict, arm: str, seed: int) -> dict:
    "What both attacks find, of each of the trainings, and what these are worth"
    movies, (size, epochs) = load_dataset("movies"), ARMS[arm]
    pool = movies["train"].shuffle(seed=seed).select(range(sizes.pool or size))
    test = movies["test"].shuffle(seed=seed).select(range(sizes.tested))
    members = np.random.default_rng(seed).random((sizes.trainings, len(pool))) < 0.5
    sure, right = [], {"members": [], "others": []}
    for place, own in enumerate(members):
        own_seed = seed * sizes.trainings + place
        classifier = TextClassifier.from_pretrained("tiny-bert", labels=pool.features["label"].names, seed=own_seed,
                                                    device="cpu")
        half = pool.select(np.flatnonzero(own).tolist())
        fine_tune(classifier, half, epochs=epochs, learning_rate=1e-3, seed=own_seed, progress=False)
        sure.append(sure_of(classifier, pool))
        right["members"].append(float((sure[-1][own] > 0).mean()))
        right["others"].append(float((sure_of(classifier, test) > 0).mean()))
    sure = np.array(sure)
    found = {f"{attack}, {errors}": [] for attack, errors in product(ATTACKS, RATES)}
    for target, own in enumerate(members):
        others = np.arange(sizes.trainings) != target
        scores = {"loss": -np.logaddexp(0, -sure[target]),
                  "likelihood ratio": likelihood_ratios(sure[target], sure[others], members[others])}
        for attack, errors in product(ATTACKS, RATES):
            found[f"{attack}, {errors}"].append(true_positives_at(errors, scores[attack][own], scores[attack][~own]))
    return {"right": right, "found": found}


def summary(rows: dict[str, dict[str, dict]]) -> dict:
    "Means and 95 % intervals over the seeds"
    told = {"canaries": {}, "membership": {}}
    for times in map(str, TIMES):
        runs = [np.array(row[times]) for row in rows.get("canaries", {}).values()]
        if runs:
            told["canaries"][times] = {
                "bits": interval([run[:, 0].mean() for run in runs]), "twin": interval([run[:, 1].mean() for run in runs]),
                "above the twin": interval([(run[:, 0] - run[:, 1]).mean() for run in runs]),
                "in the first place": float(np.mean(np.concatenate([run[:, 0] for run in runs]) > np.log2(FULL.candidates) - 1e-9))}
    for arm, group in by_kind(rows.get("membership", {})).items():
        told["membership"][arm] = {
            **{f"right, {who}": interval([float(np.mean(row["right"][who])) for row in group]) for who in ("members", "others")},
            **{key: interval([float(np.mean(row["found"][key])) for row in group]) for key in group[0]["found"]}}
    return told


def main():
    "Make the rows that are missing"
    given = parser_of_parts(__doc__, ["canaries", "membership"]).parse_args()
    sizes = SMALL if given.small else FULL
    make_parts(NAME, given, sizes,
               {"canaries": {f"seed {seed}": (seed,) for seed in range(sizes.canary_seeds)},
                "membership": {f"{arm} {seed}": (arm, seed) for seed in range(sizes.seeds) for arm in ARMS}},
               {"canaries": canaries, "membership": membership}, summary, timed=True)


if __name__ == "__main__":
    main()
