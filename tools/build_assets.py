"""Build llm_course/assets from the pinned sources of vaderSentiment and names, from WordNet 3.0, and from emoji.

    python tools/build_assets.py vaderSentiment-3.3.2.tar.gz /usr/share/wordnet names-0.3.0.tar.gz emoji

The sources come from: pip download --no-deps --no-binary :all: vaderSentiment==3.3.2 names==0.3.0
and from: apt-get install wordnet-base
The folder `emoji` holds NotoColorEmoji.ttf of Debian's fonts-noto-color-emoji 2.042-0+deb12u1, and two packages of npm:
    npm pack emojibase-data@17.0.0 @iconify-json/fluent-emoji-flat@1.2.6
(the second saved as fluent-emoji-flat-1.2.6.tgz). What is drawn in outlines needs: pip install resvg-py==0.5.0

Each line of `<name>.jsonl.gz` is one text: id, document, text, ratings, split. The lines of `synonyms.tsv.gz` are
described in synonym_table.py, those of `expressions.txt.gz` in fixed_expressions.py, the emoji in emoji_sheet.py. Each
line of `names.tsv.gz` is a given name, and 1 if it is an everyday word too, else 0. The files are the same, byte for
byte, whenever they are built with the same zlib, and the emoji with the same Pillow (13.0.0) and FreeType.
"""

import argparse
import ast
import gzip
import hashlib
import io
import json
import random
import re
import tarfile
from collections import Counter, defaultdict
from pathlib import Path

from checksums import write_checksums
from emoji_sheet import emoji_files
from fixed_expressions import lines_of_expressions
from linked import linked
from synonym_table import checked_wordnet, common_words, lines_of_table

from llm_course.data import SPLITS, near_duplicates

SOURCE_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
NAMES_SHA256 = "726e46254f2ed03f1ffb5d941dae3bc67c35123941c29becd02d48d0caa2a671"
ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
FILES = {"movies": "movieReviewSnippets", "products": "amazonReviewSnippets",
         "tweets": "tweets", "opinions": "nytEditorialSnippets"}
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
THRESHOLD = 0.8
COMMON = 0.015  # per cent of the people; an everyday word that fewer are called is no name to us


def read_rows(archive: tarfile.TarFile, name: str) -> list[dict]:
    "Texts with their ratings, joined by id, in the order of the source"
    def fields(kind: str) -> list[list[str]]:
        file = archive.extractfile(f"hutto_ICWSM_2014/{FILES[name]}_{kind}.txt")
        content = file.read().decode("utf-8-sig")
        return [line.lstrip("\ufeff").split("\t") for line in content.split("\r\n") if line]

    ratings = {row[0]: ast.literal_eval(row[3]) for row in fields("anonDataRatings")}
    rows = []
    for identity, _, text in fields("GroundTruth"):
        document = identity.rpartition("_")[0] or identity
        rows.append({"id": identity, "document": document, "text": text, "ratings": ratings.pop(identity)})
    if ratings:
        raise ValueError(f"{name}: {len(ratings)} ratings without a text, for example {next(iter(ratings))}")
    return rows


def groups_of(rows: list[dict]) -> list[list[int]]:
    "Row numbers that must stay together: of one document, or joined by a chain of near-duplicates"
    first_of = {}
    pairs = [(i, first_of.setdefault(row["document"], i)) for i, row in enumerate(rows)]
    return linked(len(rows), [*pairs, *near_duplicates([row["text"] for row in rows], THRESHOLD)])


def sentiment(row: dict) -> str:
    "The stratum of a text"
    mean = sum(row["ratings"]) / len(row["ratings"])
    return "positive" if mean > 0.5 else "negative" if mean < -0.5 else "neutral"


def assign_splits(rows: list[dict], seed: int = 0):
    "Give each group, largest first, to the split that is furthest below its share of the group's sentiments"
    totals = defaultdict(int)
    for row in rows:
        totals[sentiment(row)] += 1
    filled = {split: defaultdict(int) for split in SPLITS}
    groups = groups_of(rows)
    random.Random(seed).shuffle(groups)
    for group in sorted(groups, key=len, reverse=True):
        kinds = [sentiment(rows[i]) for i in group]

        def shortage(split: str, kinds: list[str] = kinds) -> float:
            return sum(1 - filled[split][kind] / (SHARES[split] * totals[kind]) for kind in kinds)

        split = max(SPLITS, key=shortage)
        for i, kind in zip(group, kinds, strict=True):
            rows[i]["split"] = split
            filled[split][kind] += 1


def lines_of_names(content: bytes, texts: list[str]) -> list[str]:
    "The given names of the census of 1990, sorted; a name that the texts write in lower case twice is a word too"
    shares = defaultdict(float)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for kind in ("female", "male"):
            table = archive.extractfile(f"names-0.3.0/names/dist.{kind}.first").read().decode()
            for name, share, *_ in map(str.split, table.splitlines()):
                shares[name.capitalize()] += float(share)
    written = Counter(word for text in texts for word in re.findall(r"\b[a-z]+\b", text))
    words = {name for name in shares if written[name.lower()] >= 2}
    return [f"{name}\t{int(name in words)}" for name in sorted(shares) if name not in words or shares[name] >= COMMON]


def read_source(path: Path, expected: str) -> bytes:
    "The content of a file, if its SHA-256 is the expected one"
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise SystemExit(f"{path} has SHA-256 {found}, expected {expected}")
    return content


def compressed(lines: list[str]) -> bytes:
    "Lines, gzipped without a time stamp"
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=0, compresslevel=9) as file:
        file.write("".join(line + "\n" for line in lines).encode())
    return out.getvalue()


def main():
    "Read the sources, write the assets and their checksums"
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="vaderSentiment-3.3.2.tar.gz")
    parser.add_argument("wordnet", type=Path, help="the folder with WordNet's data and index files")
    parser.add_argument("names", type=Path, help="names-0.3.0.tar.gz")
    parser.add_argument("emoji", type=Path, help="the folder with a font and two packages of emoji")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "llm_course" / "assets")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    content, texts = read_source(arguments.source, SOURCE_SHA256), []
    with tarfile.open(fileobj=io.BytesIO(content)) as source:
        inner = source.extractfile(ARCHIVE).read()
    wordnet, common = checked_wordnet(arguments.wordnet), common_words()
    files = {"synonyms.tsv.gz": lines_of_table(wordnet, common),
             "expressions.txt.gz": lines_of_expressions(wordnet, common)}
    with tarfile.open(fileobj=io.BytesIO(inner)) as archive:
        for name in FILES:
            rows = read_rows(archive, name)
            assign_splits(rows)
            texts += [row["text"] for row in rows]
            files[f"{name}.jsonl.gz"] = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows]
    files["names.tsv.gz"] = lines_of_names(read_source(arguments.names, NAMES_SHA256), texts)
    sheet, files["emoji.jsonl.gz"] = emoji_files(arguments.emoji)
    (arguments.out / "emoji.png").write_bytes(sheet)
    print(f"emoji.png: {len(sheet):,} bytes")
    for name in sorted(files):
        data = compressed(files[name])
        (arguments.out / name).write_bytes(data)
        print(f"{name}: {len(files[name]):,} lines, {len(data):,} bytes")
    write_checksums(arguments.out)


if __name__ == "__main__":
    main()
