"""What readers say of copies: are they grammatical, do they mean the same, do they keep the label?

    python benchmarks/substitutions.py draw             # 150 pairs of each method, from texts of the test parts
    python benchmarks/substitutions.py sheets FOLDER    # sheets for the readers: shuffled, without the methods
    python benchmarks/substitutions.py collect FOLDER   # put the filled sheets into the result file, and count

Who reads sees a text and its copy, never the method, and writes y or n into three columns. The verdicts on file were
given by a large language model that read pair by pair, in eight separate sessions; the second reading shows that it is
consistent, not that people would agree.

- grammatical: the copy is as correct as the text is; what was wrong before does not count;
- meaning: someone who reads the copy instead of the text learns the same, nuances of style aside;
- label: whoever had to say whether the text praises or blames would say the same of the copy.

The copies: synonyms (`SynonymReplacement`), near synonyms (`NearSynonymReplacement`), gaps filled by tiny-bert, which
read the labels in three passes over the movie reviews of the training part (`ContextualReplacement` with a condition),
back-translation by Apertium as it comes, the same behind three filters, and the successes of two attacks (PWWS,
TextFooler) on a classifier that was trained with 3,000 movie reviews. Augmenters take texts of all four bundled sets in
turn and change a tenth of the words; attacks take movie reviews. Texts that a method leaves as they are are skipped and
counted. (Drawn before the last rules on names and on the beginning of a tweet: of 150 pairs of synonyms two would come out
otherwise today, of near synonyms three.) A second reader judges 100 of the pairs again. Intervals are Wilson's, 95 %. Twenty of the pairs, some of each
method, go into the package, for whoever wants to judge them too (llm_course/assets/judged_pairs.json).
"""

import argparse
import csv
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import torch
from common import RESULTS, keep
from scipy.stats import binomtest

from llm_course.adversarial_examples import Attack, SynonymAttack, TextFoolerAttack, attack
from llm_course.augmentation import BackTranslation, ContextualReplacement, NearSynonymReplacement, SynonymReplacement
from llm_course.augmenters import Augmenter
from llm_course.data import BUNDLED_DATASETS, load_dataset
from llm_course.filters import Filtered, SameMeaning, SameNegations, Tidy
from llm_course.fine_tuning import fine_tune
from llm_course.gaps import labelled
from llm_course.language_models import LanguageModel
from llm_course.models import TextClassifier
from llm_course.pretraining import pretrain

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from checksums import write_checksums  # noqa: E402

NAME, SEED, PAIRS, TWICE, SHEETS, SHOWN, WORDS = "substitutions", 20261126, 150, 100, 7, 20, (5, 50)
QUESTIONS = ("grammatical", "meaning", "label")
NAMES = ["negative", "positive"]


def texts_of(names: tuple[str, ...], seed: int) -> Iterator[tuple[str, int]]:
    "Texts of the test parts and their labels, one of each set in turn, in a random order"
    parts = []
    for name in names:
        rows = load_dataset(name)["test"].shuffle(seed=seed)
        parts.append([(row["text"], row["label"]) for row in rows if WORDS[0] <= len(row["text"].split()) <= WORDS[1]])
    for group in zip(*parts, strict=False):
        yield from group


def labelled_filler() -> str:
    "A folder with tiny-bert, trained on movie reviews with their labels in front"
    train = load_dataset("movies")["train"]
    model = LanguageModel.from_pretrained("tiny-bert", device="cpu")
    pretrain(model, labelled(train["text"], train["label"], NAMES), epochs=3, learning_rate=1e-3, batch_size=8,
             seed=SEED, progress=False)
    return str(model.save(Path(tempfile.mkdtemp()) / "tiny-bert-with-labels"))


def copies_of(augmenter: Augmenter, names: tuple[str, ...]) -> dict:
    "Pairs of an augmenter, and how many texts it left as they were"
    pairs, same = [], 0
    for number, (text, label) in enumerate(texts_of(names, SEED)):
        labels = {"labels": [label]} if getattr(augmenter, "condition", None) else {}
        [[copy]] = augmenter.augment([text], seed=SEED, start=number, **labels)
        same += copy == text
        if copy != text:
            pairs.append({"text": text, "copy": copy})
        if len(pairs) == PAIRS:
            break
    return {"pairs": pairs, "left as they were": same}


def successes_of(method: Attack, classifier: TextClassifier) -> dict:
    "Pairs of an attack that turned an answer which was right"
    texts, pairs, attacked = list(texts_of(("movies",), SEED)), [], 0
    for start in range(0, len(texts), 50):
        some = [{"text": text, "label": label} for text, label in texts[start : start + 50]]
        report = attack(method, classifier, some, progress=False)
        attacked += report.attacked
        pairs += [{"text": result.text, "copy": result.perturbed} for result in report.results
                  if result.status == "succeeded"]
        if len(pairs) >= PAIRS:
            break
    return {"pairs": pairs[:PAIRS], "attacked": attacked, "turned": len(pairs)}


def drawn() -> dict[str, dict]:
    "Pairs of each method"
    filters = [Tidy(), SameNegations(), SameMeaning()]
    augmenters = {
        "synonyms": SynonymReplacement(), "near synonyms": NearSynonymReplacement(),
        "gaps filled with the label": ContextualReplacement(model_name=labelled_filler(), condition="label", names=NAMES),
        "back-translation": BackTranslation(), "back-translation, filtered": Filtered(BackTranslation(), filters)}
    methods = {name: copies_of(augmenter, BUNDLED_DATASETS) for name, augmenter in augmenters.items()}
    classifier = TextClassifier.from_pretrained("minilm", labels=NAMES, seed=0, device="cpu")
    train = load_dataset("movies")["train"].shuffle(seed=0).select(range(3000))
    fine_tune(classifier, train, epochs=2, seed=0, progress=False)
    for name, method in {"PWWS": SynonymAttack(), "TextFooler": TextFoolerAttack()}.items():
        methods[name] = successes_of(method, classifier)
    return methods


def shuffled(methods: dict[str, dict]) -> list[tuple[str, int]]:
    "Method and place of each pair, in the order of the sheets"
    order = [(name, place) for name, method in methods.items() for place in range(len(method["pairs"]))]
    Random(SEED).shuffle(order)
    return order


def write_sheets(folder: Path, methods: dict[str, dict]):
    "Sheets of the first readers, and one of the second"
    folder.mkdir(parents=True, exist_ok=True)
    order = shuffled(methods)
    parts = {f"sheet-{number}": range(number, len(order), SHEETS) for number in range(SHEETS)}
    parts["again"] = sorted(Random(SEED + 1).sample(range(len(order)), TWICE))
    for sheet, numbers in parts.items():
        with open(folder / f"{sheet}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["number", "text", "copy", *QUESTIONS])
            for number in numbers:
                name, place = order[number]
                pair = methods[name]["pairs"][place]
                writer.writerow([number, pair["text"], pair["copy"], *([""] * len(QUESTIONS))])


def read_sheet(path: Path) -> dict[int, dict[str, bool]]:
    "The verdicts of one sheet; ValueError where one is missing"
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if any(row[question] not in ("y", "n") for question in QUESTIONS):
            raise ValueError(f"{path}: pair {row['number']} lacks a verdict (y or n)")
    return {int(row["number"]): {question: row[question] == "y" for question in QUESTIONS} for row in rows}


def collect(folder: Path, methods: dict[str, dict]):
    "Put the verdicts beside their pairs"
    order = shuffled(methods)
    for path in sorted(folder.glob("*.csv")):
        for number, verdict in read_sheet(path).items():
            name, place = order[number]
            methods[name]["pairs"][place]["again" if path.stem == "again" else "verdict"] = verdict
    missing = sum("verdict" not in pair for method in methods.values() for pair in method["pairs"])
    if missing:
        raise ValueError(f"{missing} pairs have no verdict")


def twenty(methods: dict[str, dict]) -> list[dict]:
    "Some pairs of each method with their verdicts, in a random order"
    each, generator = -(-SHOWN // len(methods)), Random(SEED + 2)
    found = [{"method": name, "text": pair["text"], "copy": pair["copy"], **pair["verdict"]}
             for name, method in methods.items() for pair in generator.sample(method["pairs"], each)]
    generator.shuffle(found)
    return found[:SHOWN]


def share(values: list[bool]) -> dict:
    "How many, of how many, as a share with its interval"
    test = binomtest(sum(values), len(values))
    low, high = test.proportion_ci(method="wilson")
    return {"count": sum(values), "of": len(values), "share": test.statistic, "interval": [low, high]}


def counted(methods: dict[str, dict]) -> dict:
    "Shares of each method, and what two readers say of the same pairs"
    found = {}
    for name, method in methods.items():
        verdicts = [pair["verdict"] for pair in method["pairs"]]
        found[name] = {question: share([verdict[question] for verdict in verdicts]) for question in QUESTIONS}
        found[name]["grammatical and same in meaning"] = share([each["grammatical"] and each["meaning"]
                                                                for each in verdicts])
    twice = [(pair["verdict"], pair["again"]) for method in methods.values() for pair in method["pairs"]
             if "again" in pair]
    agreement = {question: agreed([(a[question], b[question]) for a, b in twice]) for question in QUESTIONS}
    return {"methods": found, "second reading": agreement}


def agreed(pairs: list[tuple[bool, bool]]) -> dict:
    "In how many pairs two readers say the same, and Cohen's kappa"
    same, firsts, seconds = (sum(values) / len(pairs) for values in
                             ([a == b for a, b in pairs], [a for a, _ in pairs], [b for _, b in pairs]))
    chance = firsts * seconds + (1 - firsts) * (1 - seconds)
    return {"pairs": len(pairs), "same": same, "first says yes": firsts, "second says yes": seconds,
            "kappa": (same - chance) / (1 - chance) if chance < 1 else None}


def main():
    "Draw pairs, write sheets, or collect them"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["draw", "sheets", "collect"])
    parser.add_argument("folder", type=Path, nargs="?")
    given = parser.parse_args()
    if given.step == "draw":
        torch.set_num_threads(1)
        keep(NAME, {"seed": SEED, "methods": drawn()})
        return
    if given.folder is None:
        parser.error(f"{given.step} needs a folder")
    content = json.loads((RESULTS / f"{NAME}.json").read_text())
    content.pop("summary", None)
    if given.step == "sheets":
        write_sheets(given.folder, content["methods"])
        return
    collect(given.folder, content["methods"])
    content["summary"] = counted(content["methods"])
    content.pop("machine")
    keep(NAME, content)
    lines = ",\n".join(json.dumps(pair, ensure_ascii=False) for pair in twenty(content["methods"]))
    (ROOT / "llm_course/assets/judged_pairs.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    write_checksums()
    for name, row in content["summary"]["methods"].items():
        print(f"{name:28}", *(f"{question}: {row[question]['share']:.0%}" for question in row))
    print(content["summary"]["second reading"])


if __name__ == "__main__":
    main()
