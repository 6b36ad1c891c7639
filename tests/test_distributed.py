"""Many processes equal one for any shards, the ring is torch's all-reduce, and bad input is refused."""

import copy
import math
import os
import sys
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from llm_course.distributed import (ShardedAdamW, all_reduce_mean, all_reduce_seconds, in_turn, ring_all_reduce,
                                    scaling_efficiency, shards_of, state_bytes, train_shards)
from llm_course.processes import run_processes
from llm_course.scaling import Machine, TransformerShape, mean_loss

# Functions that other processes import from this file -----------------------------------------------------------


def fails_in_one(rank_that_fails: int):
    if dist.get_rank() == rank_that_fails:
        raise KeyError("a planted fault")
    dist.barrier()


def dies(code: int):
    if dist.get_rank() == 1:
        os._exit(code)
    dist.barrier()


def never_ends():
    while True:
        pass


def nobody_has_texts():
    all_reduce_mean([torch.zeros(2)], 0)


def mean_of(values: list, weights: list) -> list:
    "The tensors after all_reduce_mean"
    rank = dist.get_rank()
    tensors = [torch.tensor(values[rank]), torch.tensor([values[rank]] * 2, dtype=torch.float64)[None]]
    all_reduce_mean(tensors, weights[rank])
    return tensors


def ring(numbers: int) -> tuple:
    "What the ring gives for whole numbers, and what it sent"
    tensor = (torch.arange(numbers) + 1) * 10 ** dist.get_rank()
    sent = ring_all_reduce(tensor)
    return tensor, sent


def by_torch(model, batches, learning_rate: float) -> torch.Tensor:
    "Weights after training by torch's DistributedDataParallel"
    parallel = DistributedDataParallel(copy.deepcopy(model))
    optimizer = torch.optim.SGD(parallel.parameters(), lr=learning_rate)
    for batch in batches:
        half = len(batch["targets"]) // dist.get_world_size()
        shard = shards_of(batch, [half] * dist.get_world_size())[dist.get_rank()]
        optimizer.zero_grad()
        mean_loss(parallel, shard).backward()
        optimizer.step()
    return torch.nn.utils.parameters_to_vector(parallel.parameters()).detach()


def network_and_batches(rows=12):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 9), torch.nn.Tanh(), torch.nn.Linear(9, 3)).double()
    return model, [{"input": torch.randn(rows, 4).double(), "targets": torch.randint(3, (rows,))} for _ in range(3)]


def trained_alone(model, batches, make) -> torch.Tensor:
    model = copy.deepcopy(model)
    optimizer = make(list(model.parameters()))
    for batch in batches:
        optimizer.zero_grad()
        mean_loss(model, batch).backward()
        optimizer.step()
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach()


@pytest.mark.parametrize("processes, shares", [(1, [[12]]), (2, [[6, 6], [11, 1], [0, 12]]),
                                               (3, [[4, 4, 4], [7, 5, 0], [1, 9, 2]])])
def test_many_processes_equal_one(processes, shares):
    model, batches = network_and_batches()
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    adamw = {"lr": 0.01, "weight_decay": 0.1}
    makers = {"sgd": partial(torch.optim.SGD, lr=0.3, momentum=0.9), "adamw": partial(torch.optim.AdamW, **adamw),
              "sharded": partial(ShardedAdamW, **adamw)}
    runs = [(share, name) for share in shares for name in makers]
    calls = [(train_shards, (model, batches, share, makers[name])) for share, name in runs]
    calls += [(by_torch, (model, batches, 0.3))] + [(ring, (numbers,)) for numbers in (1, 2, 7, 100)]
    results = run_processes(in_turn, processes, calls)
    for place, (_share, name) in enumerate(runs):
        alone = trained_alone(model, batches, makers["sgd" if name == "sgd" else "adamw"])
        for rank in range(processes):
            torch.testing.assert_close(results[rank][place][0], alone, rtol=0, atol=1e-12)
            assert torch.equal(results[rank][place][0], results[0][place][0])
        states = [results[rank][place][2] for rank in range(processes)]
        if name == "sharded":
            assert len(set(states)) == 1 and states[0] == 2 * 8 * math.ceil(len(alone) / processes)
        else:
            assert set(states) == {(1 if name == "sgd" else 2) * 8 * len(alone)}
    plain = trained_alone(model, batches, partial(torch.optim.SGD, lr=0.3))
    for rank in range(processes):
        torch.testing.assert_close(results[rank][len(runs)], plain, rtol=0, atol=1e-12)
        for numbers, (total, sent) in zip((1, 2, 7, 100), results[rank][len(runs) + 1:], strict=True):
            assert total.tolist() == [(n + 1) * int("1" * processes) for n in range(numbers)]
            assert abs(sent - 2 * (processes - 1) / processes * 8 * numbers) <= 8 * 2 * (processes - 1)
    assert torch.equal(torch.nn.utils.parameters_to_vector(model.parameters()), before)  # ours was not touched


def test_the_weighted_mean_and_its_bad_input():
    calls = [(mean_of, ([1.5, 6.0], [2, 1])), (mean_of, ([1.0, math.nan], [3, 0])), (mean_of, ([1.0, 2.0], [0.5, 0.5]))]
    for results in run_processes(in_turn, 2, calls):
        for (narrow, wide), expected in zip(results, (3.0, 1.0, 1.5), strict=True):
            assert narrow.dtype == torch.float32 and wide.dtype == torch.float64 and wide.shape == (1, 2)
            assert narrow.item() == expected and wide.tolist() == [[expected] * 2]
    for weight in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match="weight must be"):
            all_reduce_mean([torch.zeros(1)], weight)
    with pytest.raises(RuntimeError, match="nobody has anything to average"):
        run_processes(nobody_has_texts, 2)


def parts_of_the_course() -> set[str]:
    "The modules of the package that this process has imported"
    return {name for name in sys.modules if name.startswith("llm_course.")}


def test_a_new_process_imports_only_what_the_lesson_stands_on():
    needed = ("checks", "distributed", "processes", "scaling")
    assert run_processes(parts_of_the_course, 1) == [{f"llm_course.{name}" for name in needed}]


@pytest.mark.slow  # the notebook of processes fails, dies and never ends in the same three ways, one call each
def test_a_process_that_fails_is_told_and_the_others_end():
    with pytest.raises(RuntimeError, match=r"Process 1 of 2 failed(.|\n)*a planted fault"):
        run_processes(fails_in_one, 2, 1)
    with pytest.raises(RuntimeError, match="Process 1 of 2 ended with exit code 3"):
        run_processes(dies, 2, 3)
    with pytest.raises(TimeoutError, match="within 15 seconds"):
        run_processes(never_ends, 2, timeout=15)


def test_bad_launches_are_refused_before_anything_starts():
    def here():
        pass

    here.__module__ = "__main__"
    with pytest.raises(ValueError, match="cannot import it"):
        run_processes(here, 2)
    for wrong in ({"count": 0}, {"count": True}, {"count": 1.0}, {"threads": 0}, {"timeout": 0}, {"timeout": math.nan}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            run_processes(in_turn, **{"count": 1, **wrong})
    _, batches = network_and_batches()
    for shares in ([6, 5], [13, -1], [12, 1]):
        with pytest.raises(ValueError, match="12 rows"):
            shards_of(batches[0], shares)


def test_bad_numbers_are_refused():
    shape = TransformerShape(3, 32, 96, 4, 100, 64)
    for wrong in (lambda: all_reduce_seconds(1, 0, bandwidth=1), lambda: all_reduce_seconds(1, 2, bandwidth=0),
                  lambda: scaling_efficiency(shape, 0, 2, Machine(1.0, 1.0), bandwidth=1)):
        with pytest.raises(ValueError):
            wrong()


def test_the_state_of_an_optimizer_is_counted():
    weight = torch.nn.Parameter(torch.zeros(10))
    weight.grad = torch.ones(10)
    for make, numbers in ((torch.optim.SGD, 0), (torch.optim.AdamW, 20)):
        optimizer = make([weight], lr=0.1)
        optimizer.step()
        assert state_bytes(optimizer) == 4 * numbers
