"""What pre-training teaches tiny models: rates, seeds, sizes, transfer to labels, and another domain.

    python benchmarks/pretraining.py                   # all parts; goes on where an earlier call was stopped
    python benchmarks/pretraining.py --part transfer   # one of them
    python benchmarks/pretraining.py --small           # a quick try of each part; writes nothing

Texts: the training part of all four bundled sets, labels left out; what is said of a model comes from the test part,
and settings are chosen on the validation part. All models share one tokenizer of 4,096 byte pairs and blocks of 128
tokens. A seed draws the weights, the order of the blocks, what is taken away, and dropout.

- rates: one pass over the texts for each of four settings (learning rate, blocks of a step, share that is asked for,
  length of spans);
  the loss on the validation part, where all answer the same questions.
- seeds: two passes, a tenth of what the bundled models had, three seeds; surprise on the test part in nats, beside a
  unigram, a bigram and a two-sided bigram counted from the same texts (their discount is chosen on the validation
  part) at the same places. The masked model is asked with [MASK] alone, at places whose neighbours are not hidden.
- bundled: the same for the bundled models. Their lead is what the best count has more, at the same places.
- full: the same for two more seeds of each, trained as tools/build_models.py trains them, half an hour for each.
- sizes: a causal model of four sizes, two passes each; the validation loss as training goes on, against operations.
- transfer: test accuracy on movie reviews after fine-tuning with 200 and 1,000 labels, five seeds: the bundled tiny
  models, the same architectures from random weights, and the bundled sentence encoder. For each arm and number of
  labels, the learning rate is the best of three or four on 500 validation reviews (one seed, which is not used again).
  The encoder trains half the epochs that the name of its row says.
- domain: a masked model learns from all texts but tweets, then a second time from tweets or from movie reviews (the
  same number of steps), and is fine-tuned on 200 tweets; three seeds.

Each row is written as it ends. Two processes work (or --processes), with one thread each; pre-training computes in
bfloat16 where torch's autocast does.
"""

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from common import interval, make_parts, parser_of_parts
from datasets import Dataset

from llm_course.data import BUNDLED_DATASETS, bundled_texts, load_dataset
from llm_course.fine_tuning import fine_tune, validation_scores
from llm_course.language_models import LanguageModel, new_language_model
from llm_course.models import TextClassifier
from llm_course.pretraining import Bigram, LanguageObjective, guess, objective_for, pretrain, token_blocks
from llm_course.pretraining import train_tokenizer
from llm_course.value_chain import training_compute

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from build_models import DROPOUT, PASSES, trained  # noqa: E402

CHECKPOINTS = ROOT / "checkpoints-of-tiny-models"
NAME, SHAPES = "pretraining", ("gpt", "t5", "bert")
QUICK = {"mixed_precision": "bf16", "progress": False}  # of pre-training
SETTINGS = {  # learning rate, blocks of a step, share of the tokens that are asked for, and mean length of a span
    "bert": ((2e-3, 32, 0.3), (1e-3, 8, 0.3), (2e-3, 8, 0.3), (2e-3, 8, 0.15)),
    "gpt": ((2e-3, 32, None), (1e-3, 8, None), (2e-3, 8, None), (4e-3, 8, None)),
    "t5": ((3e-3, 8, 0.3), (2e-3, 8, 0.5, 5.0), (3e-3, 8, 0.5, 5.0), (4e-3, 8, 0.5, 5.0))}
FINE_RATES, DISCOUNTS = (1e-4, 3e-4, 1e-3, 3e-3), (0.5, 0.75, 0.9)
ENCODER_RATES = (3e-5, 1e-4, 3e-4)  # of the bundled encoder, which is twenty times as large
SIZES = (32, 64, 128, 192)
ARMS = (*(f"tiny-{shape}" for shape in SHAPES), *(f"random {shape}" for shape in SHAPES), "minilm")


class Sizes(NamedTuple):
    "How much each part trains"

    texts: int | None  # of each part of a bundled set; None: all
    passes: int  # of the seeds and the sizes
    labels: tuple[tuple[int, int], ...]  # labels and epochs
    seeds: int  # of the transfer
    few: int  # of everything else
    again: int  # passes over the second domain
    test: int


FULL = Sizes(None, 2, ((200, 8), (1000, 4)), 5, 3, 8, 1004)
SMALL = Sizes(60, 1, ((16, 1),), 2, 2, 1, 16)


def texts_of(part: str, most: int | None, names: tuple[str, ...] = BUNDLED_DATASETS) -> list[str]:
    "The first texts of one part of some bundled sets, without labels"
    return [text for name in names for text in bundled_texts(part, [name])[:most]]


def tokenizer_of(sizes: Sizes):
    "That of the bundled models; of fewer texts a smaller one"
    texts = texts_of("train", sizes.texts)
    return train_tokenizer(texts, 4096 if sizes.texts is None else 512)


def fresh(shape: str, sizes: Sizes, seed: int, **options) -> LanguageModel:
    "A model that has learnt nothing"
    dropout = DROPOUT.get(f"tiny-{shape}", 0.1)
    return new_language_model(shape, tokenizer_of(sizes), seed=seed, device="cpu", dropout=dropout, **options)


def named(shape: str, rate: float, batch: int, share: float | None, span: float | None = None) -> str:
    "The row of a setting"
    return f"{shape} {rate:g} {batch} {share}{f' {span:g}' if span else ''}"


def settings_of(rows: dict, model: LanguageModel, shape: str) -> dict:
    "The arguments of `pretrain` with the lowest validation loss"
    rate, batch, *asked = min(SETTINGS[shape], key=lambda setting: rows["rates"][named(shape, *setting)]["loss"])
    return {"learning_rate": rate, "batch_size": batch, "objective": asking(model, *asked)}


def asking(model: LanguageModel, share: float | None, span: float | None = None) -> LanguageObjective:
    "The objective of a model's kind, with a share of the tokens"
    given = {"share": share, "span": span}
    return replace(objective_for(model, None), **{name: value for name, value in given.items() if value is not None})


def rates(sizes: Sizes, rows: dict, shape: str, rate: float, batch: int, *asked: float | None) -> dict:
    "The loss on the validation part after a short run"
    model = fresh(shape, sizes, 0)
    run = pretrain(model, texts_of("train", sizes.texts), objective=asking(model, *asked), epochs=1,
                   learning_rate=rate, batch_size=batch, **QUICK)
    losses, *_ = asked_places(model, token_blocks(model.tokenizer, texts_of("validation", sizes.texts)))
    return {"loss": losses.mean().item(), "seconds": run.seconds}


def neighbours(blocks: torch.Tensor, rows: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, ...]:
    "The tokens before, at and behind some places; the row of all blocks goes on over their ends"
    row, at = blocks.flatten(), rows * blocks.shape[1] + places
    return row[at - 1], row[at], row[(at + 1) % len(row)]


def asked_places(model: LanguageModel, blocks: torch.Tensor) -> tuple[torch.Tensor, ...]:
    "Losses, rows and places where all models know the same"
    objective = objective_for(model, None)
    if model.kind == "masked":
        objective = replace(objective, masked=1.0, random=0.0)
    found = guess(model, blocks, objective)
    special = torch.tensor(model.tokenizer.all_special_ids)
    fits = (found.places > 0) & (found.places < blocks.shape[1] - 1)
    asked = blocks[found.rows, found.places.clamp(min=0)]
    fits &= ~torch.isin(asked, special) | (asked == model.tokenizer.sep_token_id)
    if model.kind == "masked":
        hidden = torch.zeros(blocks.shape[0], blocks.shape[1] + 2, dtype=torch.bool)
        hidden[found.rows, found.places + 1] = True
        fits &= ~hidden[found.rows, found.places] & ~hidden[found.rows, found.places + 2]
    return found.losses[fits], found.rows[fits], found.places[fits]


def counted(train: torch.Tensor, validation: torch.Tensor, vocabulary: int) -> tuple[Bigram, float]:
    "The bigram whose discount is best on the validation part"
    row, models = validation.flatten(), {each: Bigram(train, vocabulary, discount=each) for each in DISCOUNTS}
    chosen = max(models, key=lambda each: models[each].after(row[:-1], row[1:]).log().mean().item())
    return models[chosen], chosen


def compared(model: LanguageModel, sizes: Sizes) -> dict:
    "Mean surprise of a model and of counts, at the same places of the test part"
    parts = [token_blocks(model.tokenizer, texts_of(part, sizes.texts)) for part in ("train", "validation", "test")]
    bigram, discount = counted(parts[0], parts[1], len(model.tokenizer))
    losses, rows, places = asked_places(model, parts[2])
    left, token, right = neighbours(parts[2], rows, places)
    surprise = {"model": losses, "unigram": -bigram.unigram[token].log(), "bigram": -bigram.after(left, token).log()}
    if model.kind == "masked":
        surprise["two-sided bigram"] = -bigram.between(left, token, right).log()
    lead = surprise["two-sided bigram" if model.kind == "masked" else "bigram"] - losses
    of_blocks = {name: torch.zeros(len(parts[2]), 2).index_add(0, rows, torch.stack([of, torch.ones_like(of)], 1))
                 for name, of in (("model", losses), ("lead", lead))}
    return {**{name: values.mean().item() for name, values in surprise.items()}, "lead": lead.mean().item(),
            "places": len(losses), "discount": discount,
            **{f"interval of the {name}": block_interval(sums) for name, sums in of_blocks.items()}}


def block_interval(sums: torch.Tensor, draws: int = 2000) -> list[float]:
    "95 % of a mean over tokens, by drawing blocks again"
    generator = torch.Generator().manual_seed(0)
    drawn = sums[torch.randint(len(sums), (draws, len(sums)), generator=generator)].sum(1)
    return torch.quantile(drawn[:, 0] / drawn[:, 1], torch.tensor([0.025, 0.975])).tolist()


def seeds(sizes: Sizes, rows: dict, shape: str, seed: int) -> dict:
    "Surprise after a short run"
    model = fresh(shape, sizes, seed)
    run = pretrain(model, texts_of("train", sizes.texts), epochs=sizes.passes,
                   seed=seed, **QUICK, **settings_of(rows, model, shape))
    return {**compared(model, sizes), "seconds": run.seconds}


def bundled(sizes: Sizes, rows: dict, shape: str) -> dict:
    "Surprise of a bundled model"
    return compared(LanguageModel.from_pretrained(f"tiny-{shape}", device="cpu"), sizes)


def full(sizes: Sizes, rows: dict, shape: str, seed: int) -> dict:
    "Surprise of a model that was trained like a bundled one, from another seed; weights as precise as theirs"
    passes, checkpoints = (PASSES, CHECKPOINTS / f"seed-{seed}") if sizes.texts is None else (1, None)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = checkpoints or Path(folder)
        run = trained(f"tiny-{shape}", passes, checkpoints, seed, sizes.texts)
        model = LanguageModel.from_pretrained(checkpoints / f"tiny-{shape}" / "best", device="cpu")
    model.model.to(torch.bfloat16).float()
    return {**compared(model, sizes), "seconds": run.seconds}


def sizes_(sizes: Sizes, rows: dict, size: int) -> dict:
    "The validation loss on the way, against the operations of training"
    model = fresh("gpt", sizes, 0, size=size)
    matrices = sum(w.numel() for name, w in model.model.named_parameters() if w.ndim > 1 and ".wpe" not in name)
    chosen = settings_of(rows, model, "gpt")
    run = pretrain(model, texts_of("train", sizes.texts), texts_of("validation", sizes.texts), epochs=sizes.passes,
                   evaluate_every=1088 // chosen["batch_size"], **QUICK, **chosen)
    tokens = chosen["batch_size"] * model.max_length  # of a step
    points = [{"operations": training_compute(matrices, row["step"] * tokens), "loss": row["loss"]}
              for row in run.evaluations]
    return {"parameters": model.parameters, "matrices": matrices, "points": points, "seconds": run.seconds}


def classifier_of(arm: str, sizes: Sizes, seed: int, labels: list[str]) -> TextClassifier:
    "The model of an arm with a new head"
    if not arm.startswith("random"):
        return TextClassifier.from_pretrained(arm, labels=labels, seed=seed, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        fresh(arm.split()[1], sizes, seed).save(folder)
        return TextClassifier.from_pretrained(folder, labels=labels, seed=seed, device="cpu")


def tuned(classifier: TextClassifier, reviews: dict, count: int, epochs: int, rate: float, seed: int, judged: Dataset):
    "Accuracy after fine-tuning on some labels"
    epochs = max(1, epochs // 2) if classifier.model.config.hidden_size == 384 else epochs  # the encoder needs fewer
    train = reviews["train"].shuffle(seed=seed).select(range(count))
    fine_tune(classifier, train, epochs=epochs, learning_rate=rate, batch_size=16, seed=seed, progress=False)
    return validation_scores(classifier, judged)["accuracy"]


def fine_rates(sizes: Sizes, rows: dict, arm: str, labels: int, epochs: int, rate: float) -> dict:
    "Accuracy on validation reviews, for a seed that no other part has"
    reviews = load_dataset("movies")
    judged = reviews["validation"].select(range(min(500, 30 * sizes.test)))
    names = reviews["train"].features["label"].names
    return {"accuracy": tuned(classifier_of(arm, sizes, 100, names), reviews, labels, epochs, rate, 100, judged)}


def transfer(sizes: Sizes, rows: dict, arm: str, labels: int, epochs: int, seed: int) -> dict:
    "Accuracy on test reviews, at the rate that was best on the validation part"
    found = {rate: rows["fine_rates"][f"{arm} {labels} {epochs} {rate:g}"]["accuracy"] for rate in rates_of(arm)}
    rate, reviews, start = max(found, key=found.get), load_dataset("movies"), time.perf_counter()
    judged = reviews["test"].select(range(min(sizes.test, len(reviews["test"]))))
    classifier = classifier_of(arm, sizes, seed, reviews["train"].features["label"].names)
    return {"accuracy": tuned(classifier, reviews, labels, epochs, rate, seed, judged), "rate": rate,
            "reviews": len(judged), "seconds": time.perf_counter() - start}


def rates_of(arm: str) -> tuple[float, ...]:
    "The rates that are tried"
    return ENCODER_RATES if arm == "minilm" else FINE_RATES


def domain(sizes: Sizes, rows: dict, seed: int) -> dict:
    "Test accuracy on tweets, by what the model read before"
    others = tuple(name for name in BUNDLED_DATASETS if name != "tweets")
    model = fresh("bert", sizes, seed)
    chosen = settings_of(rows, model, "bert")
    pretrain(model, texts_of("train", sizes.texts, others), epochs=sizes.passes,
             seed=seed, **QUICK, **chosen)
    tweets, found = load_dataset("tweets"), {}
    target = texts_of("train", sizes.texts, ("tweets",))
    tokens = token_blocks(model.tokenizer, target).numel()
    control = texts_of("train", sizes.texts, ("movies",))
    while len(control) > 10 and token_blocks(model.tokenizer, control).numel() > tokens * 1.02:
        control = control[: int(len(control) * 0.98)]
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder)
        for name, texts in {"nothing more": None, "tweets": target, "movie reviews": control}.items():
            again = LanguageModel.from_pretrained(folder, max_length=128, device="cpu")
            if texts is not None:
                again_so = {**chosen, "learning_rate": chosen["learning_rate"] / 2}
                pretrain(again, texts, epochs=sizes.again, seed=seed, **QUICK, **again_so)
            found[name] = domain_scores(again, sizes, tweets, seed)
    return found


def domain_scores(model: LanguageModel, sizes: Sizes, tweets: dict, seed: int) -> dict:
    "The loss on tweets that were not read, and test accuracy with 200 labels"
    blocks = token_blocks(model.tokenizer, texts_of("test", sizes.texts, ("tweets",)))
    (labels, epochs), *_ = sizes.labels
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder)
        names = tweets["train"].features["label"].names
        classifier = TextClassifier.from_pretrained(folder, labels=names, seed=seed, device="cpu")
    return {"loss": guess(model, blocks).losses.mean().item(),
            "accuracy": tuned(classifier, tweets, labels, epochs, 3e-4, seed, tweets["test"])}


def jobs(sizes: Sizes) -> dict[str, dict[str, tuple]]:
    "The rows of each part, and what makes them"
    arms = [(arm, labels, epochs) for labels, epochs in sizes.labels for arm in ARMS]
    return {
        "rates": {named(shape, *setting): (shape, *setting) for shape in SHAPES for setting in SETTINGS[shape]},
        "bundled": {shape: (shape,) for shape in SHAPES},
        "fine_rates": {f"{arm} {labels} {epochs} {rate:g}": (arm, labels, epochs, rate)
                       for arm, labels, epochs in arms for rate in rates_of(arm)},
        "transfer": {f"{arm} {labels} {epochs} {seed}": (arm, labels, epochs, seed)
                     for arm, labels, epochs in arms for seed in range(sizes.seeds)},
        "full": {f"{shape} {seed}": (shape, seed) for seed in range(1, sizes.few) for shape in SHAPES},
        "sizes": {str(size): (size,) for size in SIZES},
        "domain": {str(seed): (seed,) for seed in range(sizes.few)},
        "seeds": {f"{shape} {seed}": (shape, seed) for shape in SHAPES for seed in range(sizes.few)},
    }


WORK = {"rates": rates, "seeds": seeds, "bundled": bundled, "full": full, "sizes": sizes_, "fine_rates": fine_rates,
        "transfer": transfer, "domain": domain}


def summary(rows: dict[str, dict[str, dict]]) -> dict:
    "Means and 95 % intervals"
    found = {}
    if rows.get("transfer"):
        groups = {}
        for key, row in rows["transfer"].items():
            groups.setdefault(key.rsplit(" ", 1)[0], []).append(row["accuracy"])
        found["transfer"] = {key: interval(values) for key, values in groups.items()}
    if rows.get("domain"):
        names = next(iter(rows["domain"].values()))
        found["domain"] = {name: {figure: interval([row[name][figure] for row in rows["domain"].values()])
                                  for figure in ("loss", "accuracy")} for name in names}
        gains = [row["tweets"]["accuracy"] - row["nothing more"]["accuracy"] for row in rows["domain"].values()]
        found["gain by reading tweets"] = interval(gains)
    return found


def main():
    "Make the rows that are missing"
    given = parser_of_parts(__doc__, [*WORK]).parse_args()
    sizes = SMALL if given.small else FULL
    make_parts(NAME, given, sizes, jobs(sizes), WORK, summary)


if __name__ == "__main__":
    main()
