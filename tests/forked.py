"""Run something in a process of its own that starts with the libraries loaded

A new Python takes four seconds of a processor to import PyTorch, Transformers and Datasets before the first line of a
notebook runs. So one process imports them once, and forks a child for each request. It has not imported `llm_course`:
each child does so anew, as a user's process does. Where there is no fork, each request is a new Python."""

import atexit
import functools
import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path

LIBRARIES = ["torch", "transformers.models.bert.modeling_bert", "transformers.models.auto.modeling_auto", "datasets",
             "accelerate", "sklearn.feature_extraction.text", "sklearn.linear_model", "IPython", "nbdev.test"]


def call(request: dict):
    "In the child: call the function; everything that is said goes to a file"
    said, nothing = os.open(request["said"], os.O_WRONLY), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0), os.dup2(said, 1), os.dup2(said, 2)
    os.environ |= request["variables"]
    try:
        getattr(importlib.import_module(request["module"]), request["function"])(*request["arguments"])
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        print("" if isinstance(end.code, int | None) else end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(status)


def serve():
    "Load the libraries, and answer each request with the number of a child, and then with its status"
    for name in LIBRARIES:
        importlib.import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            call(json.loads(line))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


@functools.cache
def server() -> subprocess.Popen:
    "The process that has the libraries; it ends with this one"
    process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(process.kill)
    return process


def asked(request: dict, timeout: float) -> int:
    "The exit status of a child, 124 where it took too long"
    if not hasattr(os, "fork"):
        try:
            return subprocess.run([sys.executable, __file__, json.dumps(request)], timeout=timeout).returncode
        except subprocess.TimeoutExpired:
            return 124
    process, late, timer, child = server(), threading.Event(), None, None
    try:
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        child = int(process.stdout.readline())
        timer = threading.Timer(timeout, lambda: (late.set(), os.kill(child, 9)))
        timer.start()
        status = int(process.stdout.readline())
    except BaseException:  # stopped from outside: what it says next would be taken for the answer to another request
        process.kill()
        server.cache_clear()
        if child is not None:
            os.kill(child, 9)
        raise
    finally:
        if timer is not None:
            timer.cancel()
    return 124 if late.is_set() else status


def run_forked(module: str, function: str, *arguments: str, timeout: float,  # seconds
               **variables: str,  # of the environment
               ) -> tuple[int, str]:  # the exit status, and all that it wrote
    "Call a function of a module beside this one in a new process; an exception there is status 1"
    with tempfile.TemporaryDirectory() as scratch:
        said = Path(scratch, "said")
        said.touch()
        request = {"module": module, "function": function, "arguments": arguments, "said": str(said), "variables": variables}
        return asked(request, timeout), said.read_text(encoding="utf-8", errors="replace")


if __name__ == "__main__":
    call(json.loads(sys.argv[1])) if len(sys.argv) > 1 else serve()
