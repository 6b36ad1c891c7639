"""What the choices of lesson 60 are worth: artists, texts, batches, a tuned encoder; each with three seeds.

    python benchmarks/multimodal.py                     # all rows; goes on where an earlier call was stopped
    python benchmarks/multimodal.py --rows "batch "     # only the rows whose names begin so
    python benchmarks/multimodal.py --small             # a quick try of each row; writes nothing

A row is one training and its measures on the 320 emoji of the test part, drawn by both artists: recall at 1 and 10 of
names, and the share of right groups without labels. "frozen" is the training of the lesson. "tuned" goes on from it for
some epochs at a low learning rate with all weights, those of the text encoder too; "frozen, longer" does the same with
the encoder frozen. "batch" rows see equally many pairs, at the same learning rate. Two processes work (or --processes),
with one thread each.
"""

import json
from functools import lru_cache
from typing import NamedTuple

from common import make_parts, over_seeds, parser_of_parts
from datasets import Dataset, concatenate_datasets

from llm_course.data import load_dataset
from llm_course.models import SentenceEncoder
from llm_course.multimodal import GROUP_PROMPTS, DualEncoder, match, recall_at, retrieval_ranks, unfrozen, zero_shot
from llm_course.pictures.pairs import RememberedTexts, remembered_texts

NAME = "multimodal"
ARTISTS = ("noto", "fluent")


class Sizes(NamedTuple):
    "How much is trained"

    pairs: int | None  # of training, for each artist; all if None
    epochs: int
    more: int  # epochs of "tuned" and "frozen, longer"
    seeds: int
    batches: tuple[int, ...]  # beside the usual 128
    judged: int | None  # test emoji; all if None
    bundled: bool = True  # else a tiny encoder stands for the bundled one


FULL = Sizes(None, 40, 5, 3, (16, 32, 64, 256, 512), None)
SMALL = Sizes(40, 1, 1, 1, (8,), 20, False)


@lru_cache(1)
def encoder_of(sizes: Sizes) -> RememberedTexts:
    "What reads the texts"
    return remembered_texts() if sizes.bundled else RememberedTexts(SentenceEncoder("tiny-bert"))


@lru_cache(4)
def drawn_by(artist: str, part: str, count: int | None) -> Dataset:
    "The first rows of an artist"
    rows = load_dataset("emoji")[part]
    return rows.select([place for place, name in enumerate(rows["artist"]) if name == artist][:count])


def measured(sizes: Sizes, model: DualEncoder) -> dict:
    "Recall of names and the share of right groups, for each artist"
    found = {}
    for artist in ARTISTS:
        rows = drawn_by(artist, "test", sizes.judged)
        pictures = rows["image"][:]
        ranks = retrieval_ranks(model.embed_texts(rows["text"][:]), model.embed_pictures(pictures))
        found |= {f"{artist}, at {k}": recall_at(ranks, k) for k in (1, 10)}
        answers = zip(zero_shot(model, pictures, GROUP_PROMPTS), rows["group"][:], strict=True)
        found[f"{artist}, groups"] = sum(answer == group for answer, group in answers) / len(rows)
    return found


def trained(sizes: Sizes, rows: dict, way: str, seed: int) -> dict:
    "Train in one way and measure"
    kind, _, value = way.partition(" ")
    artists = {"both": ARTISTS, "fluent": ("fluent",)}.get(kind, ("noto",))
    data = concatenate_datasets([drawn_by(artist, "train", sizes.pairs) for artist in artists])
    if kind == "names":
        data = data.remove_columns("keywords")
    size = int(value) if kind == "batch" else min(128, len(data) // 2)
    options = {"progress": False, "seed": seed, "batch_size": size}
    model = DualEncoder(encoder_of(sizes), seed=seed)
    epochs = sizes.epochs // 2 if kind == "both" else sizes.epochs  # equally many pairs
    match(model, data, epochs=max(epochs, 1), **options)
    if way in ("tuned", "frozen, longer"):
        model = unfrozen(model) if way == "tuned" else model
        match(model, data, epochs=sizes.more, learning_rate=1e-4, **options)
    return measured(sizes, model)


WORK = {"trained": trained}


def jobs(sizes: Sizes) -> dict[str, dict[str, tuple]]:
    "The arguments of each row by part and name"
    ways = ["frozen", "fluent", "both", "names alone", "frozen, longer", "tuned",
            *(f"batch {size}" for size in sizes.batches)]
    return {"trained": {f"{way} {seed}": (way, seed) for seed in range(sizes.seeds) for way in ways}}


def summary(rows: dict[str, dict[str, dict]]) -> dict:
    "By way: the mean of each measure over the seeds, with its 95 % interval"
    figures, made = {}, rows.get("trained", {})
    for figure in next(iter(made.values()), {}):
        if figure != "seconds":
            for way, value in over_seeds(made, figure).items():
                figures.setdefault(way, {})[figure] = value
    return figures


def main():
    "Make the rows that are missing"
    given = parser_of_parts(__doc__, [*WORK]).parse_args()
    sizes = SMALL if given.small else FULL
    rows = make_parts(NAME, given, sizes, jobs(sizes), WORK, summary, timed=True)
    if given.small:
        print("summary", json.dumps(summary(rows)))


if __name__ == "__main__":
    main()
