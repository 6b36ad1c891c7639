"""A process that starts with the libraries loaded is one of its own: what it does stays in it, and it ends in time."""

import os
import signal
import sys
import threading
import time

import pytest
from forked import run_forked


def mark(word: str):
    "Change what a process shares with nobody"
    os.environ["MARK"] = word
    sys.modules["marked"] = sys
    print("torch" in sys.modules, "llm_course" in sys.modules, os.environ["LENT"])


def look():
    "What is left of it"
    print(os.environ.get("MARK"), "marked" in sys.modules, os.environ.get("LENT"), file=sys.stderr)


def fail(kind: str):
    "End in one of several ways"
    endings = {"raises": lambda: 1 / 0, "says why": lambda: sys.exit("because"), "with a number": lambda: sys.exit(3),
               "sleeps": lambda: time.sleep(60), "well": sys.exit, "killed": lambda: os.kill(os.getpid(), 9)}
    print("began", flush=True)
    endings[kind]()


def test_what_one_process_does_another_does_not_see():
    assert run_forked("test_forked", "mark", "x", timeout=60, LENT="1") == (0, "True False 1\n")
    assert run_forked("test_forked", "look", timeout=60) == (0, "None False None\n")


def test_every_end_has_its_status():
    for kind, status, word in (("raises", 1, "ZeroDivisionError"), ("says why", 1, "because\n"), ("with a number", 3, "began\n"),
                               ("sleeps", 124, "began\n"), ("well", 0, "began\n"), ("killed", -9, "began\n")):
        found, said = run_forked("test_forked", "fail", kind, timeout=2 if kind == "sleeps" else 60)
        assert found == status and said.startswith("began\n") and word in said, kind


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs Unix signals")
def test_a_request_that_is_stopped_leaves_the_next_one_right():
    def stop(*_):
        raise RuntimeError("stopped")

    before = signal.signal(signal.SIGUSR1, stop)
    try:
        run_forked("test_forked", "fail", "well", timeout=60)  # the libraries are loaded
        threading.Timer(1, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
        with pytest.raises(RuntimeError, match="stopped"):
            run_forked("test_forked", "fail", "sleeps", timeout=60)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert run_forked("test_forked", "fail", "with a number", timeout=60) == (3, "began\n\n")  # and an empty end
