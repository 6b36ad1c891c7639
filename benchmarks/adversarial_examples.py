"""PWWS by this package and by TextAttack: the same victim, the same WordNet, the same stop words, the same reviews.

    rivals/bin/python benchmarks/adversarial_examples.py     # the environment of augmentation_speed.py

100 test reviews of 22 to 32 words in five rounds of 20, and 5 texts of about 200 words (reviews of one label, joined) in
five rounds of one; each contestant takes each round before the next one begins. All texts are ones that the victim reads
rightly. TextAttack runs twice: as it comes, with texts padded to the tokenizer's 512 tokens, and with a wrapper that pads
to the longest text of the batch. Ours runs with TextAttack's candidates; on the long texts also with these and shortlists
of 32, which a gradient makes; and with its own table of synonyms. Parts that the result file holds are not run again.

`queries` is each one's own count; `texts_read` is how many texts the model was given, counted outside of both.

The last part attacks 1,000 reviews with typing errors, in a process of its own, and notes its memory as it goes.
"""

import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from common import RESULTS, in_own_process, interleaved, medians, ratios, write

from llm_course.adversarial_examples import SynonymAttack, TypoAttack
from llm_course.core import set_seed
from llm_course.data import load_dataset
from llm_course.evaluation import wilson_interval
from llm_course.fine_tuning import baseline_classifier
from llm_course.models import TextClassifier
from llm_course.words import STOP_WORDS

ROUNDS, SHORT, LONG = 5, 20, 1  # texts of a round


class Counting:
    "A classifier that counts the texts it reads"

    def __init__(self, classifier: TextClassifier):
        self.classifier, self.read = classifier, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.classifier, name)

    def predict_proba(self, texts: list[str], batch_size: int = 32) -> torch.Tensor:
        "What the classifier says"
        self.read += len(texts)
        return self.classifier.predict_proba(texts, batch_size=batch_size)


def rows(victim: TextClassifier) -> dict[str, list[dict]]:
    "Short and long texts that the victim reads rightly"
    test = load_dataset("movies")["test"]
    right = [row for row, answer in zip(test, victim.predict(list(test["text"])), strict=True)
             if answer == victim.labels[row["label"]]]
    short = [row for row in right if 22 <= len(row["text"].split()) <= 32]
    random.Random(0).shuffle(short)
    long = []
    for label in (0, 1, 0, 1, 0):
        parts = [row["text"] for row in right if row["label"] == label]
        random.Random(len(long)).shuffle(parts)
        text = ""
        while len(text.split()) < 195:
            text = f"{text} {parts.pop()}".strip()
        long.append({"text": text, "label": label})
    read = victim.predict([row["text"] for row in long])
    assert read == [victim.labels[row["label"]] for row in long]
    return {"27 words": short[: ROUNDS * SHORT], "200 words": long[: ROUNDS * LONG]}


def contestants(victim: TextClassifier) -> dict[str, Callable[[list[dict]], dict]]:
    "Name -> what attacks some texts and says how it went"
    from rivals import stub_flair, supply_nltk_data

    supply_nltk_data(STOP_WORDS)
    stub_flair()
    from nltk.corpus import wordnet
    from textattack.attack_recipes import PWWSRen2019
    from textattack.attack_results import SuccessfulAttackResult
    from textattack.models.wrappers import HuggingFaceModelWrapper
    from textattack.shared.utils import is_one_word

    @lru_cache(None)
    def candidates(word: str) -> list[str]:
        "What TextAttack would put in place of a word"
        found = {name for sense in wordnet.synsets(word) for name in sense.lemma_names()}
        return sorted(name.lower() for name in found if name != word and "_" not in name and is_one_word(name))

    def changeable(pieces: list[str], place: int, protected: frozenset[str]) -> bool:
        "TextAttack's constraint"
        return pieces[place] not in STOP_WORDS

    def ours(attack: SynonymAttack) -> Callable[[list[dict]], dict]:
        def run(texts: list[dict]) -> dict:
            counting = Counting(victim)
            report = attack.attack(counting, texts, progress=False)
            changed = sum(len(result.changes) for result in report.results if result.status == "succeeded")
            return {"turned": report.count("succeeded"), "queries": report.queries_per_text * len(texts),
                    "texts_read": counting.read, "changed_words": changed}
        return run

    class Padded(HuggingFaceModelWrapper):
        "Pads to the longest text of the batch"

        def __call__(self, texts: list[str]) -> torch.Tensor:
            batch = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
            with torch.no_grad():
                return self.model(**batch).logits

    def theirs(kind: type) -> Callable[[list[dict]], dict]:
        wrapper = kind(victim.model, victim.tokenizer)
        count = {"read": 0}
        call = kind.__call__

        class Counted(kind):
            def __call__(self, texts: list[str]) -> torch.Tensor:
                count["read"] += len(texts)
                return call(self, texts)

        wrapper.__class__ = Counted
        attack = PWWSRen2019.build(wrapper)

        def run(texts: list[dict]) -> dict:
            before = count["read"]
            results = [attack.attack(row["text"], row["label"]) for row in texts]
            turned = [result for result in results if isinstance(result, SuccessfulAttackResult)]
            changed = sum(len(result.original_result.attacked_text.all_words_diff(result.perturbed_result.attacked_text))
                          for result in turned)
            return {"turned": len(turned), "changed_words": changed,
                    "queries": sum(result.num_queries for result in results), "texts_read": count["read"] - before}
        return run

    same = {"candidates": candidates, "changeable": changeable}
    return {"llm_course": ours(SynonymAttack(**same)),
            "llm_course, shortlists": ours(SynonymAttack(**same, shortlist=32)),
            "TextAttack": theirs(HuggingFaceModelWrapper),
            "TextAttack, padded to the batch": theirs(Padded),
            "llm_course, own table": ours(SynonymAttack())}


def compare(length: str) -> dict:
    "All contestants on texts of one length; shortlists are for long ones"
    victim = baseline_classifier()
    victim.model.eval()
    methods, texts = contestants(victim), rows(victim)[length]
    if length == "27 words":
        methods.pop("llm_course, shortlists")
    count = len(texts) // ROUNDS
    for run in methods.values():
        run(texts[:1])  # tables are loaded

    def measure(name: str, turn: int) -> dict:
        set_seed(0)
        part, start = texts[turn * count : (turn + 1) * count], time.perf_counter()
        found = methods[name](part)
        return {"texts_per_second": count / (time.perf_counter() - start), "turned": found["turned"] / count,
                **{key: found[key] / count for key in ("queries", "texts_read", "changed_words")}}

    return summary(texts, interleaved(list(methods), ROUNDS, measure))


def summary(texts: list[dict], runs: dict[str, list[dict]]) -> dict:
    "Of all rounds: means, medians, intervals, and ratios of speed"
    totals = {name: {key: sum(row[key] for row in each) / ROUNDS for key in list(each[0])[1:]}
              for name, each in runs.items()}
    for name, row in totals.items():
        row["interval"] = wilson_interval(round(row["turned"] * len(texts)), len(texts))
        row["texts_per_second"] = ROUNDS / sum(1 / each["texts_per_second"] for each in runs[name])  # of all texts
    return {"texts": len(texts), "words": sum(len(row["text"].split()) for row in texts) / len(texts),
            "totals": totals, "medians": medians(runs), "rounds": runs,
            "ratios": {name: ratios(runs, name, "texts_per_second") for name in runs if name.startswith("llm")}}


def resident() -> float:
    "MiB of this process now"
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def memory() -> dict:
    "Memory after each 100 of 1,000 reviews"
    test, seen, at = load_dataset("movies")["test"], [], []

    def stream() -> dict:
        for place in range(1000):
            if place and place % 100 == 0:
                seen.append(resident())
                at.append(place)
            yield test[place]

    victim = baseline_classifier()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        report = TypoAttack().attack(victim, stream(), progress=False, resume_from=Path(folder) / "attack.jsonl")
    return {"texts": len(report.results), "seconds": time.perf_counter() - start,
            "mib_after": dict(zip(at, seen, strict=True)), "accuracy_before": report.accuracy_before,
            "accuracy_under_attack": report.accuracy_under_attack}


def main():
    "Measure what the result file lacks, a part after the other, each in one run"
    path = RESULTS / "adversarial_examples.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    kept.pop("machine", None)
    for length in ("27 words", "200 words"):
        if length not in kept:
            kept[length] = compare(length)
            write("adversarial_examples", kept)
    if "thousand_reviews" not in kept:
        write("adversarial_examples", {**kept, "thousand_reviews": in_own_process(__file__, "memory")})


if __name__ == "__main__":
    if sys.argv[1:] == ["memory"]:
        print(json.dumps(memory()))
    else:
        main()
