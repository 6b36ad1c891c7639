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
    resting_place,
    rows_given_away,
    skewed_clients,
    train_locally,
)
from llm_course.federation.keeper import MARK, marked
from llm_course.federation.launch import Federation, Processes, began, checked_port, round_of

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
])
def test_clients_that_do_not_fit_are_refused(other, said):
    with pytest.raises(ValueError, match=said):
        checked_clients([drawn(0, 5), other])


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


# --- processes

def test_ports_that_cannot_be_used_are_refused():
    with socket.create_server(("127.0.0.1", 0)) as held:
        with pytest.raises(ValueError, match=r"port \d+ of 127.0.0.1 cannot be used .* Give another, or None"):
            Federation(parts_of(drawn(0, 5)), train=TRAIN, port=held.getsockname()[1])
    with pytest.raises(ValueError, match="port must be a whole number from 1 to 65535, got 65536"):
        checked_port(65536)


@pytest.mark.timeout(400)
def test_a_round_of_flower_is_the_loop_a_client_that_dies_is_told_and_nothing_is_left_after_an_error():
    clients = [drawn(0, 6), drawn(1, 18)]
    with pytest.raises(RuntimeError, match="client 0 ended with exit code -9"), Federation(
            parts_of(*clients), train=TRAIN) as federation:
        began(federation, np.zeros((2, 5)), rounds=1, steps=4, rate=0.5, proximal=0.1)
        federation.start_clients(0, 1)
        weights, said = round_of(federation, 1)
        with pytest.raises(ValueError, match="There are clients 0 to 1, got 2"):
            federation.start_clients(2)
        federation.started["client 0"].kill()
        round_of(federation, 2)
    assert said["answered"] == [[0, 6], [1, 18]] and said["failed"] == []
    assert np.abs(weights - federated_averaging(clients, 1, steps=4, rate=0.5, proximal=0.1)).max() < 1e-12
    assert not marked(federation.mark) and not federation.folder.exists()


FLOWER = """
federation = Federation([(np.ones((2, 3)), np.array([0, 1]))], train="a:b")
with federation:
    federation.start_clients(0)
"""
PLAIN = """
federation = Processes()
with closing(federation):
    federation.open()
    federation.start("one", sys.executable, "-c", "import time; time.sleep(600)")
"""
KILLED = """
import os, sys, time
from contextlib import closing
import numpy as np
from llm_course.federation.launch import Federation, Processes
{}
    if fork := os.fork():
        print(federation.mark, federation.folder, fork, flush=True)
    time.sleep(600)
"""


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("number", "started"), [
    (signal.SIGKILL, FLOWER), (signal.SIGTERM, PLAIN), (signal.SIGINT, PLAIN)], ids=["kill", "term", "interrupt"])
def test_nothing_is_left_when_the_notebook_is_killed_though_a_fork_of_it_lives(number, started):
    notebook = subprocess.Popen([sys.executable, "-c", KILLED.format(started)], env=RULES, stdout=subprocess.PIPE,
                                text=True, stderr=subprocess.DEVNULL)
    mark, folder, fork = notebook.stdout.readline().split()
    try:
        assert marked(mark)
        notebook.send_signal(number)
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
    assert not marked(processes.mark) and not processes.folder.exists()
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


def test_only_processes_with_the_mark_are_ended():
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={**RULES, MARK: "another"})
    try:
        assert [process.pid for process in marked("another")] == [other.pid] and not marked("nobody")
    finally:
        other.communicate(b"\n")
