"""The clinic from outside: each fault of the script is found, and would be found again in the script that works."""

import json
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import NBS, ROOT, cells_of, tiny_classifier
from torch import nn
from transformers import PreTrainedModel

from llm_course import clinic
from llm_course.clinic import HABITS, Names, Watch, in_loops, missing_habits, missing_libraries, names_in, watched
from llm_course.exercises import outcome_of

LESSON = NBS / "lessons/58_clinic.ipynb"
CELLS = cells_of(LESSON)
SCRIPT = next(cell for cell in CELLS if cell.startswith("script = '''")).split("'''")[1]
PLACE = next(place for place, cell in enumerate(CELLS) if "def train_sentiment" in cell)
WORKING = f"{CELLS[PLACE - 1]}\n\n\n{CELLS[PLACE]}"  # the two cells below the heading of the script that works
RULES = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}

FOUND = {  # by reading alone: whether a fault is in a script
    "retired Field and BucketIterator": lambda text: "torchtext" in missing_libraries(text),
    "own tokenizer never used": lambda text: "tokenizer" in names_in(text).unused,
    "losses never looked at": lambda text: {"train_loss", "valid_loss"} <= {*names_in(text).unused},
    "accuracy undefined": lambda text: "binary_accuracy" in names_in(text).undefined,
    "optimiser undefined": lambda text: "optimizer" in names_in(text).undefined,
    "device undefined": lambda text: "device" in names_in(text).undefined,
    "test set as validation": lambda text: bool(in_loops(text, "test")),
    **{f"no {habit}": lambda text, habit=habit: habit in missing_habits(text) for habit in HABITS},
}


@pytest.mark.parametrize("fault", FOUND)
def test_a_fault_that_reading_finds_is_in_the_script_and_gone_in_the_one_that_works(fault, monkeypatch):
    usual = clinic.find_spec
    monkeypatch.setattr(clinic, "find_spec", lambda name: None if name == "torchtext" else usual(name))
    assert FOUND[fault](SCRIPT) and not FOUND[fault](WORKING)


def test_reading_the_working_script_finds_nothing():
    assert names_in(WORKING) == Names([], ["train_sentiment"]) and missing_libraries(WORKING) == []


def test_the_faulty_script_is_python_and_is_never_run():
    compile(SCRIPT, "script", "exec")
    for fault in ("BucketIterator", "squeeze(1)", "BCEWithLogitsLoss", "dtype=torch.float", "binary_accuracy",
                  "run(test_iterator", "/ len(iterator)"):
        assert fault in SCRIPT and fault not in WORKING
    assert "attention_mask" not in SCRIPT and not any("exec(script" in cell for cell in CELLS)


def run(text: str, folder, **options) -> tuple[Watch, tuple]:
    "What was seen of a script's `train_sentiment`, on a few reviews, and what it returned"
    names = {}
    exec(text, names)
    load = names["load_dataset"]
    names["load_dataset"] = lambda name: {part: rows.select(range(60)) for part, rows in load(name).items()}
    with watched() as watch:
        returned = names["train_sentiment"](folder, **{"texts": 40, "epochs": 2, **options})
    return watch, returned


def faults_of(watch: Watch) -> set[str]:
    "What the watch says is wrong"
    learning, rates = [call for call in watch.calls if call.learning], [step.learning_rate for step in watch.steps]
    return {name for name, there in {
        "mask": not all(call.masked for call in watch.calls),
        "training mode": not all(call.training for call in learning),
        "evaluation mode": any(call.training for call in watch.calls if not call.learning),
        "clipping": max(step.norm for step in watch.steps) > 1 + 1e-4,
        "warm-up": rates[0] >= max(rates) or rates[-1] >= max(rates)}.items() if there}


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> tuple[Watch, tuple]:
    "A run of the script that works"
    return run(WORKING, tmp_path_factory.mktemp("works") / "model")


def test_the_working_script_is_seen_to_work(seen):
    watch, (kept, accuracy) = seen
    assert not faults_of(watch) and len(watch.steps) == 2 * math.ceil(40 / 16)
    assert sum(call.rows for call in watch.calls if call.learning) == 2 * 40 and 0 <= accuracy <= 1
    assert not kept.model.training


@pytest.mark.parametrize(("words", "others", "fault"), [
    ("classifier.model(**batch)", 'classifier.model(batch["input_ids"])', "mask"),
    ("classifier.model.train()", "classifier.model.eval()", "training mode"),
    ("warmup_then_decay(step, steps, 0.1)", "1.0", "warm-up"),
    ("schedule.step()", "pass", "warm-up"),
])
def test_what_goes_missing_in_the_working_script_is_seen(words, others, fault, tmp_path):
    assert WORKING.count(words) == 1
    watch, _ = run(WORKING.replace(words, others), tmp_path / "model")
    assert faults_of(watch) == {fault}


def test_clipping_is_seen_in_the_norms(tmp_path):
    clipping = "torch.nn.utils.clip_grad_norm_(classifier.model.parameters(), 1.0)"
    assert WORKING.count(clipping) == 1
    largest = [max(step.norm for step in run(WORKING.replace(clipping, text), tmp_path / name)[0].steps)
               for name, text in (("less", clipping.replace("1.0", "0.05")), ("none", "pass"))]
    assert largest[0] == pytest.approx(0.05, rel=1e-3) and largest[1] > 0.1


@pytest.mark.parametrize(("words", "others", "error"), [
    ("model(**batch).logits", "model(**batch)", TypeError),
    ("model(**batch).logits", "model(**batch).squeeze(1)", AttributeError),
    ('targets = torch.tensor(train["label"])', 'targets = torch.tensor(train["label"]).float()', RuntimeError),
    ("loss = F.cross_entropy(logits, targets[rows]", "loss = F.binary_cross_entropy_with_logits(logits, 1.0 * targets[rows]",
     ValueError),
    ("optimizer = ", "optimiser = ", NameError),
    ("classifier.save(model_folder)", "pass", FileNotFoundError),
])
def test_what_raises_raises_in_the_working_script_too(words, others, error, tmp_path):
    assert words in WORKING
    with pytest.raises(error):
        run(WORKING.replace(words, others), tmp_path / "model")


def test_what_reading_finds_is_found_when_it_comes_back():
    for words, others, fault in (
            ("set_seed(seed)", "pass", "no seed"), ("classifier.save(model_folder)", "pass", "no saving"),
            ("    optimizer = torch.optim.AdamW", "    other = torch.optim.AdamW", "optimiser undefined"),
            ('scores(classifier, reviews["validation"])', 'scores(classifier, reviews["test"])', "test set as validation"),
            ("clip_grad_norm_", "clip", "no clipping"), ("lr_scheduler.LambdaLR", "Rate", "no schedule")):
        assert words in WORKING and FOUND[fault](WORKING.replace(words, others)), fault


def test_its_means_are_over_texts_and_a_long_text_is_cut(seen, tmp_path, capsys):
    _, (kept, _) = seen
    names = {}
    exec(WORKING, names)
    rows = {"text": ["good"] * 33 + ["a bad film"], "label": [1] * 33 + [0]}  # 32 in one batch, 2 in the next
    logits, targets = kept.logits(rows["text"]), torch.tensor(rows["label"])
    loss, accuracy = names["scores"](kept, rows)
    assert loss == pytest.approx(nn.functional.cross_entropy(logits, targets).item())
    assert accuracy == pytest.approx((logits.argmax(-1) == targets).double().mean().item())
    load = names["load_dataset"]("movies")
    long = {"text": ["good " * 900] * 4, "label": [0, 1, 0, 1]}

    class Part(dict):
        def shuffle(self, seed):
            return self

        def select(self, rows):
            return self

    names["load_dataset"] = lambda name: {"train": Part(long), **{
        part: load[part].select(range(8)) for part in ("validation", "test")}}
    names["train_sentiment"](tmp_path / "model", texts=4, epochs=1)
    assert re.search(r"^4 of 4 texts were cut at \d+ tokens", capsys.readouterr().out)


def test_the_script_that_works_runs_alone_saves_and_comes_out_again(tmp_path):
    path = tmp_path / "sentiment.py"
    call = ("\n\nif __name__ == '__main__':\n    import sys\n"
            "    print(train_sentiment(sys.argv[1], texts=64, epochs=1)[1])\n")
    path.write_text(WORKING + call)
    outputs = [subprocess.run([sys.executable, str(path), str(tmp_path / folder)], env=RULES, text=True, timeout=300,
                              capture_output=True, check=True).stdout for folder in ("first", "second")]
    assert outputs[0] == outputs[1] and "validation loss" in outputs[0]
    weights = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in ("first", "second")]
    assert weights[0] == weights[1]


def test_the_table_of_the_lesson_names_the_lines_of_its_script_and_the_faults_of_its_list():
    cells = json.loads(LESSON.read_text(encoding="utf-8"))["cells"]
    [table] = ["".join(output["data"]["text/markdown"]) for cell in cells for output in cell.get("outputs", [])
               if "Mended by" in "".join(output.get("data", {}).get("text/markdown", ""))]
    lines = [line.strip().partition("  #")[0] for line in WORKING.splitlines()]
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \| `(.+)` \|$", table, re.MULTILINE)
    assert len(rows) == 17 and len({fault for fault, *_ in rows}) == 17
    assert all(line in lines for *_, line in rows)
    assert sum(raised == "nothing" for _, _, raised, _ in rows) == 9
    assert all(raised == "nothing" or raised.endswith("Error") for _, _, raised, _ in rows)
    text = next(cell for cell in cells_of(LESSON, "markdown") if "We count seventeen faults" in cell)
    text = re.sub(r" \(.+?\)|`", "", re.sub(r"\[(.+?)\]\(.+?\)", r"\1", text))
    listed = ", ".join(re.findall(r"^\d\. \*\*[^*]+\*\*: (.+)\.$", text, re.MULTILINE)).split(", ")
    assert sorted(listed) == sorted(fault for fault, *_ in rows)


@pytest.mark.parametrize(("script", "undefined", "unused"), [
    ("", [], []),
    ("import a.b as c, d\nfrom e import f as g", [], ["c", "d", "g"]),
    ("@wrap\ndef f(x, *rest, y=z, **more):\n    return x", ["wrap", "z"], ["f"]),
    ("class A(B):\n    size = n\n    def g(self):\n        return size", ["B", "n", "size"], ["A"]),
    ("def f():\n    return later\nlater = 1\nf()", [], []),
    ("rows = [x for x in range(3) if x]\nprint(rows)", [], []),
    ("with open(p) as file, lock:\n    file.read()", ["lock", "p"], []),
    ("try:\n    a\nexcept E as error:\n    raise", ["E", "a"], ["error"]),
    ("a = 1\na.b = 2\nc = 3\nc += a.b", [], []),
    ("from x import *\ny", [], []),
    ("words = 'a device'  # criterion\nprint(words, __name__, __file__)", [], []),
])
def test_names_of_scripts_of_many_kinds(script, undefined, unused):
    assert names_in(script) == (undefined, unused)


def test_what_is_no_python_is_refused_by_all():
    for tool in (names_in, missing_libraries, missing_habits, lambda text: in_loops(text, "test")):
        with pytest.raises(ValueError, match="Line 1 of the script is no Python"):
            tool("print 3")


def test_statements_in_loops():
    nested = "for a in b:\n    for c in test:\n        d = test\n    else:\n        e = 'my test'\ntest"
    assert in_loops(nested, "test") == ["for c in test:", "d = test", "e = 'my test'"]
    assert in_loops("while test:\n    pass", "test") == [] == in_loops("for a in b:\n    attest.x", "tests")


@pytest.mark.parametrize(("line", "found"), [
    ("latest = a", False), ("attest(a)", False), ("tests = a", False), ("f(data.test)", True), ("f(data.test_part.rows)", True),
    ("f('path/test.csv')", True), ("f(part=Test)", True), ("f(test=a)", True), ("if test_rows:\n        a", True),
    ("with test:\n        a", True), ("if a:\n        b", False), ("try:\n        a\n    except E:\n        a", False),
])
def test_a_loop_mentions_a_part_by_whole_words(line, found):
    assert bool(in_loops(f"for a in b:\n    {line}", "test")) == found


def test_a_watch_sees_the_outermost_call_and_takes_nothing_with_it():
    made = tiny_classifier()
    batch = made.pad(made.tokenize(["Good.", "A bad film, and too long."])[0])
    before = PreTrainedModel.__call__
    with pytest.raises(ZeroDivisionError), watched() as watch:
        made.model(batch["input_ids"], batch["attention_mask"])  # by place
        made.model(inputs_embeds=torch.zeros(3, 4, 16), attention_mask=torch.ones(3, 4))
        raise ZeroDivisionError
    assert "__call__" not in vars(PreTrainedModel) and PreTrainedModel.__call__ is before
    assert [call.masked for call in watch.calls] == [True, True] and watch.calls[1][:2] == (3, 4)
    made.model(**batch)
    torch.optim.SGD(made.model.parameters(), lr=0.1).step()
    assert len(watch.calls) == 2 and not watch.steps
    with watched() as second:
        torch.optim.SGD(made.model.parameters(), lr=0.1).step()  # there is no gradient
    assert second.steps == [(0.0, 0.1)] and "0 of 0" in set(second.table)


def test_a_watch_changes_no_training(tmp_path):
    from llm_course.fine_tuning import fine_tune
    rows = {"text": [f"Film {number} is {'fine' if number % 2 else 'weak'}" for number in range(12)],
            "label": [number % 2 for number in range(12)]}
    weights = []
    for watching in (False, True):
        made = tiny_classifier()
        if watching:
            with watched() as watch:
                fine_tune(made, rows, epochs=2, batch_size=4, progress=False)
        else:
            fine_tune(made, rows, epochs=2, batch_size=4, progress=False)
        weights.append(made.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert len(watch.steps) == 6 and all(call.masked and call.training for call in watch.calls if call.learning)


def test_the_loop_of_the_exercise_is_refused_and_below_its_bar():
    from llm_course.answers.clinic import _loss, _trained
    cell = next(cell for cell in CELLS if cell.startswith("def faulty_loop"))
    names = {"torch": torch, "F": nn.functional}
    exec(cell, names)
    outcome = outcome_of("mend the loop", names["faulty_loop"])
    assert outcome.status == "wrong" and "reads padding" in outcome.message
    rights = []
    for seed in range(3):
        model, _, (_, _, new) = _trained(names["faulty_loop"], seed)
        rights.append(_loss(model, *new)[1])
    assert np.mean(rights) < 0.8
