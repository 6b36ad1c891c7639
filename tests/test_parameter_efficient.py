"""Few parameters from outside: what is refused, what a saved adapter needs, and that the loop, not the objective, prunes."""

import importlib
import json
import os
import signal
import subprocess
import sys
import warnings
from functools import lru_cache
from pathlib import Path

import peft
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from llm_course.adapters import METHODS, NO_RULES, base_digests
from llm_course.adapting.methods import AdaLora, quiet_peft, replaced_by
from llm_course.adversarial_training import FGM, RDrop
from llm_course.callbacks import Callback, Stop
from llm_course.data import load_dataset
from llm_course.embeddings import embedded
from llm_course.fine_tuning import CrossEntropy, fine_tune
from llm_course.identity import fingerprint
from llm_course.models import TextClassifier, model_source
from llm_course.parameter_efficient import AdaLoraRules, LoRALinear, ranks_in, training_cost

LABELS = ["negative", "positive"]
REVIEWS = load_dataset("movies")["train"].select(range(24))
TEXTS = [*REVIEWS["text"][:6], "A gorgeous, witty film.", "no"]
KINDS = ("tiny-bert", "tiny-gpt", "tiny-t5")
RULES = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}


@lru_cache
def base(name: str = "tiny-bert") -> TextClassifier:
    return TextClassifier.from_pretrained(name, labels=LABELS, device="cpu")


def trained(classifier: TextClassifier, **changed: object) -> TextClassifier:
    options = {"epochs": 2, "batch_size": 6, "learning_rate": 1e-2, "progress": False, **changed}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fine_tune(classifier, REVIEWS, **options)
    return classifier


def close(a: TextClassifier, b: TextClassifier | torch.Tensor, tolerance: float = 1e-5) -> bool:
    answers = b if isinstance(b, torch.Tensor) else b.logits(TEXTS)
    return torch.allclose(a.logits(TEXTS), answers, atol=tolerance, rtol=0)


def silent(classifier: TextClassifier) -> int:
    return sum(int((weight == 0).sum()) for name, weight in classifier.model.named_parameters() if "lora_E" in name)


# --- all methods, all kinds of models

@pytest.mark.parametrize("method", ["lora", "adalora", "adapter", "prefix"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_method_trains_saves_loads_and_merges(kind, method, tmp_path):
    """The base stays as it was; what is loaded answers to the digit, is trained further, and merges where it can"""
    before = base(kind).logits(TEXTS)
    if method == "prefix" and kind != "tiny-gpt":
        with pytest.raises(ValueError, match=r"takes no prefix from peft .*BERT and GPT-2 do"):
            base(kind).with_adapter(method)
        return
    options = {"rank": 2} if method == "adalora" else {}
    adapted = base(kind).with_adapter(method, **options)
    assert method == "prefix" or close(adapted, before), "it begins as the base"
    digests = base_digests(base(kind).model)
    trained(adapted)
    assert torch.equal(base(kind).logits(TEXTS), before) and not close(adapted, before, 1e-3)
    assert base_digests(adapted.model, list(digests)) == digests == base_digests(base(kind).model)
    assert all(weight.requires_grad for weight in base(kind).model.parameters())
    place = adapted.save(tmp_path / "saved")
    names = {path.name for path in place.iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "classifier.json"}
    assert sum(path.stat().st_size for path in place.iterdir()) < 500_000
    again = TextClassifier.load(place, device="cpu")
    assert close(again, adapted, 1e-6) and again.max_length == adapted.max_length and again.window == adapted.window
    again.save(place)
    third = TextClassifier.load(place, device="cpu", base=base(kind))
    assert close(third, adapted, 1e-6)
    trained(third, learning_rate=1e-3)
    assert not close(third, adapted, 1e-6)
    if method in ("lora", "adalora"):
        merged = adapted.merge()
        assert close(merged, adapted) and type(merged.model) is type(base(kind).model) and merged.adapter is None
        merged.save(tmp_path / "merged")
        assert close(TextClassifier.load(tmp_path / "merged", device="cpu"), adapted)
        trained(merged, learning_rate=1e-3)
    else:
        with pytest.raises(ValueError, match="cannot be merged"):
            adapted.merge()


def test_lora_is_that_of_peft_in_answers_and_gradients():
    torch.manual_seed(0)
    for inputs, outputs, rank, alpha in ((7, 5, 1, 3), (5, 9, 4, 8), (6, 6, 6, 1)):
        layer, x, g = torch.nn.Linear(inputs, outputs), torch.randn(11, inputs), torch.randn(11, outputs)
        ours = LoRALinear(layer, rank, alpha)
        config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=["0"])
        theirs = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(inputs, outputs)), config)
        part = theirs.base_model.model[0]
        part.base_layer.load_state_dict(layer.state_dict())
        with torch.no_grad():
            ours.B.normal_()
            part.lora_A["default"].weight.copy_(ours.A)
            part.lora_B["default"].weight.copy_(ours.B)
        for model in (ours, theirs):
            (model(x) * g).sum().backward()
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=0)
        torch.testing.assert_close(ours.A.grad, part.lora_A["default"].weight.grad, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours.B.grad, part.lora_B["default"].weight.grad, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours.merged()(x), ours(x), atol=1e-5, rtol=0)
        assert ours.layer.weight.grad is None


def test_peft_reads_what_was_saved(tmp_path):
    """Its own library finds the same answers in the folder, on the same base"""
    adapted = trained(base().with_adapter("lora", rank=4))
    adapted.save(tmp_path / "saved")
    model = AutoModelForSequenceClassification.from_pretrained(model_source("tiny-bert"), num_labels=2,
                                                               dtype=torch.float32)
    with quiet_peft():
        theirs = peft.PeftModel.from_pretrained(model, tmp_path / "saved").eval()
    batch = adapted.pad(adapted.tokenize(TEXTS)[0])
    with torch.no_grad():
        torch.testing.assert_close(theirs(**batch).logits, adapted.logits(TEXTS), atol=1e-5, rtol=0)
    assert json.loads((tmp_path / "saved/adapter_config.json").read_text())["base_model_name_or_path"] == "tiny-bert"
    with pytest.raises(ValueError, match="holds an adapter, not a whole model"):
        TextClassifier.from_pretrained(tmp_path / "saved", labels=LABELS)


def test_two_tasks_share_one_base_and_may_have_other_labels(tmp_path):
    first, second = trained(base().with_adapter("lora")), base().with_adapter("adapter", labels=["a", "b", "c"], seed=3)
    assert second.labels == ["a", "b", "c"] and second.logits(TEXTS).shape == (8, 3) and base().labels == LABELS
    frozen = [{weight.data_ptr() for weight in each.model.parameters() if not weight.requires_grad}
              for each in (first, second)]
    assert frozen[0] >= frozen[1] & {weight.data_ptr() for weight in base().model.parameters()} and len(frozen[1]) > 30
    second.save(tmp_path / "three")
    assert close(TextClassifier.load(tmp_path / "three", device="cpu"), second, 1e-6)
    assert close(TextClassifier.load(tmp_path / "three", device="cpu", base=base()), second, 1e-6)
    assert not close(second, base().with_adapter("adapter", labels=["a", "b", "c"], seed=4), 1e-3)


# --- AdaLoRA prunes

@pytest.mark.parametrize("objective", [CrossEntropy(), FGM(), RDrop(), lambda model, batch, backward: CrossEntropy()(
    model, batch, backward)], ids=["cross-entropy", "FGM", "R-Drop", "a function"])
def test_the_ranks_end_at_their_budget_whatever_the_objective(objective, tmp_path):
    adapted = trained(base().with_adapter("adalora", rank=2, start=5), objective=objective, epochs=3)
    matrices = 18
    assert sum(ranks_in(adapted.model).values()) == 2 * matrices and silent(adapted) == 3 * matrices
    saved = load_file(adapted.save(tmp_path / "saved") / "adapter_model.safetensors")
    assert sum(len(value) for name, value in saved.items() if "lora_E" in name) == 2 * matrices
    again = TextClassifier.load(tmp_path / "saved", device="cpu")
    assert close(again, adapted, 1e-6) and ranks_in(again.model) == ranks_in(adapted.model)
    trained(again, learning_rate=1e-3)  # its ranks stay
    assert ranks_in(again.model) == ranks_in(adapted.model)
    again.save(tmp_path / "saved")
    assert close(TextClassifier.load(tmp_path / "saved", device="cpu"), again, 1e-6)
    trained(adapted, epochs=3)  # a second run begins with all of them
    assert sum(ranks_in(adapted.model).values()) == 2 * matrices and silent(adapted) == 3 * matrices


@pytest.mark.parametrize("removed", ["the call", "the rules"])
def test_without_the_call_nothing_is_pruned_and_nothing_is_said(removed, monkeypatch):
    if removed == "the call":
        monkeypatch.setattr(AdaLoraRules, "after_step", lambda self, number: None)
    else:
        monkeypatch.setitem(METHODS, "adalora", AdaLora(lambda *told: NO_RULES))
    adapted = trained(base().with_adapter("adalora", rank=2, start=5), epochs=3)
    assert sum(ranks_in(adapted.model).values()) == 5 * 18 and silent(adapted) == 0


def test_the_penalty_is_trained():
    """With a large weight the vectors end nearer to orthonormal than with none"""
    apart = []
    for weight in (0.0, 5.0):
        adapted = trained(base().with_adapter("adalora", rank=2, start=5, orthogonality=weight), epochs=4)
        rules = AdaLoraRules(adapted.model, 9, 0.1, 0.3)
        rules.config.orth_reg_weight = 1.0
        apart.append(rules.penalty().item())
    assert apart[1] < 0.9 * apart[0], apart


@pytest.mark.parametrize("epochs", [1, 2, 7])
def test_any_number_of_steps_ends_at_the_budget(epochs):
    """Two steps are the fewest"""
    adapted = trained(base().with_adapter("adalora", rank=1, start=3), epochs=epochs, batch_size=12)
    assert sum(ranks_in(adapted.model).values()) == 18 and silent(adapted) == 36


class StopAt(Callback):
    "Stops a run"

    def __init__(self, step: int):
        self.step = step

    def on_step(self, run):
        if len(run.steps) == self.step:
            raise Stop


def test_a_run_that_stops_early_says_so():
    adapted = base().with_adapter("adalora", rank=2, start=5)
    with pytest.warns(UserWarning, match="stopped after 3 of 8 steps, before its ranks had come down .* [0-9]+ are left"):
        fine_tune(adapted, REVIEWS, epochs=2, batch_size=6, progress=False, callbacks=[StopAt(3)])


def test_a_resumed_run_prunes_as_one_that_was_not_stopped(tmp_path):
    options = {"epochs": 3, "batch_size": 6, "learning_rate": 1e-2, "progress": False, "checkpoint_every": 1}
    for step in (1, 4, 10):  # before, while and after it prunes
        whole, stopped = (base().with_adapter("adalora", rank=2, start=5) for _ in range(2))
        fine_tune(whole, REVIEWS, **options)
        folder = tmp_path / str(step)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Interrupted after|AdaLoRA was stopped")
            fine_tune(stopped, REVIEWS, checkpoints=folder, callbacks=[StopAfterCheckpoint(step)], **options)
        again = base().with_adapter("adalora", rank=2, start=5)
        fine_tune(again, REVIEWS, resume_from=folder, **options)
        assert ranks_in(again.model) == ranks_in(whole.model)
        assert torch.equal(again.logits(TEXTS), whole.logits(TEXTS))


@pytest.mark.parametrize("method", ["lora", "adapter", "prefix"])
def test_a_resumed_run_of_the_others_ends_as_one_that_was_not_stopped(method, tmp_path):
    options = {"epochs": 2, "batch_size": 6, "learning_rate": 1e-2, "progress": False, "checkpoint_every": 2}
    whole, stopped, again = (base("tiny-gpt").with_adapter(method, seed=seed) for seed in (0, 0, 1))
    fine_tune(whole, REVIEWS, **options)
    with pytest.warns(UserWarning, match="Interrupted after"):
        fine_tune(stopped, REVIEWS, checkpoints=tmp_path, callbacks=[StopAfterCheckpoint(4)], **options)
    fine_tune(again, REVIEWS, resume_from=tmp_path, **options)
    assert torch.equal(again.logits(TEXTS), whole.logits(TEXTS))
    if method == "lora":
        with pytest.raises(ValueError, match="adapter"):
            fine_tune(base("tiny-gpt").with_adapter(method, alpha=3), REVIEWS, resume_from=tmp_path, **options)


class Die(Callback):
    "Kills this very process, as no handler can prevent, once so many steps are done"

    def on_step(self, run):
        if len(run.steps) == 6:
            os.kill(os.getpid(), signal.SIGKILL)


def run_that_may_be_killed(**options: object) -> TextClassifier:
    "AdaLoRA under FGM for twelve steps, on one thread; the sixth is in the middle of its pruning"
    torch.set_num_threads(1)
    adapted = base().with_adapter("adalora", rank=2, start=5)
    fine_tune(adapted, REVIEWS, objective=FGM(), epochs=3, batch_size=6, learning_rate=1e-2, progress=False,
              checkpoint_every=2, **options)
    return adapted


def test_a_killed_run_goes_on_with_the_same_ranks(tmp_path):
    threads = torch.get_num_threads()
    code = ("import sys; sys.path.insert(0, 'tests'); from test_parameter_efficient import Die, run_that_may_be_killed; "
            f"run_that_may_be_killed(checkpoints={str(tmp_path / 'run')!r}, callbacks=[Die()])")
    child = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, env=RULES, timeout=300)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()[-2000:]
    try:
        again, whole = run_that_may_be_killed(resume_from=tmp_path / "run"), run_that_may_be_killed()
    finally:
        torch.set_num_threads(threads)
    assert ranks_in(again.model) == ranks_in(whole.model) and sum(ranks_in(again.model).values()) == 2 * 18
    assert torch.equal(again.logits(TEXTS), whole.logits(TEXTS))


def test_weights_of_an_earlier_step_bring_their_triplets_with_them(tmp_path):
    """As where a run ends with the best weights and not with the last: what is saved answers as what was in memory"""
    adapted = trained(base().with_adapter("adalora", rank=2, start=5))
    early, late = {}, {name: value.clone() for name, value in adapted.model.state_dict().items()}

    class Keep(Callback):
        def on_step(self, run):
            if len(run.steps) == 1:
                early.update({name: value.clone() for name, value in adapted.model.state_dict().items()})

    trained(adapted, callbacks=[Keep()])
    assert sum(ranks_in(adapted.model).values()) == 2 * 18
    adapted.model.load_state_dict(early)
    assert sum(ranks_in(adapted.model).values()) == sum(
        int((weight != 0).sum()) for name, weight in adapted.model.named_parameters() if "lora_E" in name) > 2 * 18
    adapted.save(tmp_path / "early")
    assert close(TextClassifier.load(tmp_path / "early", device="cpu"), adapted, 1e-6)
    adapted.model.load_state_dict(late)
    adapted.save(tmp_path / "late")
    assert close(TextClassifier.load(tmp_path / "late", device="cpu"), adapted, 1e-6)


def test_a_step_that_overflows_tells_nothing_of_the_triplets():
    """In float16 a scaler leaves such a step out; its gradients are no numbers"""
    adapted = base().with_adapter("adalora", rank=2, start=5)
    rules = AdaLoraRules(adapted.model, 8, 0.1, 0.3)
    for number in range(1, 9):
        for name, weight in adapted.model.named_parameters():
            if weight.requires_grad:
                weight.grad = torch.full_like(weight, float("nan") if number == 3 else 0.1) * torch.rand_like(weight)
                weight.data += 0.01 * torch.rand_like(weight) * ("lora_E" in name)
        rules.after_step(number)
    assert sum(ranks_in(adapted.model).values()) == 2 * 18 and silent(adapted) == 3 * 18
    assert all(value.isfinite().all() for value in rules.state().values())


class StopAfterCheckpoint(Callback):
    "Is interrupted, after the checkpoint of the step before was written"

    def __init__(self, step: int):
        self.step = step

    def on_step(self, run):
        if len(run.steps) == self.step + 1:
            raise KeyboardInterrupt


# --- what is refused

def loaded_on(other: TextClassifier, tmp_path: Path) -> TextClassifier:
    base().with_adapter("lora").save(tmp_path / "saved")
    return TextClassifier.load(tmp_path / "saved", base=other)


def changed_base() -> TextClassifier:
    classifier = TextClassifier.from_pretrained("tiny-bert", labels=LABELS, device="cpu")
    with torch.no_grad():
        classifier.model.base_model.encoder.layer[1].output.dense.weight[0, 0] += 1
    return classifier


def saved_in_memory(tmp_path: Path):
    plain = TextClassifier(base().model, base().tokenizer, LABELS, device="cpu")
    plain.with_adapter("lora").save(tmp_path / "x")


def trained_under_it(tmp_path: Path):
    classifier = TextClassifier.from_pretrained("tiny-bert", labels=LABELS, device="cpu")
    adapted = classifier.with_adapter("lora")
    fine_tune(classifier, REVIEWS, epochs=1, learning_rate=1e-3, progress=False)
    adapted.save(tmp_path / "x")


def without_base(tmp_path: Path) -> TextClassifier:
    place = changed_base().save(tmp_path / "base")
    TextClassifier.load(place, device="cpu").with_adapter("lora").save(tmp_path / "adapter")
    place.rename(tmp_path / "moved")
    return TextClassifier.load(tmp_path / "adapter")


def with_damage(tmp_path: Path) -> TextClassifier:
    place = base().with_adapter("lora").save(tmp_path / "adapter")
    (place / "classifier.json").write_text('{"labels": ["a"]')
    return TextClassifier.load(place)


BAD = {
    "method": (lambda _: base().with_adapter("dora"), ValueError, "method must be one of adalora, adapter, lora, prefix, got 'dora'"),
    "option": (lambda _: base().with_adapter("adapter", rank=3), TypeError, "adapter has no option rank; it has size, targets"),
    "rank 0": (lambda _: base().with_adapter("lora", rank=0), ValueError, "rank must be a whole number of at least 1, got 0"),
    "rank 2.5": (lambda _: base().with_adapter("lora", rank=2.5), ValueError, "rank must be a whole number"),
    "rank above": (lambda _: base().with_adapter("lora", rank=129), ValueError, "rank is 129, above the 128 × 128 matrix .*query"),
    "start above": (lambda _: base().with_adapter("adalora", rank=100), ValueError, "start is 150, above the 128 × 128 matrix"),
    "start below": (lambda _: base().with_adapter("adalora", start=8), ValueError, "start must be above rank"),
    "phases": (lambda _: base().with_adapter("adalora", warm_up=0.5, settle=0.5), ValueError, "must leave steps to prune in"),
    "targets": (lambda _: base().with_adapter("lora", targets=("query", "c_attn")), ValueError,
                "match no matrix of RoFormerForSequenceClassification: c_attn.*attention.self.query"),
    "no targets": (lambda _: base().with_adapter("lora", targets=()), ValueError, "none given"),
    "targets of AdaLoRA": (lambda _: base().with_adapter("adalora", targets="c_attn"), ValueError, "match no matrix .* c_attn.*query"),
    "targets of adapters": (lambda _: base().with_adapter("adapter", targets=("c_attn",)), ValueError, "match no .*: c_attn"),
    "targets None": (lambda _: base().with_adapter("lora", targets=None), ValueError, "none given. 'all' takes all"),
    "rank 0 of AdaLoRA": (lambda _: base().with_adapter("adalora", rank=0), ValueError, "rank must be a whole number of at least 1"),
    "four bits in words": (lambda _: base().with_adapter("lora", four_bit="no"), ValueError, "four_bit must be True or False, got 'no'"),
    "size": (lambda _: base().with_adapter("adapter", size=0), ValueError, "size must be a whole number"),
    "length": (lambda _: base("tiny-gpt").with_adapter("prefix", length=0), ValueError, "length must be a whole number"),
    "dropout": (lambda _: base().with_adapter("lora", dropout=1.0), ValueError, "dropout must be below 1"),
    "alpha": (lambda _: base().with_adapter("lora", alpha=-1), ValueError, "alpha must be a number above 0"),
    "labels": (lambda _: base().with_adapter("lora", labels=["a", "a"]), ValueError, "labels must be different names"),
    "seed": (lambda _: base().with_adapter("lora", seed=-1), ValueError, "seed must be"),
    "twice": (lambda _: base().with_adapter("lora").with_adapter("adapter"), ValueError, r"has an adapter \(lora\) already"),
    "merge": (lambda _: base().merge(), ValueError, "no adapter to merge"),
    "in part": (lambda _: trained(base().with_adapter("adalora"), trainable=1), ValueError, "trainable must be 'all', got 1"),
    "nothing of the prefix": (lambda _: trained(base("tiny-gpt").with_adapter("prefix"), trainable=1), ValueError,
                              "No weight of the prefix is left to train: trainable is 1"),
    "nothing of the layer": (lambda _: trained(base().with_adapter("lora", targets="layer.0.attention.self.query"), trainable=2),
                             ValueError, "No weight of the lora is left to train: trainable is 2"),
    "one step": (lambda _: trained(base().with_adapter("adalora"), epochs=1, batch_size=24), ValueError, "over two steps at least"),
    "another kind": (lambda tmp: loaded_on(base("tiny-gpt"), tmp), ValueError, "another base than the given one: .* tables of weights are missing"),
    "another value": (lambda tmp: loaded_on(changed_base(), tmp), ValueError,
                      r"another base than the given one: 1 of \d+ tables of weights have other values \(roformer.encoder.layer.1.output.dense"),
    "in memory": (saved_in_memory, ValueError, "the base was made in memory"),
    "base trained": (trained_under_it, ValueError, "The base was trained after the adapter was made.* other values"),
    "not its source": (lambda tmp: changed_base().with_adapter("lora").save(tmp / "x"), ValueError,
                       "The base is not what tiny-bert holds"),
    "base gone": (without_base, ValueError, "needs its base, which is not at .*load.folder, base=classifier"),
    "damage": (with_damage, ValueError, "classifier.json is damaged"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_says_what_is_wrong(name, tmp_path):
    wrong, kind, words = BAD[name]
    with pytest.raises(kind, match=words):
        wrong(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_four_bits_are_refused_without_a_gpu():
    with pytest.raises(ValueError, match="needs a GPU and the library bitsandbytes, and here is no GPU"):
        base().with_adapter("lora", four_bit=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_was_trained_beside_four_bits_is_read_on_a_base_that_is_given(tmp_path):
    adapted = trained(base().with_adapter("lora"))
    place = adapted.save(tmp_path / "saved") / "classifier.json"
    place.write_text(place.read_text().replace('"four_bit": false', '"four_bit": true'))
    with pytest.raises(ValueError, match=r"here is no GPU.*TextClassifier.load\(folder, base=classifier\)"):
        TextClassifier.load(tmp_path / "saved")
    again = TextClassifier.load(tmp_path / "saved", base=base())
    assert close(again, adapted, 1e-6) and close(again.merge(), adapted)
    again.adapter.options["four_bit"] = True
    with pytest.raises(ValueError, match=r"4 bits cannot take up an adapter"):
        again.merge()


class Fake4bit(torch.nn.Linear):
    "Takes what bitsandbytes' layer takes"

    def __init__(self, inputs, outputs, bias, compute_dtype, quant_type):
        super().__init__(inputs, outputs, bias)
        assert compute_dtype == torch.bfloat16 and quant_type == "nf4"


def test_every_matrix_of_the_layers_is_cut_to_four_bits():
    changed = changed_base()
    answers = changed.logits(TEXTS)
    replaced_by(changed.model, Fake4bit)
    assert sum(isinstance(part, Fake4bit) for part in changed.model.modules()) == 18 and changed.model.is_loaded_in_4bit
    assert torch.equal(changed.logits(TEXTS), answers)


def test_matrices_on_their_side_are_not_cut_to_four_bits():
    gpt = base("tiny-gpt")
    with pytest.raises(ValueError, match=r"GPT2.* on their side.*leave four_bit=True out"):
        replaced_by(gpt.model, Fake4bit)


# --- its neighbours

def test_the_parts_that_are_trained_can_be_chosen():
    for trainable, some in (("head", "classifier"), (1, "layer.2")):
        adapted = base().with_adapter("lora")
        before = {name: weight.clone() for name, weight in adapted.model.named_parameters()}
        trained(adapted, trainable=trainable)
        moved = {name for name, weight in adapted.model.named_parameters() if not torch.equal(weight, before[name])}
        assert moved and all("classifier" in name or some in name for name in moved), moved
        assert any(some in name for name in moved)
    assert {name for name, weight in adapted.model.named_parameters() if weight.requires_grad} == {
        name for name in before if "lora" in name or "classifier.modules_to_save" in name}


def test_embeddings_are_found_and_moved():
    for adapted in (base().with_adapter("lora"), base().with_adapter("adapter"), base("tiny-gpt").with_adapter("prefix")):
        function, vectors, _ = embedded(adapted, TEXTS[:2])
        torch.testing.assert_close(function(vectors), adapted.logits(TEXTS[:2]), atol=1e-5, rtol=0)


def test_a_fingerprint_knows_the_options():
    """The factor of the change is in no weight"""
    first, second = (base().with_adapter("lora", alpha=alpha) for alpha in (8, 16))
    assert fingerprint(first) != fingerprint(second) and fingerprint(first) == fingerprint(base().with_adapter("lora", alpha=8))


def test_a_prefix_leaves_the_window_room():
    adapted = base("tiny-gpt").with_adapter("prefix", length=7)
    assert adapted.window == base("tiny-gpt").window - 7 >= adapted.max_length
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert adapted.logits(["film " * 2000]).isfinite().all()


def test_the_cost_is_counted():
    cost = training_cost(base().with_adapter("lora", rank=3, targets=["query", "value"]))
    head = sum(weight.numel() for name, weight in base().model.named_parameters() if name.startswith("classifier"))
    assert cost["trained"] == 6 * 3 * 256 + head and cost["megabytes"] == 12 * cost["trained"] / 1e6
    assert training_cost(base())["share"] == 1


def test_everything_else_works_without_peft():
    """Only what needs it says so, and how to get it"""
    code = ("import sys; sys.modules['peft'] = None\n"
            "from llm_course.models import TextClassifier\nfrom llm_course.fine_tuning import fine_tune\n"
            "c = TextClassifier.from_pretrained('tiny-bert', labels=['a', 'b'])\n"
            "c.predict(['A film.'])\n"
            "try:\n    c.with_adapter('lora')\nexcept ImportError as error:\n    print(error)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=RULES, timeout=300)
    assert done.returncode == 0 and 'pip install "llm_course[lessons]"' in done.stdout, done.stderr[-2000:]


def test_the_answers_need_no_peft():
    assert "peft" not in Path(importlib.import_module("llm_course.answers.parameter_efficient").__file__).read_text()


def test_the_benchmark_reads_its_own_rows():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import parameter_efficient as benchmark

    jobs = benchmark.jobs(benchmark.FULL)
    assert len(jobs["accuracy"]) == 2 * 3 * 8 and "all LoRA, rank 1 2" in jobs["accuracy"]
    right = {"LoRA": "1" * 81 + "0" * 19}
    rows = {"accuracy": {key: {"accuracy": 0.8 + 0.01 * (way == "LoRA") + 0.001 * seed, "share": 0.5,
                               "right": right.get(way, "1" * 80 + "0" * 20)}
                         for key, (size, way, seed) in jobs["accuracy"].items()},
            "attack": {key: {"under attack": 0.3} for key in jobs["attack"]}}
    found = benchmark.summary(rows)
    mean, low, high = found["gap"]["LoRA"]  # one review of a hundred
    assert abs(mean - 0.01) < 1e-9 and low == 0 and 0.02 < high < 0.05 and set(found["gap"]["head"]) == {0}
    assert "all weights" not in found["gap"] and found["gap under attack"] == {}  # no outcomes were kept
    assert abs(found["accuracy"]["200 head"][0] - 0.801) < 1e-9
    assert set(found["share"]) == set(found["under attack"]) == set(benchmark.WAYS)
    del rows["accuracy"]["all LoRA 2"]["right"]
    assert "LoRA" not in benchmark.summary(rows)["gap"]  # seeds are compared with the same seeds


def test_the_benchmark_takes_the_rate_that_is_best_in_full():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import parameter_efficient as benchmark

    rates = benchmark.WAYS["LoRA"][2]
    short = {f"{size} LoRA {rate:g}": {"accuracy": 0.5 + 0.1 * place}
             for size in ("200", "all") for place, rate in enumerate(rates)}
    rows = {"rates": short, "two rates": {"LoRA 0": {"accuracy": 0.7, "rate": rates[-1]},
                                          "LoRA 1": {"accuracy": 0.8, "rate": rates[-2]}}}
    assert benchmark.by_accuracy(rows, "all", "LoRA")[:2] == [rates[-1], rates[-2]]
    assert benchmark.best_rate(rows, "200", "LoRA") == rates[-1] and benchmark.best_rate(rows, "all", "LoRA") == rates[-2]
    old = {"rate": rates[-1]}
    assert benchmark.other_rate(old, rows, "all", "LoRA", 0) and not benchmark.other_rate(old, rows, "200", "LoRA", 0)


def test_the_benchmark_attacks_what_was_saved(tmp_path, monkeypatch):
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import parameter_efficient as benchmark

    base().with_adapter("lora").save(tmp_path / "saved")
    monkeypatch.setattr(benchmark, "place_of", lambda *told: tmp_path / "saved")
    row = benchmark.attack(benchmark.SMALL, {}, "LoRA", 0)
    assert set(row) == {"before", "under attack", "right"} and 0 <= row["under attack"] <= row["before"] <= 1
    assert row["right"].count("1") == row["under attack"] * len(row["right"])
