"""Clients ask and hang up while workers are killed, a folder is read again, and its service is restarted.

What becomes of each request is counted. `tests/test_deployment.py` and `benchmarks/hundred_thousand.py` use it."""

import json
import random
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from signal import SIGHUP

import numpy as np
import psutil
import torch
from conftest import ROOT, tiny_classifier

from llm_course.models import TextClassifier
from llm_course.serving.clients import Client
from llm_course.serving.folder import load_to_serve

LABELS = ["negative", "positive"]
TEXTS = [f"Film {number} had a {'fine' if number % 2 else 'weak'} plot" for number in range(40)]
OUTCOMES = ("right", "wrong", "lost", "told", "hung up", "other")
NEAR = 1e-3  # a probability that is further off is wrong


def request_of(body: bytes, kind: str = "application/json", **headers: str) -> bytes:
    "A request as bytes"
    lines = ["POST /v1/classify HTTP/1.1", "Host: localhost", f"Content-Type: {kind}",
             f"Content-Length: {len(body)}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def answers_again(url: str, seconds: float = 300.0) -> bool:
    "Whether a service becomes ready"
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if Client(url, seconds=300).ask("/readyz")[0] == 200:
            return True
        time.sleep(0.1)
    return False


def telling_classifier() -> TextClassifier:
    "A random classifier that gives either label to half of `TEXTS`, with probabilities far apart"
    classifier = tiny_classifier()
    negative, positive = classifier.logits(TEXTS).T
    scores = (positive - negative).sort().values
    head, factor = classifier.model.classifier, 4 / scores.std()
    with torch.no_grad():
        head.weight.mul_(factor)
        head.bias.mul_(factor)
        head.bias[1] -= factor * scores[19:21].mean()
    return classifier


def is_right(status: int, reply: object, expected: np.ndarray) -> bool:
    "Whether a reply holds the label and the probabilities that are expected"
    if status != 200:
        return False
    [answer] = reply["answers"]
    said = np.array([answer["probabilities"][label] for label in LABELS])
    return answer["label"] == LABELS[expected.argmax()] and bool((abs(said - expected) < NEAR).all())


def ask_on(url: str, expected: dict[str, np.ndarray], most: int, counts: dict[str, int], lock: threading.Lock, seed: int):
    "A client that asks, hangs up now and then, and counts what became of its requests"
    client, drawn = Client(url, seconds=300), random.Random(seed)
    while True:
        with lock:
            if counts["sent"] >= most:
                break
            counts["sent"] += 1
        text = drawn.choice(list(expected))
        if drawn.random() < 0.02:
            with socket.create_connection((client.place.hostname, client.place.port)) as connection:
                connection.sendall(request_of(json.dumps({"text": text}).encode()))
            outcome = "hung up"
        else:
            try:
                status, reply = client.ask("/v1/classify", {"text": text})
                outcome = "right" if is_right(status, reply, expected[text]) else {
                    200: "wrong", 0: "lost", 429: "told", 503: "told"}.get(status, "other")
            except ConnectionError:
                outcome = "lost"
        with lock:
            counts[outcome] += 1
        if outcome == "told":
            time.sleep(client.retry_after)
    client.close()


def started_on(number: int, folder: Path, options: tuple[str, ...]) -> subprocess.Popen:
    "A service on an inherited socket"
    return subprocess.Popen([sys.executable, "-m", "llm_course", "serve", str(folder), "--fd", str(number), *options],
                            pass_fds=[number], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def outcomes(folder: Path, requests: int, clients: int, *options: str) -> dict[str, int]:  # "sent", and each of OUTCOMES
    "Clients ask and hang up while a worker is killed, the folder read again, the service restarted, a worker killed again"
    rows = np.asarray(load_to_serve(folder, *options[1:])[0].predict_proba(TEXTS))
    apart = abs(rows[:, None, 0] - rows[None, :, 0]) > 10 * NEAR
    if len(set(rows.argmax(1))) < 2 or apart.mean() < 0.7:
        raise ValueError("The answers are too much alike: a wrong one would not be seen")
    expected = dict(zip(TEXTS, rows, strict=True))
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        listener.set_inheritable(True)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        process = started_on(listener.fileno(), folder, options)
        assert answers_again(url)
        counts, lock = dict.fromkeys(("sent", *OUTCOMES), 0), threading.Lock()
        threads = [threading.Thread(target=ask_on, args=(url, expected, requests, counts, lock, seed))
                   for seed in range(clients)]
        for thread in threads:
            thread.start()
        for share, event in ((0.2, "kill"), (0.4, "read again"), (0.6, "restart"), (0.8, "kill")):
            while counts["sent"] < share * requests:
                time.sleep(0.01)
            if event == "kill":
                psutil.Process(process.pid).children()[0].kill()
                assert answers_again(url)
            elif event == "read again":
                process.send_signal(SIGHUP)
            else:
                process.terminate()
                assert process.wait(120) == 0
                process = started_on(listener.fileno(), folder, options)
                assert answers_again(url)
        for thread in threads:
            thread.join()
        process.terminate()
        assert process.wait(120) == 0
    return counts
