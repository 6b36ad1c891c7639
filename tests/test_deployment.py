"""A service from outside: what strangers send, who hangs up, what is killed, and that every request is answered or told."""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from conftest import ROOT, headless_chromium, run_tool, settings, tiny_classifier

pytest.importorskip("fastapi")

from llm_course.deployment import BatchCost, batch_cost, little, model_card, pack, serve, simulate_batches
from llm_course.evaluation import evaluate
from llm_course.serving.answering import InProcesses
from llm_course.serving.batching import Queue, oldest_and_nearest, serve_queue
from llm_course.serving.clients import Client, ask_in_a_loop
from llm_course.serving.clock import run_on_a_virtual_clock
from llm_course.serving.folder import load_to_serve, write_manifest
from llm_course.serving.limits import Limits
from llm_course.serving.running import Served, listening, main, options_of_serve

from storm import LABELS, TEXTS, answers_again, is_right, outcomes, request_of, telling_classifier

KEY = "a-key-that-nobody-guesses"


class Stub:
    "Answers by the length of a text; may be slow or fail"

    labels = LABELS

    def __init__(self, seconds: float = 0.0):
        self.seconds, self.seen = seconds, []

    def predict_proba(self, texts):
        self.seen += texts
        time.sleep(self.seconds)
        if any("break" in text for text in texts):
            raise RuntimeError(f"{texts} broke it")
        shares = [len(text) % 10 / 10 for text in texts]
        return np.array([[share, 1 - share] for share in shares])


@pytest.fixture(scope="module")
def stub():
    "A service of a stub in this process"
    with Served(Stub(), limits=Limits(texts=5, characters=100, body=2000, reading=1.0)) as service:
        yield service


@pytest.fixture
def packed(tmp_path) -> Path:
    "A folder with a manifest"
    classifier = tiny_classifier()
    return pack(classifier, tmp_path / "packed", model_card(classifier))


def raw(url: str, sent: bytes, seconds: float = 20.0, whole: bool = False) -> bytes:
    "What comes back for these bytes until the connection ends, or the first part"
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), seconds) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(sent)
        found = b""
        with contextlib.suppress(ConnectionError, TimeoutError):
            while part := connection.recv(65536):
                found += part
                if not whole and b"\r\n\r\n" in found:
                    break
        return found


def status_of(reply: bytes) -> int:
    "The status of a reply"
    return int(reply.split(b" ", 2)[1]) if reply.startswith(b"HTTP/1.1 ") else 0


def metric(url: str, name: str, key: str = "") -> float:
    "The sum of a figure"
    page = Client(url, key).ask("/metrics")[1]
    return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(name))


# --- the ideas

@pytest.mark.parametrize("seed", range(5))
def test_littles_law_holds_for_any_order(seed):
    drawn = np.random.default_rng(seed)
    came = drawn.exponential(1, 200).cumsum()
    found = little(came, came + drawn.pareto(1.5, 200))
    assert np.isclose(found["inside"], found["rate"] * found["seconds"])


@pytest.mark.parametrize("seed", range(4))
def test_the_queue_of_the_service_is_the_one_that_was_simulated(seed):
    drawn, cost = random.Random(seed), batch_cost([1, 2], [0.01, 0.013])
    come = sorted(drawn.uniform(0, 2) for _ in range(150))
    window, most = drawn.uniform(0, 0.05), drawn.randint(1, 20)

    async def asked():
        queue, loop = Queue(window=window, most=most, capacity=1000), asyncio.get_running_loop()

        async def compute(texts):
            await asyncio.sleep(cost.seconds(len(texts)))
            return [[1.0]] * len(texts)

        async def one(at):
            await asyncio.sleep(at)
            await queue.ask(["text"], 1e6)
            return loop.time()

        serving = asyncio.create_task(serve_queue(queue, compute))
        ends = await asyncio.gather(*map(one, come))
        serving.cancel()
        return ends

    ends = run_on_a_virtual_clock(asked())
    assert np.allclose(ends, simulate_batches(come, cost, window=window, most=most), atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_no_text_waits_for_ever(seed):
    drawn, waiting, waited = random.Random(seed), [], []
    for turn in range(300):
        waiting += [(drawn.choice((5, 10, 100, 900)), turn) for _ in range(8)]
        places = set(oldest_and_nearest([length for length, _ in waiting], 8))
        assert 0 in places and len(places) == 8
        waited += [turn - since for place, (_, since) in enumerate(waiting) if place in places]
        waiting = [one for place, one in enumerate(waiting) if place not in places]
    assert max(waited) <= 8 and not waiting


def test_a_card_tells_what_was_measured_and_invents_nothing(tmp_path):
    classifier = tiny_classifier()
    report = evaluate(classifier, {"text": TEXTS, "label": [number % 2 for number in range(40)]})
    page = model_card(classifier, report=report).to_markdown()
    assert str(report.accuracy) in page and "**test texts**: 40" in page
    sections = dict(part.split("\n", 1) for part in page.split("\n## ")[1:])
    for title in ("Training", "Slices", "Under attack"):
        assert sections[title].strip() == "Not measured."
    assert "not stated" in sections["Data"] and "not stated" in sections["Limits"]
    folder = pack(classifier, tmp_path / "a", model_card(classifier, report=report, name="Ours"))
    assert (folder / "README.md").read_text(encoding="utf-8").count("# Ours") == 1
    about = load_to_serve(folder)[1]
    assert about["card"]["Results"]["accuracy"] == str(report.accuracy) and about["checked"]


# --- folders

def test_a_folder_is_read_with_every_doubt(packed):
    classifier, about = load_to_serve(packed)
    assert about["labels"] == classifier.labels == LABELS and len(about["version"]) == 12
    weights = packed / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"model.safetensors is not what was packed. Copy the folder again"):
        load_to_serve(packed)
    weights.unlink()
    with pytest.raises(ValueError, match=r"model.safetensors is not there"):
        load_to_serve(packed)
    (packed / "manifest.json").unlink()
    with pytest.raises(ValueError, match="holds no weights"):
        load_to_serve(packed)
    weights.write_bytes(whole[:1000])
    with pytest.raises(ValueError, match="is cut off or damaged"):
        load_to_serve(packed)


def test_a_file_that_was_added_is_refused(packed):
    (packed / ".DS_Store").write_text("hidden")
    assert load_to_serve(packed)[1]["checked"]
    (packed / "pytorch_model.bin").write_bytes(b"other weights")
    with pytest.raises(ValueError, match=r"pytorch_model.bin was not packed. Take it out of the folder, or pack"):
        load_to_serve(packed)


def test_other_versions_are_said_and_not_refused(packed):
    assert load_to_serve(packed)[1]["warnings"] == []
    manifest = json.loads((packed / "manifest.json").read_text(encoding="utf-8"))
    manifest["versions"]["torch"] = "1.0"
    (packed / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    [said] = load_to_serve(packed)[1]["warnings"]
    assert said.startswith("Packed with torch 1.0; here is ") and not said.endswith("none")


def test_a_classifier_that_was_saved_again_does_not_fit_its_old_card(packed):
    tiny_classifier(seed=1).save(packed)
    with pytest.raises(ValueError, match=r"is not what was packed.*pack it again if you changed it"):
        load_to_serve(packed)


def test_weights_that_are_no_numbers_are_not_served(tmp_path):
    classifier = tiny_classifier()
    classifier.model.classifier.bias.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="no probabilities"), pytest.warns(UserWarning, match="no numbers"):
        load_to_serve(classifier.save(tmp_path / "broken"))


@pytest.mark.parametrize("way", ["packed", "exported"])
def test_an_export_is_served_as_any_other_classifier(tmp_path, way):
    for library in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(library)
    from llm_course.compression import export
    exported = export(telling_classifier(), tmp_path / "int8", precision="int8")
    card = model_card(exported)
    assert card.sections["Model"]["weights"].startswith("int8, ") and "64 tokens" in card.sections["Model"]["longest text"]
    folder = pack(exported, tmp_path / "packed", card) if way == "packed" else tmp_path / "int8"
    with Served(folder, "--threads", "1") as service:
        client = Client(service.url)
        about = client.ask("/v1/model")[1]
        assert about["labels"] == LABELS and about["checked"] == (way == "packed")
        for text, row in zip(TEXTS, (exported.predict_proba([text])[0] for text in TEXTS), strict=True):
            [answer] = client.ask("/v1/classify", {"text": text})[1]["answers"]
            assert np.allclose(list(answer["probabilities"].values()), row, atol=1e-3) and answer["cut"] is False
    if way == "packed":
        (folder / "model.onnx").write_bytes(b"damaged")
        with pytest.raises(ValueError, match=r"model\.onnx is not what was packed"):
            load_to_serve(folder)


def run_cli(*arguments: str) -> subprocess.CompletedProcess:
    "The command, which shall end by itself"
    return subprocess.run([sys.executable, "-m", "llm_course", "serve", *arguments], capture_output=True, text=True,
                          cwd=ROOT, timeout=500)


def test_an_answer_does_not_wait_for_an_acknowledgement():
    "Head and body leave one after the other: without the option each answer on a used connection takes 40 ms longer"
    with listening("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_what_cannot_be_served_is_said_in_a_line(tmp_path, capsys):
    (tmp_path / "keys").write_text("short")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for arguments, said in (
            (("x", "--port", str(taken.getsockname()[1])), "cannot be used"),
            (("x", "--host", "0.0.0.0"), "can be reached from other machines, and there are no keys"),
            (("x", "--keys", str(tmp_path / "keys")), "must be a string of 16"),
        ):
            assert main(arguments) == 1 and said in capsys.readouterr().err
    done = run_cli(str(tmp_path), "--loader", "print", "--port", "0")
    assert done.returncode == 1 and done.stderr == "A loader is named 'module:function', got 'print'\n"
    for folder, said in ((tmp_path, "holds no saved classifier"), (tmp_path / "none", "is no folder")):
        with pytest.raises(OSError, match=said):
            load_to_serve(folder)


def test_the_container_gives_the_command_what_it_reads():
    "Its extra is one of the package's, and its command is understood"
    lines = (ROOT / "Containerfile").read_text(encoding="utf-8").splitlines()
    [command] = [json.loads(line.removeprefix("CMD ")) for line in lines if line.startswith("CMD ")]
    parser = argparse.ArgumentParser()
    options_of_serve(parser)
    given = parser.parse_args(command[2:])
    assert command[:2] == ["llm-course", "serve"] and given.keys and any(given.folder in line for line in lines if "COPY" in line)
    assert any("[serve]" in line for line in lines) and "serve_requirements" in settings()
    [user] = [line.removeprefix("USER ") for line in lines if line.startswith("USER ")]
    [copied] = [line for line in lines if line.startswith("COPY") and line.endswith(given.folder)]
    assert user != "root" and f"--chown={user}:{user}" in copied  # weights are saved for their owner alone
    assert any("whl/cpu" in line for line in lines) and any("onnxruntime" in line for line in lines)


def test_serve_refuses_before_it_listens():
    with pytest.raises(ValueError, match="there are no keys"):
        serve("folder", host="0.0.0.0")
    with pytest.raises(TypeError, match="needs predict_proba and labels; dict has not"):
        serve({}, port=0)


def test_the_module_imports_without_the_libraries_of_the_service():
    code = ("import sys\nfor name in ('fastapi', 'uvicorn', 'prometheus_client', 'starlette', 'pydantic'):\n"
            "    sys.modules[name] = None\n"
            "from llm_course import deployment\n"
            "try:\n    deployment.serve('folder')\n"
            "except ImportError as error:\n    print(error)\n"
            "from llm_course.command_line import main\nprint(main(['serve', 'folder']))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert 'pip install "llm_course[serve]"' in done.stdout and done.stdout.rstrip().endswith("1")
    assert 'pip install "llm_course[serve]"' in done.stderr


# --- what strangers send

DEEP = b'{"texts": ' + b"[" * 900 + b"]" * 900 + b"}"
HOSTILE = [
    (b'{"text": "fine"}', {}, 200), (rb'{"text": "half a pair \ud83d"}', {}, 200), (b'{"text": ""}', {}, 200),
    (b'{"text": "\\u0000\\u202e"}', {}, 200), (b'{"texts": ["a", "a", "a", "a", "a"]}', {}, 200),
    (b"", {}, 422), (b"{", {}, 422), (b"null", {}, 422), (b'"text"', {}, 422), (b"[]", {}, 422), (b"{}", {}, 422),
    (DEEP, {}, 422), (b"[" * 1990, {}, 422), (b'{"text": NaN}', {}, 422), (b'{"text": 1e999}', {}, 422), (b'{"text": -Infinity}', {}, 422),
    (b'{"text": "\xff\xfe"}', {}, 422), (b'{"text": "a", "texts": ["b"]}', {}, 422), (b'{"txt": "a"}', {}, 422),
    (b'{"text": "a", "model": "/etc/passwd"}', {}, 422), (b'{"texts": []}', {}, 422), (b'{"texts": {}}', {}, 422),
    (b'{"texts": "abc"}', {}, 422), (b'{"texts": [["a"]]}', {}, 422), (b'{"texts": [null]}', {}, 422),
    (b'{"texts": ["a", "a", "a", "a", "a", "a"]}', {}, 422), (b'{"text": "' + b"a" * 101 + b'"}', {}, 422),
    (b'{"text": ' + b"9" * 1900 + b"}", {}, 422), (b'{"text": "' + b"a" * 5000 + b'"}', {}, 413),
    (b'{"text": "a"}', {"kind": "text/plain"}, 415), (b"text=a", {"kind": "application/x-www-form-urlencoded"}, 415),
    (b'{"text": "a"}', {"kind": ""}, 415), (b'{"text": "a"}', {"Content_Encoding": "gzip"}, 415),
]


@pytest.mark.parametrize(("body", "headers", "status"), HOSTILE, ids=[str(number) for number in range(len(HOSTILE))])
def test_hostile_bodies_are_told_what_is_wrong(stub, body, headers, status):
    reply = raw(stub.url, request_of(body, Connection="close", **headers), whole=True)
    assert status_of(reply) == status, reply
    content = json.loads(reply.partition(b"\r\n\r\n")[2])
    assert ("answers" in content) if status == 200 else set(content) == {"detail"}
    assert b"passwd" not in reply


ODD = ["", " ", "\x00", "\u202e\u200d\ufeff", "\U0010ffff" * 50, "\ufdfa" * 300, "a" * 10_000, "\u0301" * 5000, "[SEP] [MASK]",
       "x" * 500 + "\n" * 500, "".join(map(chr, range(1, 0xd800, 40))), "\ud83d", "<s>" * 200]


@pytest.fixture(scope="module")
def reading():
    "A service of a real classifier that reads 64 tokens"
    with Served(tiny_classifier(), limits=Limits(deadline=60)) as service:
        yield service


@pytest.mark.filterwarnings("ignore:.*(were cut there|are unknown to the model)")
def test_no_text_can_make_the_classifier_fail(reading):
    status, reply = Client(reading.url).ask("/v1/classify", {"texts": ODD})
    assert status == 200 and len(reply["answers"]) == len(ODD)
    for text in ODD:
        assert Client(reading.url).ask("/v1/classify", {"text": text})[0] == 200


@pytest.mark.filterwarnings("ignore:.*were cut there")
def test_an_answer_says_whether_its_text_was_cut(reading, stub):
    classifier = tiny_classifier()
    texts = [" ".join(["film"] * words) for words in (1, classifier.max_length - 2, classifier.max_length - 1, 500)]
    answers = Client(reading.url).ask("/v1/classify", {"texts": texts})[1]["answers"]
    assert [answer["cut"] for answer in answers] == [False, False, True, True]
    assert Client(stub.url).ask("/v1/classify", {"text": texts[3][:90]})[1]["answers"][0]["cut"] is None  # it does not say
    answer = Client(reading.url).ask("/openapi.json")[1]["components"]["schemas"]["Answer"]
    assert set(answer["required"]) == {"label", "probabilities", "cut", "details"}
    assert "only its beginning was read" in answer["properties"]["cut"]["description"]


class Telling(Stub):
    "A stub that says more than a label"

    def predict_with_details(self, texts):
        told = [{"answer": float("nan") if text == "nan" else text.upper()} if text else None for text in texts]
        return self.predict_proba(texts), told


def test_details_come_with_the_answer_of_their_text(stub):
    with Served(Telling()) as service:
        answers = Client(service.url).ask("/v1/classify", {"texts": ["one", "", "two"]})[1]["answers"]
        assert [answer["details"] for answer in answers] == [{"answer": "ONE"}, None, {"answer": "TWO"}]
    assert Client(stub.url).ask("/v1/classify", {"text": "one"})[1]["answers"][0]["details"] is None


def test_details_that_cannot_be_sent_are_a_fault_of_the_model(caplog):
    with Served(Telling()) as service:
        status, said = Client(service.url).ask("/v1/classify", {"text": "nan"})
        assert status == 500 and "sent again, it would fail again" in said["detail"]
        assert Client(service.url).ask("/v1/classify", {"text": "one"})[0] == 200
    assert "the model failed on a text" in caplog.text


def test_a_text_on_which_the_model_fails_is_not_asked_for_again(caplog):
    with Served(Stub()) as service:
        client = Client(service.url)
        status, reply = client.ask("/v1/classify", {"text": "my secret: break"})
        assert status == 500 and "sent again, it would fail again" in reply["detail"] and client.retry_after is None
        assert "the model failed on a text: RuntimeError in test_deployment.py" in caplog.text
        assert "secret" not in caplog.text + json.dumps(reply)
        assert ask_in_a_loop(service.url, ["break"], clients=1, each=1, attempts=5)["attempt"].tolist() == [1]


@pytest.mark.parametrize("sent", [
    b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9.9\r\n\r\n", b"POST /v1/classify HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 9\r\n\r\n12345",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\r\n" * 5000,
    b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(20_000)) + b"\r\n",
])
def test_what_is_no_http_does_no_harm(stub, sent):
    raw(stub.url, sent, seconds=2.0)
    assert Client(stub.url).ask("/healthz") == (200, {"status": "running"})


def test_fifty_megabytes_are_refused_and_not_kept(light):
    part = b"a" * 1_000_000
    lengths = request_of(b'{"text": "' + part * 50 + b'"}', Connection="close")
    chunked = (b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
               b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(b"f4240\r\n" + part + b"\r\n" for _ in range(50)) + b"0\r\n\r\n")
    with Served(light, *LIGHT, "--limit", "body=2000", "--limit", "reading=60") as service:
        assert status_of(raw(service.url, request_of(b'{"text": "a"}', Connection="close"), whole=True)) == 200
        files = Path("/proc", str(service.process.pid))
        (files / "clear_refs").write_text("5")  # its peak of memory begins anew
        before = psutil.Process(service.process.pid).memory_info().rss
        for request in (lengths, chunked) * 2:
            assert status_of(raw(service.url, request, seconds=60, whole=True)) == 413
        [peak] = [int(line.split()[1]) for line in (files / "status").read_text().splitlines() if line.startswith("VmHWM")]
    assert peak * 1024 - before < 20_000_000


def test_a_body_that_drips_in_is_cut_off(stub):
    head = request_of(b"a" * 500)[:-500]
    reply = raw(stub.url, head + b'{"te', seconds=30)
    assert status_of(reply) == 408 and b"connection: close" in reply.lower()


def test_connections_beyond_the_limit_are_told_and_closed():
    "One is silent, one drips its headers, one reads no more than the beginning of its reply: each holds a place"
    with Served(Stub(), limits=Limits(connections=3)) as service, contextlib.ExitStack() as open_ones:
        host, port = service.url.removeprefix("http://").split(":")
        slow = [open_ones.enter_context(socket.create_connection((host, int(port)), 20)) for _ in range(3)]
        slow[1].sendall(b"POST /v1/classify HTTP/1.1\r\nHost: loc")
        slow[2].sendall(request_of(b'{"text": "one of three is answered"}'))
        assert slow[2].recv(12) == b"HTTP/1.1 200"  # then the others are connected as well
        fourth = Client(service.url)
        status, reply = fourth.ask("/v1/classify", {"text": "a"})
        assert (status, reply, fourth.retry_after) == (503, {"detail": "Too many connections are open"}, 1)
        assert fourth.connection is None  # it was closed: no other can be kept out by it
        assert fourth.ask("/healthz") == (200, {"status": "running"})  # busy is not ill
        fourth.close()
        slow[0].close()
        until(lambda: Client(service.url).ask("/v1/classify", {"text": "a"})[0] == 200, 20)


def test_who_hangs_up_is_forgotten():
    slow = Stub(1.0)
    with Served(slow, limits=Limits(batch=1, window=0.0)) as service:
        first = threading.Thread(target=Client(service.url).ask, args=("/v1/classify", {"text": "first"}))
        first.start()
        while "first" not in slow.seen:
            time.sleep(0.01)
        host, port = service.url.removeprefix("http://").split(":")
        for number in range(5):
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(request_of(b'{"text": "gone %d"}' % number))
                time.sleep(0.01)
        first.join()
        assert Client(service.url).ask("/v1/classify", {"text": "last"})[0] == 200
        assert metric(service.url, "llm_course_hung_up_total") >= 4
    assert sum("gone" in text for text in slow.seen) <= 1


def test_a_full_queue_says_when_to_come_again():
    with Served(Stub(0.2), limits=Limits(batch=1, texts=4, capacity=4, window=0.0)) as service:
        replies = []

        def ask():
            replies.append(raw(service.url, request_of(b'{"text": "a"}', Connection="close"), whole=True))

        threads = [threading.Thread(target=ask) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    statuses = [status_of(reply) for reply in replies]
    assert set(statuses) == {200, 429} and statuses.count(200) >= 4
    full = [reply.lower() for reply, status in zip(replies, statuses, strict=True) if status == 429]
    waits = [int(reply.partition(b"retry-after: ")[2].split(b"\r\n")[0]) for reply in full]
    assert all(1 <= wait <= 60 for wait in waits)


def test_a_deadline_is_kept():
    with Served(Stub(1.0), limits=Limits(batch=1, deadline=0.3, window=0.0)) as service:
        status, reply = Client(service.url).ask("/v1/classify", {"text": "a"})
        assert status == 503 and "no answer within 0.3 s" in reply["detail"]


def test_one_bad_text_does_not_fail_its_neighbours():
    with Served(Stub(0.05), limits=Limits(window=0.5)) as service:
        found = ask_in_a_loop(service.url, ["fine", "break", "good", "well"], clients=4, each=1)
    assert found.sort_values("text")["status"].tolist() == [200, 500, 200, 200]


def test_keys_open_what_is_closed():
    with Served(Stub(), keys=[KEY]) as service:
        for path, body in (("/v1/classify", {"text": "a"}), ("/v1/model", None), ("/metrics", None)):
            for wrong in ("", KEY[:-1], KEY + "x", "ü" * 9):
                head = f"Bearer {wrong}".encode().decode("latin-1")
                assert Client(service.url, "").ask(path, body)[0] == 401
                client = Client(service.url)
                client.headers["Authorization"] = head
                assert client.ask(path, body)[0] == 401, wrong
            assert Client(service.url, KEY).ask(path, body)[0] == 200
        assert Client(service.url).ask("/healthz")[0] == Client(service.url).ask("/readyz")[0] == 200


def test_another_site_cannot_ask_through_a_browser(stub):
    reply = raw(stub.url, b"GET /v1/model HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
    assert status_of(reply) == 400
    preflight = (b"OPTIONS /v1/classify HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n"
                 b"Access-Control-Request-Method: POST\r\nConnection: close\r\n\r\n")
    assert b"access-control-allow" not in raw(stub.url, preflight).lower()


def test_no_text_is_in_the_logs(stub, caplog):
    caplog.set_level(logging.DEBUG)
    for body in (b'{"text": "my secret"}', b'{"text": "my secret, break"}', b'{"texts": ["my secret", 5]}', b'{my secret'):
        raw(stub.url, request_of(body, Connection="close"), whole=True)
    raw(stub.url, b"GET /v1/model?text=my+secret HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", whole=True)
    raw(stub.url, b"GET /my+secret HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", whole=True)
    time.sleep(0.2)
    assert "/v1/classify 200" in caplog.text and "secret" not in caplog.text
    assert "secret" not in Client(stub.url).ask("/metrics")[1]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_interface_is_what_its_description_says():
    with Served(Stub(), limits=Limits(texts=5, characters=100)) as service:  # a body that fits its description is read
        check_interface(service.url)


def check_interface(url: str):
    "Ask what the description allows and what it forbids"
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given
    from hypothesis import settings as hypothesis_settings
    quick = hypothesis_settings(
        max_examples=25, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck))
    replies = []  # path, mode, status

    def ask(operation, mode):
        @quick
        @given(case=operation.as_strategy(generation_mode=mode))
        def asked(case):
            replies.append((case.path, mode.value, case.call_and_validate().status_code))

        asked()

    for operation in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations():
        ask(operation.ok(), schemathesis.GenerationMode.POSITIVE)
        if operation.ok().body:
            ask(operation.ok(), schemathesis.GenerationMode.NEGATIVE)
    assert {path for path, _, _ in replies} == {"/v1/classify", "/v1/model", "/healthz", "/readyz", "/metrics"}
    assert {status for path, mode, status in replies if mode == "positive"} == {200}
    refused = [status for _, mode, status in replies if mode == "negative"]
    assert len(refused) >= 10 and set(refused) <= {413, 415, 422} and 422 in refused


def test_the_page_works_in_a_browser(stub):
    with headless_chromium() as browser:
        page, asked, said = browser.new_page(), [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.goto(stub.url)
        page.fill("#texts", "a fine film\n<b onmouseover=alert(1)>bold</b>")
        page.click("button")
        page.wait_for_selector("table")
        rows = page.locator("tr").all_inner_texts()
        assert len(rows) == 3 and "a fine film" in rows[1] and "<b onmouseover=alert(1)>bold</b>" in rows[2]
        page.fill("#texts", "a\n" * 6)
        page.click("button")
        page.locator("#said", has_text="at most 5 texts").wait_for()  # a function in words would break the page's policy
        page.goto(f"{stub.url}/docs")
        assert "POST /v1/classify" in page.inner_text("main")
    assert all(url.startswith((stub.url, "data:")) for url in asked)
    assert not [line for line in said if "422" not in line], said


# --- processes

def children(service: Served) -> list[psutil.Process]:
    "The workers"
    return psutil.Process(service.process.pid).children()


def until(true: Callable[[], bool], seconds: float = 300.0):
    "Wait until something holds"
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_killed_worker_is_told_replaced_and_exchanged(light):
    with Served(light, *LIGHT, "--verbose") as service:
        found, client = [], Client(service.url)
        asking = threading.Thread(target=lambda: found.append(ask_in_a_loop(service.url, TEXTS, clients=8, each=60)))
        asking.start()
        while metric(service.url, "llm_course_texts_total") < 100:
            time.sleep(0.01)
        children(service)[0].kill()
        asking.join()
        assert set(found[0]["outcome"]) == {"answered", "told"} and set(found[0]["status"]) == {200, 503}
        assert answers_again(service.url) and metric(service.url, "llm_course_worker_restarts") == 1
        first = client.ask("/v1/classify", {"text": TEXTS[0]})[1]
        write_light(light, shift=1)
        service.process.send_signal(signal.SIGHUP)
        until(lambda: client.ask("/v1/model")[1]["version"] != first["version"])
        second = client.ask("/v1/classify", {"text": TEXTS[0]})[1]
        changed = [reply["answers"][0]["probabilities"]["negative"] for reply in (first, second)]
        assert changed[0] != changed[1] and second["version"] != first["version"]
        write_light(light, labels=["bad", "good"])
        service.process.send_signal(signal.SIGHUP)
        until(lambda: "The old version stays" in service.said())
        assert "labels ['bad', 'good'] now, and clients were told ['negative', 'positive']" in service.said()
        assert client.ask("/v1/classify", {"text": TEXTS[0]})[1]["labels"] == LABELS
        assert "Film" not in service.said()
    assert service.status == 0


def test_a_stuck_worker_is_ended(light):
    with Served(light, *LIGHT, "--limit", "patience=1", "--limit", "deadline=60") as service:
        worker = children(service)[0]
        assert Client(service.url).ask("/v1/classify", {"text": "stuck"})[0] == 503
        assert answers_again(service.url) and not worker.is_running()
        assert Client(service.url).ask("/v1/classify", {"text": "a"})[0] == 200


LOADER = """
import json, time
from pathlib import Path

class Light:
    def __init__(self, folder):
        self.labels, self.shift = json.loads((Path(folder) / "light.json").read_text())

    def predict_proba(self, texts):
        time.sleep(50.0 if "stuck" in texts else 0.5 if "slow" in texts else 0.005)
        shares = [((sum(text.encode()) + self.shift) % 10 + 0.5) / 10 for text in texts]
        return [[share, 1 - share] for share in shares]

def load(folder):
    while (Path(folder) / ".wait").exists():
        time.sleep(0.01)
        if (Path(folder) / ".fail").exists():
            raise ValueError("The weights cannot be read")
    return Light(folder)
"""
LIGHT = ("--loader", "light_loader:load")


def write_light(folder: Path, shift: int = 0, labels: list[str] = LABELS) -> Path:
    "A classifier whose answers hang on the bytes of a text, with its manifest"
    folder.mkdir(exist_ok=True)
    (folder / "light.json").write_text(json.dumps([labels, shift]))
    write_manifest(folder, labels, {})
    return folder


@pytest.fixture
def light(tmp_path, monkeypatch) -> Path:
    "A folder that loads in no time, once it has no file `.wait`, and fails where it has `.fail`"
    (tmp_path / "light_loader.py").write_text(LOADER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH", "")])))
    return write_light(tmp_path / "light")


@contextlib.contextmanager
def still_loading(folder: Path):
    "A service whose model is being loaded, and where it is"
    command = [sys.executable, "-m", "llm_course", "serve", str(folder), "--port", "0", *LIGHT]
    (folder / ".wait").touch()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            line = process.stdout.readline()
            assert "the model is being loaded" in line
            yield process, line.split()[2].rstrip(";")
        finally:
            process.kill()


def test_a_service_answers_while_its_model_is_loaded(light):
    with still_loading(light) as (process, url):
        client = Client(url)
        for _ in range(2):
            assert client.ask("/healthz") == (200, {"status": "running"})
            for path, body in (("/readyz", None), ("/v1/classify", {"text": "a"}), ("/v1/model", None), ("/", None)):
                status, reply = client.ask(path, body)
                assert status == 503 and client.retry_after == 1 and set(reply) == {"detail"}, path
        assert client.ask("/v1/classify", {"texts": []})[0] == 422 and metric(url, "llm_course_ready") == 0
        process.send_signal(signal.SIGHUP)
        (light / ".wait").unlink()
        assert answers_again(url) and client.ask("/v1/classify", {"text": "a"})[0] == 200
        process.terminate()
        assert process.wait(60) == 0 and "Serving at" in process.stdout.read()


def test_a_load_that_fails_ends_the_service(light):
    with still_loading(light) as (process, url):
        client = Client(url)
        assert client.ask("/healthz")[0] == 200
        (light / ".fail").touch()
        said = process.communicate(timeout=60)[1]
        assert process.returncode == 1 and said.strip().endswith("The weights cannot be read") and "Traceback" not in said
    with pytest.raises(RuntimeError, match=r"did not start:\n.*The weights cannot be read"):
        Served(light, *LIGHT).__enter__()


def test_a_service_can_be_ended_while_it_loads(light):
    with still_loading(light) as (process, url):
        assert Client(url).ask("/healthz")[0] == 200
        workers = psutil.Process(process.pid).children()
        process.terminate()
        assert process.wait(60) == 0 and not psutil.wait_procs(workers, timeout=60)[1]


def test_those_who_wait_are_answered_by_the_next_worker(light):
    with Served(light, *LIGHT, "--limit", "batch=1", "--limit", "deadline=60") as service:  # it waited until it was ready
        client, replies = Client(service.url), {}
        assert client.ask("/readyz")[0] == 200
        threads = [threading.Thread(target=lambda text=text: replies.update(
            {text: Client(service.url).ask("/v1/classify", {"text": text})[0]})) for text in ("stuck", "b", "c")]
        for thread, figure in zip(threads, ("computing", "waiting", "waiting"), strict=True):
            before = metric(service.url, f"llm_course_{figure}_texts")
            thread.start()
            while metric(service.url, f"llm_course_{figure}_texts") == before:
                time.sleep(0.002)
        children(service)[0].kill()
        while client.ask("/readyz")[0] == 200:
            time.sleep(0.002)
        found = ask_in_a_loop(service.url, ["d"], clients=2, each=3, attempts=6)
        for thread in threads:
            thread.join()
    assert replies == {"stuck": 503, "b": 200, "c": 200}
    assert set(found["outcome"]) == {"answered"} and found["attempt"].max() > 1


NOTEBOOK = """
import sys, time
from llm_course.serving.running import Served
service = Served(*sys.argv[1:]).__enter__()
print(service.process.pid, flush=True)
time.sleep(600)
"""


def test_nothing_is_left_of_a_notebook_that_was_killed(light):
    notebook = subprocess.Popen([sys.executable, "-c", NOTEBOOK, str(light), *LIGHT], stdout=subprocess.PIPE, cwd=ROOT)
    parent = psutil.Process(int(notebook.stdout.readline()))
    everybody = [parent, *parent.children(recursive=True)]
    assert len(everybody) == 2
    notebook.kill()
    notebook.wait()
    assert not psutil.wait_procs(everybody, timeout=60)[1]


def test_a_worker_ends_with_its_parent(light):
    with Served(light, *LIGHT) as service:
        worker = children(service)[0]
        service.process.kill()
        assert not psutil.wait_procs([worker], timeout=60)[1]


def test_what_was_accepted_is_answered_at_the_end(light):
    expected = [LABELS[best] for best in np.argmax(load_to_serve(light, LIGHT[1])[0].predict_proba([*TEXTS[:8], "slow"]), 1)]
    with Served(light, *LIGHT) as service:
        found = []
        threads = [threading.Thread(target=lambda: found.append(
            Client(service.url).ask("/v1/classify", {"texts": [*TEXTS[:8], "slow"]}))) for _ in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: metric(service.url, "llm_course_computing_texts") > 0)
        service.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert service.process.wait(60) == 0
    assert len(found) == 4 and {200} <= {status for status, _ in found} <= {200, 503}
    assert all([answer["label"] for answer in reply["answers"]] == expected for status, reply in found if status == 200)


def test_workers_that_cannot_start_are_said(tmp_path):
    async def started():
        await InProcesses(tmp_path, loader="json:nothing", count=2).start(Queue(), lambda texts, seconds: None)

    with pytest.raises(ValueError, match="There is no loader json:nothing"):
        asyncio.run(started())


# --- none lost, none wrong

def test_a_wrong_answer_would_be_seen(packed):
    "Both labels occur, and most texts have probabilities of their own"
    rows = np.asarray(telling_classifier().predict_proba(TEXTS))
    assert set(rows.argmax(1)) == {0, 1} and len(set(rows[:, 0].round(2))) > 20
    [answer] = [{"label": LABELS[row.argmax()], "probabilities": dict(zip(LABELS, row.tolist(), strict=True))} for row in rows[:1]]
    assert is_right(200, {"answers": [answer]}, rows[0]) and not is_right(503, {"detail": "later"}, rows[0])
    assert sum(is_right(200, {"answers": [answer]}, row) for row in rows) <= 3
    assert not is_right(200, {"answers": [{**answer, "label": LABELS[1 - rows[0].argmax()]}]}, rows[0])
    with pytest.raises(ValueError, match="too much alike"):
        outcomes(packed, 100, 2)


@pytest.mark.skipif(os.name != "posix", reason="sockets are inherited by their number")
def test_each_request_is_answered_rightly_or_told_that_it_was_not(light):
    counts = outcomes(light, 3000, 16, *LIGHT)
    assert not any(counts[name] for name in ("lost", "wrong", "other")), counts
    assert counts["right"] > 1000 and counts["told"] > 0 and counts["hung up"] > 10


@pytest.mark.skipif(os.name != "posix", reason="sockets are inherited by their number")
def test_the_benchmark_of_a_hundred_thousand_works_at_small_size():
    output = run_tool(sys.executable, ROOT / "benchmarks/hundred_thousand.py", "--small")
    assert "'sent': 2000" in output and "'wrong': 0, 'lost': 0" in output and "'other': 0" in output, output


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(os.name != "posix", reason="sockets are inherited by their number")
def test_none_of_a_hundred_thousand_is_lost_or_wrong(tmp_path):
    classifier = telling_classifier()
    counts = outcomes(pack(classifier, tmp_path / "telling", model_card(classifier)), 100_000, 32)
    print(json.dumps(counts))
    assert not any(counts[name] for name in ("lost", "wrong", "other")), counts
    assert sum(count for name, count in counts.items() if name != "sent") == counts["sent"] == 100_000
    assert counts["right"] > 50_000 and counts["told"] > 0 and counts["hung up"] > 1000


# --- the functions of the lesson

def test_an_empty_card_says_of_each_section_that_it_was_not_measured():
    page = model_card(tiny_classifier()).to_markdown()
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")] == [
        "Model", "Data", "Training", "Results", "Slices", "Under attack", "Cost", "Limits"]
    assert page.count("Not measured.") == 4 and "**answering**: not measured" in page
    assert "**training texts**: not stated" in page and "**limits**: not stated" in page


def test_a_card_takes_the_training_from_the_run():
    rows = [{"learning_rate": rate} for rate in (0.0001, 0.0003, 0.0002)]
    run = SimpleNamespace(steps=rows, total_steps=4, examples=90, seconds=2.0, interrupted=True)
    assert model_card(tiny_classifier(), run).sections["Training"] == {
        "steps": "3 of 4", "texts read": "90, repeats counted", "texts a step": "30.0 on average",
        "highest learning rate": "0.0003", "stopped early": "yes"}
    run = SimpleNamespace(steps=[], total_steps=4, examples=0, seconds=0.0, interrupted=True)
    assert model_card(tiny_classifier(), run).sections["Training"]["highest learning rate"] == "not measured"


@pytest.mark.parametrize("wrong", [([], []), ([1], [0]), ([0, 1], [2]), ([3], [3])])
def test_littles_law_wants_requests_that_come_and_go(wrong):
    with pytest.raises(ValueError, match=r"later departure|no rate"):
        little(*wrong)


def test_a_line_goes_through_the_times_of_batches():
    line = batch_cost([1, 4, 16], [0.010, 0.013, 0.025])
    assert np.allclose([line.fixed, line.each, line.rate(16)], [0.009, 0.001, 640])
    with pytest.raises(ValueError, match="two sizes or more"):
        batch_cost([4, 4], [1.0, 1.0])


def test_batches_leave_when_the_model_is_free_and_the_window_over_or_the_batch_full():
    line, come = BatchCost(0.009, 0.001), [0, 0.002, 0.004, 0.1]
    for arrivals, given, expected in (
        (come, {}, [0.010, 0.021, 0.021, 0.110]), (come, {"window": 0.005}, [0.017] * 3 + [0.115]),
        (come[:3], {"window": 1, "most": 3}, [0.016] * 3), ([0, 0, 0], {"most": 1}, [0.010, 0.020, 0.030]),
        ([], {}, []), ([0.0, 1.0], {"window": 0.005}, [0.015, 1.015]),
    ):
        assert np.allclose(simulate_batches(arrivals, line, **given), expected)
    for wrong in ({"arrivals": [1, 0]}, {"arrivals": [0], "window": -1}, {"arrivals": [0], "most": 0}):
        with pytest.raises(ValueError, match=r"rising order|window|most"):
            simulate_batches(cost=line, **wrong)


@pytest.mark.parametrize(("wrong", "said"), [
    ({"host": "0.0.0.0"}, "can be reached from other machines, and there are no keys"),
    ({"keys": ["short"]}, "must be a string of 16"), ({"port": 99_999}, "port must be from 0")])
def test_serve_says_what_is_wrong_with_its_arguments(packed, wrong, said):
    with pytest.raises(ValueError, match=said):
        serve(packed, **wrong)
