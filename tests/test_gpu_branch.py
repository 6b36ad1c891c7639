"""Each lesson runs on a CPU as it does on a GPU, made small, so that no learner is the first to run a line of it.

A lesson that does not ask where it runs does there what it does on a laptop, but its tensors are on two devices."""

import json
import re
from pathlib import Path

import pytest
from conftest import NBS, cells_of, name_of
from forked import run_forked

ASKS = re.compile(r"\b(by_scale|scale)\(")  # where it runs
LIMIT = 300  # seconds; each takes less than 80 of processor time


def has_branch(path: Path) -> bool:
    "Whether a notebook asks where it runs"
    return any(ASKS.search(cell) for cell in cells_of(path))


LESSONS = sorted((NBS / "lessons").glob("*.ipynb"))


def run_there(*arguments: str):
    "The runner, in this process"
    import warnings

    from gpu_branch import main
    warnings.simplefilter("ignore")
    main(*arguments)


def run(*arguments: str | Path) -> tuple[int, str]:
    "The runner's exit status and output"
    return run_forked("test_gpu_branch", "run_there", *map(str, arguments), timeout=LIMIT)


def written(path: Path, *sources: str) -> Path:
    "A notebook of these code cells"
    cells = [{"cell_type": "code", "id": f"cell{number}", "metadata": {}, "outputs": [], "execution_count": None,
              "source": source} for number, source in enumerate(sources)]
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


@pytest.fixture(scope="module")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "The folder of the small encoder and classifier"
    folder = tmp_path_factory.mktemp("models")
    status, said = run("--models", folder)
    assert status == 0, said
    return folder


@pytest.mark.timeout(LIMIT + 120)  # the first request loads the libraries
@pytest.mark.parametrize("path", LESSONS, ids=name_of)
def test_lesson_runs_as_on_a_gpu(path, small_models):
    status, said = run(path, small_models)
    assert status == 0, said[-6000:]
    counted = json.loads(said.splitlines()[-1])
    assert counted["claims"] > 0
    assert counted["sizes"] > 0 or not has_branch(path)
    print(f"{name_of(path)}: {counted['seconds']} s of processor time")


def test_who_asks_where_it_runs_has_a_branch(tmp_path):
    assert sum(map(has_branch, LESSONS)) > 10
    for source, has in (("n = by_scale(laptop=1, gpu=2)", True), ("if scale() == 'gpu': pass", True),
                        ("from llm_course.core import by_scale", False), ("ax.set(xscale=f(3))", False)):
        assert has_branch(written(tmp_path / "lesson.ipynb", source)) == has


START = "from llm_course.claims import claim\nfrom llm_course.core import by_scale, scale"
THERE = "import torch\nfrom llm_course.core import best_device\nthere = torch.ones(2, device=best_device())"
FAULTS = {
    "raises": (START, "if scale() == 'gpu':\n    raise RuntimeError('only here')"),
    "does not parse": (START, "for"),
    "a plain assertion": (START, "assert scale() == 'laptop'"),
    "two devices": (THERE, "there + torch.ones(2)"),
    "an array of a device's tensor": (THERE, "there.numpy()"),
    "float64 on a device without": (THERE, "there.double()"),
    "float64 on the way back": (THERE, "there.to('cpu', torch.float64)"),
    "rows of the CPU": (THERE, "torch.zeros(2)[[0, 1]] = there"),
    "a sum of the CPU": (THERE, "total = torch.tensor(0.0)\ntotal += there.sum()"),
    "a generator of the CPU": (THERE, "torch.rand(2, device=best_device(), generator=torch.Generator())"),
    "an unknown set": ("from llm_course.data import load_dataset", "load_dataset('no/such-set')"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_fails(name, small_models, tmp_path):
    status, said = run(written(tmp_path / "planted.ipynb", *FAULTS[name], "print('went on')"), small_models)
    assert status == 1 and "cell 1 of planted.ipynb fails" in said, said
    assert "went on\n" not in said


def test_what_a_device_lets_pass_goes_on(small_models, tmp_path):
    passes = ("(there.cpu() + torch.ones(2)).numpy(), there[torch.tensor([1])], there * torch.tensor(2.0)",
              "layer = torch.nn.Linear(2, 1).to(best_device())\nlayer(there).sum().backward()\nassert layer.weight.grad.device == there.device",
              "here = torch.zeros(2)\nhere.copy_(there)\nassert here.device.type == 'cpu' and there.device == torch.device('mps', 0)",
              "here[:1] = there[:1]\nthere[torch.tensor([0])] = 2.0\nthere[0] = torch.tensor(1.0)",
              "assert torch.as_tensor(here, device=best_device()) is not here and here.device.type == 'cpu'")
    status, said = run(written(tmp_path / "passes.ipynb", THERE, *passes), small_models)
    assert status == 0, said


PACKAGE = """import tempfile
import torch
from llm_course.callbacks import Callback
from llm_course.core import best_device
from llm_course.defences.averages import averaged
from llm_course.fine_tuning import fine_tune
from llm_course.models import TextClassifier
from llm_course.privacy import private_gradient
from llm_course.regularisation import WeightAverage, dropout_probabilities

some = {"text": ["good", "bad", "fine", "dull"] * 4, "label": [1, 0] * 8}
options = {"epochs": 1, "batch_size": 4, "progress": False}


def new(device=None):
    return TextClassifier.from_pretrained("tiny-bert", labels=["negative", "positive"], device=device)


class Cut(Callback):
    def on_step(self, run):
        if len(run.steps) == 3:
            raise ConnectionAbortedError"""
ON_A_DEVICE = {
    "one device after another": """for device in ("cpu", best_device(), "cpu"):
    classifier = new(device)
    run = fine_tune(classifier, some, **options)
    assert classifier.device.type == torch.device(device).type and len(run.steps) == 4""",
    "a mean that goes on": """with tempfile.TemporaryDirectory() as folder:
    kept = {**options, "checkpoints": folder, "checkpoint_every": 1, "resume": "auto"}
    try:
        fine_tune(new(), some, callbacks=[WeightAverage(0.2), Cut()], **kept)
    except ConnectionAbortedError:
        average = WeightAverage(0.2)
    assert len(fine_tune(new(), some, callbacks=[average], **kept).steps) == 4 and average.mean.count == 4""",
    "a mean of classifiers": "assert averaged([new(), new()]).device.type == best_device().type",
    "private gradients": """each = {"weight": torch.ones(3, 2, device=best_device())}
found = private_gradient(each, 1.0, 1.0, 3, torch.Generator().manual_seed(0))
assert found["weight"].device.type == best_device().type""",
    "dropout masks": "assert dropout_probabilities(new(), ['good', 'bad'], masks=2).device.type == 'cpu'",
}


@pytest.mark.parametrize("name", ON_A_DEVICE)
def test_the_package_keeps_to_a_device(name, small_models, tmp_path):
    status, said = run(written(tmp_path / "package.ipynb", PACKAGE, ON_A_DEVICE[name]), small_models)
    assert status == 0, said[-3000:]


def test_claims_are_shown_and_a_cell_for_colab_is_left_out(small_models, tmp_path):
    sources = (START, "claim('Numbers this small mean something', False, 0.5)", "#| eval: false\nraise ValueError",
               "%precision 3\nprint('sizes', by_scale(laptop=64, gpu=400), scale())")
    status, said = run(written(tmp_path / "claims.ipynb", *sources), small_models)
    assert status == 0, said
    assert "does not hold at this size: Numbers this small mean something (measured: 0.5)" in said
    assert "sizes 8 gpu" in said
    assert json.loads(said.splitlines()[-1])["claims"] == 1
