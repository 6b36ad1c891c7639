"""The estimates equal what is counted, rounding is what the formats say, and bad input is refused."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

from llm_course import scaling
from llm_course.scaling import (PRECISIONS, SHARDING, Machine, TransformerShape, activation_memory, best_seconds, bit_pattern,
                                count_parameters, matmul_intensity, measure_roofline, model_flops_utilisation, roofline,
                                shape_of, stochastic_round, training_flops, training_memory, training_seconds)
from llm_course.widgets.scaling import MemoryExplorer

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


def test_bad_numbers_are_refused():
    for wrong in (lambda: TransformerShape(0, 1, 1, 1, 1, 1), lambda: TransformerShape(1, 1.5, 1, 1, 1, 1),
                  lambda: TransformerShape(1, 1, 1, 1, True, 1), lambda: shape_of(object()),
                  lambda: training_memory(SHAPE, 0, 8), lambda: training_memory(SHAPE, 1, 65),
                  lambda: training_memory(SHAPE, 1, 8, precision="fp16"), lambda: training_memory(SHAPE, 1, 8, processes=0),
                  lambda: training_flops(SHAPE, 1, -1), lambda: model_flops_utilisation(1, 0, 1),
                  lambda: model_flops_utilisation(1, 1, math.inf), lambda: model_flops_utilisation(-1, 1, 1),
                  lambda: training_seconds(1, peak=1, utilisation=0), lambda: training_seconds(1, peak=1, utilisation=1.1),
                  lambda: training_seconds(1, peak=-1), lambda: best_seconds(lambda: None, rounds=0),
                  lambda: measure_roofline(size=0)):
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


def test_explorer_says_what_the_estimator_says():
    explorer = MemoryExplorer(limit=24e9)
    explorer.choose(shape="BERT-large (335M)", batch_size=4, sequence_length=128, precision="bfloat16",
                    optimizer="momentum", processes=4, sharding="gradients", attention="plain", checkpointing=True)
    expected = training_memory(scaling.SHAPES["BERT-large (335M)"], 4, 128, precision="bfloat16", optimizer="momentum",
                               processes=4, sharding="gradients", attention="plain", checkpointing=True)
    assert explorer.estimate() == expected and f"{expected.total / 1e9:,.1f} GB" in explorer.output.value
    assert "24 GB" in explorer.describe() and 'alt="BERT-large' in explorer.output.value
    explorer.choose(sequence_length=2048)
    assert "× 512 tokens" in explorer.describe()  # the model's window
