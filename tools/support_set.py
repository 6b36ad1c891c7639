"""Build llm_course/assets/support.jsonl.gz and support_answers.json from tools/support_questions.txt.

    python tools/support_set.py

Each line of `support.jsonl.gz` is one question: id, intent, text, split. The id begins with the intent, or with `near` or
`far` where no answer fits. Of each intent 9 questions are for training, 2 for validation and 4 for the test; of those that
are near the scope, and of those that are far, 15, 20 and 40. Which ones is decided by a hash of the text, not by us. The
same source gives the same bytes, with the same zlib.
"""

import gzip
import hashlib
import io
import json
from collections import defaultdict
from pathlib import Path

from checksums import ASSETS, write_checksums

SOURCE = Path(__file__).with_name("support_questions.txt")
NOWHERE = "out_of_scope"
SPLITS = {True: {"train": 9, "validation": 2, "test": 4}, False: {"train": 15, "validation": 20, "test": 40}}


def read_source(text: str) -> tuple[dict[str, dict[str, str]], dict[str, list[str]]]:
    "Heading and answer by intent, and the questions by intent, `near` or `far`; ValueError that names the line"
    answers, questions, name = {}, defaultdict(list), ""
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith("#"):
            continue
        if line.startswith("="):
            name, _, heading = map(str.strip, line[1:].partition("|"))
            name = name.removeprefix(f"{NOWHERE} ")
            if name in questions:
                raise ValueError(f"line {number}: {name} has been there before")
            questions[name] = []
            if heading:
                answers[name] = {"heading": heading, "answer": ""}
        elif line.startswith(">"):
            answers[name]["answer"] = line[1:].strip()
        else:
            questions[name].append(line)
    return answers, dict(questions)


def rows_of(name: str, texts: list[str], known: bool) -> list[dict]:
    "The questions of one intent with their splits"
    sizes = SPLITS[known]
    if len(set(texts)) != sum(sizes.values()):
        raise ValueError(f"{name} has {len(set(texts))} different questions, expected {sum(sizes.values())}")
    splits = [split for split, size in sizes.items() for _ in range(size)]
    order = sorted(texts, key=lambda text: hashlib.sha256(text.encode()).digest())
    split_of = dict(zip(order, splits, strict=True))
    return [{"id": f"{name}-{number:02}", "intent": name if known else NOWHERE, "text": text, "split": split_of[text]}
            for number, text in enumerate(texts, 1)]


def main():
    "Read the source, write both files and the checksums"
    answers, questions = read_source(SOURCE.read_text(encoding="utf-8"))
    rows = [row for name, texts in questions.items() for row in rows_of(name, texts, name in answers)]
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=0, compresslevel=9) as file:
        file.write("".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows).encode())
    (ASSETS / "support.jsonl.gz").write_bytes(out.getvalue())
    (ASSETS / "support_answers.json").write_text(json.dumps(answers, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    write_checksums()
    print(f"{len(answers)} intents, {len(rows)} questions, {len(out.getvalue()):,} bytes")


if __name__ == "__main__":
    main()
