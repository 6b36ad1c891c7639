"""The benchmark of training on a GPU runs whole on a CPU at small size, and measures what it says."""

import json
import sys

import pytest
from conftest import ROOT, run_tool

sys.path.insert(0, str(ROOT / "benchmarks"))
import gpu_training

RESULT = ROOT / "benchmarks/results/gpu_training.json"


def small(*arguments: str) -> dict:
    "The JSON of the last line of a small run"
    output = run_tool(sys.executable, ROOT / "benchmarks/gpu_training.py", "--small", *arguments,
                      CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore")
    return json.loads(output.splitlines()[-1])


@pytest.mark.slow
def test_small_run_measures_every_part_and_writes_nothing():
    before = RESULT.read_bytes() if RESULT.exists() else None
    parts = small()
    assert list(parts) == gpu_training.PARTS
    contestants = {name for name in gpu_training.CONTESTANTS if "compiled" not in name}
    for lengths in gpu_training.LENGTHS:
        assert set(parts[lengths]["medians"]) == contestants
        assert all(figures["tokens_per_second"] > 0 for figures in parts[lengths]["medians"].values())
        assert set(parts[lengths]["times_as_fast"]["fine_tune"]) == contestants - {"fine_tune"}
    assert parts["IMDb"]["tokens_mean"] > 2 * parts["short"]["tokens_mean"]
    assert parts["objectives"]["times_plain"]["plain"] == 1
    assert set(parts["objectives"]["times_plain"]) == set(gpu_training.OBJECTIVES)
    assert (RESULT.read_bytes() if RESULT.exists() else None) == before


def test_one_contestant_runs_in_a_process_of_its_own():
    found = small("--part", "contest", "--name", "Trainer, best settings", "--lengths", "short", "--repeats", "0")
    assert found["tokens_per_second"] > found["texts_per_second"] > 0


def test_texts_have_the_tokens_that_were_drawn():
    size = gpu_training.SMALL
    _, tokenizer = gpu_training.new_model(size, 0)
    for name in gpu_training.LENGTHS:
        lengths = gpu_training.drawn_lengths(name, size, 0)
        rows = gpu_training.random_texts(lengths, 0)
        ids = tokenizer(list(rows["text"]))["input_ids"]
        assert [len(tokens) for tokens in ids] == lengths.tolist()
        assert not any(tokenizer.unk_token_id in tokens for tokens in ids)


def test_lengths_fit_what_is_known_of_imdb():
    lengths = gpu_training.drawn_lengths("IMDb", gpu_training.FULL, 0)
    assert 215 < sorted(lengths)[len(lengths) // 2] < 240 and 245 < lengths.mean() < 275 and lengths.max() == 512


@pytest.mark.parametrize("name, peak", [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12),
                                        ("NVIDIA L40S", 362e12), ("NVIDIA L4", 121e12), ("Tesla T4", 65e12),
                                        ("NVIDIA A100-SXM4-80GB", 312e12), ("An unknown one", None)])
def test_peak_is_that_of_the_data_sheet(monkeypatch, name, peak):
    monkeypatch.setattr(gpu_training.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_training.torch.cuda, "get_device_name", lambda: name)
    assert gpu_training.device_peak() == peak


def test_without_a_gpu_the_full_run_says_what_to_do(monkeypatch):
    monkeypatch.setattr(gpu_training, "best_device", lambda: gpu_training.torch.device("cpu"))
    monkeypatch.setattr(sys, "argv", ["gpu_training.py"])
    with pytest.raises(SystemExit, match="--small"):
        gpu_training.main()
