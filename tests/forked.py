"""Run something in a process of its own that starts with the libraries loaded

A new Python takes four seconds of a processor to import PyTorch, Transformers and Datasets before the first line of a
notebook runs. `multiprocessing`'s fork server imports them once; each process is a fork of it. It has not imported
`llm_course`: each process does so anew, as a user's does. Where there is no fork, each process imports everything."""

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

LIBRARIES = ["torch", "transformers.models.bert.modeling_bert", "transformers.models.auto.modeling_auto", "datasets",
             "accelerate", "sklearn.feature_extraction.text", "sklearn.linear_model", "IPython", "nbdev.test"]


@cache
def context() -> multiprocessing.context.BaseContext:
    "Where processes come from"
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(LIBRARIES)
    return forks


def begin(function: Callable, arguments: tuple, said: str, variables: dict[str, str]):
    "In the new process: everything that is said goes to a file"
    output = os.open(said, os.O_WRONLY)
    os.dup2(output, 1), os.dup2(output, 2)
    multiprocessing.set_start_method(None, force=True)  # what this process starts, it starts as any other does
    os.environ |= variables
    function(*arguments)


def run_forked(function: Callable,  # of a module that can be imported, with arguments that can be pickled
               *arguments: object, timeout: float,  # seconds
               **variables: str,  # of the environment
               ) -> tuple[int, str]:  # the exit status, 124 where it took too long, and all that it wrote
    "Call a function in a new process; an exception there is status 1"
    with tempfile.TemporaryDirectory() as scratch:
        said = Path(scratch, "said")
        said.touch()
        process = context().Process(target=begin, args=(function, arguments, str(said), variables))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill(), process.join()
            return 124, said.read_text(errors="replace")
        return process.exitcode, said.read_text(errors="replace")
