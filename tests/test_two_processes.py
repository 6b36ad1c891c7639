"""The benchmark of two processes runs whole at small size, and each contestant is what its name says."""

import json
import sys

from conftest import ROOT, run_tool

sys.path.insert(0, str(ROOT / "benchmarks"))
import pytest
import two_processes

RESULT = ROOT / "benchmarks/results/two_processes.json"


@pytest.mark.slow
def test_small_run_measures_all_three_and_writes_nothing():
    before = RESULT.read_bytes() if RESULT.exists() else None
    output = run_tool(sys.executable, ROOT / "benchmarks/two_processes.py", "--small",
                      timeout=900, PYTHONWARNINGS="ignore", PYTHONPATH=str(ROOT))
    found = json.loads(output.splitlines()[-1])
    for name, (processes, threads) in two_processes.CONTESTANTS.items():
        figures = found["medians"][name]
        assert (figures["processes"], figures["threads"]) == (processes, threads)
        assert figures["texts_per_second"] > 0
    two, *others = reversed(two_processes.CONTESTANTS)
    assert set(found["two_processes_times_as_fast_as"]) == set(others)
    assert found["two_processes_times_as_fast_as"][others[0]] == (
        found["medians"][two]["texts_per_second"] / found["medians"][others[0]]["texts_per_second"])
    assert (RESULT.read_bytes() if RESULT.exists() else None) == before
