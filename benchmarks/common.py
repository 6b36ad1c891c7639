"""What the benchmark scripts share: the machine in words, and interleaved repeats."""

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from scipy.stats import t as student

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
    if len(values) < 2:
        return values[0], float("nan")
    width = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values), width


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
