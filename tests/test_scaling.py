"""Many processes equal one for any shards, the estimates equal what is counted, and bad input is refused."""

import copy
import math
import os
import sys
from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

from llm_course import scaling
from llm_course.scaling import (PRECISIONS, SHARDING, Machine, ShardedAdamW, TransformerShape,
                                activation_memory, all_reduce_mean, all_reduce_seconds, best_seconds, bit_pattern,
                                count_parameters, in_turn, matmul_intensity, mean_loss, measure_roofline,
                                model_flops_utilisation, ring_all_reduce, roofline, run_processes,
                                scaling_efficiency, shape_of, shards_of, state_bytes, stochastic_round,
                                train_shards, training_flops, training_memory, training_seconds)

some = settings(max_examples=60, deadline=None, derandomize=True)
SIZES = st.sampled_from([1, 2, 3])
SHAPE = TransformerShape(3, 32, 96, 4, 100, 64)


def small_bert(dropout=0.0, attention="eager", dtype=torch.float32, layers=3, size=32, wide=96, heads=4):
    "A classifier in training"
    config = BertConfig(vocab_size=100, hidden_size=size, num_hidden_layers=layers, num_attention_heads=heads,
                        intermediate_size=wide, max_position_embeddings=64, hidden_dropout_prob=dropout,
                        attention_probs_dropout_prob=dropout, attn_implementation=attention)
    return BertForSequenceClassification(config).to(dtype).train()


def small_gpt(layers=3, size=32, heads=4):
    "A language model in training"
    return GPT2LMHeadModel(GPT2Config(
        vocab_size=100, n_positions=64, n_embd=size, n_layer=layers, n_head=heads, bos_token_id=0, eos_token_id=0,
        activation_function="gelu", resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, attn_implementation="eager")).train()


def kept_for_backward(model, B, T):
    "The bytes that autograd saves, without the weights"
    weights, kept = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    words = torch.randint(100, (B, T))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = model(input_ids=words, attention_mask=torch.ones_like(words)).logits.float().flatten(0, -2)
        loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))
    return sum(kept.values()), loss


@settings(max_examples=12, deadline=None, derandomize=True)
@given(layers=SIZES, heads=SIZES, head=st.sampled_from([2, 4]), wide=st.integers(1, 40), decoder=st.booleans(),
       B=SIZES, T=st.integers(1, 12))
def test_parameters_and_flops_are_counted_exactly(layers, heads, head, wide, decoder, B, T):
    size = heads * head
    model = small_gpt(layers, size, heads) if decoder else small_bert(
        layers=layers, size=size, wide=wide, heads=heads)
    shape = shape_of(model.config)
    assert shape.parameters == count_parameters(model) == count_parameters(model, trainable=True)
    words = torch.randint(100, (B, T))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=words, attention_mask=torch.ones_like(words)).logits.square().sum().backward()
    assert training_flops(shape, B, T) == counter.get_total_flops()


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("B, T", [(1, 8), (5, 16), (3, 64)])
def test_activations_are_near_for_tiny_models(dropout, B, T):
    "Layer norms keep two numbers a token, which the formula leaves out: much for a width of 32, nothing for 384"
    for attention, kind in (("plain", "eager"), ("fused", "sdpa")):
        for dtype in (torch.float32, torch.bfloat16):
            if dropout and (attention, dtype) != ("plain", torch.float32):
                continue  # the CPU has no fused attention with dropout
            measured, _ = kept_for_backward(small_bert(dropout, kind, dtype), B, T)
            estimate = activation_memory(SHAPE, B, T, number=dtype.itemsize, attention=attention,
                                         mask=dtype.itemsize if dropout else 0)
            assert abs(measured / estimate - 1) < 0.15, (attention, dtype, measured, estimate)
    measured, _ = kept_for_backward(small_gpt(), B, T)
    estimate = activation_memory(shape_of(small_gpt().config), B, T, attention="plain")
    assert abs(measured / estimate - 1) < 0.15, (measured, estimate)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # newer releases of transformers have another name for it
def test_checkpointing_keeps_what_is_estimated():
    model = small_bert(attention="eager")
    model.gradient_checkpointing_enable({"use_reentrant": False})
    measured, loss = kept_for_backward(model, 4, 32)
    one_layer = activation_memory(TransformerShape(1, 32, 96, 4, 100, 64), 4, 32, attention="plain")
    estimate = activation_memory(SHAPE, 4, 32, attention="plain", checkpointing=True)
    inputs = 4 * 32 * 32 * 4 * 3  # bytes of what goes into three layers
    # The estimate is of the peak: the layer that is computed again is not there yet after the forward pass
    assert abs((measured + one_layer) / (estimate + 2 * 4 * 32 * 32 * 4) - 1) < 0.1
    assert inputs < measured < activation_memory(SHAPE, 4, 32, attention="plain") / 3
    loss.backward()


@some
@given(B=SIZES, T=st.integers(1, 64), processes=st.integers(1, 100), precision=st.sampled_from(sorted(PRECISIONS)))
def test_estimates_grow_and_shrink_as_they_should(B, T, processes, precision):
    stages = [training_memory(SHAPE, B, T, precision=precision, processes=processes, sharding=name)
              for name in SHARDING]
    totals = [stage.total for stage in stages]
    assert totals == sorted(totals, reverse=True) and (totals[0] > totals[-1]) == (processes > 1)
    for kind in ("parameters", "gradients", "optimizer"):
        whole, part = getattr(stages[0], kind), getattr(stages[-1], kind)
        assert whole <= part * processes < whole + 12 * processes + 12 * processes
    more = training_memory(SHAPE, B + 1, T, precision=precision)
    assert more.activations * B == stages[0].activations * (B + 1) and more.parameters == stages[0].parameters
    fused, plain = (activation_memory(SHAPE, B, T, attention=kind) for kind in ("fused", "plain"))
    assert (fused <= plain) and activation_memory(SHAPE, B, T, checkpointing=True) <= fused
    assert training_flops(SHAPE, B, T, checkpointing=True) > training_flops(SHAPE, B, T)


@some
@given(m=st.integers(1, 500), k=st.integers(1, 500), n=st.integers(1, 500))
def test_intensity_grows_with_the_batch_and_stays_below_the_roof(m, k, n):
    assert matmul_intensity(m, k, n) == pytest.approx(matmul_intensity(n, k, m))
    assert matmul_intensity(m + 1, k, n) >= matmul_intensity(m, k, n)
    assert matmul_intensity(m, k, n, 2) == pytest.approx(2 * matmul_intensity(m, k, n))
    assert matmul_intensity(m, k, n) <= 2 * m / 4  # the approximation for small batches is a bound
    machine = Machine(100.0, 3.0)
    reached = roofline(matmul_intensity(m, k, n), machine.peak, machine.bandwidth)
    assert reached == min(100.0, 3.0 * matmul_intensity(m, k, n))
    assert roofline(machine.ridge, 100.0, 3.0) == pytest.approx(100.0)


@some
@given(value=st.floats(-(2.0**127), 2.0**127, width=32), draws=st.integers(1, 4))
def test_stochastic_rounding_chooses_a_neighbour(value, draws):
    found = stochastic_round(torch.full((draws,), value)).double()
    cut = torch.tensor(value).view(torch.int32) & -(2**16)
    neighbours = {cut.view(torch.float32).double().item(), (cut + 2**16).view(torch.float32).double().item()}
    assert set(found.tolist()) <= neighbours


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-40, 65504.0, 3.0e38, math.inf, -1.25])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_bit_patterns_are_numpys(value, dtype):
    rounded = torch.tensor(value, dtype=dtype)
    bits = bit_pattern(value, dtype).replace(" ", "")
    assert len(bits) == 8 * dtype.itemsize
    back = torch.tensor(int(bits, 2), dtype=torch.int64).to(torch.int32 if dtype.itemsize == 4 else torch.int16)
    assert torch.equal(back.view(dtype), rounded)


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


def test_a_new_process_imports_no_other_lesson():
    assert run_processes(parts_of_the_course, 1) == [{f"llm_course.{name}" for name in ("checks", "processes", "scaling")}]


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
    for wrong in (lambda: TransformerShape(0, 1, 1, 1, 1, 1), lambda: TransformerShape(1, 1.5, 1, 1, 1, 1),
                  lambda: TransformerShape(1, 1, 1, 1, True, 1), lambda: shape_of(object()),
                  lambda: training_memory(SHAPE, 0, 8), lambda: training_memory(SHAPE, 1, 65),
                  lambda: training_memory(SHAPE, 1, 8, precision="fp16"), lambda: training_memory(SHAPE, 1, 8, processes=0),
                  lambda: training_flops(SHAPE, 1, -1), lambda: model_flops_utilisation(1, 0, 1),
                  lambda: model_flops_utilisation(1, 1, math.inf), lambda: model_flops_utilisation(-1, 1, 1),
                  lambda: training_seconds(1, peak=1, utilisation=0), lambda: training_seconds(1, peak=1, utilisation=1.1),
                  lambda: training_seconds(1, peak=-1), lambda: all_reduce_seconds(1, 0, bandwidth=1),
                  lambda: all_reduce_seconds(1, 2, bandwidth=0), lambda: best_seconds(lambda: None, rounds=0),
                  lambda: measure_roofline(size=0),
                  lambda: scaling_efficiency(SHAPE, 0, 2, Machine(1.0, 1.0), bandwidth=1)):
        with pytest.raises(ValueError):
            wrong()
    with pytest.raises(TypeError, match="float32"):
        stochastic_round(torch.zeros(2, dtype=torch.float64))


def test_what_is_measured_is_what_was_run():
    calls = []
    seconds = best_seconds(lambda: calls.append(1), rounds=3)
    assert len(calls) == 4 and 0 <= seconds < 60
    machine = measure_roofline(size=64, numbers=1000, rounds=1)
    assert machine.peak > 0 and machine.bandwidth > 0 and math.isfinite(machine.ridge)


def test_live_memory_forgets_what_is_gone():
    kept = torch.ones(100)
    with scaling.LiveMemory([kept, kept[:50]]) as spy:
        for _ in range(5):
            passing = torch.zeros(1000)
            passing += 1
            del passing
        kept.mul_(2)
    assert spy.now == 400 and max(spy.curve) == 400 + 4000


def test_the_state_of_an_optimizer_is_counted():
    weight = torch.nn.Parameter(torch.zeros(10))
    weight.grad = torch.ones(10)
    for make, numbers in ((torch.optim.SGD, 0), (torch.optim.AdamW, 20)):
        optimizer = make([weight], lr=0.1)
        optimizer.step()
        assert state_bytes(optimizer) == 4 * numbers


def test_explorer_says_what_the_estimator_says():
    from llm_course.widgets.scaling import MemoryExplorer  # here: new processes import this file, and need no widget
    explorer = MemoryExplorer(limit=24e9)
    explorer.choose(shape="BERT-large (335M)", batch_size=4, sequence_length=128, precision="bfloat16",
                    optimizer="momentum", processes=4, sharding="gradients", attention="plain", checkpointing=True)
    expected = training_memory(scaling.SHAPES["BERT-large (335M)"], 4, 128, precision="bfloat16", optimizer="momentum",
                               processes=4, sharding="gradients", attention="plain", checkpointing=True)
    assert explorer.estimate() == expected and f"{expected.total / 1e9:,.1f} GB" in explorer.output.value
    assert "24 GB" in explorer.describe() and 'alt="BERT-large' in explorer.output.value
    explorer.choose(sequence_length=2048)
    assert "× 512 tokens" in explorer.describe()  # the model's window
