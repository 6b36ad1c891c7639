"""How the files beside this one were made, with version 0.1.0: python tests/data/0.1.0/write.py FOLDER

They are read by tests of every later version, so they are never written again.
"""

import json
import os
import sys
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from llm_course.adversarial_examples import TypoAttack
from llm_course.fine_tuning import Callback, fine_tune
from llm_course.models import TextClassifier

FOLDER = Path(sys.argv[-1])
WORDS = "the a film is was good bad dull witty gorgeous story actors plot slow very and not . , !".split()
TEXTS = [f"the {noun} is {word} , {end} !" for word in ("good", "witty", "gorgeous", "bad", "dull", "slow")
         for noun in ("film", "story", "plot") for end in ("very good", "not bad")]
DATA = {"text": TEXTS, "label": [int(number < 18) for number in range(36)]}


def classifier() -> TextClassifier:
    "A tiny one, with a word map and a window of its own"
    letters = [chr(code) for code in range(97, 123)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *letters, *(f"##{x}" for x in letters)]
    tokenizer = BertTokenizerFast(vocab={token: number for number, token in enumerate(tokens)})
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokens), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=32, max_position_embeddings=48)
    return TextClassifier(BertForSequenceClassification(config), tokenizer, ["negative", "positive"], max_length=24,
                          device="cpu", word_map={"picture": "film"})


class Interrupt(Callback):
    "Ends a run three steps after its first checkpoint"

    def on_step(self, run):
        "As the stop button of a notebook does"
        if len(run.steps) == 12:
            raise KeyboardInterrupt


def main():
    "Write one file of each format"
    from llm_course.command_line import write_course
    from llm_course.exercises import record

    os.environ["LLM_COURSE_PROGRESS"] = str(FOLDER / "progress.json")
    texts, seen = [*TEXTS[::5], "a picture, qu"], {"text": ["a slow film", "a dull story"], "label": [0, 0]}
    settings = {"epochs": 3, "batch_size": 4, "learning_rate": 1e-3, "progress": False, "seed": 3}
    stopped, whole = classifier(), classifier()
    fine_tune(stopped, DATA, seen, **settings, checkpoints=FOLDER / "stopped", keep_best=False, callbacks=[Interrupt()])
    fine_tune(whole, DATA, seen, **settings)
    stopped.save(FOLDER / "classifier")
    report = TypoAttack(seed=0, query_budget=40).attack(stopped, {"text": TEXTS, "label": DATA["label"]},
                                                        resume_from=FOLDER / "journal.jsonl", progress=False)
    record("exercises", "majority label", True)
    record("quizzes", "11", 2)
    course = FOLDER / "course"
    root = course / "root"
    (root / "nbs/lessons").mkdir(parents=True)
    cell = {"cell_type": "code", "execution_count": None, "id": "a1", "metadata": {}, "outputs": [], "source": ["1 + 1"]}
    notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (root / "nbs/index.ipynb").write_text(json.dumps(notebook))
    (root / "nbs/lessons/10_a.ipynb").write_text(json.dumps(notebook))
    write_course(course / "mine", root)
    expected = {"texts": texts, "logits": stopped.logits(texts).tolist(), "whole run": whole.logits(texts).tolist(),
                "accuracy under attack": report.accuracy_under_attack, "queries": report.queries_per_text}
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=1))


if __name__ == "__main__":
    main()
