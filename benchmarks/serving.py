"""Answers a second and latencies of a service with 1 to 64 clients, beside a plain FastAPI handler and LitServe.

    python benchmarks/serving.py                 # all parts; goes on where an earlier call was stopped
    python benchmarks/serving.py --part tuning   # one of them
    python benchmarks/serving.py --small         # a quick try of each part; writes nothing

Every way serves the same classifier, the bundled encoder fine-tuned on movie reviews, in float32, on this machine's cores.
The load is a closed loop by wrk (apt-get install wrk): each client has one connection and one request of one review under
way, and sends the next at once. The reviews are those of the test part, in turn. wrk takes a share of the same cores.
LitServe is among `benchmarks/requirements.txt`.

- tuning: each way with six settings (threads; batch and window; workers), at 64 clients. The one with the most answers a
  second is taken.
- load: each way with its best setting, with 1 to 64 clients, three times, the ways in turn.

Where `llm_course.compression` and ONNX Runtime can be imported, the same classifier in int8 is one more arm, behind our
service and behind the plain handler; where they cannot, a line says so. In a closed loop clients who wait ask less, so its
99th percentile is lower than it would be for requests that come at random. The plain handler and LitServe run on uvloop
where that is installed; our service runs on asyncio's own loop.

About 35 minutes with the arms in int8, 22 without, on a machine that does nothing else, once the classifier is trained.

A row holds, for each number of clients: answers a second, the median and the 99th percentile of the latency in
milliseconds, and how many requests got no answer (refused, lost, or too late)."""

import argparse
import contextlib
import importlib.util
import json
import math
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

from common import interval, make_parts, parser_of_parts

from llm_course.core import cache_folder
from llm_course.data import load_dataset
from llm_course.fine_tuning import baseline_classifier
from llm_course.models import TextClassifier

NAME, CORES = "serving", os.cpu_count() or 1
RIVALS = Path(__file__).with_name("serving_rivals.py")
SCRIPT = """
local bodies = {}
for line in io.lines(os.getenv("BODIES")) do bodies[#bodies + 1] = line end
local count = 0
request = function()
  count = count + 1
  return wrk.format("POST", nil, {["Content-Type"] = "application/json"}, bodies[count % #bodies + 1])
end
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %.3f %.3f %d\\n", summary.requests, summary.duration, latency:percentile(50),
           latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"""
SETTINGS = {
    "ours": {"1 worker": ("--workers", "1"), f"{CORES} workers": ("--workers", str(CORES)),
             "1 worker, batch 16": ("--workers", "1", "--limit", "batch=16"),
             f"{CORES} workers, batch 16": ("--workers", str(CORES), "--limit", "batch=16"),
             f"{CORES} workers, no window": ("--workers", str(CORES), "--limit", "window=0"),
             f"{CORES} workers, window 10 ms": ("--workers", str(CORES), "--limit", "window=0.01")},
    "plain": {f"{threads} threads, torch {torch}": ("--threads", str(threads), "--torch-threads", str(torch))
              for threads, torch in ((1, CORES), (2, 1), (CORES, 1), (4, 1), (40, 1), (40, CORES))},
    "litserve": {f"batch {batch}, {window * 1000:g} ms, {workers} workers":
                 ("--batch", str(batch), "--window", str(window), "--workers", str(workers),
                  "--torch-threads", str(max(1, CORES // workers)))
                 for batch, window in ((16, 0.002), (16, 0.01), (32, 0.01)) for workers in (1, CORES)},
}


class Sizes(NamedTuple):
    "How long and how often"

    clients: tuple[int, ...]
    seconds: int
    repeats: int
    model: str


FULL = Sizes((1, 2, 4, 8, 16, 32, 64), 10, 3, "minilm")
SMALL = Sizes((1, 8), 2, 1, "tiny-bert")


def with_int8() -> bool:
    "Whether a classifier in int8 can be made and run"
    return all(importlib.util.find_spec(name) for name in ("llm_course.compression", "onnxruntime", "onnxscript"))


def arms() -> dict[str, str]:
    "Every arm, and whose settings it takes"
    return {"ours": "ours", "plain": "plain", "litserve": "litserve",
            **({"ours, int8": "ours", "plain, int8": "plain"} if with_int8() else {})}


def folder_of(sizes: Sizes, arm: str) -> tuple[Path, str]:
    "The classifier that an arm serves, and what reads it"
    name = f"serving-{sizes.model}{'-int8' if 'int8' in arm else ''}"
    folder = cache_folder("benchmarks") / name
    if "int8" in arm:
        from llm_course import compression
        if not folder.exists():
            compression.export(TextClassifier.load(folder_of(sizes, "ours")[0]), folder, precision="int8")
        return folder, "llm_course.compressing.onnx_classifier:OnnxClassifier.load"
    if not (folder / "classifier.json").is_file():
        labels = load_dataset("movies")["train"].features["label"].names
        small = sizes.model != "minilm"
        made = TextClassifier.from_pretrained(sizes.model, labels=labels) if small else baseline_classifier("movies")
        made.save(folder)
    return folder, "llm_course.models:TextClassifier.load"


def command_of(sizes: Sizes, arm: str, setting: tuple[str, ...], port: int) -> list[str]:
    "What starts an arm"
    folder, loader = folder_of(sizes, arm)
    way = arms()[arm]
    if way == "ours":
        return [sys.executable, "-m", "llm_course", "serve", str(folder), "--port", str(port), "--loader", loader,
                *setting]
    return [sys.executable, str(RIVALS), way, str(folder), str(port), "--loader", loader, *setting]


def asked(url: str, body: bytes) -> dict | None:  # None while nobody answers
    "The reply to one request"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with opener.open(request, timeout=60) as reply:
            return json.loads(reply.read())
    except OSError:
        return None


def by_wrk(url: str, bodies: Path, clients: int, seconds: int) -> dict[str, float]:
    "What so many clients get in so many seconds"
    script = bodies.with_suffix(".lua")
    script.write_text(SCRIPT)
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "60s", "-s", str(script), url]
    said = subprocess.run(command, capture_output=True, text=True, check=True,
                          env={**os.environ, "BODIES": str(bodies)}).stdout
    requests, microseconds, half, slow, failed = map(float, said.partition("RESULT ")[2].split())
    return {"rate": (requests - failed) / microseconds * 1e6, "p50": half / 1000, "p99": slow / 1000, "failed": failed}


def measured(sizes: Sizes, arm: str, setting: tuple[str, ...], clients: tuple[int, ...]) -> dict[str, dict]:
    "Start an arm, check that it answers rightly, load it, end it"
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    texts = load_dataset("movies")["test"]["text"][:512]
    url = f"http://127.0.0.1:{port}{'/v1/classify' if arms()[arm] == 'ours' else '/classify'}"
    with tempfile.TemporaryDirectory() as place:
        bodies = Path(place) / "bodies"
        bodies.write_text("\n".join(json.dumps({"text": text}) for text in texts))
        process = subprocess.Popen(command_of(sizes, arm, setting, port), start_new_session=True)
        try:
            end = time.monotonic() + 180
            while (reply := asked(url, json.dumps({"text": texts[0]}).encode())) is None:
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"{arm} does not answer with {setting}")
                time.sleep(0.2)
            found = reply["answers"][0] if "answers" in reply else reply
            expected = TextClassifier.load(folder_of(sizes, "ours")[0]).predict_proba(texts[:1])[0].tolist()
            apart = max(abs(a - b) for a, b in zip(found["probabilities"].values(), expected, strict=True))
            if apart > (0.2 if "int8" in arm else 1e-3):
                raise ArithmeticError(f"{arm} answers {apart:.4f} away from the classifier")
            by_wrk(url, bodies, 8, max(1, sizes.seconds // 3))  # warm
            return {str(number): by_wrk(url, bodies, number, sizes.seconds) for number in clients}
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with contextlib.suppress(ProcessLookupError):  # whatever it left
                os.killpg(process.pid, 9)
            process.wait()


def tuning(sizes: Sizes, rows: dict, arm: str, setting: str) -> dict:
    "A setting at the highest load"
    return measured(sizes, arm, SETTINGS[arms()[arm]][setting], sizes.clients[-1:])[str(sizes.clients[-1])]


def best(rows: dict, arm: str) -> str:
    "The setting with the most answers a second"
    tried = {key.partition(": ")[2]: row["rate"] for key, row in rows["tuning"].items() if key.startswith(f"{arm}: ")}
    return max(tried, key=tried.get)


def load(sizes: Sizes, rows: dict, arm: str, repeat: int) -> dict:
    "An arm with its best setting, at every load"
    setting = best(rows, arm)
    return {"setting": setting, **measured(sizes, arm, SETTINGS[arms()[arm]][setting], sizes.clients)}


def summary(rows: dict) -> dict:
    "Means over the repeats, and ours against others at the highest load: medians of ratios"
    table, found = {}, rows.get("load", {})
    runs = {arm: [row for key, row in found.items() if key.rpartition(", ")[0] == arm] for arm in arms()}
    loads = sorted({number for row in found.values() for number in row if number.isdecimal()}, key=int)
    for arm, own in runs.items():
        for number in loads if own else ():
            rate, width = interval([row[number]["rate"] for row in own])
            table[f"{arm} ({own[0]['setting']}), {number} clients"] = {
                "answers a second": f"{rate:.0f}" + ("" if width != width else f" ± {width:.0f}"),
                **{f"{name}, ms": round(statistics.mean(row[number][name] for row in own), 1) for name in ("p50", "p99")},
                "not answered": sum(row[number]["failed"] for row in own)}
    against = {}
    for one, other in (("ours", "plain"), ("ours", "litserve"), ("ours, int8", "plain, int8"), ("ours, int8", "ours")):
        pairs = list(zip(runs.get(one, ()), runs.get(other, ()), strict=False))
        if pairs:
            most = loads[-1]
            against[f"{one} against {other}"] = {
                name: statistics.median(a[most][name] / (b[most][name] or math.nan) for a, b in pairs)
                for name in ("rate", "p99")}
    return {"table": table, "against": against}


def main():
    "Measure what is missing"
    given: argparse.Namespace = parser_of_parts(__doc__, ("tuning", "load")).parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is missing. Install it: apt-get install wrk")
    sizes = SMALL if given.small else FULL
    if not with_int8():
        print("The arms in int8 are left out: llm_course.compression, onnxruntime or onnxscript is missing")
    for arm in arms():  # before any process is timed
        folder_of(sizes, arm)
    settings = {arm: list(SETTINGS[way])[: 2 if given.small else None] for arm, way in arms().items()}
    jobs = {"tuning": {f"{arm}: {setting}": (arm, setting) for arm, each in settings.items() for setting in each},
            "load": {f"{arm}, {repeat}": (arm, repeat) for repeat in range(sizes.repeats) for arm in arms()}}
    rows = make_parts(NAME, given, sizes, jobs, {"tuning": tuning, "load": load}, summary, alone=("tuning", "load"))
    print(json.dumps(summary(rows), indent=1))


if __name__ == "__main__":
    main()
