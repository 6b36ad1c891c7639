"""The report card from outside: kills, refusals, rows that cannot be run, bars, and the script that works."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import NBS, ROOT, cells_of, tiny_classifier

from llm_course.evaluation import evaluate
from llm_course.intervals import wilson_interval
from llm_course.report_card import ROWS, Bar, Found, Given, confidence_of_each, report_card, side_by_side, verdict
from llm_course.reporting.given import RESAMPLES
from llm_course.reporting.page import plot_cards

LESSON = NBS / "lessons/59_report_card.ipynb"
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
    ({"rows": []}, ValueError, "a row at least"),
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
    assert verdict(Found(0, -9, 9), Bar(-1, 1)) == "open"


def test_two_cards_are_compared_on_the_same_texts_only(tmp_path):
    cards = [report_card(tiny_classifier(seed=seed), DATA, tmp_path / str(seed), rows=QUICK, texts=FEW, name=str(seed))
             for seed in (0, 1)]
    table = side_by_side(*cards)
    right = [np.mean(card["evaluate"].found.right) for card in cards]
    assert table.loc["evaluate", "second less first"].startswith(f"{right[1] - right[0]:.1%}")
    assert table["p"].notna().sum() == 2
    others = report_card(tiny_classifier(), DATA, tmp_path / "2", rows=QUICK, texts=FEW, seed=2)
    with pytest.raises(ValueError, match="not measured on the same texts"):
        side_by_side(cards[0], others)


def script_of_the_lesson() -> str:
    "The two cells below the heading of the script that works"
    cells = cells_of(LESSON)
    place = next(place for place, cell in enumerate(cells) if "def train_sentiment" in cell)
    return f"{cells[place - 1]}\n\n{cells[place]}"


def test_the_script_that_works_runs_alone_saves_and_comes_out_again(tmp_path):
    path = tmp_path / "sentiment.py"
    call = ("\n\nif __name__ == '__main__':\n    import sys\n"
            "    print(train_sentiment(sys.argv[1], texts=64, epochs=1)[1])\n")
    path.write_text(script_of_the_lesson() + call)
    outputs = [subprocess.run([sys.executable, str(path), str(tmp_path / folder)], env=RULES, text=True, timeout=300,
                              capture_output=True, check=True).stdout for folder in ("first", "second")]
    assert outputs[0] == outputs[1] and "validation loss" in outputs[0]
    weights = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in ("first", "second")]
    assert weights[0] == weights[1]


def test_the_faulty_script_is_python_and_is_never_run():
    cell = next(cell for cell in cells_of(LESSON) if cell.startswith("script = '''"))
    script = cell.split("'''")[1]
    compile(script, "script", "exec")
    for fault in ("BucketIterator", "squeeze(1)", "BCEWithLogitsLoss", "dtype=torch.float", "binary_accuracy",
                  "run(test_iterator", "/ len(iterator)"):
        assert fault in script
    assert "attention_mask" not in script and "exec(script" not in Path(LESSON).read_text()
