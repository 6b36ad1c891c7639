"""What version 0.1.0 wrote is read, and what was written for it runs: the files are in tests/data/0.1.0."""

import importlib
import json
import runpy
import shutil
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT

from llm_course.adversarial_examples import Attack, Promising, Similar, TextFoolerAttack, TypoAttack
from llm_course.command_line import write_course
from llm_course.exercises import progress, read_progress
from llm_course.fine_tuning import Callback, fine_tune
from llm_course.models import TextClassifier

FILES = ROOT / "tests/data/0.1.0"
MADE = runpy.run_path(str(FILES / "write.py"), run_name="read")
EXPECTED = json.loads((FILES / "expected.json").read_text())
NAMES = json.loads((FILES / "names.json").read_text())  # what each module of 0.1.0 exported
SEEN = {"text": ["a slow film", "a dull story"], "label": [0, 0]}
SETTINGS = {"epochs": 3, "batch_size": 4, "learning_rate": 1e-3, "progress": False, "seed": 3}


def test_a_saved_classifier():
    classifier = TextClassifier.load(FILES / "classifier", device="cpu")
    assert classifier.labels == ["negative", "positive"] and classifier.max_length == 24
    assert classifier.word_map == {"picture": "film"}
    torch.testing.assert_close(classifier.logits(EXPECTED["texts"]), torch.tensor(EXPECTED["logits"]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("way", ["resume_from", "auto"])
def test_a_checkpoint_of_a_run_that_was_stopped(tmp_path, way):
    """It goes on to where the whole run came, though a classifier of the new version made its identity"""
    shutil.copytree(FILES / "stopped", tmp_path / "run")
    options = {"resume_from": tmp_path / "run"} if way == "resume_from" else {"checkpoints": tmp_path / "run", "resume": "auto"}
    classifier = MADE["classifier"]()
    run = fine_tune(classifier, MADE["DATA"], SEEN, **SETTINGS, keep_best=False, **options)
    assert len(run.steps) == run.total_steps == 27
    torch.testing.assert_close(classifier.logits(EXPECTED["texts"]), torch.tensor(EXPECTED["whole run"]), rtol=1e-3, atol=1e-6)


def test_a_checkpoint_of_other_settings_is_still_refused(tmp_path):
    shutil.copytree(FILES / "stopped", tmp_path / "run")
    with pytest.raises(ValueError, match=r"settings \(batch_size 4 there, 8 here\)"):
        fine_tune(MADE["classifier"](), MADE["DATA"], SEEN, **{**SETTINGS, "batch_size": 8}, resume_from=tmp_path / "run")


def test_a_journal_of_an_attack(tmp_path):
    journal = shutil.copy(FILES / "journal.jsonl", tmp_path)
    before = open(journal).read()
    classifier = TextClassifier.load(FILES / "classifier", device="cpu")
    report = TypoAttack(seed=0, query_budget=40).attack(classifier, MADE["DATA"], resume_from=journal, progress=False)
    assert report.fresh == 0 and open(journal).read() == before
    assert report.accuracy_under_attack == EXPECTED["accuracy under attack"]
    assert report.queries_per_text == EXPECTED["queries"]


def test_a_file_of_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_COURSE_PROGRESS", str(shutil.copy(FILES / "progress.json", tmp_path)))
    assert read_progress() == {"exercises": {"majority label": True}, "quizzes": {"11": 2}}
    table = progress()
    assert table.loc[10, "exercises"].startswith("1 of") and table.loc[11, "quiz"].startswith("2 of")


def test_a_folder_of_the_course(tmp_path):
    shutil.copytree(FILES / "course", tmp_path / "course")
    root, mine = tmp_path / "course/root", tmp_path / "course/mine"
    for name in ("index", "lessons/10_a"):  # a new version has other cells
        path = root / f"nbs/{name}.ipynb"
        path.write_text(path.read_text().replace("1 + 1", "2 + 2"))
    edited = mine / "nbs/lessons/10_a.ipynb"
    edited.write_text(edited.read_text().replace("1 + 1", "my own"))
    written = write_course(mine, root)
    assert written.updated == ["nbs/index.ipynb"] and written.kept == ["nbs/lessons/10_a.ipynb"]
    assert "2 + 2" in (mine / "nbs/index.ipynb").read_text() and "my own" in edited.read_text()


@dataclass(frozen=True)
class HalfCrossEntropy:
    "An objective as users wrote it before there was a base class"
    weight: float = 0.5
    target = "label"

    def __call__(self, model, batch, backward):
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        loss = self.weight * F.cross_entropy(logits, batch["targets"])
        backward(loss)
        return loss.item()


class Follows(HalfCrossEntropy):
    "One that remembers something between the steps"

    def __init__(self):
        super().__init__(0.5)
        object.__setattr__(self, "steps", torch.zeros(1))

    def after_step(self, model):
        self.steps.add_(1)

    def state(self):
        return {"steps": self.steps}

    def restore(self, model, state):
        self.steps.copy_(state["steps"])


class Writes(Callback):
    "A callback that looks at all that a run had"

    def __init__(self, folder):
        self.folder, self.seen = folder, []

    def on_step(self, run):
        self.seen.append((len(run.steps), run.total_steps, run.examples, run.classifier.labels, run.interrupted))

    def on_evaluation(self, run):
        run.save(self.folder)

    def on_end(self, run):
        run.plot()


def test_objectives_and_callbacks_that_users_wrote(tmp_path):
    writes = Writes(tmp_path / "saved")
    for objective in (HalfCrossEntropy(), lambda model, batch, backward: HalfCrossEntropy()(model, batch, backward)):
        run = fine_tune(MADE["classifier"](), MADE["DATA"], SEEN, objective=objective, callbacks=[writes], **SETTINGS)
        assert len(run.steps) == 27 and TextClassifier.load(tmp_path / "saved").labels == ["negative", "positive"]
    assert writes.seen[-1] == (27, 27, 108, ["negative", "positive"], False)
    follows, again = Follows(), Follows()
    fine_tune(MADE["classifier"](), MADE["DATA"], objective=follows, checkpoints=tmp_path / "run",
              callbacks=[MADE["Interrupt"]()], **SETTINGS)
    assert follows.steps == 12
    fine_tune(MADE["classifier"](), MADE["DATA"], objective=again, resume_from=tmp_path / "run", **SETTINGS)
    assert again.steps == 27


@dataclass(frozen=True)
class NearestFirst(Attack):
    "An attack as users wrote it: words and requests of its own, plain lists for probabilities"
    least: float = 0.3

    def replacements(self, pieces, place, generator):
        return [*super().replacements(pieces, place, generator), "plot", "gorgeous"]

    def search(self, draft, generator):
        options = self.options(draft, generator)
        promises = yield Promising(options)
        assert len(promises) == sum(map(len, options.values()))
        for place in (yield from self.by_importance(draft, options))[: self.most(draft)]:
            texts = [draft.with_word(place, word) for word in options[place]]
            alike = yield Similar(texts)
            order = [i for i in (-alike).argsort(kind="stable") if alike[i] >= self.least]
            if order:
                draft.take_best(place, [options[place][i] for i in order], (yield [texts[i] for i in order]))
            if draft.fooled:
                return


class AnyWord(TextFoolerAttack):
    "One that replaced the words of a published attack, and with them what these had to fulfil"

    def replacements(self, pieces, place, generator):
        return ["not", "witty", "plot"]


NEAREST = [("the movie is good , very ripe !", 30), ("the gorgeous is witty , very ripe !", 30),
           ("the cinema is gorgeous , very adept !", 30), ("the film is regretful , very good !", 30),
           ("the film is wearisome , very good !", 30), ("the film is decelerate , very good !", 30)]
ANY = [("the witty is witty , very witty !", 12 if number == 1 else 13) for number in range(6)]


def test_attacks_that_users_wrote():
    """The figures are those of version 0.1.0"""
    classifier = TextClassifier.load(FILES / "classifier", device="cpu")
    classifier.model.classifier.weight.data *= 500  # it learned little: now words matter
    texts = MADE["TEXTS"][::6]
    data = {"text": texts, "label": [classifier.labels.index(answer) for answer in classifier.predict(texts)]}
    for attack, expected in ((NearestFirst(query_budget=30, max_fraction=0.5), NEAREST), (AnyWord(max_fraction=1.0, min_similarity=0.1), ANY)):
        reports = [attack.attack(classifier, data, batch_size=size, window=size, progress=False) for size in (1, 32)]
        assert reports[0].results == reports[1].results
        assert [(result.perturbed, result.queries) for result in reports[0].results] == expected
    assert NearestFirst().settings()["least"] == 0.3 and str(AnyWord(seed=1)) == "AnyWord(seed=1)"


TO_DISTRIBUTED = {"ShardedAdamW", "all_reduce_mean", "all_reduce_seconds", "data_parallel_step", "in_turn", "ring_all_reduce",
                  "ring_example", "scaling_efficiency", "shards_of", "state_bytes", "train_shards"}
MOVED = {  # by decision, said in the changelog: widgets to `widgets`, the classifier's methods into its class, and
    # what many processes need to lesson 43
    "adversarial_examples": {"EpsilonSlider", "MeaningJudge"}, "adversarial_training": {"BoundaryExplorer"},
    "augmentation": {"FractionSlider", "PairJudge"}, "cross_entropy": {"DescentExplorer", "LossExplorer", "SoftmaxExplorer"},
    "data_preparation": {"CHOICES", "Labelling"}, "evaluation": {"ErrorReader", "ThresholdSlider"},
    "imdb_at_full_scale": {"READ_STYLES", "ReadingExplorer"}, "scaling": {"MemoryExplorer", "run_processes", *TO_DISTRIBUTED},
    "models": {"as_read", "from_pretrained", "load", "logits", "pad", "predict", "predict_proba", "save", "tokenize"},
}


@pytest.mark.parametrize("module", NAMES)
def test_names_stay_importable_from_where_they_were(module):
    found = importlib.import_module(f"llm_course.{module}")
    gone = {name for name in NAMES[module] if not hasattr(found, name)}
    assert gone == MOVED.get(module, set())


def test_what_moved_is_where_the_changelog_says():
    widgets = {module: names for module, names in MOVED.items() if module != "models"} | {"scaling": {"MemoryExplorer"}}
    for module, names in widgets.items():
        assert names <= set(vars(importlib.import_module(f"llm_course.widgets.{module}")))
    assert all(hasattr(importlib.import_module("llm_course.models").TextClassifier, name) for name in MOVED["models"])
    assert set(vars(importlib.import_module("llm_course.distributed"))) >= TO_DISTRIBUTED
    assert hasattr(importlib.import_module("llm_course.processes"), "run_processes")
