"""Run a lesson on a CPU as it runs where there is a GPU, made small

python tests/gpu_branch.py --models FOLDER        # make the small models, once
python tests/gpu_branch.py LESSON.ipynb FOLDER    # run a lesson with them

Both want HF_HUB_OFFLINE=1 and are quickest with OMP_NUM_THREADS=1, which libraries read when they are imported.

The lesson is run as it stands. What it imports is made smaller before: models, data, and the numbers that
`by_scale` gives. What it sends to the fastest device is kept apart from what it does not, as `other_device` tells.
Claims are shown and not enforced, since numbers of this size mean nothing; any other exception ends the run with
an exit status that is not 0. The last line is a JSON object."""

import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Sized
from pathlib import Path

import datasets
import torch
from IPython.core.interactiveshell import InteractiveShell
from other_device import pretended
from traitlets.config import Config
from transformers import AutoConfig, AutoModel, AutoTokenizer

from llm_course import claims, core, data, models

SHRUNK = {"hidden_size": 48, "intermediate_size": 192, "num_attention_heads": 4, "initializer_range": 0.05}
FROM_HUB = {"bert-base-uncased"}  # models that lessons name and the package does not carry
OTHERS_FROM_HUB = {"gpt2": "tiny-gpt", "google/t5-v1_1-base": "tiny-t5"}  # and of other shapes
CLIP_FROM_HUB = "openai/clip-vit-large-patch14"  # and of pictures with words
VARIABLES = {"LLM_COURSE_SCALE": "gpu", "CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "agg"}
OF_THE_BUNDLED_MODEL = {"02_attention.ipynb"}  # is about its sizes and weights, and trains nothing
NO_HISTORY = Config({"HistoryManager": {"enabled": False}})
SENTENCES = (2, 5, 10, 45)  # of the reviews that stand for IMDb's, in turn; the last are longer than 512 tokens


def write_encoder(folder: Path):
    "A sentence encoder with the bundled model's words, in 48 of their 384 dimensions, and new layers"
    source = models.model_source("minilm")
    words = AutoModel.from_pretrained(source).embeddings.word_embeddings.weight.detach()  # (V, 384)
    centred = words - words.mean(0)
    _, axes = torch.linalg.eigh(centred.T @ centred)  # by rising variance
    kept = centred @ axes[:, -SHRUNK["hidden_size"]:]
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.from_pretrained(source, **SHRUNK))
    model.embeddings.word_embeddings.weight.data.copy_(kept / kept.std())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)


def write_models(folder: Path):
    "The encoder, and a classifier that reads three of four reviews rightly, so that attacks have what to turn"
    from llm_course.fine_tuning import fine_tune
    from llm_course.pictures.hub import write_random_clip
    write_encoder(folder / "encoder")
    write_random_clip(folder / "clip", AutoTokenizer.from_pretrained(models.model_source("minilm")))
    classifier = models.TextClassifier.from_pretrained(folder / "encoder", labels=data.LABELS)
    train = data.load_dataset("movies")["train"].select(range(3000))
    print(fine_tune(classifier, train, epochs=1, learning_rate=3e-3, progress=False))
    classifier.model.save_pretrained(folder / "classifier")
    classifier.tokenizer.save_pretrained(folder / "classifier")


def use_models(folder: Path):
    "Let every name of a model stand for one of the small ones"
    source, start = models.model_source, models.SentenceEncoder.__init__
    others = {CLIP_FROM_HUB: str(folder / "clip"), **OTHERS_FROM_HUB}
    models.model_source = lambda name: (str(folder / "classifier") if name in {"minilm", *FROM_HUB}
                                        else source(others.get(name, name)))

    def small_encoder(self: models.SentenceEncoder, name: str | Path = "minilm", **options):
        start(self, folder / "encoder" if name == "minilm" else name, **options)

    models.SentenceEncoder.__init__ = small_encoder


def long_reviews(part: str, count: int, labelled: bool = True) -> datasets.Dataset:
    "Reviews of bundled sentences in the form of the Hub's IMDb"
    movies, generator = data.load_dataset("movies")[part], random.Random(part)
    sentences = [[row["text"] for row in movies if row["label"] == label] for label in (0, 1)]
    rows = {"text": [], "label": []}
    for number in range(count):
        label, length = number % 2, SENTENCES[number // 2 % len(SENTENCES)]
        rows["text"].append(" ".join(generator.sample(sentences[label], length)))
        rows["label"].append(label if labelled else -1)
    label = datasets.ClassLabel(names=["neg", "pos"])
    return datasets.Dataset.from_dict(rows, datasets.Features({"text": datasets.Value("string"), "label": label}))


def questions_by_intent() -> datasets.DatasetDict:
    "Bundled questions in the form of the Hub's clinc_oos: one intent after another, those without one in the midst"
    questions, parts = data.support_questions(), {}
    intents = sorted(set(questions["intent"]) - {data.OUT_OF_SCOPE})[:6]
    names = [*intents[:3], "oos", *intents[3:]]
    for part in data.SPLITS:
        rows = [(names.index("oos" if row.intent == data.OUT_OF_SCOPE else row.intent), row.text)
                for row in questions[questions["split"] == part].itertuples() if row.intent in {*intents, data.OUT_OF_SCOPE}]
        columns = {"intent": [label for label, _ in sorted(rows)], "text": [text for _, text in sorted(rows)]}
        features = datasets.Features({"intent": datasets.ClassLabel(names=names), "text": datasets.Value("string")})
        parts[part] = datasets.Dataset.from_dict(columns, features)
    return datasets.DatasetDict(parts)


def use_data():
    "Let bundled sets have every second or third text, and the Hub's sets a few dozen"
    load_ratings = data.load_ratings

    def some_ratings(name: str):
        return load_ratings(name).iloc[:: 2 if name == "movies" else 3].reset_index(drop=True)

    data.load_ratings = some_ratings
    hub = datasets.DatasetDict(train=long_reviews("train", 32), test=long_reviews("test", 32),
                               unsupervised=long_reviews("train", 8, labelled=False))
    names = {"imdb", *data.HUB_ALIASES.values()}
    loads = {name: hub for name in names}
    loads["zeroshot/twitter-financial-news-sentiment"] = datasets.DatasetDict(train=long_reviews("train", 64))
    loads["Salesforce/wikitext"] = datasets.DatasetDict(train=long_reviews("train", 400))  # lines, and empty ones
    loads["clinc/clinc_oos"] = questions_by_intent()
    datasets.load_dataset = lambda name, *_: loads[name]


def small(gpu: object, laptop: object) -> object:
    "The value for a GPU with numbers up to the laptop's, or up to an eighth of them where these are above 64"
    if isinstance(gpu, int) and isinstance(laptop, int):
        return min(gpu, max(laptop // 8, min(laptop, 8)))
    if isinstance(gpu, tuple) and isinstance(laptop, tuple) and len(gpu) == len(laptop):
        return tuple(map(small, gpu, laptop))
    if isinstance(gpu, range) and isinstance(laptop, Sized):
        return gpu[:len(laptop)]
    if isinstance(gpu, dict):
        return {name: small(value, laptop.get(name, 4096)) for name, value in gpu.items()}
    return gpu


def use_small_sizes() -> list:
    "Let `by_scale` give small numbers; the values it gave"
    given = []

    def by_scale(*, laptop: object, gpu: object) -> object:
        given.append(small(gpu, laptop))
        return given[-1]

    core.by_scale = by_scale
    return given


def show_claims() -> list[bool]:
    "Let a claim be shown whether or not it holds; which held"
    held = []

    def claim(statement: str, holds: bool, measured: object = ""):
        held.append(bool(holds))
        print("holds:" if holds else "does not hold at this size:", statement, f"(measured: {measured})")

    claims.claim = claim
    return held


def run_cells(path: Path, run_cell: Callable):
    "Run the cells of a notebook in their order; the first that fails ends the process"
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] != "code" or source.lstrip().startswith("#| eval: false"):
            continue
        print(f"cell {number}, after {sum(os.times()[:4]):.1f} s of processor time", flush=True)
        if not run_cell(source).success:  # the shell has printed the error
            sys.exit(f"cell {number} of {path.name} fails where there is a GPU:\n{source}")


def run_lesson(path: Path, folder: Path):
    "Run a notebook with the models of a folder; the last line says what was counted"
    given, held = use_small_sizes(), show_claims()
    if path.name not in OF_THE_BUNDLED_MODEL:
        use_models(folder)
    use_data()
    os.chdir(path.parent)
    with pretended():
        run_cells(path, InteractiveShell.instance(config=NO_HISTORY).run_cell)
    print(json.dumps({"sizes": len(given), "claims": len(held), "seconds": round(sum(os.times()[:4]), 1)}))


def main(*arguments: str):
    "Make the models, or run a lesson"
    with tempfile.TemporaryDirectory() as scratch:
        os.environ |= {**VARIABLES, "IPYTHONDIR": scratch, "LLM_COURSE_CACHE": f"{scratch}/cache",
                       "LLM_COURSE_PROGRESS": f"{scratch}/progress.json"}
        torch.set_num_threads(1)
        if arguments[0] == "--models":
            write_models(Path(arguments[1]))
        else:
            run_lesson(Path(arguments[0]).resolve(), Path(arguments[1]).resolve())


if __name__ == "__main__":
    main(*sys.argv[1:])
