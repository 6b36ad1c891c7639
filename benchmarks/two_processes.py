"""Two cores, three ways to use them: one process with one thread or two, or two processes with a thread each.

    python benchmarks/two_processes.py [--repeats 5] [--size 512]     # writes results/two_processes.json
    python benchmarks/two_processes.py --small                        # a quick try; writes nothing

The bundled model trains on movie reviews in float32 on the CPU. `accelerate launch` starts each run; two
processes talk over gloo and halve the batch between them, so that a step has the same texts in all three. The
three take turns. Texts per second count the training steps of the second epoch; the first one warms up.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from common import interleaved, medians, ratios, write

from llm_course.data import load_dataset
from llm_course.fine_tuning import fine_tune
from llm_course.models import TextClassifier

CONTESTANTS = {  # processes, threads of each
    "one process, one thread": (1, 1),
    "one process, two threads": (1, 2),
    "two processes, one thread each": (2, 1),
}
BATCH_SIZE = 32  # texts of a step, on all processes together


def speed(threads: int, size: int, seed: int) -> dict:
    "What each launched process does: texts per second of all processes together"
    torch.set_num_threads(threads)
    train = load_dataset("movies")["train"].shuffle(seed=seed).select(range(size))
    classifier = TextClassifier.from_pretrained(labels=["negative", "positive"], device="cpu", seed=seed)
    batch_size = BATCH_SIZE // int(os.environ.get("WORLD_SIZE", 1))
    run = fine_tune(classifier, train, epochs=2, batch_size=batch_size, mixed_precision="no", seed=seed,
                    progress=False)
    first = max((row for row in run.steps if row["epoch"] <= 1), key=lambda row: row["step"])
    return {"texts_per_second": (run.examples - first["examples"]) / (run.seconds - first["seconds"]),
            "processes": torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1,
            "threads": torch.get_num_threads()}


def launched(name: str, repeat: int, size: int) -> dict:
    "Start a contestant; the result of its first process"
    processes, threads = CONTESTANTS[name]
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        command = [sys.executable, "-m", "accelerate.commands.launch", *["--multi_gpu"] * (processes > 1),
                   "--num_processes", processes, "--num_machines", 1, "--mixed_precision", "no",
                   "--dynamo_backend", "no", "--num_cpu_threads_per_process", threads,
                   "--main_process_port", port, __file__, "--threads", threads,
                   "--repeats", repeat, "--size", size, "--result", f"{folder}/result"]
        variables = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true",
                     "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=variables)
        if done.returncode:
            raise RuntimeError(f"{name} failed:\n{done.stderr[-3000:]}")
        return json.loads(Path(folder, "result").read_text())


def main():
    "Run one contestant, or all of them in turn"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, default=512, help="reviews, a multiple of the batch size")
    parser.add_argument("--small", action="store_true", help="64 reviews, once; nothing is written")
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)  # one contestant, by itself
    parser.add_argument("--result", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.threads:
        found = speed(arguments.threads, arguments.size, arguments.repeats)
        if int(os.environ.get("RANK", 0)) == 0:
            Path(arguments.result).write_text(json.dumps(found))
        return
    repeats, size = (1, 2 * BATCH_SIZE) if arguments.small else (arguments.repeats, arguments.size)
    rows = interleaved(list(CONTESTANTS), repeats, lambda name, repeat: launched(name, repeat, size))
    faster = ratios(rows, "two processes, one thread each", "texts_per_second")
    content = {"data": f"{size} movie reviews, {BATCH_SIZE} in a step, float32, the second of two epochs",
               "medians": medians(rows), "two_processes_times_as_fast_as": faster, "runs": rows}
    print(json.dumps(content)) if arguments.small else write("two_processes", content)


if __name__ == "__main__":
    main()
