"""Federated learning from outside: what is refused, what equals central training, and that no process is left, whoever dies."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from llm_course.federated import (
    Client,
    averaged,
    checked_clients,
    federated_averaging,
    head_loss,
    resting_place,
    rows_given_away,
    share_right,
    skewed_clients,
    train_locally,
)
from llm_course.federation import apps, launch
from llm_course.federation.keeper import MARK, marked
from llm_course.federation.launch import (
    Federation,
    Processes,
    Watched,
    began,
    checked_port,
    environment_of,
    go,
    is_training,
    round_of,
)

TRAIN = "llm_course.federated:train_locally"
RULES = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}


def drawn(number: int, count: int, columns: int = 4) -> Client:
    generator = np.random.default_rng(number)
    return Client(f"client {number}", generator.normal(size=(count, columns)), generator.integers(0, 2, count))


def pooled(clients: list[Client]) -> Client:
    return Client("all", np.concatenate([c.vectors for c in clients]), np.concatenate([c.labels for c in clients]))


def parts_of(*clients: Client) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(client.vectors, client.labels) for client in clients]


def gone(mark: str, seconds: float = 60) -> bool:
    "Whether no process of a federation is left, after some seconds at most"
    end = time.monotonic() + seconds
    while marked(mark) and time.monotonic() < end:
        time.sleep(0.1)
    return not marked(mark)


# --- averaging

@pytest.mark.parametrize("counts", [(5, 5, 5), (1, 30, 7), (12,), (2, 1, 1, 40)])
def test_one_step_of_all_clients_is_central_descent_and_more_are_not(counts):
    clients = [drawn(number, count) for number, count in enumerate(counts)]
    for rounds in (1, 7):
        central = federated_averaging([pooled(clients)], rounds)
        assert np.abs(federated_averaging(clients, rounds) - central).max() < 1e-12
    if len(counts) > 1:
        central = federated_averaging([pooled(clients)], 3, steps=5)
        assert np.abs(federated_averaging(clients, 3, steps=5) - central).max() > 1e-4


def test_a_plain_mean_of_unequal_clients_is_another():
    a, b = train_locally(np.zeros((2, 5)), *parts_of(drawn(0, 3))[0], 1, 1.0), np.ones((2, 5))
    assert not np.allclose(averaged([a, b], [3, 30]), (a + b) / 2)
    assert np.allclose(averaged([a, b], [3, 3]), (a + b) / 2)


def test_what_is_asked_is_drawn_by_the_seed_and_one_client_at_least():
    clients = [drawn(number, 8) for number in range(4)]
    runs = [federated_averaging(clients, 5, steps=3, fraction=0.5, seed=seed) for seed in (1, 1, 2)]
    assert np.array_equal(runs[0], runs[1]) and not np.array_equal(runs[0], runs[2])
    one = federated_averaging(clients, 1, fraction=0.0)
    assert any(np.allclose(one, federated_averaging([client], 1)) for client in clients)


@pytest.mark.parametrize(("other", "said"), [
    (Client("b", np.ones((0, 4)), np.array([], int)), "b has no examples. Leave it out until it has some"),
    (drawn(1, 5, columns=3), "client 1 has 3 columns and client 0 4"),
    (Client("b", np.ones((2, 4)), np.array([0, 1]), ("bad", "good")), "b calls its classes bad, good, and client 0"),
    (Client("b", np.ones((2, 4)), np.array([0, 2])), "The labels of b must be class numbers from 0 to 1; at 1 stands"),
    (Client("b", np.ones((2, 4)), np.array([0])), r"b has vectors of shape \(2, 4\) and 1 labels"),
    (Client("b", np.ones(4), np.array([0])), r"b has vectors of shape \(4,\)"),
    (Client("b", np.full((2, 4), np.nan), np.array([0, 1])), "The vectors of b must be finite numbers; row 0 is not"),
    (Client("b", np.diag([1, 1, np.inf, 1]), np.arange(4) % 2), "The vectors of b must be finite numbers; row 2 is not"),
    (Client("b", np.ones((2, 4)), np.array([0, -1])), "The labels of b must be class numbers from 0 to 1; at 1 stands"),
    (Client("b", np.full((1, 4), "a"), np.array([0])), "The vectors of b must be numbers, got the type"),
])
def test_clients_that_do_not_fit_are_refused(other, said):
    with pytest.raises(ValueError, match=said):
        checked_clients([drawn(0, 5), other])


@pytest.mark.parametrize("change", [
    lambda c: (c.vectors, c.labels.astype(bool)), lambda c: (c.vectors, c.labels.astype(float)),
    lambda c: (c.vectors.tolist(), c.labels.tolist()), lambda c: (c.vectors, [bool(label) for label in c.labels])])
def test_labels_and_vectors_of_any_kind_are_the_same_clients(change):
    clients = [drawn(0, 8), drawn(1, 5)]
    changed = [Client(client.name, *change(client)) for client in clients]
    assert np.array_equal(federated_averaging(changed, 3, steps=2), federated_averaging(clients, 3, steps=2))
    assert all(client.labels.dtype == np.int64 for client in checked_clients(changed))


def test_what_is_no_client_is_told_so():
    with pytest.raises(TypeError, match=r"must be a Client\(name, vectors, labels\), got \("):
        federated_averaging([(np.ones((1, 2)), [0])], 1)


BAD_HEADS = [
    (np.zeros((2, 4)), [[1.0] * 4], [0], "a column for each of 4 numbers and one for the bias"),
    (np.zeros(5), [[1.0] * 4], [0], r"finite numbers \(C, D \+ 1\), got the shape \(5,\)"),
    (np.full((2, 5), np.nan), [[1.0] * 4], [0], "finite numbers"),
    (np.zeros((2, 5)), [[1.0] * 4], [-1], "class numbers from 0 to 1; at 0 stands"),
    (np.zeros((2, 5)), [[1.0] * 4], [2], "class numbers from 0 to 1; at 0 stands"),
    (np.zeros((2, 5)), [[np.inf] * 4], [0], "row 0 is not"),
    (np.zeros((2, 5)), np.ones((0, 4)), [], "has no examples"),
    (np.zeros((2, 5)), [[1.0] * 4], [0, 1], "and 2 labels"),
]


@pytest.mark.parametrize(("weights", "vectors", "labels", "said"), BAD_HEADS)
def test_heads_and_examples_that_do_not_fit_are_refused(weights, vectors, labels, said):
    for call in (head_loss, share_right, lambda *given: train_locally(*given, 1, 0.5)):
        with pytest.raises(ValueError, match=said):
            call(weights, np.array(vectors), np.array(labels, int))


def test_weights_at_the_start_must_fit_the_clients_and_stay_finite():
    for shape in ((2, 4), (3, 5), (1, 5), (5,)):
        with pytest.raises(ValueError, match=r"weights must be of shape \(2, 5\), got"):
            federated_averaging([drawn(0, 5)], 1, weights=np.zeros(shape))
    assert np.array_equal(federated_averaging([drawn(0, 5)], 1, weights=[[0] * 5] * 2), federated_averaging([drawn(0, 5)], 1))
    with pytest.raises(ValueError, match="finite numbers"):
        averaged([np.zeros(2), np.array([0, np.nan])], [1, 1])
    with pytest.raises(ValueError, match="finite numbers"), np.errstate(all="ignore"):
        federated_averaging([drawn(0, 5)], 3, rate=1e308, proximal=1e308, steps=3)


@pytest.mark.parametrize(("options", "said"), [
    ({"steps": 0}, "local steps must be a whole number of at least 1, got 0"),
    ({"steps": 2.5}, "local steps must be a whole number of at least 1, got 2.5"),
    ({"fraction": 1.1}, "fraction must be a number from 0 to 1, got 1.1"),
    ({"fraction": -0.1}, "fraction must be a number from 0 to 1, got -0.1"),
    ({"fraction": float("nan")}, "fraction must be a number from 0 to 1, got nan"),
    ({"rate": 0}, "rate must be a number above 0, got 0"),
    ({"proximal": -1}, "proximal must be a number of at least 0, got -1"),
    ({"rounds": 0}, "rounds must be a whole number of at least 1, got 0"),
    ({"seed": -1}, "seed must be a whole number"),
])
def test_settings_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        federated_averaging([drawn(0, 5)], **{"rounds": 1, **options})


def test_other_edges_are_refused():
    with pytest.raises(ValueError, match="at least one client, got none"):
        federated_averaging([], 1)
    with pytest.raises(ValueError, match="do not come to rest"):
        resting_place([1, 0], [0, 1], 3, 0.1)
    with pytest.raises(ValueError, match="a row for each word piece"):
        rows_given_away(np.ones(3))
    with pytest.raises(ValueError, match="Client 0 wants 9 examples with label 0"):
        skewed_clients(np.ones((10, 2)), np.arange(10) % 2, [9], 1.0)
    for size in (0, -4, 2.5):
        with pytest.raises(ValueError, match="The size of client 1 must be a whole number of at least 1"):
            skewed_clients(np.ones((10, 2)), np.arange(10) % 2, [2, size], 0.5)
    with pytest.raises(ValueError, match="class numbers from 0 to 1; at 2 stands"):
        skewed_clients(np.ones((10, 2)), np.arange(10) % 3, [2], 0.5)
    for a, m in (([1, np.nan], [0, 1]), ([1, 2], [0, np.nan]), ([1, 2, 3], [1]), ([], [])):
        with pytest.raises(ValueError, match="Each parabola has a curvature and a minimum"):
            resting_place(a, m, 3, 0.1)


# --- processes

def test_ports_that_cannot_be_used_are_refused():
    with socket.create_server(("127.0.0.1", 0)) as held:
        with pytest.raises(ValueError, match=r"port \d+ of 127.0.0.1 cannot be used .* Give another, or None"):
            Federation(parts_of(drawn(0, 5)), train=TRAIN, port=held.getsockname()[1])
    with pytest.raises(ValueError, match="port must be a whole number from 1 to 65535, got 65536"):
        checked_port(65536)


@pytest.mark.parametrize(("part", "said"), [
    ((np.ones((0, 4)), np.array([], int)), "client 1 has no examples"),
    ((np.full((2, 4), np.nan), [0, 1]), "The vectors of client 1 must be finite numbers; row 0 is not"),
    ((np.full((2, 4), np.inf), [0, 1]), "The vectors of client 1 must be finite numbers; row 0 is not"),
    ((np.ones((2, 4)), [0]), r"client 1 has vectors of shape \(2, 4\) and 1 labels"),
    ((np.ones((2, 3)), [0, 1]), "client 1 has 3 columns and client 0 4"),
    ((np.ones((2, 4)), [0, -1]), "The labels of client 1 must be class numbers; at 1 stands"),
])
def test_a_federation_refuses_clients_that_do_not_fit_before_any_process_starts(part, said):
    with pytest.raises(ValueError, match=said):
        Federation([*parts_of(drawn(0, 5)), part], train=TRAIN)


def test_a_federation_takes_clients_as_they_are_and_names_of_functions_alone():
    ((vectors, labels),) = Federation([drawn(0, 5)], train=TRAIN).parts
    assert np.array_equal(vectors, drawn(0, 5).vectors) and np.array_equal(labels, drawn(0, 5).labels)
    with pytest.raises(TypeError, match="Client 0 must be a pair of vectors and labels, got a int"):
        Federation([3], train=TRAIN)
    for wrong in (train_locally, "train_locally", "a.b", ":f", None):
        with pytest.raises(ValueError, match="train must be the name of a function, 'module:function', got"):
            Federation([drawn(0, 5)], train=wrong)


class Alive:
    "A process that runs"

    def poll(self) -> None:
        return None


@pytest.fixture
def running(tmp_path, monkeypatch) -> Federation:
    "A federation of two clients that believes that its server runs; what it starts is noted only"
    federation = Federation([drawn(0, 5), drawn(1, 5)], train=TRAIN, seconds=5)
    federation.folder, federation.started = tmp_path, {"server": Alive()}
    monkeypatch.setattr(federation, "start", lambda name, *_: federation.started.update({name: Alive()}))
    monkeypatch.setattr(federation, "until", lambda there, what: None)
    return federation


def test_a_federation_has_one_run_and_a_client_one_process(running):
    for call in (round_of, go, lambda federation, number: is_training(federation, number, 0)):
        with pytest.raises(RuntimeError, match="No run has begun"):
            call(running, 1)
    began(running, np.zeros((2, 5)), rounds=np.int64(1), steps=np.int64(2), rate=np.float32(0.5), fraction=np.float32(1),
          timeout=np.int64(9), patience=np.float64(2))
    assert (running.folder / "go-1").exists() and running.settings["rounds"] == 1
    with pytest.raises(RuntimeError, match="A run has begun in this federation"):
        began(running, np.zeros((2, 5)), rounds=1, steps=2, rate=0.5)
    for call in (round_of, go, lambda federation, number: is_training(federation, number, 0)):
        with pytest.raises(ValueError, match="The run has 1 round, got 2"):
            call(running, 2)
        with pytest.raises(ValueError, match="The number of a round must be a whole number of at least 1, got 0"):
            call(running, 0)
    with pytest.raises(ValueError, match="There are clients 0 to 1, got 2"):
        is_training(running, 1, 2)
    running.start_clients(np.int64(0))
    for numbers in ((0,), (1, 0), (1, 1)):
        with pytest.raises(ValueError, match=r"client [01] is running, or is named twice"):
            running.start_clients(*numbers)
    assert list(running.started) == ["server", "run", "client 0"]  # none of those was started
    with pytest.raises(ValueError, match="client 7 does not run; what runs: server, run, client 0"):
        running.kill("client 7")


def test_a_round_without_an_answer_is_an_error(running):
    began(running, np.zeros((2, 5)), rounds=2, steps=2, rate=0.5, timeout=7)
    np.save(running.folder / "weights-1.npy", np.zeros((2, 5)))
    for said, message in (({"answered": [], "failed": []}, "Nobody answered in round 1 within 7 s"),
                          ({"answered": [], "failed": ["why"]}, "All clients failed in round 1: why")):
        apps.written(running.folder / "round-1.json", said)
        with pytest.raises(RuntimeError, match=message):
            round_of(running, 1)


@pytest.mark.parametrize(("options", "said"), [
    ({"rounds": 0}, "rounds must be"), ({"steps": 1.5}, "steps must be"), ({"timeout": "10"}, "timeout must be a number"),
    ({"timeout": 0}, "timeout must be a number above 0"), ({"patience": -1}, "patience must be a number of at least 1"),
    ({"patience": float("nan")}, "patience must be a number"), ({"rate": float("inf")}, "rate must be a number"),
    ({"weights": np.full((2, 5), np.nan)}, "weights must be finite numbers"), ({"weights": "a"}, "weights must be finite"),
])
def test_settings_of_a_run_are_refused_and_another_try_is_welcome(running, options, said):
    given = {"weights": np.zeros((2, 5)), "rounds": 1, "steps": 1, "rate": 0.5}
    with pytest.raises(ValueError, match=said):
        began(running, **{**given, **options})
    assert list(running.started) == ["server"] and not list(running.folder.iterdir())
    began(running, **given)


def test_outside_of_with_a_federation_says_how_it_is_used():
    federation = Federation([drawn(0, 5)], train=TRAIN)
    for call in (lambda: federation.start_clients(0), lambda: round_of(federation, 1),
                 lambda: began(federation, np.zeros((2, 5)), rounds=1, steps=1, rate=0.1)):
        with pytest.raises(RuntimeError, match=r"Use it inside of `with Federation\(...\) as federation:`"):
            call()


def test_a_port_that_was_taken_meanwhile_is_refused(monkeypatch):
    (port,) = launch.free_ports(1)
    federation = Federation([drawn(0, 5)], train=TRAIN, port=port)
    with socket.create_server(("127.0.0.1", port)), pytest.raises(ValueError, match=f"port {port} of 127.0.0.1 cannot"):
        federation.__enter__()
    assert federation.folder is None


def test_no_proxy_stands_between_the_processes(monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "example.org, localhost")
    monkeypatch.setenv("NO_PROXY", "example.com")
    environment = environment_of(tmp_path, "mark")
    for name in ("no_proxy", "NO_PROXY"):
        assert environment[name] == "example.org,localhost,example.com,127.0.0.1"
        monkeypatch.delenv(name)
    assert environment_of(tmp_path, "mark")["no_proxy"] == "127.0.0.1,localhost"


def test_nothing_is_reported_to_anyone(monkeypatch, tmp_path):
    """Whatever is set outside: no telemetry, and no look for a newer version"""
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    monkeypatch.setenv("FLWR_DISABLE_UPDATE_CHECK", "0")
    environment = environment_of(tmp_path, "mark")
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0" and environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"


def test_a_reply_that_is_not_finite_is_a_failure(tmp_path, monkeypatch):
    np.savez(tmp_path / "client-0.npz", vectors=np.ones((2, 4)), labels=[0, 1])
    config = {"server-round": 1, "delay": 0, "train": TRAIN, "steps": 1, "rate": 0.5, "proximal": 0.0}
    weights, count = apps.reply_of(tmp_path, 0, np.zeros((2, 5)), config)
    assert np.isfinite(weights).all() and count == 2
    monkeypatch.setattr("llm_course.federated.train_locally", lambda weights, **_: weights * np.nan)
    with pytest.raises(ValueError, match="weights after training are not finite"):
        apps.reply_of(tmp_path, 0, np.zeros((2, 5)), config)


@pytest.mark.timeout(400)
def test_a_round_of_flower_is_the_loop_a_client_that_dies_is_told_and_nothing_is_left_after_an_error(monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens: it must not be asked
    clients = [drawn(0, 6), drawn(1, 18)]
    with pytest.raises(RuntimeError, match="client 0 ended with exit code -9"), Federation(
            parts_of(*clients), train=TRAIN) as federation:
        began(federation, np.zeros((2, 5)), rounds=1, steps=4, rate=0.5, proximal=0.1)
        federation.start_clients(0, 1)
        weights, said = round_of(federation, 1)
        with pytest.raises(ValueError, match="There are clients 0 to 1, got 2"):
            federation.start_clients(2)
        federation.started["client 0"].kill()
        federation.until(lambda: False, "Nothing")
    assert said["answered"] == [[0, 6], [1, 18]] and said["failed"] == []
    assert np.abs(weights - federated_averaging(clients, 1, steps=4, rate=0.5, proximal=0.1)).max() < 1e-12
    assert not marked(federation.mark) and not federation.folder.exists()


FLOWER = """
federation = Federation([(np.ones((2, 3)), np.array([0, 1]))], train="llm_course.federated:train_locally")
with federation:
    began(federation, np.zeros((2, 4)), rounds=1, steps=1, rate=0.5)
    federation.start_clients(0, delay=600)
    is_training(federation, 1, client=0)
"""
PLAIN = """
federation = Processes()
with closing(federation):
    federation.open()
    federation.start("one", sys.executable, "-c", "import time; time.sleep(600)")
"""
KILLED = """
import os, signal, sys, time
from contextlib import closing
import numpy as np
from llm_course.federation.launch import Federation, Processes, began, is_training, round_of
{started}
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for the fork, which is to live on
    if fork := os.fork():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print(federation.mark, federation.folder, fork, flush=True)
        {waits}
    time.sleep(600)
"""
CELLS = {"kill": (signal.SIGKILL, FLOWER, "round_of(federation, 1)"), "term": (signal.SIGTERM, PLAIN, "time.sleep(600)"),
         "interrupt": (signal.SIGINT, FLOWER, "round_of(federation, 1)")}


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("number", "started", "waits"), CELLS.values(), ids=CELLS)
def test_nothing_is_left_when_the_notebook_is_ended_while_a_client_trains_though_a_fork_of_it_lives(number, started, waits):
    """Killed, or interrupted as Jupyter does it, which tells the whole group of the kernel"""
    notebook = subprocess.Popen([sys.executable, "-c", KILLED.format(started=started, waits=waits)], env=RULES, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    mark, folder, fork = notebook.stdout.readline().split()
    try:
        assert marked(mark)
        os.killpg(notebook.pid, number) if number == signal.SIGINT else notebook.send_signal(number)
        assert notebook.wait(60) != 0 and gone(mark)
        end = time.monotonic() + 30
        while Path(folder).exists() and time.monotonic() < end:
            time.sleep(0.1)
        assert not Path(folder).exists()
        os.kill(int(fork), 0)  # it is there still
    finally:
        os.kill(int(fork), signal.SIGKILL)
        notebook.stdout.close()


def test_a_federation_that_is_never_entered_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    federation = Federation(parts_of(drawn(0, 5)), train=TRAIN)
    federation.close()
    assert federation.folder is None and not list(tmp_path.iterdir())


def test_close_ends_the_keeper_though_another_holds_its_pipe():
    processes = Processes()
    processes.open()
    held = os.dup(processes.keeper.stdin.fileno())
    try:
        processes.start("one", sys.executable, "-c", "import time; time.sleep(600)")
        start = time.monotonic()
        processes.close()
        assert time.monotonic() - start < 40
    finally:
        os.close(held)
    assert not marked(processes.mark) and not processes.folder.exists() and not processes.started
    assert processes.keeper.returncode == -signal.SIGKILL


def test_killing_a_program_ends_what_it_started_in_a_session_of_its_own_and_nothing_else():
    family = ("import subprocess, sys, time\n"
              "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n")
    processes = Processes()
    processes.open()
    try:
        processes.start("other", sys.executable, "-c", "import time; time.sleep(600)")
        processes.start("orphan", sys.executable, "-c", family)  # it ends, and its child lives on
        assert processes.started["orphan"].wait(30) == 0 and len(marked(processes.mark)) == 2
        processes.kill("orphan")
        assert [process.pid for process in marked(processes.mark)] == [processes.started["other"].pid]
    finally:
        processes.close()


def test_what_was_closed_can_be_opened_again():
    processes = Watched()
    for _ in range(2):
        processes.open()
        try:
            processes.start("one", sys.executable, "-c", "import time; time.sleep(600)")
            processes.until(lambda: marked(processes.mark), "One")
        finally:
            processes.close()
        assert not marked(processes.mark) and not processes.started


def test_only_processes_with_the_mark_are_ended():
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={**RULES, MARK: "another"})
    try:
        assert [process.pid for process in marked("another")] == [other.pid] and not marked("nobody")
    finally:
        other.communicate(b"\n")
