"""One call on one process or several: the same steps, less memory, other precisions; what is refused."""

import os
import socket
import subprocess
import textwrap
import warnings
from types import SimpleNamespace

import pytest
import torch
from conftest import BIN, ROOT
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_adversarial_training import SIZES, classifier
from test_checkpoints import few_reviews
from transformers import BertConfig, BertForSequenceClassification

from llm_course.adversarial_training import FGM, PGD, RDrop, Smart
from llm_course.callbacks import Callback, TensorBoard
from llm_course.checkpoints import newest_checkpoint
from llm_course.fine_tuning import CrossEntropy, fine_tune, hardware_precision
from llm_course.models import TextClassifier
from llm_course.training.batches import Batches

RECIPE = {"epochs": 2, "learning_rate": 1e-2, "progress": False, "optimizer": "sgd"}
# Objectives without chance, so that several processes can take the steps of one.
REPEATABLE = {"plain": CrossEntropy, "FGM": lambda: FGM(epsilon=0.5), "R-Drop": RDrop,
              "PGD": lambda: PGD(epsilon=0.5, steps=2, random_start=False)}


def weights_of(mine: TextClassifier) -> dict[str, torch.Tensor]:
    "Copies of all weights"
    return {name: value.detach().clone() for name, value in mine.model.state_dict().items()}


def assert_same(first: dict, second: dict, said: object = "", tolerance: float = 1e-5):
    "All weights equal to a tolerance"
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=tolerance, msg=lambda text, name=name: f"{said} {name}: {text}")


@pytest.fixture(scope="module")
def few():
    "Eighteen short reviews: no multiple of the sixteen of a step; six others to look at"
    return few_reviews()


def linear_types(mine: TextClassifier, run) -> set[torch.dtype]:
    "In which types a linear layer inside the model answers while something runs"
    layer, seen = mine.model.get_submodule("bert.encoder.layer.0.intermediate.dense"), set()
    handle = layer.register_forward_hook(lambda layer, inputs, output: seen.add(output.dtype))
    try:
        run()
    finally:
        handle.remove()
    return seen


def assert_each_run_is_mixed(mine: TextClassifier, rows, **options):
    "Two runs of one model compute in bfloat16; between them and afterwards it answers in float32"
    for number in (1, 2):
        run = linear_types(mine, lambda: fine_tune(mine, rows, mixed_precision="bf16", **options, **RECIPE))
        assert run == {torch.bfloat16}, f"run {number} computed in {run}"
        assert linear_types(mine, lambda: mine.logits(rows["text"])) == {torch.float32}
        assert mine.model(**mine.pad(mine.tokenize(rows["text"][:2])[0])).logits.dtype == torch.float32
    assert "forward" not in vars(mine.model)


# Several processes


def in_each_process(folder: str):
    "What each of two processes does; the weights are written down"
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    rows, seen = few_reviews()
    for name, make in REPEATABLE.items():
        mine = classifier(dropout=False)
        run = fine_tune(mine, rows, objective=make(), batch_size=4, gradient_accumulation=2, **RECIPE)
        assert run.examples == 36 and len(run.steps) == run.total_steps == 4, run
        save_file(weights_of(mine), f"{folder}/{name}-{rank}.safetensors")
    mine = classifier(dropout=False)
    fine_tune(mine, rows, max_tokens=64, gradient_accumulation=2, **RECIPE)
    save_file(weights_of(mine), f"{folder}/budget-{rank}.safetensors")
    mine = classifier(dropout=False)
    fine_tune(mine, rows.select(range(9)), batch_size=4, **RECIPE)  # the last step is one text for two
    save_file(weights_of(mine), f"{folder}/single-{rank}.safetensors")
    mine = classifier(dropout=False).with_adapter("adalora", rank=2, start=4)
    fine_tune(mine, rows, batch_size=4, gradient_accumulation=2, **RECIPE)
    save_file(weights_of(mine), f"{folder}/adalora-{rank}.safetensors")
    assert_each_run_is_mixed(classifier(), rows, batch_size=4)
    interrupted_in_each_process(folder, rank, rows, seen)
    try:
        fine_tune(classifier(), rows.select(range(4)), batch_size=4, **RECIPE)
    except ValueError as error:
        assert "There are 2 processes, but the training data makes 1 batch." in str(error)
    else:
        raise AssertionError("more processes than batches were accepted")


class Fail(Callback):
    "End the run with an error, in each process"

    def on_step(self, run):
        if len(run.steps) == 3:
            raise ZeroDivisionError


def interrupted_in_each_process(folder: str, rank: int, rows, seen):
    "With dropout and a slow copy: a run that was stopped ends where one that was not does"
    recipe = {**RECIPE, "batch_size": 4, "checkpoint_every": 2, "optimizer": "adamw"}
    whole, mine = classifier(), classifier()
    fine_tune(whole, rows, seen, objective=Smart(), **recipe)
    try:
        fine_tune(mine, rows, seen, objective=Smart(), checkpoints=f"{folder}/run", callbacks=[Fail()], **recipe)
    except ZeroDivisionError:
        mine = classifier(seed=5)
    board = TensorBoard(f"{folder}/board")
    fine_tune(mine, rows, seen, objective=Smart(), resume_from=f"{folder}/run", callbacks=[board], **recipe)
    assert_same(weights_of(mine), weights_of(whole), "resumed", tolerance=0)


def check_what_two_processes_did(folder, few):
    "Their weights are equal, and those of one process whose batch is a whole step"
    rows, _ = few
    runs = {name: (rows, {"objective": make(), "batch_size": 16}) for name, make in REPEATABLE.items()}
    runs["budget"] = rows, {"max_tokens": 256}
    runs["single"] = rows.select(range(9)), {"batch_size": 8}
    runs["adalora"] = rows, {"batch_size": 16}
    for name, (data, options) in runs.items():
        mine = classifier(dropout=False)
        mine = mine.with_adapter("adalora", rank=2, start=4) if name == "adalora" else mine
        start = weights_of(mine)
        fine_tune(mine, data, **options, **RECIPE)
        first, second = (load_file(folder / f"{name}-{rank}.safetensors") for rank in (0, 1))
        assert_same(first, second, name, tolerance=0)
        assert_same(first, weights_of(mine), name)
        assert max((first[key] - value).abs().max() for key, value in start.items()) > 1e-3, name
    assert len(list((folder / "board").iterdir())) == 1  # one process writes
    steps = [event.step for event in EventAccumulator(str(folder / "board")).Reload().Scalars("training/loss")]
    assert steps == list(range(3, steps[-1] + 1))
    assert newest_checkpoint(folder / "run").record["finished"]


def free_port() -> str:
    "A port that nobody listens on"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def launched(*command: str) -> str:
    "Run a command from the tests' folder; its output, or a failed test that shows it"
    paths = os.pathsep.join([str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([str(part) for part in command], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


def test_accelerate_launch_trains_one_model_on_two_processes(few, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(f"from test_scaling_out import in_each_process\n\nin_each_process({str(tmp_path)!r})\n")
    launched(BIN / "python", "-W", "ignore", "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes",
             "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", free_port(),
             script)
    check_what_two_processes_did(tmp_path, few)


@pytest.mark.slow  # the launcher before it proves the same of the loop
def test_notebook_launcher_trains_one_model_on_two_processes(few, tmp_path):
    script = tmp_path / "notebook.py"
    script.write_text(textwrap.dedent(f"""
        from accelerate import notebook_launcher
        from test_scaling_out import in_each_process

        notebook_launcher(in_each_process, args=({str(tmp_path)!r},), num_processes=2, use_port={free_port()!r})
    """))
    launched(BIN / "python", "-W", "ignore", script)
    check_what_two_processes_did(tmp_path, few)


# One step, cut in many ways


@pytest.mark.parametrize("name", REPEATABLE)
def test_accumulation_takes_the_steps_of_the_whole_batch(few, name):
    whole = classifier(dropout=False)
    wanted = fine_tune(whole, few[0], objective=REPEATABLE[name](), batch_size=16, **RECIPE)
    for size, accumulation in ((8, 2), (4, 4), (1, 16)):
        mine = classifier(dropout=False)
        run = fine_tune(mine, few[0], objective=REPEATABLE[name](), batch_size=size,
                        gradient_accumulation=accumulation, **RECIPE)
        assert_same(weights_of(mine), weights_of(whole), (size, accumulation))
        torch.testing.assert_close([row["loss"] for row in run.steps], [row["loss"] for row in wanted.steps],
                                   rtol=1e-4, atol=1e-5)


class Watch:
    "Cross-entropy that remembers the shapes of its batches and, if asked, runs out of memory"

    def __init__(self, room: int = 10**9, error: Exception | None = None, calls: int = 10**9):
        self.shapes, self.room, self.error, self.calls = [], room, error, calls

    def __call__(self, model, batch, backward):
        self.shapes.append(tuple(batch["input_ids"].shape))
        if len(batch["targets"]) > self.room and len(self.shapes) <= self.calls:
            CrossEntropy()(model, batch, backward)  # gradients that must not count
            torch.rand(7)
            raise self.error
        return CrossEntropy()(model, batch, backward)


def test_a_token_budget_bounds_each_batch_and_leaves_no_text_out(few):
    for accumulation in (1, 3):
        watch, mine = Watch(), classifier()
        run = fine_tune(mine, few[0], objective=watch, max_tokens=60, gradient_accumulation=accumulation, **RECIPE)
        assert run.examples == 36 == sum(texts for texts, _ in watch.shapes)
        assert max(texts * tokens for texts, tokens in watch.shapes) <= 60
        assert max(texts for texts, _ in watch.shapes) > 3 and len(run.steps) == run.total_steps
    watch = Watch()
    fine_tune(classifier(), few[0], objective=watch, batch_size=2, max_tokens=60, **RECIPE)
    assert max(texts for texts, _ in watch.shapes) == 2
    with pytest.raises(ValueError, match=r"max_tokens is 6, but a training text has \d+ tokens.*max_length"):
        fine_tune(classifier(), few[0], max_tokens=6, **RECIPE)
    for wrong in (0, 2.5, True):
        with pytest.raises(ValueError, match="max_tokens must be a whole number"):
            fine_tune(classifier(), few[0], max_tokens=wrong, **RECIPE)


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"),
], ids=["GPU", "CPU"])
def test_where_memory_runs_out_the_step_is_taken_again_with_halves(few, error):
    whole = classifier(dropout=False)
    wanted = fine_tune(whole, few[0], batch_size=8, **RECIPE)
    mine, watch = classifier(dropout=False), Watch(4, error)
    with pytest.warns(UserWarning, match=r"Memory ran out at step \d with a batch of 8 texts.*half the size") as said:
        run = fine_tune(mine, few[0], objective=watch, batch_size=8, **RECIPE)
    assert len([w for w in said if "Memory" in str(w.message)]) == 1
    assert len([texts for texts, _ in watch.shapes if texts > 4]) == 1  # tried once only
    assert_same(weights_of(mine), weights_of(whole))
    assert run.examples == wanted.examples == 36 and len(run.steps) == len(wanted.steps)


def test_the_retried_step_draws_the_same_numbers(few):
    results = []
    for watch in (Watch(4, torch.OutOfMemoryError("out of memory"), calls=1), Watch()):
        mine = classifier()  # with dropout
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fine_tune(mine, few[0].select(range(8)), objective=watch, batch_size=8 if watch.error else 4,
                      gradient_accumulation=1 if watch.error else 2, **RECIPE)
        results.append(weights_of(mine))
    assert_same(*results, tolerance=0)


class Following(Watch):
    "Remembers, after each step, the weights that it was shown"

    def __init__(self, **options):
        super().__init__(**options)
        self.shown = []

    def after_step(self, model):
        self.shown.append(model.classifier.weight.detach().clone())


def test_an_objective_hears_of_each_step_once(few):
    out = torch.OutOfMemoryError("out of memory")
    for watch, options in ((Following(room=4, error=out), {"batch_size": 8}),
                           (Following(), {"batch_size": 2, "gradient_accumulation": 4})):
        mine, after = classifier(dropout=False), []
        hear = Callback()
        hear.on_step = lambda run, after=after: after.append(run.classifier.model.classifier.weight.detach().clone())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = fine_tune(mine, few[0], objective=watch, callbacks=[hear], **options, **RECIPE)
        assert len(watch.shown) == len(run.steps) == 6 < len(watch.shapes)
        assert all(torch.equal(shown, moved) for shown, moved in zip(watch.shown, after, strict=True))
        assert not torch.equal(watch.shown[0], watch.shown[-1])


def test_memory_that_runs_out_again_and_other_errors_are_raised(few):
    mine, start, rows = classifier(), classifier(), few[0].select(range(16))  # two steps of eight texts
    with pytest.warns(UserWarning, match="Memory ran out"), pytest.raises(torch.OutOfMemoryError) as error:
        fine_tune(mine, rows, objective=Watch(2, torch.OutOfMemoryError("out of memory")), batch_size=8, **RECIPE)
    assert "lower batch_size, max_tokens or the classifier's max_length" in error.value.__notes__[0]
    assert_same(weights_of(mine), weights_of(start), tolerance=0)
    with pytest.raises(torch.OutOfMemoryError):
        fine_tune(mine, few[0], objective=Watch(0, torch.OutOfMemoryError("out of memory")), batch_size=1, **RECIPE)
    other = Watch(4, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        fine_tune(mine, few[0], objective=other, batch_size=8, **RECIPE)
    assert len([texts for texts, _ in other.shapes if texts > 4]) == 1


def test_a_resumed_run_remembers_that_memory_ran_out(few, tmp_path):
    recipe = {**RECIPE, "batch_size": 8, "checkpoint_every": 1}
    with pytest.warns(UserWarning, match="Memory ran out"), pytest.raises(ZeroDivisionError):
        fine_tune(classifier(), few[0], objective=Watch(4, torch.OutOfMemoryError("out of memory")),
                  checkpoints=tmp_path, callbacks=[Fail()], **recipe)
    watch = Watch()
    fine_tune(classifier(), few[0], objective=watch, resume_from=tmp_path, **recipe)
    assert max(texts for texts, _ in watch.shapes) == 4


@pytest.mark.parametrize("halve_at", [None, 2])
def test_batches_that_are_prepared_in_the_background_keep_their_order(halve_at):
    batches = Batches.__new__(Batches)
    batches.device, batches.halved, steps = SimpleNamespace(type="cuda"), False, [[i] for i in range(7)]
    batches.prepared = lambda rows: (rows, batches.halved)
    seen = []
    for rows, _ in batches.ahead(steps):
        seen.append(rows)
        if len(seen) == halve_at:
            batches.halved = True
    assert seen == steps and list(batches.ahead([])) == [] and next(batches.ahead([[3]]))[0] == [3]


# Precision, kernels, compilation


def test_precision_is_chosen_by_the_hardware_and_the_launcher(few, monkeypatch):
    gpu = torch.device("cuda")
    for supported, chosen in ((True, "bf16"), (False, "fp16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, supported=supported: supported)
        assert hardware_precision(gpu) == chosen
    assert hardware_precision(torch.device("cpu")) == hardware_precision(torch.device("mps")) == "no"
    results = []
    for options in ({}, {"mixed_precision": "auto"}, {"mixed_precision": "no"}, {"mixed_precision": "bf16"}, "bf16"):
        if options == "bf16":  # as a launcher says it
            monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
            options = {}
        mine = classifier()
        fine_tune(mine, few[0], batch_size=8, **options, **RECIPE)
        results.append(weights_of(mine))
    for first, second in ((0, 1), (0, 2), (3, 4)):
        assert_same(results[first], results[second], tolerance=0)
    with pytest.raises(AssertionError):
        assert_same(results[2], results[3], tolerance=0)


def test_each_run_of_a_model_has_its_precision_not_only_the_first(few):
    mine = classifier()
    assert_each_run_is_mixed(mine, few[0], batch_size=8)
    run = linear_types(mine, lambda: fine_tune(mine, few[0], mixed_precision="no", batch_size=8, **RECIPE))
    assert run == {torch.float32}


def test_float16_on_a_cpu_is_refused(few, monkeypatch):
    mine = classifier()
    with pytest.raises(ValueError, match=r"'fp16' needs a GPU. On a CPU choose 'no', or 'bf16'"):
        fine_tune(mine, few[0], mixed_precision="fp16", **RECIPE)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(ValueError, match="needs a GPU"):
        fine_tune(mine, few[0], **RECIPE)


def test_attention_is_torch_s_scaled_dot_product(few):
    mine = TextClassifier.from_pretrained("minilm", labels=["negative", "positive"])
    assert mine.model.config._attn_implementation == "sdpa_quick_dropout"  # sdpa, but for dropout on a CPU
    seen = []
    original = torch.nn.functional.scaled_dot_product_attention
    torch.nn.functional.scaled_dot_product_attention = lambda *given, **named: seen.append(1) or original(*given, **named)
    try:
        mine.predict(["A film."])
    finally:
        torch.nn.functional.scaled_dot_product_attention = original
    assert len(seen) == mine.model.config.num_hidden_layers


def two_layers() -> TextClassifier:
    "Like `classifier`, with a layer that can be compiled"
    mine = classifier(dropout=False)
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(
        **{**SIZES, "vocab_size": len(mine.tokenizer)}, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    return TextClassifier(model, mine.tokenizer, mine.labels, max_length=32, device="cpu")


@pytest.mark.parametrize("objective", [CrossEntropy, lambda: FGM(epsilon=0.5), Smart], ids=["plain", "FGM", "SMART"])
def test_compiled_layers_take_the_same_steps(few, objective, monkeypatch):
    calls, compiled = [], torch.nn.Module.compile

    def quickly(layer, **options):  # traced as always, but without a C++ compiler at the end
        calls.append(layer)
        compiled(layer, **options, backend="aot_eager")

    monkeypatch.setattr(torch.nn.Module, "compile", quickly)
    results = []
    for options in ({"compile": True}, {}):
        mine = two_layers()
        fine_tune(mine, few[0], objective=objective(), batch_size=6, **options, **RECIPE)
        assert not any(module._compiled_call_impl for module in mine.model.modules())
        results.append(weights_of(mine))
    assert len(calls) == 1
    assert_same(*results)


class Stumble(Smart):
    "Runs out of memory once, at the end of the pass of a whole batch in the second step"

    def __call__(self, model, batch, backward):
        loss = super().__call__(model, batch, backward)
        if len(batch["targets"]) == 8 and hasattr(self.slow, "before") and not hasattr(self.slow, "stumbled"):
            self.slow.stumbled = True
            raise torch.OutOfMemoryError("out of memory")
        return loss


class Follow(Callback):
    "After each step, the weights of the model, and those of the slow copy"

    def __init__(self, objective: Smart):
        self.objective, self.model, self.copy = objective, [], []

    def on_step(self, run):
        self.objective.slow.before = True
        self.model.append([value.detach().clone() for value in run.classifier.model.parameters()])
        self.copy.append([value.detach().clone() for value in self.objective.state().values()])


@pytest.mark.parametrize("options", [{}, {"batch_size": 2, "gradient_accumulation": 4}], ids=["retried", "accumulated"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_slow_copy_takes_one_step_for_each_step_of_the_model(few, options, optimizer):
    objective, mine = Stumble(momentum=0.5), classifier(dropout=False)
    follow, first = Follow(objective), [value.detach().clone() for value in mine.model.parameters()]
    recipe = {**RECIPE, "batch_size": 8, **options, "optimizer": optimizer}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fine_tune(mine, few[0].select(range(16)), objective=objective, callbacks=[follow], **recipe)
    assert any("Memory ran out at step 2" in str(w.message) for w in said) == (not options)
    wanted = first
    for model, copy in zip(follow.model, follow.copy, strict=True):
        wanted = [old.lerp(new, 0.5) for old, new in zip(wanted, model, strict=True)]
        assert all(torch.equal(value, other) for value, other in zip(copy, wanted, strict=True))
    assert len(follow.copy) == 4 and any(not torch.equal(a, b) for a, b in zip(first, wanted, strict=True))
