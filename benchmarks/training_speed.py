"""Training speed of fine_tune against transformers.Trainer: its default, and grouped by length.

Same model, data, order of magnitude of work, batch size, precision, learning rate and epochs. Each contestant trains
in a process of its own; the contestants take turns. Examples per second count the training steps alone: tokenising
and evaluation are left out for all. Also kept: peak memory of the process, and the accuracy on the test part.

    python benchmarks/training_speed.py [--repeats 3] [--size 1600]
"""

import argparse
import json
import resource
import tempfile
import time

import torch
from common import in_own_process, interleaved, medians, ratios, write
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from llm_course.data import load_dataset
from llm_course.fine_tuning import fine_tune
from llm_course.models import TextClassifier, model_source

CONTESTANTS = ["fine_tune", "Trainer", "Trainer, grouped by length"]
BATCH_SIZE, LEARNING_RATE, EPOCHS = 32, 1e-4, 1


def plain_classifier(seed: int) -> tuple[torch.nn.Module, AutoTokenizer]:
    "The same model and a new head, as transformers loads them: without what TextClassifier adds"
    torch.manual_seed(seed)
    source = model_source("minilm")
    return AutoModelForSequenceClassification.from_pretrained(source), AutoTokenizer.from_pretrained(source)


def train_with_trainer(model: torch.nn.Module, tokenizer: AutoTokenizer, train, grouped: bool, seed: int) -> float:
    "Examples per second of the training loop of transformers.Trainer"
    from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

    class Clock(TrainerCallback):
        "Time from the first to the last step"

        def on_train_begin(self, *_, **__):
            self.start = time.perf_counter()

        def on_train_end(self, *_, **__):
            self.seconds = time.perf_counter() - self.start

    encoded = train.map(lambda rows: tokenizer(rows["text"], truncation=True), batched=True)
    encoded = encoded.remove_columns(["text", "rating"])
    sampling = {"train_sampling_strategy": "group_by_length"} if grouped else {}
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, per_device_train_batch_size=BATCH_SIZE, num_train_epochs=EPOCHS, seed=seed,
            learning_rate=LEARNING_RATE, warmup_steps=0.1, weight_decay=0.01, report_to=[], save_strategy="no",
            disable_tqdm=True, logging_strategy="no", use_cpu=not torch.cuda.is_available(), **sampling)
        Trainer(model, arguments, train_dataset=encoded, callbacks=[clock],
                data_collator=DataCollatorWithPadding(tokenizer)).train()
    return len(train) * EPOCHS / clock.seconds


def contest(name: str, repeat: int, size: int) -> dict:
    "Train once; examples per second, peak memory in MiB, test accuracy"
    reviews = load_dataset("movies")
    train = reviews["train"].shuffle(seed=repeat).select(range(size))
    labels = ["negative", "positive"]
    if name == "fine_tune":
        classifier = TextClassifier.from_pretrained("minilm", labels=labels, seed=repeat)
        run = fine_tune(classifier, train, epochs=EPOCHS, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE,
                        seed=repeat, progress=False)
        speed = run.examples / run.seconds
    else:
        model, tokenizer = plain_classifier(repeat)
        speed = train_with_trainer(model, tokenizer, train, "grouped" in name, repeat)
        classifier = TextClassifier(model, tokenizer, labels)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    predicted = classifier.logits(reviews["test"]["text"]).argmax(1).tolist()
    labels = reviews["test"]["label"]
    accuracy = sum(p == label for p, label in zip(predicted, labels, strict=True)) / len(labels)
    return {"examples_per_second": speed, "peak_memory_mib": peak, "test_accuracy": accuracy}


def main():
    "Run one contestant, or all of them in turn"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", type=int, default=1600)
    parser.add_argument("--contestant", choices=CONTESTANTS)
    arguments = parser.parse_args()
    if arguments.contestant:
        print(json.dumps(contest(arguments.contestant, arguments.repeats, arguments.size)))
        return
    rows = interleaved(CONTESTANTS, arguments.repeats, lambda name, repeat: in_own_process(
        __file__, "--contestant", name, "--repeats", str(repeat), "--size", str(arguments.size)))
    write("training_speed", {
        "data": f"{arguments.size} movie reviews, batch size {BATCH_SIZE}, float32, {EPOCHS} epoch",
        "medians": medians(rows), "fine_tune_times_faster_than": ratios(rows, "fine_tune", "examples_per_second"),
        "runs": rows})


if __name__ == "__main__":
    main()
