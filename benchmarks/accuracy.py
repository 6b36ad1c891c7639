"""Test accuracy on movies that the defaults reach: with all training data, and at laptop scale.

All data: two epochs of all training reviews with the defaults of fine_tune. Laptop scale: one epoch of 3,000 reviews,
as `baseline_classifier` does it. Seconds are those of the training steps.

    python benchmarks/accuracy.py [--seeds 3]
"""

import argparse

from common import write
from llm_course.data import load_dataset
from llm_course.evaluation import evaluate
from llm_course.fine_tuning import fine_tune
from llm_course.models import TextClassifier

SETTINGS = {
    "all data": {"size": None, "epochs": 2, "learning_rate": 5e-5},
    "laptop scale": {"size": 3000, "epochs": 1, "learning_rate": 1e-4},
}


def measure(size: int | None, epochs: int, learning_rate: float, seed: int) -> dict:
    "Train once and answer the test part"
    reviews = load_dataset("movies")
    train = reviews["train"].shuffle(seed=seed)
    train = train.select(range(size or len(train)))
    classifier = TextClassifier.from_pretrained("minilm", labels=["negative", "positive"], seed=seed)
    run = fine_tune(classifier, train, epochs=epochs, learning_rate=learning_rate, seed=seed, progress=False)
    accuracy = evaluate(classifier, reviews["test"]).accuracy
    return {"seed": seed, "reviews": len(train), "accuracy": round(accuracy.value, 4),
            "interval": [round(accuracy.low, 4), round(accuracy.high, 4)], "training_seconds": round(run.seconds, 1)}


def main():
    "Measure each setting with each seed"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    runs = {name: [] for name in SETTINGS}
    for name, setting in SETTINGS.items():
        for seed in seeds:
            runs[name].append(measure(**setting, seed=seed))
            print(name, runs[name][-1], flush=True)
    write("accuracy", {"data": "movies, test part; batch size 32, float32", "settings": SETTINGS, "runs": runs})


if __name__ == "__main__":
    main()
