"""What the benchmark scripts share: the machine in words, repeats, intervals, and rows that are made part by part."""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch

RESULTS = Path(__file__).parent / "results"


def machine() -> dict:
    "Processor, cores, memory, versions"
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"processor": model, "cores": os.cpu_count(), "torch_threads": torch.get_num_threads(),
            "memory_gib": round(memory, 1), "python": platform.python_version(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "versions": {name: version(name) for name in ("torch", "transformers", "accelerate", "datasets")}}


def quick_precision() -> str:  # an argument of fine_tune
    "What suits a GPU; else bfloat16 where the processor computes in it: elsewhere it is many times slower than float32"
    if torch.cuda.is_available():
        from llm_course.training.settings import hardware_precision  # not above: rivals' processes import this file too
        return hardware_precision(torch.device("cuda"))
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "no"


def interleaved(contestants: list[str], repeats: int, measure: Callable[[str, int], dict]) -> dict[str, list[dict]]:
    "Measure A B C, A B C, …, so that a machine whose speed drifts treats all alike"
    results = {name: [] for name in contestants}
    for repeat in range(repeats):
        for name in contestants:
            results[name].append(measure(name, repeat))
            print(repeat, name, results[name][-1], flush=True)
    return results


def in_own_process(script: str, *arguments: str) -> dict:
    "Run a contestant in a process of its own, for its peak memory; the JSON of its last line"
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{arguments} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def resident(field: str) -> float:
    "VmRSS (memory now) or VmHWM (its highest value) of this process in MB"
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6


def peak_memory(call: Callable[[], object]) -> float:
    "How far a call lifts the memory of this process, at its highest, in MB"
    Path("/proc/self/clear_refs").write_text("5")  # sets the highest value back to that of now
    before = resident("VmRSS")
    call()
    return resident("VmHWM") - before


def medians(rows: dict[str, list[dict]]) -> dict[str, dict]:
    "Median of each figure of each contestant"
    return {name: {key: statistics.median(row[key] for row in runs) for key in runs[0]} for name, runs in rows.items()}


def ratios(rows: dict[str, list[dict]], ours: str, figure: str) -> dict[str, float]:
    "Median over the repeats of our figure divided by theirs"
    return {other: statistics.median(a[figure] / b[figure] for a, b in zip(rows[ours], runs, strict=True))
            for other, runs in rows.items() if other != ours}


def interval(values: list[float]) -> tuple[float, float]:
    "Mean, and the half-width of its 95 % interval by Student's t"
    from llm_course.intervals import mean_interval  # not above: rivals' processes import this file too
    return mean_interval(values) if len(values) > 1 else (values[0], float("nan"))


def paired(rows: dict[str, dict], figure: Callable[[dict], Sequence[float] | float], kind: str, other: str) -> list[float]:
    "The figures of one kind less those of the other, of rows whose names end in the same word, wherever they stand"
    ends = [key.rpartition(" ")[2] for key in rows if key.rpartition(" ")[0] == kind]
    pairs = [(rows[f"{kind} {end}"], rows[f"{other} {end}"]) for end in ends if f"{other} {end}" in rows]
    return [float(gain) for one, base in pairs for gain in np.atleast_1d(np.subtract(figure(one), figure(base)))]


def by_kind(rows: dict[str, dict]) -> dict[str, list[dict]]:
    "Rows whose names differ in the last word alone, such as a seed"
    groups = {}
    for key, row in rows.items():
        groups.setdefault(key.rpartition(" ")[0], []).append(row)
    return groups


def gains(rows: dict[str, dict], figure: Callable[[dict], Sequence[float] | float], other: str) -> dict[str, tuple[float, float]]:
    "Mean and 95 % interval of what `paired` finds, for each kind of rows that has a partner"
    apart = {kind: paired(rows, figure, kind, other) for kind in by_kind(rows)}
    return {kind: interval(values) for kind, values in apart.items() if values}


def over_seeds(rows: dict[str, dict], figure: str) -> dict[str, tuple[float, float]]:
    "Mean and 95 % interval of a figure over seeds, which end the names of rows; rows without it are left out"
    groups = {key: [row[figure] for row in group if figure in row] for key, group in by_kind(rows).items()}
    return {key: interval(values) for key, values in groups.items() if values}


def bits(right: Sequence[bool]) -> str:
    "Outcomes as a string"
    return "".join("1" if good else "0" for good in right)


def table_of(strings: Sequence[str]) -> np.ndarray:  # (seeds, reviews)
    "The outcomes that `bits` wrote, a row for each string"
    return np.array([[int(bit) for bit in string] for string in strings])


def right_answers(classifier, data) -> str:  # a classifier or what answers like one, and texts with their labels
    "Which texts are answered rightly, as `bits`"
    answers = classifier.logits(list(data["text"])).argmax(-1).tolist()
    return bits([answer == label for answer, label in zip(answers, data["label"], strict=True)])


@lru_cache(8)
def drawn_again(seeds: int, reviews: int, draws: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    "How often each seed and each review is drawn, (draws, seeds) and (draws, reviews), as shares"
    generator = np.random.default_rng(0)
    return (generator.multinomial(seeds, [1 / seeds] * seeds, draws) / seeds,
            generator.multinomial(reviews, [1 / reviews] * reviews, draws) / reviews)


def two_ways(table: np.ndarray) -> list[float]:  # (seeds, reviews), numbers -> mean, low, high
    "A mean over seeds and reviews, and its interval when both are drawn again"
    seeds, reviews = drawn_again(*table.shape)
    means = np.einsum("ds,sr,dr->d", seeds, table, reviews, optimize=True)
    return [float(table.mean()), *np.quantile(means, [0.025, 0.975]).tolist()]


def keep(name: str, content: dict) -> str:
    "Keep the results with the machine they were measured on; the file is replaced whole"
    RESULTS.mkdir(exist_ok=True)
    text, new = json.dumps({"machine": machine(), **content}, indent=1), RESULTS / f"{name}.new"
    new.write_text(text + "\n")
    os.replace(new, RESULTS / f"{name}.json")
    return text


def write(name: str, content: dict):
    "Keep the results and print them"
    print(keep(name, content))


def parser_of_parts(description: str, parts: Sequence[str]) -> argparse.ArgumentParser:
    "The command line of a benchmark whose rows stand in parts"
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=parts, action="append")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--rows", default="", metavar="BEGINNING", help="make only rows whose names begin so")
    parser.add_argument("--processes", type=int, default=2)
    return parser


class Row(NamedTuple):
    "A row that is wanted"

    key: str
    work: Callable[..., dict]  # of the sizes, the rows of all parts so far, and its arguments
    sizes: NamedTuple  # how much is trained
    rows: dict[str, dict[str, dict]]
    arguments: tuple
    timed: bool  # whether its seconds are added


def row_made(wanted: Row) -> tuple[str, dict]:
    "The name of a row and the row, in a process with one thread"
    torch.set_num_threads(1)
    start = time.perf_counter()
    row = wanted.work(wanted.sizes, wanted.rows, *wanted.arguments)
    return wanted.key, {**row, "seconds": round(time.perf_counter() - start, 1)} if wanted.timed else row


def make_parts(
    name: str,  # of the result file
    given: argparse.Namespace,  # what `parser_of_parts` read
    sizes: NamedTuple,
    jobs: dict[str, dict[str, tuple]],  # the arguments of each row by part and name
    work: dict[str, Callable[..., dict]],  # what makes the rows of a part
    summary: Callable[[dict], dict],  # of all rows
    *,
    timed: bool = False,  # whether the seconds of a row are added to it
    alone: Collection[str] = (),  # parts whose rows are made one at a time
    stale: Mapping[str, Callable[..., bool]] = MappingProxyType({}),  # by part: whether to make anew a row, given the row,
    # all rows, and its arguments
) -> dict[str, dict[str, dict]]:
    "Make the rows that are missing; each is kept as it ends, or none in a small try. If none is, the summary is made anew"
    path, context = RESULTS / f"{name}.json", multiprocessing.get_context("spawn")
    kept = json.loads(path.read_text()) if path.is_file() and not given.small else {}
    rows, made = kept.get("rows", {}), False
    for part, wanted in jobs.items():
        if given.part and part not in given.part:
            continue
        outdated = stale.get(part, lambda *_: False)
        rows[part] = {key: row for key, row in rows.get(part, {}).items()
                      if key in wanted and not outdated(row, rows, *wanted[key])}
        missing = [Row(key, work[part], sizes, rows, arguments, timed) for key, arguments in wanted.items()
                   if key not in rows[part] and key.startswith(given.rows)]
        if not missing:
            continue  # no process has to begin
        with context.Pool(1 if part in alone else given.processes) as pool:
            for key, row in pool.imap_unordered(row_made, missing):
                rows[part][key], made = row, True
                print(part, key, row, flush=True)
                if not given.small:
                    keep(name, {"rows": rows, "summary": summary(rows)})
    if kept and not made:  # the machine stays the one on which they were measured
        keep(name, {**kept, "rows": rows, "summary": summary(rows)})
    return rows
