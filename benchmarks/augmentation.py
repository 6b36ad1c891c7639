"""Does augmentation help? Accuracy of the bundled model, fine-tuned on few and many reviews with each augmenter.

    python benchmarks/augmentation.py

All methods see the same reviews and make the same number of steps: a training set is each review with its copies,
and without augmentation the copies are the review itself. Five seeds draw the reviews, the new head and the batches.
Each run is written as it ends; a later call goes on where an earlier one was stopped, and runs anew what was measured with
copies that its augmenter no longer makes. The contextual augmenter and neural translation need models from the Hub and are
measured with --hub.
"""

import argparse
import hashlib
import json
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context

import torch
from common import RESULTS, interval, keep
from datasets import Dataset

from llm_course.augmentation import (
    BackTranslation,
    ContextualReplacement,
    Marian,
    Mixup,
    NearSynonymReplacement,
    RandomDeletion,
    RandomInsertion,
    RandomSwap,
    SynonymReplacement,
    TypingNoise,
    UnchangedTexts,
    easy_data_augmentation,
)
from llm_course.data import load_dataset
from llm_course.fine_tuning import CrossEntropy, fine_tune
from llm_course.models import TextClassifier

AUGMENTERS = {
    "none": None, "synonyms": SynonymReplacement, "near synonyms": NearSynonymReplacement,
    "insertion": RandomInsertion, "swap": RandomSwap, "deletion": RandomDeletion, "typing noise": TypingNoise,
    "EDA": easy_data_augmentation, "EDA as published": partial(easy_data_augmentation, published=True),
    "back-translation": BackTranslation, "mixup": None,
}
HUB = {"contextual": ContextualReplacement,
       "neural back-translation": lambda: BackTranslation(Marian("Helsinki-NLP/opus-mt-en-es", temperature=0.8),
                                                          Marian("Helsinki-NLP/opus-mt-es-en"))}
RECIPES = {50: (4, 4, 16), 100: (4, 3, 16), 200: (4, 2, 16), 500: (4, 1, 16), 0: (1, 1, 32)}  # 0: all reviews;
SEEDS = range(5)                                                          # values: copies, epochs, batch size
FILE = RESULTS / "augmentation.json"


def made_by(method: str) -> str | None:
    "A digest of the copies that an augmenter makes of some reviews"
    make = {**AUGMENTERS, **HUB}[method]
    if make is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnchangedTexts)
        rows = make().augment(load_dataset("movies")["train"]["text"][:100], n=4, seed=0)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def measured(method: str, size: int, seed: int) -> dict:
    "Fine-tune once; the accuracy on the test part"
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UnchangedTexts)
    reviews, (copies, epochs, batch_size) = load_dataset("movies"), RECIPES[size]
    train = reviews["train"].shuffle(seed=seed).select(range(size or len(reviews["train"])))
    texts, labels, start = list(train["text"]), list(train["label"]), time.perf_counter()
    make = {**AUGMENTERS, **HUB}[method]
    rows = make().augment(texts, n=copies, seed=seed) if make else [[text] * copies for text in texts]
    augmenting = time.perf_counter() - start
    pairs = [(text, label) for own, new, label in zip(texts, rows, labels, strict=True) for text in (own, *new)]
    data = Dataset.from_dict({"text": [text for text, _ in pairs], "label": [label for _, label in pairs]})
    classifier = TextClassifier.from_pretrained("minilm", labels=["negative", "positive"], seed=seed)
    run = fine_tune(classifier, data, epochs=epochs, batch_size=batch_size, learning_rate=1e-4, seed=seed,
                    mixed_precision="bf16", objective=Mixup() if method == "mixup" else CrossEntropy(), progress=False)
    right = classifier.logits(reviews["test"]["text"]).argmax(-1) == torch.tensor(reviews["test"]["label"])
    return {"method": method, "size": len(train), "all": size == 0, "seed": seed, "examples": run.examples,
            "accuracy": right.double().mean().item(), "training_s": round(run.seconds, 1),
            "augmenting_s": round(augmenting, 2),
            "changed": sum(new != own for own, row in zip(texts, rows, strict=True) for new in row)
            / (copies * len(texts))}


def summary(rows: list[dict]) -> list[dict]:
    "For each size and method: accuracy, and its difference from no augmentation on the same reviews"
    plain = {(row["size"], row["seed"]): row["accuracy"] for row in rows if row["method"] == "none"}
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        if (row["size"], row["seed"]) in plain:
            groups.setdefault((row["size"], row["method"]), []).append(row)
    return [{"size": size, "method": method, "seeds": len(group),
             "accuracy": interval([row["accuracy"] for row in group]),
             "gain": interval([row["accuracy"] - plain[size, row["seed"]] for row in group])}
            for (size, method), group in sorted(groups.items(), key=lambda item: item[0][0])]


def write(rows: list[dict]):
    "Keep all runs, in a fixed order, and their summary; the file is replaced whole"
    order = {name: place for place, name in enumerate({**AUGMENTERS, **HUB})}
    rows.sort(key=lambda row: (row["size"], order[row["method"]], row["seed"]))
    content = {"settings": {"learning_rate": 1e-4, "precision": "bf16", "test_reviews": 1004,
               "threads_per_run": 1, "recipes": {str(size or "all"): dict(zip(("copies", "epochs", "batch_size"), recipe,
                                                                              strict=True))
                                                 for size, recipe in RECIPES.items()}},
               "summary": summary(rows), "runs": rows}
    keep(FILE.stem, content)


def main():
    "Measure what is missing"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hub", action="store_true", help="also the methods that need models from the Hub")
    parser.add_argument("--workers", type=int, default=2, help="runs at the same time, one thread each")
    arguments = parser.parse_args()
    methods = [*AUGMENTERS, *(HUB if arguments.hub else ())]
    makers = {method: made_by(method) for method in methods}
    rows = json.loads(FILE.read_text())["runs"] if FILE.exists() else []
    rows = [row for row in rows if row.get("made by") == makers.get(row["method"], row.get("made by"))]
    done = {(row["method"], 0 if row["all"] else row["size"], row["seed"]) for row in rows}
    jobs = [(method, size, seed) for large in (False, True) for seed in SEEDS for size in RECIPES
            for method in methods if (size == 0) == large and (method, size, seed) not in done]
    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn"), max_tasks_per_child=None) as pool:
        for future in as_completed([pool.submit(measured, *job) for job in jobs]):
            row = future.result()
            rows.append({**row, "made by": makers[row["method"]]})
            write(rows)
            print(len(rows), row, flush=True)


if __name__ == "__main__":
    main()
