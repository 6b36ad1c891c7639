"""Result files of the benchmarks: what their summary says is what the script that is committed makes of their rows."""

import importlib
import json

import pytest
from conftest import ROOT, leaves

RESULTS = ROOT / "benchmarks/results"


def with_rows() -> list[str]:
    "Benchmarks whose file keeps the rows that its summary is made of"
    found = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    return [name for name, content in found.items() if {"rows", "summary"} <= set(content)]


def test_there_are_such_files():
    assert len(with_rows()) >= 15


@pytest.mark.parametrize("name", with_rows())
def test_a_summary_is_what_its_script_makes_of_the_rows(name, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    kept = json.loads((RESULTS / f"{name}.json").read_text())
    again = json.loads(json.dumps(importlib.import_module(name).summary(kept["rows"])))
    ours, theirs = dict(leaves(again)), dict(leaves(kept["summary"]))
    assert theirs and ours == pytest.approx(theirs, abs=1e-9, nan_ok=True)  # sums of another processor end in other digits
