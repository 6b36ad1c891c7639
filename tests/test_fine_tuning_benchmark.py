"""The benchmark of fine-tuning runs whole at small size, and what it wrote adds up."""

import json
import sys

import pytest
from conftest import ROOT, run_tool

sys.path.insert(0, str(ROOT / "benchmarks"))
import fine_tuning as benchmark

RESULT = ROOT / "benchmarks/results/fine_tuning.json"


@pytest.mark.slow
def test_small_run_measures_every_part_and_writes_nothing():
    before = RESULT.read_bytes() if RESULT.exists() else None
    output = run_tool(sys.executable, ROOT / "benchmarks/fine_tuning.py", "--small", timeout=900,
                      OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore", PYTHONPATH=str(ROOT))
    parts = json.loads(output.splitlines()[-1])["parts"]
    assert list(parts) == list(benchmark.PARTS)
    for name, part in parts.items():
        wanted, seeds = benchmark.PARTS[name].wanted(benchmark.SMALL), benchmark.PARTS[name].seeds(benchmark.SMALL)
        assert [{key: row[key] for key in settings} for settings, row in zip(wanted, part["means"], strict=True)] == wanted
        assert all(row["seeds"] == seeds for row in part["means"])
    assert set(parts["trainer"]["fine_tune more accurate by"]) == set(benchmark.CONTESTANTS[1:])
    assert (RESULT.read_bytes() if RESULT.exists() else None) == before


def test_a_part_goes_on_where_it_was_stopped(monkeypatch):
    seen = []
    part = benchmark.Part(lambda sizes, seed, rate: seen.append((rate, seed)) or {"loss": rate + seed},
                          lambda sizes: [{"rate": 0.5}, {"rate": 1.0}])
    monkeypatch.setitem(benchmark.PARTS, "planted", part)
    runs, going = [], benchmark.measure("planted", benchmark.SMALL, [])
    for _ in range(2):
        runs = list(next(going))
    for _ in benchmark.measure("planted", benchmark.SMALL, runs):
        assert len(runs) > 2
    assert seen == [(0.5, 0), (1.0, 0), (0.5, 1), (1.0, 1)]
    half, one = benchmark.means(runs)
    assert (half["rate"], half["seeds"], half["loss"]) == (0.5, 2, 1.0) and one["loss"] == 1.5
    assert 6.3 < half["loss ±"] < 6.4  # of the two values 0.5 and 1.5: 12.7 times their standard error of 0.5


def test_differences_are_those_of_the_same_seed():
    ours, other, _ = benchmark.CONTESTANTS
    runs = [{"settings": {"contestant": name}, "seed": seed, "measured": {"test_accuracy": accuracy}}
            for name, accuracies in ((ours, (0.8, 0.9, 0.7)), (other, (0.7, 0.8))) for seed, accuracy in enumerate(accuracies)]
    found = benchmark.rounded(benchmark.differences(runs))
    assert found == {other: {"mean": 0.1, "±": 0.0, "seeds": 2}}


def test_each_optimiser_has_as_many_rates():
    wanted = benchmark.optimisers_wanted(benchmark.FULL)
    rates = {name: [run["learning_rate"] for run in wanted if run["optimiser"] == name] for name in benchmark.OPTIMISERS}
    assert {len(own) for own in rates.values()} == {benchmark.FULL.rates}
    assert rates["AdamW"] == [3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2] and rates["SGD"][-1] == 1.0


def test_the_result_adds_up():
    parts = json.loads(RESULT.read_text())["parts"]
    for part in parts.values():
        assert benchmark.rounded(benchmark.means(part["runs"])) == part["means"]
        assert len({(json.dumps(run["settings"]), run["seed"]) for run in part["runs"]}) == len(part["runs"])
