"""What the exercises and quizzes of the lessons know, a module for each lesson; importing this loads none of them."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import (EXERCISES, QUIZZES, Exercise, Question, Unfinished, Wrong, ask, equal, exercise, expect,
                       number_of, plain, shown)

__all__ = ["EXERCISES", "QUIZZES", "Exercise", "Question", "Unfinished", "Wrong", "ask", "equal", "exercise", "expect",
           "number_of", "plain", "shown"]  # what version 0.1.0 had in one module


def __getattr__(name: str) -> object:  # only asked for what is not here yet
    "A name of version 0.1.0; the exercises and quizzes are those of all lessons, as they were"
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    base = import_module(f"{__name__}.base")
    if name in {"EXERCISES", "QUIZZES"}:
        base.load_answers()
    return getattr(base, name)
