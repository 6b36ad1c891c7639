"""Compression from outside: folders that are damaged or are none, models that cannot be exported, equality with the libraries."""

import copy
import json
import os
import pickle
import subprocess
import sys
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import ROOT, leaves
from torch.nn.utils import prune

from llm_course.adapters import matrices_of
from llm_course.adversarial_examples import SynonymAttack
from llm_course.adversarial_training import FGM
from llm_course.compression import (
    Distillation,
    Int8Linear,
    OnnxClassifier,
    UnlabelledTexts,
    export,
    keep_layers,
    quantise,
    zero_smallest,
)
from llm_course.data import load_dataset
from llm_course.evaluation import evaluate
from llm_course.fine_tuning import fine_tune
from llm_course.models import TextClassifier, file_sha256
from llm_course.compressing.onnx_classifier import MARK, bytes_of, race, write_onnx
from llm_course.compressing.smaller_models import FewerHeads, check_teacher, head_counts, head_importance, without_heads

LABELS = ["negative", "positive"]
REVIEWS = load_dataset("movies")["train"].select(range(24))
TEXTS = [*REVIEWS["text"][:6], "A gorgeous, witty film.", "no", ""]
QUICK = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "progress": False}


@lru_cache
def base(name: str = "tiny-bert") -> TextClassifier:
    return TextClassifier.from_pretrained(name, labels=LABELS, device="cpu")


@lru_cache
def trained() -> TextClassifier:
    classifier = TextClassifier.from_pretrained("tiny-bert", labels=LABELS, device="cpu")
    fine_tune(classifier, REVIEWS, **{**QUICK, "learning_rate": 5e-3})
    return classifier


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    "A classifier, exported in float32 without a warning"
    place = tmp_path_factory.mktemp("exported") / "float32"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export(trained(), place)
    return place


@pytest.fixture
def copied(folder, tmp_path) -> Path:
    "A copy that may be damaged"
    OnnxClassifier.load(folder).save(tmp_path / "copy")
    return tmp_path / "copy"


def described(place: Path, **changes: object):
    "Change what a folder says of itself"
    settings = json.loads((place / MARK).read_text())
    (place / MARK).write_text(json.dumps({**settings, **changes}))


# --- rounding

def test_rounding_agrees_with_torchs_own():
    """Scale and zero point are ours, rounding and the way back torch's"""
    values = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    ours = quantise(values)
    theirs = torch.fake_quantize_per_tensor_affine(values, ours.scale.item(), ours.zero.item(), 0, 255)
    assert torch.allclose(theirs, ours.numbers(), atol=1e-6)
    rows = quantise(values, 4, by_row=True)
    theirs = torch.fake_quantize_per_channel_affine(values, rows.scale[:, 0], rows.zero[:, 0], 0, 0, 15)
    assert torch.allclose(theirs, rows.numbers(), atol=1e-6)


@pytest.mark.parametrize(("values", "bits"), [
    (torch.tensor([[1.0, float("nan")]]), 8), (torch.zeros(0, 3), 8), (torch.zeros(3), 8),
    (torch.tensor([[float("inf"), 1]]), 8), (torch.zeros(1, 1), 0), (torch.zeros(1, 1), 17), (torch.zeros(1, 1), 2.5)])
def test_what_cannot_be_rounded(values, bits):
    with pytest.raises(ValueError, match="must be"):
        quantise(values, bits)


def test_a_layer_without_a_bias_and_with_equal_inputs():
    layer = torch.nn.Linear(6, 4, bias=False)
    for x in (torch.zeros(2, 6), torch.ones(2, 6), -torch.ones(2, 6)):
        assert torch.allclose(Int8Linear(layer)(x), layer(x), atol=0.02)


# --- export

def test_the_exported_answers_are_those_of_torch(folder):
    exported = OnnxClassifier.load(folder)
    assert torch.allclose(exported.logits(TEXTS), trained().logits(TEXTS), atol=1e-4, rtol=0)
    assert exported.predict(TEXTS) == trained().predict(TEXTS) and exported.labels == LABELS
    assert exported.logits([]).shape == (0, 2) and exported.predict([]) == []
    ours, theirs = evaluate(exported, REVIEWS), evaluate(trained(), REVIEWS)
    assert np.array_equal(ours.confusion, theirs.confusion)
    with pytest.raises(TypeError, match="text"):
        exported.predict("one text")
    assert str(exported).startswith("OnnxClassifier(float32")


@pytest.mark.parametrize("before", ["", "import onnxruntime\n"])
def test_onnx_runtime_reports_nothing(tmp_path, folder, before):
    "Since 1.29 it gives each machine a number and reports models to its makers, unless it is told not to before it begins"
    code = ("from llm_course.compression import OnnxClassifier\n" + before +
            f"assert len(OnnxClassifier.load({str(folder)!r}).predict(['A fine film.'])) == 1")
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=environment, cwd=ROOT, check=True)
    assert not [path for path in tmp_path.rglob("*") if "onnxruntime" in str(path).lower()]


def test_an_attack_takes_it_as_it_is(folder):
    reports = [SynonymAttack(seed=0).attack(each, REVIEWS.select(range(2)))
               for each in (OnnxClassifier.load(folder), trained())]
    assert reports[0].accuracy_under_attack == reports[1].accuracy_under_attack


def test_word_map_and_length_travel(tmp_path, folder, monkeypatch):
    """The graph is not exported anew: what is written beside it is what matters here"""
    exported = OnnxClassifier.load(folder)
    exported.word_map, exported.max_length = {"gorgeous": "dull"}, 9
    again = export(exported, tmp_path / "again")
    assert again.word_map == {"gorgeous": "dull"} and again.max_length == 9
    assert again.as_read(["A gorgeous film"]) == ["A dull film"]
    with pytest.warns(UserWarning, match="longer than 9 tokens"):
        again.logits([" ".join(["word"] * 50)])


def test_int8_is_a_third_and_answers_alike(folder, tmp_path):
    whole = OnnxClassifier.load(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = export(whole, tmp_path / "int8", "int8")
    assert 3 * bytes_of(small) < 1.01 * bytes_of(whole) < 1.2 * bytes_of(trained())
    assert (small.logits(TEXTS) - whole.logits(TEXTS)).abs().max() < 0.5
    with pytest.raises(ValueError, match="exported in int8 already"):
        export(small, tmp_path / "again", "float32")
    graph = onnx.load(small.folder / "model.onnx").graph
    assert any(node.op_type == "MatMulInteger" for node in graph.node)


@pytest.mark.slow
def test_a_decoder_is_exported(tmp_path):
    exported = export(base("tiny-gpt"), tmp_path / "gpt")
    assert torch.allclose(exported.logits(TEXTS), base("tiny-gpt").logits(TEXTS), atol=1e-4, rtol=0)


def test_an_encoder_decoder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is an encoder-decoder"):
        export(base("tiny-t5"), tmp_path / "t5")
    assert not (tmp_path / "t5").exists()


def test_what_is_asked_for_wrongly(tmp_path, folder):
    with pytest.raises(ValueError, match="precision"):
        export(trained(), tmp_path / "a", "int4")
    with pytest.raises(TypeError, match="needs a TextClassifier, got str"):
        export("minilm", tmp_path / "a")
    with pytest.raises(ValueError, match="has an adapter"):
        adapted = copy.deepcopy(trained())
        adapted.adapter = type("Adapter", (), {"method": "lora"})()
        export(adapted, tmp_path / "a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds something else"):
        export(trained(), tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["letter.txt"]
    with pytest.raises(AttributeError, match="no model of torch"):
        fine_tune(OnnxClassifier.load(folder), REVIEWS, objective=FGM(), **QUICK)


def test_a_model_that_torch_cannot_export(tmp_path):
    class Branches(type(trained().model)):
        "Decides by what it sees, which a graph cannot describe"

        def forward(self, input_ids, attention_mask, **options):
            if input_ids.sum() > 10:
                attention_mask = attention_mask * 1
            return super().forward(input_ids=input_ids, attention_mask=attention_mask, **options)

    model = Branches(trained().model.config)
    with pytest.raises(ValueError, match="torch cannot export Branches to ONNX"):
        write_onnx(model, tmp_path / "model.onnx")


def test_nothing_is_written_where_the_answers_differ(tmp_path, folder, monkeypatch):
    other = OnnxClassifier.load(folder)
    monkeypatch.setattr("llm_course.compressing.onnx_classifier.TRIED", ("a film", "no"))
    right = OnnxClassifier.logits_of_tokens

    def shifted(self, token_ids, **options):
        return right(self, token_ids, **options) + (0.01 if self.folder != other.folder else 0)

    monkeypatch.setattr(OnnxClassifier, "logits_of_tokens", shifted)
    with pytest.raises(ValueError, match="answers otherwise"):
        export(other, tmp_path / "new")
    assert not (tmp_path / "new").exists()


# --- folders

def test_folders_that_hold_no_exported_classifier(tmp_path, copied):
    with pytest.raises(FileNotFoundError, match="no exported classifier"):
        OnnxClassifier.load(tmp_path / "nowhere")
    trained().save(tmp_path / "torch")
    with pytest.raises(FileNotFoundError, match=r"TextClassifier\.load reads it"):
        OnnxClassifier.load(tmp_path / "torch")
    with pytest.raises(FileNotFoundError, match="holds no saved classifier"):
        TextClassifier.load(copied)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_a_damaged_file_is_found(copied, name):
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(ValueError, match="SHA-256"):
        OnnxClassifier.load(copied)
    (copied / name).unlink()
    with pytest.raises(ValueError, match=f"lacks {name}"):
        OnnxClassifier.load(copied)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"labels": ["a", "b"]}'])
def test_a_damaged_description(copied, content):
    (copied / MARK).write_text(content)
    with pytest.raises(ValueError, match="is damaged"):
        OnnxClassifier.load(copied)


def test_a_graph_that_the_runtime_cannot_run(copied):
    (copied / "model.onnx").write_bytes(b"no graph")
    settings = json.loads((copied / MARK).read_text())
    described(copied, files={**settings["files"], "model.onnx": file_sha256(copied / "model.onnx")})
    with pytest.raises(ValueError, match=r"ONNX Runtime .* cannot run"):
        OnnxClassifier.load(copied)


def test_a_graph_of_something_else(copied):
    kinds = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "other", kinds[:1], kinds[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10),
              copied / "model.onnx")
    settings = json.loads((copied / MARK).read_text())
    described(copied, files={**settings["files"], "model.onnx": file_sha256(copied / "model.onnx")})
    with pytest.raises(ValueError, match="is no exported classifier"):
        OnnxClassifier.load(copied)


def test_labels_that_are_not_those_of_the_model(copied):
    described(copied, labels=["negative", "neutral", "positive"])
    with pytest.raises(ValueError, match="its model has 2 outputs"):
        OnnxClassifier.load(copied)


def test_saving_replaces_what_was_exported_before(copied, folder):
    (copied / "model.onnx").write_bytes(b"old")
    OnnxClassifier.load(folder).save(copied)
    assert torch.equal(OnnxClassifier.load(copied).logits(TEXTS), OnnxClassifier.load(folder).logits(TEXTS))


# --- pruning

@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.5, 1.0])
def test_the_smallest_weights_are_those_of_torch(fraction):
    made, before = zero_smallest(trained(), fraction), copy.deepcopy(trained().model.state_dict())
    for name in matrices_of(made.model):
        layer = copy.deepcopy(trained().model.get_submodule(name))
        prune.l1_unstructured(layer, "weight", amount=fraction)
        assert torch.equal(layer.weight, made.model.get_submodule(name).weight)
    assert all(torch.equal(before[name], value) for name, value in trained().model.state_dict().items())


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan"), "half"])
def test_shares_that_are_none(fraction):
    with pytest.raises(ValueError, match="fraction"):
        zero_smallest(trained(), fraction)


def test_heads_and_layers_that_are_not_there():
    depth, heads = len(head_counts(trained())), head_counts(trained())[0]
    for wrong in ({depth: [0]}, {0: [heads]}, {0: [-1]}):
        with pytest.raises(ValueError, match="counted from 0"):
            without_heads(trained(), wrong)
    with pytest.raises(ValueError, match="no head left"):
        without_heads(trained(), {0: list(range(heads))})
    for wrong in ([], [depth], [-1], [1, 0], [0, 0]):
        with pytest.raises(ValueError, match="ascending, one at least"):
            keep_layers(trained(), wrong)
    with pytest.raises(ValueError, match="before heads"):
        keep_layers(without_heads(trained(), {0: [0]}), [0])
    for name in ("tiny-gpt", "tiny-t5"):
        for call in (lambda one: keep_layers(one, [0]), lambda one: without_heads(one, {0: [0]}),
                     lambda one: head_importance(one, REVIEWS)):
            with pytest.raises(ValueError, match="such as BERT and RoBERTa"):
                call(base(name))


def test_heads_are_cut_twice_and_the_classifier_stays(tmp_path):
    before, counts = trained().logits(TEXTS), head_counts(trained())
    once = without_heads(trained(), {0: [0]})
    twice = without_heads(once, {0: [0]})
    assert torch.allclose(twice.logits(TEXTS), without_heads(trained(), {0: [0, 1]}).logits(TEXTS), atol=1e-5)
    assert head_counts(twice)[0] == counts[0] - 2 and isinstance(twice, FewerHeads)
    assert torch.equal(trained().logits(TEXTS), before)
    with pytest.raises(ValueError, match="cannot be saved"):
        twice.save(tmp_path / "heads")
    with pytest.raises(ValueError, match="equally many heads"):
        head_importance(once, REVIEWS)
    fine_tune(twice, REVIEWS, **QUICK)
    assert not torch.equal(twice.logits(TEXTS), once.logits(TEXTS))


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_model_with_fewer_heads_is_exported(tmp_path, folder, precision):
    """Its configuration does not say how many heads there are: the graph does"""
    cut = without_heads(trained(), {0: [0]})
    assert head_counts(cut)[0] != head_counts(cut)[1]
    exported = export(cut, tmp_path / "cut", precision)
    apart = (OnnxClassifier.load(tmp_path / "cut").logits(TEXTS) - cut.logits(TEXTS)).abs().max()
    assert apart < (1e-4 if precision == "float32" else 0.5)
    assert bytes_of(exported) < bytes_of(export(OnnxClassifier.load(folder), tmp_path / "whole", precision))


def test_importance_is_the_slope_and_leaves_no_trace():
    classifier = copy.deepcopy(trained())
    classifier.model.train()
    one, many = (head_importance(classifier, REVIEWS, size) for size in (1, 16))
    assert torch.allclose(one, many, atol=1e-6) and classifier.model.training
    assert all(weight.grad is None for weight in classifier.model.parameters())
    assert not any(part._forward_pre_hooks for name, part in classifier.model.named_modules()
                   if name.endswith("attention.output.dense"))
    step, moved = 1e-2, []
    text, target = REVIEWS["text"][0], REVIEWS["label"][0]
    for way in (1 + step, 1 - step):
        other = copy.deepcopy(trained())
        dense = other.model.base_model.encoder.layer[0].attention.output.dense
        size = dense.in_features // head_counts(other)[0]
        with torch.no_grad():
            dense.weight[:, :size] *= way
        moved.append(-other.logits([text]).log_softmax(-1)[0, target])
    found = head_importance(trained(), REVIEWS.select([0]))[0, 0]
    assert found.item() == pytest.approx(abs(moved[0] - moved[1]).item() / (2 * step), rel=0.05, abs=1e-5)


def test_fewer_layers_are_saved_loaded_and_trained(tmp_path):
    small = keep_layers(trained(), [1])
    small.save(tmp_path / "small")
    assert torch.allclose(TextClassifier.load(tmp_path / "small", device="cpu").logits(TEXTS), small.logits(TEXTS))
    assert bytes_of(small) < bytes_of(trained()) and small.model.config.num_hidden_layers == 1
    fine_tune(small, REVIEWS, **QUICK)


# --- distillation

@pytest.mark.parametrize(("options", "error", "said"), [
    ({"temperature": 0}, ValueError, "temperature"), ({"temperature": -1.0}, ValueError, "temperature"),
    ({"temperature": float("nan")}, ValueError, "temperature"), ({"share": 1.01}, ValueError, "share"),
    ({"share": -0.1}, ValueError, "share"), ({"unlabelled": ["a text"]}, TypeError, "UnlabelledTexts")])
def test_settings_of_a_distillation(options, error, said):
    with pytest.raises(error, match=said):
        Distillation(trained(), **options)


def test_teachers_that_do_not_fit():
    student = TextClassifier.from_pretrained("tiny-bert", labels=["no", "yes"], device="cpu")
    with pytest.raises(ValueError, match="negative, positive, the student no, yes"):
        check_teacher(trained(), student)
    with pytest.raises(ValueError, match="reads other tokens"):
        check_teacher(trained(), base("minilm"))
    with pytest.raises(ValueError, match="reads other tokens"):
        Distillation(trained(), unlabelled=UnlabelledTexts(base("minilm"), ["a text"]))
    for labels in (["positive", "negative"], ["a", "b", "c"]):
        other = TextClassifier.from_pretrained("tiny-bert", labels=labels, device="cpu")
        teacher = copy.deepcopy(trained())
        with pytest.raises(ValueError, match="the same, in the same order"):
            Distillation(other)(teacher.model, {}, print)
    with pytest.raises(ValueError, match="do not read the same"):
        Distillation(trained())(base("minilm").model, {}, print)


def test_a_student_comes_near_its_teacher_and_the_teacher_stays(folder):
    before, teacher = trained().logits(TEXTS), copy.deepcopy(trained())
    teacher.model.train()
    student = TextClassifier.from_pretrained("tiny-bert", labels=LABELS, device="cpu", seed=3)
    far = (student.logits(REVIEWS["text"]) - teacher.logits(REVIEWS["text"])).square().mean()
    more = UnlabelledTexts(student, REVIEWS["text"], 4)
    fine_tune(student, REVIEWS, objective=Distillation(teacher, temperature=4.0, share=1.0, unlabelled=more),
              **{**QUICK, "epochs": 6, "learning_rate": 3e-3})
    near = (student.logits(REVIEWS["text"]) - teacher.logits(REVIEWS["text"])).square().mean()
    assert near < far / 2
    assert torch.equal(teacher.logits(TEXTS), before) and teacher.model.training
    other = TextClassifier.from_pretrained("tiny-bert", labels=LABELS, device="cpu", seed=3)
    fine_tune(other, REVIEWS, objective=Distillation(OnnxClassifier.load(folder), share=1.0), **QUICK)


def test_a_share_of_zero_is_plain_cross_entropy():
    made = []
    for options in ({}, {"objective": Distillation(trained(), share=0.0)}):
        student = TextClassifier.from_pretrained("tiny-bert", labels=LABELS, device="cpu", seed=3)
        fine_tune(student, REVIEWS, **options, **QUICK)
        made.append(student.logits(TEXTS))
    assert torch.allclose(*made, atol=1e-5)


# --- the rest

def test_race_asks_for_something_to_race():
    with pytest.raises(ValueError, match="race needs"):
        race({"one": trained()}, [])
    with pytest.raises(ValueError, match="rounds"):
        race({"one": trained()}, TEXTS, rounds=0)
    found = race({"one": trained(), "two": base()}, TEXTS[:2], rounds=1)
    assert list(found.index) == ["one", "two"] and (found > 0).all().all()


@pytest.mark.slow
def test_the_module_needs_no_onnx_before_it_is_used():
    """No import loads the libraries; what they are needed for says how to get them"""
    code = """
import sys
import llm_course.compression as compression, llm_course.answers.compression
from llm_course.models import TextClassifier
names = ("onnx", "onnxscript", "onnxruntime")
assert not set(names) & set(sys.modules), set(names) & set(sys.modules)
sys.modules.update(dict.fromkeys(names))  # from here on they are not installed
classifier = TextClassifier.from_pretrained("tiny-bert", labels=["a", "b"], device="cpu")
compression.zero_smallest(classifier, 0.5)
try:
    compression.export(classifier, sys.argv[1])
except ImportError as error:
    assert 'pip install "llm_course[lessons]"' in str(error), error
else:
    raise AssertionError("it was exported")
"""
    subprocess.run([sys.executable, "-c", code, "/nowhere/at/all"], check=True, cwd=ROOT, timeout=300)


def test_the_benchmark_sums_up_its_rows(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import compression as benchmark

    row = {"accuracy": 0.8, "changed": 0.1, "calibration": 0.02, "shortest quarter": 0.7, "longest quarter": 0.9,
           "teacher unsure": 0.6}
    rows = {"answers": {f"{runtime}, {model} {seed}": {**row, "accuracy": 0.8 + 0.01 * seed - 0.1 * (runtime == "int8")}
                        for runtime in benchmark.RUNTIMES for model in benchmark.MODELS for seed in range(3)}}
    found = benchmark.summary(rows)
    mean, width = found["gap"]["int8, six layers"]
    assert mean == pytest.approx(-0.1) and width == pytest.approx(0, abs=1e-9)
    assert found["accuracy"]["torch, six layers"][0] == pytest.approx(0.81)
    assert set(found["accuracy"]) == {f"{a}, {b}" for a in benchmark.RUNTIMES for b in benchmark.MODELS}
    assert found["apart"]["calibration error, points"]["torch, two layers, teacher"] == pytest.approx((0, 0))
    assert found["apart"]["right under attack"] == {}  # no row has it here
    assert set(benchmark.ATTACKED) <= set(found["accuracy"]) and not benchmark.summary({})["accuracy"]
    assert len(benchmark.jobs(benchmark.FULL)["answers"]) == 54
    small = pickle.loads(pickle.dumps(benchmark.SMALL))  # as another process gets it
    assert benchmark.place_of(small, "a", 0) == benchmark.place_of(benchmark.SMALL, "a", 0)
    assert benchmark.place_of(small, "a", 0) != benchmark.place_of(benchmark.FULL, "a", 0)


def test_the_benchmark_compares_seed_by_seed(monkeypatch):
    """Each seed is 0.1 better than the one before it, which no difference may show; a seed without the other model is left out"""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import compression as benchmark

    def row(seed, right=0.0, long=0.0, off=0.0):
        return {"accuracy": 0.5 + 0.1 * seed + right, "shortest quarter": 0.4 + 0.1 * seed,
                "longest quarter": 0.3 + 0.1 * seed + long, "calibration": 0.1 + off}

    answers = {}
    for seed in range(3):
        answers |= {f"torch, six layers {seed}": row(seed), f"torch, six layers, half zeros {seed}": row(seed, -0.04, -0.07),
                    f"torch, two layers, labels {seed}": row(seed, -0.05, off=0.06),
                    f"torch, two layers, teacher {seed}": row(seed, -0.03)}
    answers["int8, six layers, half zeros 7"] = row(7)
    found = benchmark.summary({"answers": answers, "students": {f"two layers, labels {seed}": {"steps": 10} for seed in (0, 1)}})
    assert found["gap"]["torch, six layers, half zeros"] == pytest.approx((-0.04, 0))
    assert found["longest less shortest"]["torch, six layers, half zeros"] == pytest.approx((-0.07, 0))
    assert found["taught less labels"]["torch"]["accuracy"] == pytest.approx((0.02, 0))
    assert found["taught less labels"]["torch"]["calibration error, points"] == pytest.approx((-0.06, 0))
    assert set(found["taught less labels"]) == {"torch"} and "int8, six layers, half zeros" not in found["gap"]
    assert found["steps"] == {"two layers, labels": 10}


def test_a_call_without_missing_rows_sums_up_anew(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import common
    import compression as benchmark

    kept = json.loads((ROOT / "benchmarks/results/compression.json").read_text())
    assert max(tried := kept["rows"]["recipes"], key=lambda name: tried[name]["accuracy"]) == benchmark.RECIPE
    (tmp_path / "compression.json").write_text(json.dumps({**kept, "machine": {"processor": "another"}, "summary": {}}))
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["compression.py"])
    monkeypatch.setattr(common.multiprocessing, "get_context", lambda kind: None)  # no process may begin
    benchmark.main()
    found = json.loads((tmp_path / "compression.json").read_text())
    assert found["rows"] == kept["rows"] and found["machine"] == {"processor": "another"}
    assert found["summary"] == json.loads(json.dumps(benchmark.summary(kept["rows"])))
    ours, theirs = (dict(leaves(each["summary"])) for each in (found, kept))
    assert ours == pytest.approx(theirs, abs=1e-9)  # sums of another processor end in other digits
