"""The report card from outside: kills, refusals, rows that cannot be run, bars, and the benchmark."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from conftest import NBS, ROOT, cells_of, run_tool, tiny_classifier
from scipy.stats import t as student

from llm_course.counterfactuals import NAME_FRAMES, written_sentences
from llm_course.evaluation import evaluate
from llm_course.intervals import wilson_interval
from llm_course.report_card import ROWS, Bar, Found, Given, Line, ReportCard, confidence_of_each, report_card, side_by_side
from llm_course.report_card import verdict
from llm_course.reporting.given import RESAMPLES
from llm_course.reporting.page import from_bar, plot_cards

LESSON = NBS / "lessons/59_report_card.ipynb"
RESULT = ROOT / "benchmarks/results/report_card.json"
TEXTS = ["A good film.", "A bad film, and too long.", "Dull and silly!", "So fine a story.", "No.", "Yes, it is great."]
TEST = {"text": TEXTS, "label": [1, 0, 0, 1, 0, 1]}
DATA = {"train": {"text": [f"{text} Really." for text in TEXTS], "label": TEST["label"]},
        "validation": {"text": [f"Well: {text}" for text in TEXTS], "label": TEST["label"]}, "test": TEST}
QUICK = ("prepare", "evaluate", "defend", "serve")  # a second each at most
FEW = {name: 6 for name in ROWS}
RULES = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}


def test_numbers_are_those_of_the_lessons(tmp_path):
    classifier = tiny_classifier()
    card = report_card(classifier, DATA, tmp_path / "card", rows=QUICK, texts=FEW)
    confidence = confidence_of_each(len(QUICK))
    report = evaluate(classifier, Given(classifier, DATA).drawn("test", 6), resamples=RESAMPLES, confidence=confidence)
    found = card["evaluate"].found
    assert found.value == pytest.approx(report.accuracy.value)
    assert (found.low, found.high) == wilson_interval(int(report.correct.sum()), 6, confidence)
    written = json.loads((tmp_path / "card/report.json").read_text())
    assert written["passed"] == card.passed and [line["name"] for line in written["lines"]] == list(QUICK)
    assert (tmp_path / "card/card.png").read_bytes()[:4] == b"\x89PNG"
    text = (tmp_path / "card/card.md").read_text()
    for line in card.lines:
        assert f"{line.lesson}.ipynb" in text and (NBS / f"lessons/{line.lesson}.ipynb").is_file()


def test_every_row_has_a_lesson_and_an_order():
    assert list(ROWS) == ["choose", "prepare", "fine-tune", "evaluate", "calibrate", "attack", "defend", "explain",
                          "fairness", "protect", "compress", "serve"]
    assert all((NBS / f"lessons/{row.lesson}.ipynb").is_file() for row in ROWS.values())


def test_no_time_at_all_measures_nothing_and_passes_nothing(tmp_path):
    card = report_card(tiny_classifier(), DATA, tmp_path / "card", seconds=0)
    assert card.passed == 0 and {line.verdict for line in card.lines} == {"not run"} and len(card.lines) == 12
    assert not list((tmp_path / "card").glob("row-*")) and "0 of 12 rows passed" in (tmp_path / "card/card.md").read_text()
    assert "not run" in plot_cards([card]).texts[0].get_text()


def test_three_labels_work_where_they_can(tmp_path):
    classifier = tiny_classifier(labels=("bad", "so-so", "good"))
    thirds = {name: {**part, "label": [0, 1, 2, 0, 1, 2]} for name, part in DATA.items()}
    card = report_card(classifier, thirds, tmp_path / "card", texts=FEW, rows=[*QUICK, "fairness", "calibrate", "protect"])
    assert card["fairness"].verdict == "cannot be run" and "two labels" in card["fairness"].reason
    assert all(line.found for line in card.lines if line.name != "fairness"), card.table
    assert not card["fairness"].passed and "two labels" in (tmp_path / "card/card.md").read_text()


def test_unlabelled_data_leave_what_needs_no_label(tmp_path):
    bare = {name: {"text": part["text"]} for name, part in DATA.items()}
    card = report_card(tiny_classifier(), bare, tmp_path / "card", texts=FEW, rows=QUICK)
    assert {line.name for line in card.lines if line.found} == {"prepare", "serve"}
    for name in ("evaluate", "defend"):
        assert card[name].verdict == "cannot be run" and "label" in card[name].reason


def test_a_row_that_fails_says_why_and_the_others_go_on(tmp_path, monkeypatch):
    def broken(given, texts, confidence):
        raise RuntimeError("the disk is full")

    monkeypatch.setitem(ROWS, "prepare", ROWS["prepare"]._replace(measure=broken))
    card = report_card(tiny_classifier(), DATA, tmp_path / "card", texts=FEW, rows=["prepare", "evaluate"])
    assert card["prepare"].reason == "the disk is full" and not card["prepare"].passed and card["evaluate"].found
    assert not (tmp_path / "card/row-prepare.json").exists()  # it is tried again


def test_a_missing_part_is_named(tmp_path):
    card = report_card(tiny_classifier(), {"test": TEST}, tmp_path / "card", texts=FEW, rows=["prepare", "evaluate"])
    assert card["prepare"].verdict == "cannot be run" and "needs the part train" in card["prepare"].reason
    assert card["evaluate"].found


@pytest.mark.parametrize(("change", "said"), [
    ({"classifier": tiny_classifier(seed=1)}, "classifier"),
    ({"data": {**DATA, "test": {**TEST, "label": [0] * 6}}}, "data"),
    ({"bars": {"evaluate": Bar(0.1)}}, "settings"),
    ({"texts": {**FEW, "evaluate": 5}}, "settings"),
    ({"seed": 1}, "seed"),
])
def test_the_folder_of_another_card_is_refused(tmp_path, change, said):
    given = {"classifier": tiny_classifier(), "data": DATA, "folder": tmp_path / "card", "seconds": 0, "texts": FEW}
    report_card(**given)
    report_card(**given)
    with pytest.raises(ValueError, match=f"holds another card. What differs: {said}"):
        report_card(**{**given, **change})


@pytest.mark.parametrize(("change", "error", "said"), [
    ({"rows": ["speed"]}, ValueError, "row must be one of"),
    ({"rows": []}, ValueError, "at least one row"),
    ({"bars": {"evaluate": 0.6}}, ValueError, "must be Bar"),
    ({"bars": {"evaluate": (0.9, 0.1)}}, ValueError, "least before its most"),
    ({"texts": {"evaluate": 1}}, ValueError, "texts"),
    ({"seconds": -1}, ValueError, "seconds"),
    ({"data": TEST}, ValueError, "some of the parts"),
    ({"data": {"test": {"label": [1]}}}, (ValueError, TypeError), "text"),
    ({"seed": -1}, ValueError, "seed"),
    ({"classifier": "sentiment"}, TypeError, "needs a classifier"),
])
def test_what_cannot_be_is_refused_before_anything_is_measured(tmp_path, change, error, said):
    with pytest.raises(error, match=said):
        report_card(**{"classifier": tiny_classifier(), "data": DATA, "folder": tmp_path / "card", **change})
    assert not (tmp_path / "card").exists()


def test_a_folder_with_something_else_and_a_damaged_row_are_refused(tmp_path):
    (tmp_path / "letter.txt").write_text("Dear reader")
    with pytest.raises(FileExistsError, match="no card"):
        report_card(tiny_classifier(), DATA, tmp_path)
    options = {"rows": ["evaluate"], "texts": FEW}
    report_card(tiny_classifier(), DATA, tmp_path / "card", **options)
    row = tmp_path / "card/row-evaluate.json"
    row.write_text(row.read_text().replace('"value": 0', '"value": 1'))
    with pytest.raises(ValueError, match=r"is damaged .* Delete it"):
        report_card(tiny_classifier(), DATA, tmp_path / "card", **options)
    row.unlink()
    assert report_card(tiny_classifier(), DATA, tmp_path / "card", **options)["evaluate"].found


KILLED = """
import sys, time
sys.path.insert(0, sys.argv[2])
import llm_course.report_card as module
from test_report_card import DATA, FEW, QUICK, tiny_classifier
def forever(given, texts, confidence):
    print("reached", flush=True)
    time.sleep(600)
rows = {name: row._replace(measure=forever) if name == "defend" else row for name, row in module.ROWS.items()}
module.ROWS.update(rows)
module.report_card(tiny_classifier(), DATA, sys.argv[1], rows=QUICK, texts=FEW)
"""


@pytest.mark.skipif(os.name != "posix", reason="kills by signal")
def test_a_killed_card_goes_on_with_what_is_missing(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "card"), str(ROOT / "tests")], env=RULES,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert any("reached" in line for line in process.stdout)
    with pytest.raises(TimeoutError, match="filled by another program"):
        report_card(tiny_classifier(), DATA, tmp_path / "card", rows=QUICK, texts=FEW)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    kept = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "card").glob("row-*")}
    assert set(kept) == {"row-prepare.json", "row-evaluate.json"}
    card = report_card(tiny_classifier(), DATA, tmp_path / "card", rows=QUICK, texts=FEW)
    assert all(line.found for line in card.lines)
    for name, was in kept.items():
        path = tmp_path / "card" / name
        assert (path.read_bytes(), path.stat().st_mtime_ns) == was
    whole = report_card(tiny_classifier(), DATA, tmp_path / "whole", rows=QUICK[:3], texts=FEW)
    assert [line.found.value for line in card.lines[:3]] == [line.found.value for line in whole.lines]


def test_time_given_is_kept_to(tmp_path, monkeypatch):
    def slow(given, texts, confidence):
        time.sleep(0.5)
        return Found(0.5, 0.4, 0.6)

    for name in ("choose", "prepare", "serve"):
        monkeypatch.setitem(ROWS, name, ROWS[name]._replace(measure=slow, answers=0, fixed=0.5))
    monkeypatch.setitem(ROWS, "prepare", ROWS["prepare"]._replace(fixed=60.0))
    card = report_card(tiny_classifier(), DATA, tmp_path / "card", rows=["choose", "prepare", "serve"], seconds=20)
    assert [line.verdict == "not run" for line in card.lines] == [False, True, False]  # the next one is tried
    assert re.fullmatch(r"about 60\.0 s, and \d+\.\d s were left", card["prepare"].reason)


def test_the_verdict_is_that_of_the_interval():
    generator = np.random.default_rng(0)
    for _ in range(300):
        low, value, high = np.sort(generator.random(3))
        least = generator.random()
        found = Found(value, low, high)
        expected = "passed" if low >= least else "failed" if high < least else "open"
        assert verdict(found, Bar(least)) == expected
        mirrored = Found(-value, -high, -low)
        assert verdict(mirrored, Bar(most=-least)) == expected


def test_the_verdict_against_a_bar_with_two_ends_asks_whether_interval_and_bar_meet():
    assert verdict(Found(0, -9, 9), Bar(-1, 1)) == verdict(Found(-0.12, -0.3, 0.11), Bar(-0.1, 0.1)) == "open"
    generator, seen = np.random.default_rng(0), set()
    for _ in range(500):
        (low, value, high), (least, most) = np.sort(generator.random(3)), np.sort(generator.random(2))
        found, bar = Found(value, low, high), Bar(least, most)
        inside = [bar.margin(point) >= 0 for point in np.linspace(low, high, 2001)]
        expected = "passed" if all(inside) else "open" if low <= most and high >= least else "failed"
        assert verdict(found, bar) == expected and (any(inside) <= (expected != "failed"))
        middle, worst, best = from_bar(found, bar)
        assert worst <= middle <= best and (expected != "passed" or worst >= 0) and (expected != "failed" or best <= 0)
        seen.add((expected, value < least, value > most))
    assert {("open", True, False), ("open", False, True), ("open", False, False)} <= seen


def test_two_cards_are_compared_on_the_same_texts_only(tmp_path):
    cards = [report_card(tiny_classifier(seed=seed), DATA, tmp_path / str(seed), rows=QUICK, texts=FEW, name=str(seed))
             for seed in (0, 1)]
    table = side_by_side(*cards)
    right = [np.mean(card["evaluate"].found.right) for card in cards]
    assert table.loc["evaluate", "second less first"].startswith(f"{100 * (right[1] - right[0]):+.1f} points")
    assert table["p"].notna().sum() == 2
    others = report_card(tiny_classifier(), DATA, tmp_path / "2", rows=QUICK, texts=FEW, seed=2)
    with pytest.raises(ValueError, match="not measured on the same texts"):
        side_by_side(cards[0], others)


def test_the_gap_that_may_be_largest_is_shown(tmp_path, monkeypatch):
    gaps = pd.DataFrame({"gap": [0.03, -0.02], "low": [-0.01, -0.19], "high": [0.07, 0.15], "names": [12, 12]},
                        ["women's list less men's list", "white list less Black list"])
    monkeypatch.setattr("llm_course.fairness.group_gaps", lambda *_, **__: gaps)
    card = report_card(tiny_classifier(), DATA, tmp_path, rows=["fairness"], texts=FEW)
    assert (card["fairness"].found.low, card["fairness"].verdict) == (-0.19, "open")
    words = len(written_sentences({"a": ["x"]}, NAME_FRAMES[:4]))
    assert f"{12 * words} sentences with 12 names" in card["fairness"].found.told


def test_what_is_cut_off_in_the_figure_ends_in_an_arrowhead():
    def arrows(found: Found, bar: Bar) -> list[str]:
        ax = plot_cards([ReportCard("A card", 0.95, (Line("evaluate", "13_evaluation", "accuracy", verdict(found, bar), bar, found),))])
        return [line.get_marker() for line in ax.lines if line.get_marker() in ("<", ">")]

    assert arrows(Found(0.65, 0.61, 0.69), Bar(0.6)) == []
    assert arrows(Found(0.95, 0.91, 0.99), Bar(0.6)) == [">"] and arrows(Found(0.05, 0.01, 0.09), Bar(0.6)) == ["<"]
    assert arrows(Found(0.77, 0.73, 0.81), Bar(0.6)) == [">"]  # the number is inside, its upper end is not


def test_what_the_lesson_says_of_three_seeds_is_in_the_result():
    kept = json.loads(RESULT.read_text())["summary"]
    said = next(cell for cell in cells_of(LESSON, "markdown") if cell.startswith("Ten of the plain"))
    fairness = [f"{100 * each:+.1f}".replace("-", "−") for each in kept["numbers"]["plain"]["fairness"]]
    assert "{}, {} and {} points".format(*fairness) in said
    same = [name for name, verdicts in kept["verdicts"]["plain"].items() if len({*verdicts}) == 1]
    assert len(same) == 10 and sum(kept["verdicts"]["plain"][name][0] == "open" for name in same) == 3
    assert sum(len({*verdicts}) == 1 for verdicts in kept["verdicts"]["defended"].values()) == 9
    protect = [100 * each for kind in kept["numbers"].values() for each in kind["protect"]]
    assert (round(min(protect)), round(max(protect))) == (27, 38)
    pairs = kept["defended less plain"]
    assert sum(each["p"] < 0.05 for each in pairs["attack"]["each"]) == 1 and min(each["value"] for each in pairs["attack"]["each"]) > 0
    mean, half = pairs["attack"]["mean"]
    corrected = half * student.ppf(1 - 0.05 / 6, 2) / student.ppf(0.975, 2)
    assert f"{100 * mean:.1f} ± {100 * half:.1f}, holds 0" in said and f"it is ± {100 * corrected:.1f}" in said and mean < half
    third = pairs["attack"]["each"][2]
    assert f"[{100 * third['low']:+.1f}, {100 * third['high']:+.1f}] points, yet $p = {third['p']:.3f}$" in said
    gains = [f"{100 * each['value']:.0f}" for each in pairs["defend"]["each"]]
    assert "gain {}, {} and {}: no gain is shown".format(*gains) in said


def test_a_service_is_asked_what_the_classifier_says_of_one_text_at_a_time(tmp_path, monkeypatch):
    classifier, sizes = tiny_classifier(), []
    real = type(classifier).predict
    monkeypatch.setattr(type(classifier), "predict", lambda self, texts: sizes.append(len(texts)) or real(self, texts))
    assert report_card(classifier, DATA, tmp_path, rows=["serve"], texts=FEW)["serve"].found
    assert set(sizes) == {1}


def test_paired_intervals_are_corrected_for_their_number(tmp_path):
    def card(name: str, *right: tuple) -> ReportCard:
        lines = [Line(f"row {place}", "13_evaluation", "accuracy", "open", Bar(0.5), Found(np.mean(some), 0, 1, right=some))
                 for place, some in enumerate(right)]
        return ReportCard(name, 0.95, tuple(lines), "same texts")

    zeros, ones = (0,) * 60, (1,) * 12 + (0,) * 48
    one, three = (side_by_side(card("a", *[zeros] * count), card("b", *[ones] * count)) for count in (1, 3))
    assert three.loc["row 0", "p"] == pytest.approx(3 * one.loc["row 0", "p"])
    widths = [np.diff([*map(float, re.findall(r"[+-][\d.]+", table.loc["row 0", "second less first"])[1:])])[0]
              for table in (one, three)]
    assert widths[1] > widths[0] > 0


def test_the_bars_of_the_card_are_those_that_the_lesson_explains():
    said = next(cell for cell in cells_of(LESSON, "markdown") if "How the bars were set" in cell)
    ends = {name: tuple(row.bar) for name, row in ROWS.items()}
    assert ends["choose"] == ends["explain"] == (0, None) and "*choose*, *explain*" in said
    assert ends["evaluate"] == (0.6, None) and ends["attack"] == ends["defend"] == (0.3, None) and "60 %" in said
    assert ends["fine-tune"] == ends["calibrate"] == (None, 0.1) and ends["fairness"] == (-0.1, 0.1)
    assert ends["prepare"] == (None, 0.05) and ends["compress"] == (0.95, None)
    assert ends["protect"] == (None, 0.2) and ends["serve"] == (None, 0.25)


@pytest.mark.slow
def test_the_benchmark_runs_whole_at_small_size_and_writes_nothing():
    before = RESULT.read_bytes() if RESULT.is_file() else None
    output = run_tool(sys.executable, ROOT / "benchmarks/report_card.py", "--small", timeout=600, OMP_NUM_THREADS="1",
                      PYTHONWARNINGS="ignore", HF_HUB_OFFLINE="1", PYTHONPATH=str(ROOT))
    assert [line.split()[:3] for line in output.splitlines() if line.startswith("cards ")] == [
        ["cards", kind, seed] for seed in "12" for kind in ("plain", "defended")]
    assert "'seeds': 2" in output and (RESULT.read_bytes() if RESULT.is_file() else None) == before
