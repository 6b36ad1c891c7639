"""What the defences of embeddings cost as they come: FGM(), PGD() and FreeLB() beside plain training, on all bundled texts.

    python benchmarks/default_defences.py              # all rows; goes on where an earlier call was stopped
    python benchmarks/default_defences.py --small      # a quick try; writes nothing

The bundled encoder is fine-tuned on 1,000 texts of each set, two epochs in batches of 16 at a rate of 1e-4, with three seeds,
which draw the texts, the new head and the order; all texts of the test part judge. Nothing is searched here: the objectives
have the radii and steps that they come with, which were chosen on validation reviews of movies. Told are the points gained
or lost against plain training with the same seed, over seeds and texts drawn again.
"""

import json
from typing import NamedTuple

from common import by_kind, make_parts, parser_of_parts, quick_precision, right_answers, table_of, two_ways

from llm_course.adversarial_training import FGM, PGD, FreeLB
from llm_course.data import BUNDLED_DATASETS, LABELS, load_dataset
from llm_course.fine_tuning import CrossEntropy, fine_tune
from llm_course.models import TextClassifier

NAME = "default_defences"
OBJECTIVES = {"plain": CrossEntropy, "FGM": FGM, "PGD": PGD, "FreeLB": FreeLB}


class Sizes(NamedTuple):
    "How much is trained and judged"

    texts: int
    test: int  # at most
    seeds: int
    epochs: int


FULL, SMALL = Sizes(1000, 10**6, 3, 2), Sizes(32, 40, 2, 1)


def trained(sizes: Sizes, rows: dict, name: str, objective: str, seed: int) -> dict:
    "Which test texts are answered rightly"
    parts = load_dataset(name)
    train, test = parts["train"].shuffle(seed=seed), parts["test"]
    classifier = TextClassifier.from_pretrained("minilm", labels=LABELS, seed=seed)
    fine_tune(classifier, train.select(range(min(sizes.texts, len(train)))), objective=OBJECTIVES[objective](),
              epochs=sizes.epochs, batch_size=16, learning_rate=1e-4, seed=seed, mixed_precision=quick_precision(), progress=False)
    return {"right": right_answers(classifier, test.select(range(min(sizes.test, len(test)))))}


def jobs(sizes: Sizes) -> dict[str, dict[str, tuple]]:
    "The arguments of each row by name"
    return {"trained": {f"{name} {objective} {seed}": (name, objective, seed) for seed in range(sizes.seeds)
                        for name in BUNDLED_DATASETS for objective in OBJECTIVES}}


def summary(rows: dict[str, dict[str, dict]]) -> dict:
    "Right answers of each way, and what it gains over plain training: mean, low, high"
    found, groups = {}, by_kind(dict(sorted(rows.get("trained", {}).items())))
    for kind, same in groups.items():
        name, _, objective = kind.partition(" ")
        plain = groups.get(f"{name} plain", [])
        told = {"seeds": len(same), "right": two_ways(table_of([row["right"] for row in same]))}
        if objective != "plain" and len(plain) == len(same):
            ours, theirs = (table_of([row["right"] for row in each]) for each in (same, plain))
            told["gained"] = two_ways(ours - theirs)
        found.setdefault(name, {})[objective] = told
    return found


def main():
    "Make the rows that are missing"
    given = parser_of_parts(__doc__, ["trained"]).parse_args()
    sizes = SMALL if given.small else FULL
    rows = make_parts(NAME, given, sizes, jobs(sizes), {"trained": trained}, summary, timed=True)
    if given.small:
        print("summary", json.dumps(summary(rows)))


if __name__ == "__main__":
    main()
