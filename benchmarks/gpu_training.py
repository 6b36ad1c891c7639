"""Training BERT-base on a GPU: fine_tune against transformers.Trainer, and what objectives cost.

    python benchmarks/gpu_training.py              # in full, on a GPU; writes results/gpu_training.json
    python benchmarks/gpu_training.py --only IMDb objectives      # these parts, beside those measured before
    python benchmarks/gpu_training.py --small      # all parts with a tiny model, on any machine; writes nothing

Two parts. *Contest*: tokens per second (padding not counted) and model FLOPs utilisation at the lengths of IMDb,
at short lengths, and with every text filling the window; each contestant trains in a process of its own, and they
take turns. *Objectives*: seconds of a step with each objective of lesson 22, against plain cross-entropy.

It needs no network. The model is BERT-base's configuration with random weights: speed does not depend on their values.
The texts are random words, one token each; their lengths are drawn from log-normal distributions. For IMDb it has a
median of 230 tokens and a standard deviation of 0.65 of the logarithm, cut at 512 as BERT cuts: a mean near 285
before the cut and 260 after it. It is a fit to summary figures of the reviews (some 230 words on average, half of
them below some 175), not IMDb itself.

Trainer runs with bf16 (off on a CPU): as it comes, and with what its documentation recommends for speed: batches grouped
by length, fused AdamW, worker processes with pinned memory, torch.compile, no logging. Each contestant runs an epoch
as warm-up first, over the same lengths, so that compilation is not timed; --small leaves the compiled ones out, and
measures contestants and objectives in its own process. Each part is written as it ends. A token counts 6 FLOPs a weight of the layers,
attention added, as lesson 42 derives; recomputation and padding do not count.
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass

import numpy as np
import torch
from common import RESULTS, in_own_process, interleaved, machine, medians, ratios, write
from datasets import ClassLabel, Dataset, Features, Value
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

from llm_course.adversarial_training import FGM, PGD, FreeLB, RDrop, Smart, VirtualAdversarial
from llm_course.core import best_device
from llm_course.fine_tuning import CrossEntropy, fine_tune
from llm_course.models import TextClassifier
from llm_course.scaling import model_flops_utilisation, shape_of, training_flops

CONTESTANTS = {  # what each is called, and how it differs
    "fine_tune": {},
    "fine_tune, compiled": {"compile": True},
    "fine_tune, token budget": {"budget": True},
    "Trainer": {},
    "Trainer, best settings": {"train_sampling_strategy": "group_by_length", "optim": "adamw_torch_fused",
                               "dataloader_pin_memory": True, "dataloader_num_workers": 2,
                               "dataloader_persistent_workers": True, "logging_strategy": "no"},
    "Trainer, best settings, compiled": {"train_sampling_strategy": "group_by_length", "optim": "adamw_torch_fused",
                                         "dataloader_pin_memory": True, "dataloader_num_workers": 2,
                                         "dataloader_persistent_workers": True, "logging_strategy": "no",
                                         "torch_compile": True},
}
LENGTHS = {  # median tokens, standard deviation of the logarithm, shortest, longest; special tokens included
    "IMDb": (230, 0.65, 12, 512),
    "short": (26, 0.45, 5, 64),
    "full window": (512, 0.0, 512, 512),
}
OBJECTIVES = {"plain": CrossEntropy, "FGM": FGM, "PGD": PGD, "FreeLB": FreeLB, "virtual adversarial": VirtualAdversarial,
              "SMART": Smart, "R-Drop": RDrop}
PEAKS = {  # dense half precision by the makers' data sheets, FLOPs per second; the first name that fits
    "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L40": 181e12, "L4": 121e12, "A10G": 70e12,
    "A10": 125e12, "V100": 125e12, "T4": 65e12,
}


@dataclass(frozen=True)
class Size:
    "How large everything is"

    config: dict  # of the model, where it differs from BERT-base
    texts: int
    batch_size: int
    repeats: int
    shrink: int = 1  # lengths are divided by this


FULL = Size({}, 2048, 32, 3)
SMALL = Size({"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2,
              "max_position_embeddings": 64}, 32, 8, 1, 8)
PARTS = [*LENGTHS, "objectives"]
WORDS = 30522 - 5  # BERT's vocabulary without the special tokens


def device_peak() -> float | None:
    "The peak of this machine's GPU by its data sheet; None where it is not in the table, or there is none"
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((peak for part, peak in PEAKS.items() if all(word in name for word in part.split())), None)


def drawn_lengths(name: str, size: Size, seed: int) -> np.ndarray:  # (N,), special tokens included
    "The tokens of each text"
    median, deviation, shortest, longest = LENGTHS[name]
    drawn = np.random.default_rng(seed).lognormal(np.log(median), deviation, size.texts).round()
    return (drawn.clip(shortest, longest) // size.shrink).clip(3).astype(int)


def random_texts(lengths: np.ndarray, seed: int) -> Dataset:
    "Texts of random words, with labels; two tokens of each length are left for the special ones"
    rng = np.random.default_rng(seed)
    texts = [" ".join(f"w{word}" for word in rng.integers(0, WORDS, length - 2)) for length in lengths]
    features = Features({"text": Value("string"), "label": ClassLabel(names=["negative", "positive"])})
    return Dataset.from_dict({"text": texts, "label": rng.integers(0, 2, len(texts)).tolist()}, features=features)


def new_model(size: Size, seed: int) -> tuple[BertForSequenceClassification, BertTokenizer]:
    "A model with random weights, and a tokenizer whose words are w0, w1, …"
    torch.manual_seed(seed)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(WORDS))]
    model = BertForSequenceClassification(BertConfig(**size.config))
    longest = model.config.max_position_embeddings
    return model, BertTokenizer({word: place for place, word in enumerate(words)}, model_max_length=longest)


def precision() -> str:
    "bf16 on a GPU, full precision on a CPU"
    return "bf16" if torch.cuda.is_available() else "no"


def wait():
    "Until the GPU has done what it was given"
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of_fine_tune(model, tokenizer, rows: Dataset, size: Size, settings: dict, seed: int) -> float:
    "The time of an epoch by its own clock, after one that warms up"
    classifier = TextClassifier(model, tokenizer, ["negative", "positive"])
    bound = {"batch_size": size.batch_size}
    if settings.get("budget"):  # as many tokens as a fixed batch has on average
        lengths = [len(ids) for ids in classifier.tokenize(list(rows["text"]))[0]]
        bound = {"max_tokens": max(max(lengths), size.batch_size * sum(lengths) // len(lengths))}
    run = fine_tune(classifier, rows, epochs=2, learning_rate=1e-5, mixed_precision=precision(), seed=seed,
                    compile=settings.get("compile", False), progress=False, **bound)
    wait()
    first = max(row["seconds"] for row in run.steps if row["epoch"] <= 1)
    return run.seconds - first


def seconds_of_trainer(model, tokenizer, rows: Dataset, size: Size, settings: dict, seed: int) -> float:
    "The time of its second epoch; the first warms up"
    from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

    class Clock(TrainerCallback):
        "When each epoch begins and the last one ends"

        def __init__(self):
            self.times = []

        def on_epoch_begin(self, *_, **__):
            wait()
            self.times.append(time.perf_counter())

        def on_train_end(self, *_, **__):
            wait()
            self.times.append(time.perf_counter())

    encoded = rows.map(lambda part: tokenizer(part["text"], truncation=True), batched=True)
    encoded = encoded.remove_columns(["text"])
    clock, on_gpu = Clock(), torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(  # bf16 alone is not its default, but what a GPU is bought for
            output_dir=folder, per_device_train_batch_size=size.batch_size, num_train_epochs=2, seed=seed,
            learning_rate=1e-5, warmup_steps=0.1, weight_decay=0.01, report_to=[], save_strategy="no",
            disable_tqdm=True, bf16=on_gpu, use_cpu=not on_gpu, **settings)
        Trainer(model, arguments, train_dataset=encoded, callbacks=[clock],
                data_collator=DataCollatorWithPadding(tokenizer)).train()
    return clock.times[-1] - clock.times[1]


def speed_of(name: str, lengths_name: str, size: Size, seed: int) -> dict:
    "Train with a contestant; tokens per second, the share of the peak, GPU memory"
    lengths = drawn_lengths(lengths_name, size, seed)
    rows, (model, tokenizer) = random_texts(lengths, seed), new_model(size, seed)
    shape, settings = shape_of(model.config), CONTESTANTS[name]
    measure = seconds_of_fine_tune if name.startswith("fine_tune") else seconds_of_trainer
    seconds = measure(model, tokenizer, rows, size, settings, seed)
    found = {"tokens_per_second": lengths.sum() / seconds, "texts_per_second": len(rows) / seconds}
    if peak := device_peak():
        work = sum(training_flops(shape, 1, int(length)) for length in lengths)
        found["model_flops_utilisation"] = model_flops_utilisation(work, seconds, peak)
    if torch.cuda.is_available():
        found["peak_gpu_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return {key: float(value) for key, value in found.items()}


def seconds_of_objective(name: str, size: Size, seed: int) -> dict:
    "Seconds of a step of fine_tune with an objective, at short lengths, and GPU memory"
    rows, (model, tokenizer) = random_texts(drawn_lengths("short", size, seed), seed), new_model(size, seed)
    classifier = TextClassifier(model, tokenizer, ["negative", "positive"])
    run = fine_tune(classifier, rows, objective=OBJECTIVES[name](), epochs=2, batch_size=size.batch_size,
                    learning_rate=1e-5, mixed_precision=precision(), seed=seed, progress=False)
    first = max(row["seconds"] for row in run.steps if row["epoch"] <= 1)
    found = {"seconds_per_step": (run.seconds - first) / sum(row["epoch"] > 1 for row in run.steps)}
    if torch.cuda.is_available():
        found["peak_gpu_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return found


def one(arguments: argparse.Namespace) -> dict:
    "A single measurement, in a process of its own"
    size = SMALL if arguments.small else FULL
    if arguments.part == "contest":
        return speed_of(arguments.name, arguments.lengths, size, arguments.repeats)
    return seconds_of_objective(arguments.name, size, arguments.repeats)


def measured(part: str, name: str, lengths: str, repeat: int, small: bool) -> dict:
    "A single measurement, in a process of its own unless it is small"
    if small:
        return one(argparse.Namespace(part=part, name=name, lengths=lengths, repeats=repeat, small=True))
    return in_own_process(__file__, "--part", part, "--name", name, "--lengths", lengths, "--repeats", str(repeat))


def contest(lengths: str, size: Size, small: bool) -> dict:
    "All contestants in turn, for one distribution of lengths"
    names = [name for name in CONTESTANTS if not (small and "compiled" in name)]
    rows = interleaved(names, size.repeats, lambda name, repeat: measured("contest", name, lengths, repeat, small))
    ours = [name for name in names if name.startswith("fine_tune")]
    return {"tokens_mean": float(drawn_lengths(lengths, size, 0).mean()), "medians": medians(rows),
            "times_as_fast": {name: ratios(rows, name, "tokens_per_second") for name in ours}, "runs": rows}


def objectives(size: Size, small: bool) -> dict:
    "All objectives in turn"
    rows = interleaved(list(OBJECTIVES), size.repeats,
                       lambda name, repeat: measured("objective", name, "short", repeat, small))
    plain = [run["seconds_per_step"] for run in rows["plain"]]
    cost = {name: statistics.median(run["seconds_per_step"] / base for run, base in zip(runs, plain, strict=True))
            for name, runs in rows.items()}
    return {"times_plain": cost, "medians": medians(rows), "runs": rows}


def part_of(name: str, size: Size, small: bool) -> dict:
    "Measure one part"
    return contest(name, size, small) if name in LENGTHS else objectives(size, small)


def keep(parts: dict, size: Size):
    "Write the parts, beside those that were measured before on the same machine"
    file = RESULTS / "gpu_training.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    if before.get("machine") == machine():
        parts = {**before["parts"], **parts}
    write("gpu_training", {
        "data": f"{size.texts} texts of random words, batch size {size.batch_size}, {precision()}, random weights",
        "lengths": {name: dict(zip(("median", "deviation", "shortest", "longest"), values, strict=True))
                    for name, values in LENGTHS.items()},
        "peak_flops_per_second": device_peak(), "parts": parts})


def main():
    "Run one measurement, or all"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a tiny model; nothing is written")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="the parts to measure")
    for hidden in ("--part", "--name", "--lengths", "--repeats"):  # one measurement, by itself
        parser.add_argument(hidden, type=int if hidden == "--repeats" else str, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(one(arguments)))
        return
    if not arguments.small and best_device().type != "cuda":
        raise SystemExit("The full run needs a CUDA GPU. To try everything with a tiny model: --small")
    size, parts = SMALL if arguments.small else FULL, {}
    for name in arguments.only:
        parts[name] = part_of(name, size, arguments.small)
        if not arguments.small:
            keep(parts, size)
    if arguments.small:
        print(json.dumps(parts))


if __name__ == "__main__":
    main()
