"""The sheets that readers fill, and what is counted from them."""

import csv
import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def substitutions(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    module = importlib.import_module("substitutions")
    monkeypatch.setattr(module, "TWICE", 6)
    yield module
    sys.modules.pop("substitutions")


def made() -> dict:
    return {name: {"pairs": [{"text": f"{name} {i}", "copy": f"{name} {i}, changed"} for i in range(20)]} for name in "ab"}


def fill(folder: Path, verdict):
    for path in folder.glob("*.csv"):
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["number", "text", "copy", "grammatical", "meaning", "label"], "a sheet tells the method"
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            for row in rows:
                writer.writerow(row | dict(zip(("grammatical", "meaning", "label"), verdict(path, row), strict=True)))


def test_verdicts_find_their_pairs(substitutions, tmp_path):
    methods = made()
    substitutions.write_sheets(tmp_path, methods)
    assert sum(len(path.read_text().splitlines()) - 1 for path in tmp_path.glob("sheet-*.csv")) == 40
    # All copies of a are good, those of b keep the label alone; the second reader finds no copy grammatical.
    fill(tmp_path, lambda path, row: ("n" if path.stem == "again" or row["text"][0] == "b" else "y",
                                      "y" if row["text"][0] == "a" else "n", "y"))
    substitutions.collect(tmp_path, methods)
    found = substitutions.counted(methods)
    assert all(pair["text"][0] == name for name, method in methods.items() for pair in method["pairs"])
    shares = {name: [row[key]["share"] for key in row] for name, row in found["methods"].items()}
    assert shares == {"a": [1, 1, 1, 1], "b": [0, 0, 1, 0]}
    second = found["second reading"]
    assert second["meaning"]["same"] == 1 and second["label"]["kappa"] is None and second["grammatical"]["pairs"] == 6
    assert second["grammatical"]["second says yes"] == 0
    assert len(substitutions.twenty(methods)) == 20 and {pair["method"] for pair in substitutions.twenty(methods)} == {"a", "b"}


def test_a_missing_verdict_is_named(substitutions, tmp_path):
    methods = made()
    substitutions.write_sheets(tmp_path, methods)
    with pytest.raises(ValueError, match="lacks a verdict"):
        substitutions.collect(tmp_path, methods)
    fill(tmp_path, lambda path, row: ("y", "y", "y"))
    (tmp_path / "sheet-3.csv").unlink()
    (tmp_path / "again.csv").unlink()
    with pytest.raises(ValueError, match="pairs have no verdict"):
        substitutions.collect(tmp_path, methods)


def test_agreement_is_beyond_chance(substitutions):
    pairs = [(True, True)] * 4 + [(False, False)] * 4 + [(True, False)] * 2
    found = substitutions.agreed(pairs)
    assert found["same"] == 0.8 and found["kappa"] == pytest.approx((0.8 - 0.48) / 0.52)  # 0.6 · 0.4 + 0.4 · 0.6
