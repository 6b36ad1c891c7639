"""Build llm_course/assets from the pinned source distribution of vaderSentiment and from WordNet 3.0.

    python tools/build_assets.py vaderSentiment-3.3.2.tar.gz /usr/share/wordnet

The sources come from: pip download --no-deps --no-binary vaderSentiment vaderSentiment==3.3.2
and from: apt-get install wordnet-base

Each line of `<name>.jsonl.gz` is one text: id, document, text, ratings, split. The lines of `synonyms.tsv.gz` are
described in synonym_table.py. The files are the same, byte for byte, whenever they are built with the same zlib.
"""

import argparse
import ast
import gzip
import hashlib
import io
import json
import random
import tarfile
from collections import defaultdict
from pathlib import Path

from synonym_table import lines_of_table

from llm_course.data import SPLITS, near_duplicates

SOURCE_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
FILES = {"movies": "movieReviewSnippets", "products": "amazonReviewSnippets",
         "tweets": "tweets", "opinions": "nytEditorialSnippets"}
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
THRESHOLD = 0.8


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
    parent = list(range(len(rows)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first_of = {}
    for i, row in enumerate(rows):
        parent[root(i)] = root(first_of.setdefault(row["document"], i))
    for i, j in near_duplicates([row["text"] for row in rows], THRESHOLD):
        parent[root(j)] = root(i)
    groups = defaultdict(list)
    for i in range(len(rows)):
        groups[root(i)].append(i)
    return list(groups.values())


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
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "llm_course" / "assets")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    content = arguments.source.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SOURCE_SHA256:
        raise SystemExit(f"{arguments.source} has SHA-256 {found}, expected {SOURCE_SHA256}")
    with tarfile.open(fileobj=io.BytesIO(content)) as source:
        inner = source.extractfile(ARCHIVE).read()
    files = {"synonyms.tsv.gz": lines_of_table(arguments.wordnet)}
    with tarfile.open(fileobj=io.BytesIO(inner)) as archive:
        for name in FILES:
            rows = read_rows(archive, name)
            assign_splits(rows)
            files[f"{name}.jsonl.gz"] = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows]
    sums = ""
    for name in sorted(files):
        data = compressed(files[name])
        (arguments.out / name).write_bytes(data)
        sums += f"{hashlib.sha256(data).hexdigest()}  {name}\n"
        print(f"{name}: {len(files[name]):,} lines, {len(data):,} bytes")
    (arguments.out / "SHA256SUMS").write_text(sums)


if __name__ == "__main__":
    main()
