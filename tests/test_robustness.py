"""The scoreboard of robustness: runs whole at small size, goes on within a row, chooses as it says, and counts as it says."""

import json
import shutil
import struct
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, leaves, run_tool

sys.path.insert(0, str(ROOT / "benchmarks"))
import robustness as benchmark
import strangers

from llm_course.adversarial_examples import all_synonyms, pgd
from llm_course.embeddings import embedded
from llm_course.models import TextClassifier

RESULT = ROOT / "benchmarks/results/robustness.json"


@pytest.mark.slow
def test_small_run_makes_every_column_and_writes_nothing():
    before = RESULT.read_bytes() if RESULT.exists() else None
    output = run_tool(sys.executable, ROOT / "benchmarks/robustness.py", "--small", "--processes", "2", timeout=1800,
                      OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore", PYTHONPATH=str(ROOT))
    found = json.loads(output.splitlines()[-1])
    kinds = {name.split(" 0")[0].split(" words")[0].split(" epsilon")[0] for name in found["rows"] if name.endswith(" 0")}
    assert {"search plain", "search FGM", "test plain", "test FGM", "test smoothed plain", "all plain",
            "all averaged weights", "search with all frequent and worst synonyms"} <= kinds
    for name, columns in found["rows"].items():
        if name.startswith("search"):
            assert {*columns} == {"clean", *benchmark.CHOOSE_BY}
        elif "smoothed" not in name:
            assert {"clean", "PWWS, WordNet"} <= {*columns, *({"PWWS, WordNet"} if "WordNet" in found["missing"] else ())}
        if name.startswith("test") and "smoothed" not in name:
            assert {"PGD 0.2", "SPSA 0.2", "transfer 0.2", "certified, own table", "typing mistakes"} <= {*columns}
    assert "more than plain" in found["summary"]["test FGM epsilon=0.1"]["columns"]["clean"]
    assert (RESULT.read_bytes() if RESULT.exists() else None) == before


def row(method: str, kind: str = "search", seed: int = 0, **outcomes: str) -> dict:
    "A row with some outcomes"
    named = {"unseen": [benchmark.UNSEEN], "kept": benchmark.CHOOSE_BY}
    return {"kind": kind, "method": method, "options": {"of": method}, "seed": seed,
            "columns": {column: {"right": right, "seconds": 1.0} for name, right in outcomes.items()
                        for column in named.get(name, [name])}}


def test_settings_are_chosen_by_the_rule():
    "Of those that lose little the one that keeps most under the attacks that choose; else the one that loses least"
    def many(right: int) -> str:
        return "1" * right + "0" * (1000 - right)

    rows = {name: row(name.split("/")[0], clean=many(clean), kept=many(kept), unseen=many(999 - kept)) | {"options": {"of": name}}
            for name, clean, kept in (("plain", 900, 100), ("FGM/a", 893, 150), ("FGM/b", 895, 200), ("FGM/c", 880, 400),
                                      ("PGD/a", 850, 500), ("PGD/b", 860, 300), ("worst synonyms/a", 896, 350))}
    chosen = benchmark.chosen(rows, "search")
    assert chosen["FGM"] == {"of": "FGM/b"} and chosen["PGD"] == {"of": "PGD/b"}
    assert chosen["R-Drop"] == {"weight": 1.0}  # the only setting: used even before it was searched
    assert benchmark.defences(rows, "search", 3) == ["worst synonyms", "FGM", "PGD"]
    assert not any(each.kind in benchmark.SEARCHES for each in benchmark.jobs(rows, False, benchmark.FULL))
    assert {each.kind for each in benchmark.jobs(rows, True, benchmark.FULL)} == {"search"}  # the best are not known yet
    for each in benchmark.jobs(rows, True, benchmark.FULL):
        rows.setdefault(each.name, {"kind": "search", "columns": {}})
    more = [each.method for each in benchmark.jobs(rows, True, benchmark.FULL) if each.kind == "search with all"]
    assert set(more) == {"plain", "worst synonyms"}  # FGM and PGD have no settings of their own for all reviews
    every = benchmark.jobs(rows, False, benchmark.FULL)
    assert {each.method for each in every if each.kind == "all"} == {"plain", "worst synonyms", "FGM", "PGD"}
    assert {each.method for each in every if each.method.startswith("smoothed")} == {"smoothed plain", "smoothed worst synonyms"}
    assert {each.kind for each in benchmark.ready(every, rows, benchmark.FULL)} == {"test"}
    for each in benchmark.jobs(rows, True, benchmark.FULL):
        rows.setdefault(each.name, {"kind": "search with all", "columns": {}})
    assert benchmark.ready(every, rows, benchmark.FULL) == every
    with pytest.raises(SystemExit, match="chosen first"):
        benchmark.ready(every, {name: found for name, found in rows.items() if "R-Drop" not in name}, benchmark.FULL)
    first = [job.method == "plain" for job in benchmark.jobs(rows, False, benchmark.FULL)]
    assert first == sorted(first, reverse=True)


def test_the_interval_draws_seeds_and_reviews():
    generator = np.random.default_rng(1)
    table = (generator.random((3, 200)) < 0.3).astype(int)
    mean, low, high = benchmark.two_ways(table)
    assert mean == table.mean() and low < mean < high and high - low < 0.2
    draws = [table[generator.integers(3, size=3)][:, generator.integers(200, size=200)].mean() for _ in range(4000)]
    assert abs(low - np.quantile(draws, 0.025)) < 0.01 and abs(high - np.quantile(draws, 0.975)) < 0.01
    seeds_differ = np.repeat([[0], [0], [1]], 200, 1)  # all of the spread is between seeds
    assert benchmark.two_ways(seeds_differ)[1:] == pytest.approx([0.0, 1.0])
    assert benchmark.two_ways(np.zeros((1, 5))) == [0.0, 0.0, 0.0]


def test_the_summary_pairs_seeds_and_says_who_reaches_the_aims():
    def runs(method: str, clean: str, unseen: str) -> dict[str, dict]:
        return {f"test {method} {seed}": row(method, "test", seed, clean=clean, unseen=unseen) | {"options": {}}
                for seed in range(3)}

    rows = {**runs("plain", "1" * 90 + "0" * 10, "1000000000" * 2), **runs("good", "1" * 89 + "0" * 11, "1111000000" * 2),
            **runs("weak", "1" * 90 + "0" * 10, "1100000000" * 2), **runs("dear", "1" * 80 + "0" * 20, "1111111100" * 2)}
    board = benchmark.summary(rows)
    assert {name: each["reaches the aims"] for name, each in board.items()} == {
        "test plain": False, "test good": True, "test weak": False, "test dear": False}
    assert board["test good"]["columns"][benchmark.UNSEEN]["more than plain"][0] == pytest.approx(0.3)
    assert board["test plain"]["columns"]["clean"]["more than plain"] == [0.0, 0.0, 0.0]
    del rows["test good 2"]
    assert "reaches the aims" not in benchmark.summary(rows)["test good"]  # two seeds do not decide


def test_a_row_goes_on_at_the_column_where_it_stopped(monkeypatch, tmp_path):
    sizes, calls = benchmark.FULL._replace(work=tmp_path, attacked={"test": 2}), []
    job = benchmark.Job("test", "plain", {}, 0)

    def column(name: str):
        def measured(case):
            calls.append(name)
            if name == "second" and calls.count(name) == 1:
                raise KeyboardInterrupt
            if name == "third" and calls.count(name) == 1:
                raise benchmark.Later("another row")
            return {"right": "10"}
        return measured

    monkeypatch.setattr(benchmark, "stored", lambda job, sizes: (calls.append("trained") or None, 1.0))
    monkeypatch.setattr(benchmark, "columns", lambda job, sizes: {name: column(name)
                                                                  for name in ("first", "second", "third")})
    with pytest.raises(KeyboardInterrupt):
        benchmark.done((job, sizes))
    second = benchmark.done((job, sizes))
    assert second["waits"] == ["another row"] and "third" not in second["columns"]
    third = benchmark.done((job, sizes))
    assert third["waits"] == [] and list(third["columns"]) == ["first", "second", "third"]
    assert [calls.count(name) for name in ("first", "second", "third")] == [1, 2, 2]
    calls.clear()
    assert benchmark.done((job, sizes)) == third and calls == []


def test_every_kind_of_row_has_every_column(monkeypatch, tmp_path):
    "All rows of a small scoreboard, with untrained tiny models in place of trained ones"
    trainings = []

    def untrained(method, options, seed, recipe, precision):
        trainings.append((method, options, seed))
        classifier = TextClassifier.from_pretrained("tiny-bert", labels=["negative", "positive"], seed=seed, device="cpu")
        classifier.word_map = {"movie": "film"} if "rare" in options else {}
        return classifier, 0.0

    shares = {"words": "checked", "rare": 3, "most": 0.4, "clean_share": 0.5}
    mean = {"words": "checked", "rare": 3, "most": 0.4, "clean_shares": [0.5], "plain_share": 0.5}
    monkeypatch.setattr(benchmark, "trained", untrained)
    monkeypatch.setattr(benchmark, "neighbours", lambda part, count, work: benchmark.Listed({"film": ["movie"], "good": ["bad"]}))
    monkeypatch.setattr(strangers, "missing", dict)  # a word or two of each thesaurus, whether it is installed or not
    monkeypatch.setattr(strangers, "wordnet_candidates", benchmark.Listed({"film": ["picture"], "good": ["goodness"]}))
    monkeypatch.setattr(strangers, "aiksaurus_candidates", benchmark.Listed({"film": ["flick"]}))
    monkeypatch.setattr(benchmark, "SEARCHES", {
        "search": {"plain": [{}], "frequent and worst synonyms": [shares], "averaged weights": [mean]},
        "search with all": {"plain": [{}], "averaged weights": [mean]}})
    sizes = benchmark.FULL._replace(seeds=2, clean=6, attacked=dict.fromkeys(benchmark.RECIPES, 3), few=2, bounded=2,
                                    queries=40, restarts=2, work=tmp_path)
    rows = {}
    for search in (True, False):
        for _ in range(2):  # rows of plain training need each other
            for job in benchmark.jobs(rows, search, sizes):
                found = benchmark.done((job, sizes))
                if not found.pop("waits"):
                    rows[job.name] = found
        assert {job.name for job in benchmark.jobs(rows, search, sizes)} <= rows.keys()
    for found in rows.values():
        job = benchmark.Job(*(found[field] for field in benchmark.Job._fields))
        assert found["columns"].keys() == benchmark.columns(job, sizes).keys() and found["seconds"] >= 0
    assert any(name.startswith("test smoothed frequent and worst synonyms") for name in rows)
    assert len(trainings) == len({str(each) for each in trainings}) + 4  # few and many reviews: nothing is trained twice
    board = benchmark.summary(rows)
    smoothed = board["test smoothed plain"]["columns"]
    assert "more than plain" in smoothed["PWWS, own table, bounded"] and "certified, own table" in smoothed
    assert [row["method"] for name, row in board.items() if name.startswith("test ")] == [
        "plain", "frequent and worst synonyms", "averaged weights", "smoothed plain", "smoothed frequent and worst synonyms"]
    assert {"clean", "typing mistakes, accepted", "SPSA 0.2"} <= board[
        "all averaged weights words=checked rare=3 most=0.4 clean_shares=[0.5] plain_share=0.5"]["columns"].keys()
    json.dumps(board)
    shutil.rmtree(tmp_path)  # another machine: rows that are known serve the missing one as their folder did
    lost = "test frequent and worst synonyms words=checked rare=3 most=0.4 clean_share=0.5 1"
    left = {name: found for name, found in rows.items() if name != lost}
    benchmark.lay_out(left, sizes)
    job = benchmark.Job(*(rows[lost][field] for field in benchmark.Job._fields))
    again = benchmark.done((job, sizes))
    assert not again["waits"]
    assert [each["right"] for each in again["columns"].values()] == [each["right"] for each in rows[lost]["columns"].values()]


def test_committed_rows_have_every_field():
    if not RESULT.exists():
        pytest.skip("not measured yet")
    content = json.loads(RESULT.read_text())
    for name, found in content["rows"].items():
        job = benchmark.Job(*(found[field] for field in benchmark.Job._fields))
        assert job.name == name and benchmark.columns(job, benchmark.FULL).keys() <= found["columns"].keys()
        assert all(set(column["right"]) <= {"0", "1"} and column["seconds"] >= 0 for column in found["columns"].values())
    ours, theirs = (dict(leaves(each)) for each in (benchmark.summary(content["rows"]), content["summary"]))
    assert ours == pytest.approx(theirs, abs=1e-9)  # sums of another processor end in other digits


def test_aiksaurus_files_are_read(monkeypatch, tmp_path):
    "Files of the same format, made here: nothing of the thesaurus is needed"
    names, end = ["film", "movie", "movies", "silver:screen", "skin"], b"\xff\xff"
    known = [(0, 1), (0, 1), (0,), (0,), (1,)]
    tmp_path.joinpath("words.dat").write_bytes(b"".join(
        name.encode() + b"\0" + b"".join(struct.pack(">H", number) for number in own) + end
        for name, own in zip(names, known, strict=True)))
    tmp_path.joinpath("meanings.dat").write_bytes(b"".join(
        b"".join(struct.pack(">H", number) for number in group) + end for group in ((1, 0, 0, 1, 2, 3), (4, 0, 0, 1, 4))))
    monkeypatch.setattr(strangers, "AIKSAURUS", tmp_path)
    strangers._aiksaurus.cache_clear(), strangers.aiksaurus_candidates.cache_clear()
    try:
        assert strangers.aiksaurus_candidates("film") == ("movie", "skin")
        assert strangers.aiksaurus_candidates("carburettor") == ()
    finally:
        strangers._aiksaurus.cache_clear(), strangers.aiksaurus_candidates.cache_clear()


@pytest.mark.skipif("WordNet" in strangers.missing(), reason="WordNet is not installed")
def test_wordnet_is_taken_as_it_is():
    found = strangers.wordnet_candidates("films")
    assert "movie" in found and "movies" not in found and "films" not in found  # of the base form, not inflected
    new, found = (each("good") for each in (strangers.new_to_the_table(strangers.wordnet_candidates),
                                            strangers.wordnet_candidates))
    assert set(new) < set(found) and not set(new) & set(all_synonyms("good"))
    assert strangers.wordnet_candidates("xyzzyx") == ()


@pytest.fixture(scope="module")
def untrained() -> TextClassifier:
    return TextClassifier.from_pretrained("tiny-bert", labels=["negative", "positive"], device="cpu")


def test_searches_stay_in_the_ball_of_a_text(untrained, monkeypatch):
    texts = ["A gorgeous, witty film.", "Dull."]
    targets = untrained.logits(texts).argmax(-1).tolist()
    moves = strangers.perturbations(untrained, texts, targets, epsilon=0.3, steps=4)
    assert all(move.norm() <= 0.3 + 1e-5 for move in moves) and moves[0].shape[0] > moves[1].shape[0]
    seen, (_, rest, _) = [], embedded(untrained, texts[:1])

    def watched(classifier, some):
        function, vectors, mask = embedded(classifier, some)
        return lambda values: seen.append((values - rest).flatten(1).norm(dim=1).max()) or function(values), vectors, mask

    monkeypatch.setattr(strangers, "embedded", watched)
    strangers.spsa(untrained, texts[0], targets[0], epsilon=0.3, queries=100)
    assert len(seen) > 2 and max(seen) <= 0.3 * 1.1 + 1e-4  # the probes reach a tenth beyond
    assert strangers.spsa(untrained, texts[0], 1 - targets[0], epsilon=0.3, queries=100) is False


def test_restarts_only_turn_more_and_moves_are_added(untrained):
    texts = ["A gorgeous, witty film.", "Dull.", "It is what it is."]
    targets = untrained.logits(texts).argmax(-1).tolist()
    few = strangers.pgd_with_restarts(untrained, texts, targets, epsilon=0.05, steps=3, restarts=1)
    more = strangers.pgd_with_restarts(untrained, texts, targets, epsilon=0.05, steps=3, restarts=3)
    assert all(a or not b for a, b in zip(few, more, strict=True))
    assert strangers.pgd_with_restarts(untrained, texts, [1 - each for each in targets], epsilon=0.05) == [False] * 3
    rest = [torch.zeros(1, 1).expand(len(ids), 1) for ids in untrained.tokenize(texts)[0]]
    assert strangers.right_at(untrained, texts, targets, rest) == [True] * 3
    far = strangers.perturbations(untrained, texts, targets, epsilon=50.0)
    direct = [pgd(untrained, [text], [target], epsilon=50.0, steps=20, random_start=False)
              for text, target in zip(texts, targets, strict=True)]
    assert strangers.right_at(untrained, texts, targets, far) == [
        bool((each.after.argmax(-1) == each.targets).item()) for each in direct]


@pytest.mark.slow
def test_the_defences_as_they_come_are_measured_at_small_size():
    output = run_tool(sys.executable, ROOT / "benchmarks/default_defences.py", "--small", "--processes", "2", timeout=1800,
                      OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore", PYTHONPATH=str(ROOT))
    found = json.loads(output.splitlines()[-1].removeprefix("summary "))
    assert all(set(row) == {"plain", "FGM", "PGD", "FreeLB"} and row["FGM"]["seeds"] == 2 for row in found.values())
    assert all(low <= mean <= high for row in found.values() for way in ("FGM", "PGD", "FreeLB")
               for mean, low, high in [row[way]["gained"]])
