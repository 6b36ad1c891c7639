"""Report cards of a tiny BERT, plain and defended, over seeds: numbers, verdicts, paired differences, estimates beside seconds.

    python benchmarks/report_card.py                  # all cards; goes on where an earlier call was stopped
    python benchmarks/report_card.py --rows "plain"   # only cards whose names begin so
    python benchmarks/report_card.py --small          # a quick try; writes nothing

The classifiers are those of lesson 59: the bundled tiny BERT, 600 movie reviews, 4 epochs of batches of 16 at 0.001, with
cross-entropy (plain), or with half of each batch rewritten by the worst synonyms, at most 0.4 of the words (defended). A seed
draws the reviews, the head, the order of training, and the texts of the card; both classifiers of a seed have the same. Seeds
are 1, 2 and 3: the bars of the rows were written down after two cards of the seed 0 had been seen, so that one is left out. All
rows are measured as `report_card` measures them, without a limit of time, each beside its estimate. One more number: the
accuracy that an attack with the same checked synonyms leaves of the texts of the row defend.

The paired differences are defended less plain, of the same texts, with intervals and p-values corrected for the rows that
have one. Each card is written as it ends. One card is made at a time, with one thread, for its seconds are reported."""

import tempfile
from typing import NamedTuple

import numpy as np
from common import by_kind, interval, make_parts, parser_of_parts

from llm_course.adversarial_examples import SynonymAttack, checked_synonyms
from llm_course.adversarial_training import Substitutions, WorstSynonyms
from llm_course.data import load_dataset
from llm_course.fine_tuning import CrossEntropy, fine_tune
from llm_course.models import TextClassifier
from llm_course.report_card import ROWS, Given, paired_change, report_card

NAME, KINDS, LABELS = "report_card", ("plain", "defended"), ["negative", "positive"]


class Sizes(NamedTuple):
    "How much is trained and asked"

    train: int
    epochs: int
    texts: dict[str, int]  # of each row, where not as many as usual
    seeds: int


FULL, SMALL = Sizes(600, 4, {}, 3), Sizes(40, 1, dict.fromkeys(ROWS, 8), 2)


def trained(kind: str, train, epochs: int, seed: int) -> TextClassifier:
    "A tiny BERT, plain or defended"
    made = TextClassifier.from_pretrained("tiny-bert", labels=LABELS, seed=seed, device="cpu")
    objective = CrossEntropy() if kind == "plain" else WorstSynonyms(Substitutions(made, train["text"]), most=0.4, clean_share=0.5)
    fine_tune(made, train, objective=objective, epochs=epochs, batch_size=16, learning_rate=1e-3, seed=seed, progress=False)
    return made


def card(sizes: Sizes, rows: dict, kind: str, seed: int) -> dict:
    "Every row of a card, and what an attack with synonyms leaves"
    reviews = load_dataset("movies")
    train = reviews["train"].shuffle(seed=seed).select(range(sizes.train))
    classifier = trained(kind, train, sizes.epochs, seed)
    data = {"train": train, "validation": reviews["validation"], "test": reviews["test"]}
    with tempfile.TemporaryDirectory() as folder:
        found = report_card(classifier, data, folder, texts=sizes.texts, seed=seed, name=kind)
    lines = {}
    for line in found.lines:
        if line.found is None:
            raise RuntimeError(f"{line.name} was not measured: {line.reason}")
        lines[line.name] = {"verdict": line.verdict, "value": line.found.value, "low": line.found.low, "high": line.found.high,
                            "bar": list(line.bar), "told": line.found.told, "right": "".join(map(str, line.found.right)),
                            "took": round(line.seconds, 2), "estimate": round(line.estimate, 2)}
    sample = Given(classifier, data, seed).drawn("test", len(found["defend"].found.right))
    left = SynonymAttack(candidates=checked_synonyms).attack(classifier, sample, progress=False)
    return {"lines": lines, "left by synonyms": left.accuracy_under_attack}


def paired(plain: dict, defended: dict, seed: int) -> dict:
    "Of rows with a 1 or 0 for each text: defended less plain, with a corrected interval and p"
    names = [name for name, line in plain["lines"].items() if line["right"]]
    found = {}
    for name in names:
        before, after = (np.array([*row["lines"][name]["right"]], int) for row in (plain, defended))
        change, p_value = paired_change(before, after, len(names), seed)
        found[name] = {"value": change.value, "low": change.low, "high": change.high, "p": p_value}
    return found


def summary(rows: dict[str, dict[str, dict]]) -> dict:
    "Verdicts and numbers by row over seeds, paired differences, and what rows took for each second of their estimate"
    cards = {key: rows["cards"][key] for key in sorted(rows.get("cards", {}))}
    made = {kind: group for kind, group in by_kind(cards).items() if group}
    found = {"seeds": min((len(made.get(kind, [])) for kind in KINDS), default=0)}
    found["verdicts"] = {kind: {name: [row["lines"][name]["verdict"] for row in group] for name in ROWS}
                         for kind, group in made.items()}
    found["same verdicts"] = {kind: sum(len(set(some)) == 1 for some in verdicts.values())
                              for kind, verdicts in found["verdicts"].items()}
    found["numbers"] = {kind: {name: [row["lines"][name]["value"] for row in group] for name in ROWS} for kind, group in made.items()}
    found["proof and attack"] = {kind: [[row["lines"]["defend"]["value"], row["left by synonyms"]] for row in group]
                                 for kind, group in made.items()}
    seeds = [key.rpartition(" ")[2] for key in cards if key.startswith(f"{KINDS[0]} ")]
    pairs = {seed: paired(*(cards[f"{kind} {seed}"] for kind in KINDS), int(seed)) for seed in seeds
             if f"{KINDS[1]} {seed}" in cards}
    names = [*next(iter(pairs.values()))] if pairs else []
    found["defended less plain"] = {name: {"each": [pair[name] for pair in pairs.values()],
                                           "mean": interval([pair[name]["value"] for pair in pairs.values()])} for name in names}
    lines = [row["lines"] for row in cards.values()]
    found["seconds"] = {name: {"took": float(np.median([each[name]["took"] for each in lines])),
                               "estimate": float(np.median([each[name]["estimate"] for each in lines]))} for name in ROWS if lines}
    return found


def main():
    "Make the cards that are missing"
    given = parser_of_parts(__doc__, ["cards"]).parse_args()
    sizes = SMALL if given.small else FULL
    jobs = {"cards": {f"{kind} {seed}": (kind, seed) for seed in range(1, sizes.seeds + 1) for kind in KINDS}}
    rows = make_parts(NAME, given, sizes, jobs, {"cards": card}, summary, timed=True, alone=["cards"])
    print(summary(rows))


if __name__ == "__main__":
    main()
