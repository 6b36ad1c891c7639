"""Inference speed of predict_proba against transformers.pipeline with batch size 1 and 32.

Same model, texts and precision. Each contestant answers in a process of its own; they take turns. Times include
tokenising, which both do inside the call.

    python benchmarks/inference_speed.py [--repeats 5] [--size 1000]
"""

import argparse
import json
import resource
import time

import torch
from common import in_own_process, interleaved, medians, ratios, write
from transformers import pipeline

from llm_course.core import best_device
from llm_course.data import load_dataset
from llm_course.models import TextClassifier, model_source

CONTESTANTS = ["predict_proba", "pipeline, batch size 1", "pipeline, batch size 32"]


def contest(name: str, size: int) -> dict:
    "Answer all texts once, after a warm-up; texts per second, peak memory in MiB"
    texts = list(load_dataset("movies")["train"]["text"][:size])
    if name == "predict_proba":
        classifier = TextClassifier.from_pretrained("minilm", labels=["negative", "positive"])

        def answer(some: list[str]) -> list:
            return classifier.predict_proba(some).tolist()
    else:
        pipe = pipeline("text-classification", model=model_source("minilm"), top_k=None, device=best_device(),
                        dtype=torch.float32, batch_size=int(name.rsplit(" ", 1)[1]))

        def answer(some: list[str]) -> list:
            return pipe(some)
    answer(texts[:32])
    start = time.perf_counter()
    answers = answer(texts)
    seconds = time.perf_counter() - start
    assert len(answers) == size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"texts_per_second": size / seconds, "peak_memory_mib": peak}


def main():
    "Run one contestant, or all of them in turn"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, default=1000)
    parser.add_argument("--contestant", choices=CONTESTANTS)
    arguments = parser.parse_args()
    if arguments.contestant:
        print(json.dumps(contest(arguments.contestant, arguments.size)))
        return
    rows = interleaved(CONTESTANTS, arguments.repeats, lambda name, _: in_own_process(
        __file__, "--contestant", name, "--size", str(arguments.size)))
    write("inference_speed", {
        "data": f"{arguments.size} movie reviews in their own order, float32", "medians": medians(rows),
        "predict_proba_times_faster_than": ratios(rows, "predict_proba", "texts_per_second"), "runs": rows})


if __name__ == "__main__":
    main()
