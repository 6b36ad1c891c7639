"""Our encoder is transformers' BertModel, in value and gradient; masks and caches change nothing that they must not."""

import json
import sys

import pytest
import torch
from conftest import ROOT, run_tool
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from llm_course.attention import (Encoder, EncoderLayer, MultiHeadAttention, attention, bert_name, causal_mask, load_minilm_weights,
                                  pair_mask)
from llm_course.data import load_dataset
from llm_course.models import sentence_encoder

some = settings(max_examples=60, deadline=None, derandomize=True)


def small(**changed: object) -> Encoder:
    "A tiny encoder in float64"
    torch.manual_seed(0)
    return Encoder(30, **{"size": 12, "layers": 2, "heads": 3, "positions": 16, **changed}).double().eval()


@some
@given(texts=st.integers(1, 3), tokens=st.integers(1, 6), seen=st.integers(1, 6), size=st.integers(1, 5), seed=st.integers(0, 99))
def test_attention_is_torchs(texts, tokens, seen, size, seed):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(texts, tokens, size, generator=generator, dtype=torch.float64)
    k, v = torch.randn(2, texts, seen, size, generator=generator, dtype=torch.float64)
    mask = torch.rand(texts, tokens, seen, generator=generator) < 0.5
    mask[..., 0] = True
    for allowed in (None, mask, mask[0], mask[:, :1]):
        mixed, weights = attention(q, k, v, allowed)
        torch.testing.assert_close(mixed, F.scaled_dot_product_attention(q, k, v, allowed))
        torch.testing.assert_close(weights.sum(-1), torch.ones(texts, tokens, dtype=torch.float64))


def test_who_sees_nobody_gets_zeros_and_finite_gradients():
    q, k, v = torch.randn(3, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = causal_mask(4)
    mask[2] = False
    mixed, weights = attention(q, k, v, mask)
    assert mixed[2].tolist() == [0, 0] and weights[2].sum() == 0
    assert torch.autograd.gradcheck(lambda *parts: attention(*parts, mask)[0], (q, k, v))


@pytest.mark.parametrize(("layers", "heads", "size"), [(1, 1, 8), (3, 4, 16), (2, 2, 12)])
def test_any_bert_is_our_encoder(layers, heads, size):
    torch.manual_seed(1)
    theirs = BertModel(BertConfig(vocab_size=40, hidden_size=size, num_hidden_layers=layers, num_attention_heads=heads,
                                  intermediate_size=20, max_position_embeddings=9), add_pooling_layer=False).double().eval()
    ours, held = Encoder(40, size=size, layers=layers, heads=heads, inner=20, positions=9).double(), theirs.state_dict()
    weights = {name: held[bert_name(name)].clone() for name in ours.state_dict()}
    weights["positions.weight"] += held["embeddings.token_type_embeddings.weight"][0]
    ours.load_state_dict(weights)
    # Not token 0: it is padding to a BERT, whose vector gets no gradient.
    ids, mask = torch.randint(1, 40, (3, 9)), torch.tensor([[1] * 9, [1] * 4 + [0] * 5, [1] + [0] * 8])
    states = theirs(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
    read = ours(ids, mask)
    for other, state in zip(states, read.states, strict=True):
        torch.testing.assert_close(state[mask.bool()], other[mask.bool()])
    direction = torch.randn(3, 9, size, dtype=torch.float64) * mask[..., None]
    (states[-1] * direction).sum().backward(), (read.states[-1] * direction).sum().backward()
    theirs_by_name = dict(theirs.named_parameters())
    for name, weight in ours.named_parameters():
        torch.testing.assert_close(weight.grad, theirs_by_name[bert_name(name)].grad, msg=name, atol=1e-9, rtol=1e-6)


def test_the_bundled_model_on_other_reviews_and_long_texts():
    published, ours = sentence_encoder(), load_minilm_weights(Encoder(30_522))
    texts = [*load_dataset("products")["test"]["text"][:12], " ".join(load_dataset("movies")["test"]["text"][:40])]
    batch = published.tokenizer(texts, padding=True, truncation=True, max_length=512, return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert ids.shape[1] == 512
    with torch.no_grad():
        theirs = published.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        read = ours(ids, mask)
    for state, other in zip(read.states, theirs, strict=True):
        torch.testing.assert_close(state[mask.bool()], other[mask.bool()], atol=5e-5, rtol=1e-4)
    first = load_minilm_weights(Encoder(30_522, layers=2))  # the first two layers
    with torch.no_grad():
        torch.testing.assert_close(first(ids[:3], mask[:3]).states[-1], read.states[2][:3], atol=1e-4, rtol=1e-4)


@some
@given(tokens=st.integers(2, 12), cut=st.integers(1, 11), seed=st.integers(0, 99))
def test_a_cache_in_pieces_of_any_size_changes_nothing(tokens, cut, seed):
    model, ids = small(), torch.randint(30, (2, tokens), generator=torch.Generator().manual_seed(seed))
    whole = model(ids, causal=True)
    cache, found, cut = model.new_cache(), [], min(cut, tokens - 1)
    for piece in (ids[:, :cut], *ids[:, cut:].split(1, 1)):
        found.append(model(piece, causal=True, cache=cache).states[-1])
    torch.testing.assert_close(torch.cat(found, 1), whole.states[-1])
    assert cache[0]["keys"].shape == (2, 3, tokens, 4)


def test_padding_on_the_left_and_a_cache():
    model, ids = small(positions=8), torch.tensor([[0, 0, 4, 5], [1, 2, 3, 4]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    whole, cache = model(ids, mask, causal=True).states[-1], model.new_cache()
    parts = [model(ids[:, t:t + 1], mask[:, :t + 1], causal=True, cache=cache).states[-1] for t in range(4)]
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    assert whole.isfinite().all()


def test_cross_attention_sees_the_source_alone():
    torch.manual_seed(0)
    part, written, source = MultiHeadAttention(8, 2), torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    found, weights = part(written, source=source)
    assert found.shape == (2, 3, 8) and weights.shape == (2, 2, 3, 5)
    hidden = torch.tensor([1, 1, 1, 0, 0]).bool()
    short = part(written, source=source[:, :3])[0]
    torch.testing.assert_close(part(written, hidden, source=source)[0], short)


def test_half_precision_and_training():
    model, ids = small().bfloat16(), torch.randint(30, (2, 5))
    assert model(ids, torch.tensor([[1, 1, 1, 0, 0]] * 2), causal=True).states[-1].isfinite().all()
    model = small().float().train()
    optimiser, losses = torch.optim.Adam(model.parameters(), 1e-2), []
    for _ in range(30):  # it learns to name its own tokens
        loss = F.cross_entropy((model(ids).states[-1] @ model.words.weight.T).flatten(0, 1), ids.flatten())
        optimiser.zero_grad(), loss.backward(), optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


BAD = {
    "heads": (lambda: MultiHeadAttention(10, 3), "10 numbers cannot be cut into 3"),
    "encoder": (lambda: Encoder(30, size=10, heads=4), "10 numbers cannot be cut into 4"),
    "no heads": (lambda: EncoderLayer(8, 0), "heads must be a whole number of at least 1"),
    "no layers": (lambda: Encoder(30, layers=0), "layers must be a whole number of at least 1"),
    "epsilon": (lambda: EncoderLayer(8, 2, epsilon=0), "epsilon must be a number above 0"),
    "sizes": (lambda: attention(torch.ones(2, 3), torch.ones(2, 4), torch.ones(2, 4)), "one size, got"),
    "values": (lambda: attention(torch.ones(2, 3), torch.ones(4, 3), torch.ones(3, 3)), "a value for each key"),
    "one vector": (lambda: attention(torch.ones(3), torch.ones(4, 3), torch.ones(4, 3)), "must be \\(tokens, size\\)"),
    "mask of pairs": (lambda: attention(*torch.ones(3, 4, 2), torch.ones(4, 3).bool()), "4 queries and 4 keys, got \\(4, 3\\)"),
    "mask of numbers": (lambda: attention(*torch.ones(3, 4, 2), torch.ones(4, 4)), "True or False for each pair, got torch.float32"),
    "vectors": (lambda: MultiHeadAttention(8, 2)(torch.ones(1, 3, 6)), "must have the size 8"),
    "padding": (lambda: small()(torch.ones(2, 4).long(), torch.ones(2, 5)), "\\(2, 4\\), one number for each token"),
    "one mask": (lambda: small()(torch.ones(2, 4).long(), torch.ones(4)), "got \\(4,\\)"),
    "added mask": (lambda: small()(torch.ones(1, 2).long(), torch.tensor([[0.0, -1e4]])), "0 and 1 alone"),
    "floats": (lambda: small()(torch.ones(1, 4)), "whole numbers of the shape \\(texts, tokens\\), got torch.float32"),
    "one text": (lambda: small()(torch.ones(4).long()), "shape \\(4,\\)"),
    "a list": (lambda: small()([[1, 2]]), "got list"),
    "no tokens": (lambda: small()(torch.ones(1, 0).long()), "shape \\(1, 0\\)"),
    "unknown token": (lambda: small()(torch.tensor([[3, 30]])), "from 0 to 29, got 3 to 30"),
    "negative token": (lambda: small()(torch.tensor([[-100, 3]])), "got -100 to 3"),
    "too long": (lambda: small()(torch.ones(1, 17).long()), "16 positions, got 17 tokens"),
    "cache": (lambda: small()(torch.ones(1, 2).long(), cache=small().new_cache()), "needs causal=True"),
    "short cache": (lambda: small()(torch.ones(1, 2).long(), causal=True, cache=[{}]), "one that new_cache made"),
    "time": (lambda: causal_mask(3, -1), "earlier must be a whole number of at least 0"),
    "bundled heads": (lambda: load_minilm_weights(Encoder(30_522, layers=1, heads=6)), "has 12 heads, this encoder 6"),
    "bundled words": (lambda: load_minilm_weights(Encoder(99, layers=1)), "\\(99, 384\\) here and \\(30522, 384\\)"),
    "bundled layers": (lambda: load_minilm_weights(Encoder(30_522, layers=7)), "layers.6.*nothing in the bundled"),
}


@pytest.mark.parametrize(("call", "said"), BAD.values(), ids=BAD)
def test_what_does_not_fit_is_refused(call, said):
    with pytest.raises((ValueError, TypeError), match=said):
        call()


def test_a_refused_loading_leaves_the_encoder_as_it_was():
    encoder = Encoder(30_522, layers=1, positions=100)
    before = {name: weight.clone() for name, weight in encoder.state_dict().items()}
    with pytest.raises(ValueError, match=r"positions\.weight is"):
        load_minilm_weights(encoder)
    assert all(torch.equal(weight, before[name]) for name, weight in encoder.state_dict().items())


def test_masks_of_time_pairs_and_padding_meet():
    found = pair_mask(torch.tensor([[0, 1, 1]]), 1, 2, 1, causal=True)
    assert found.int().tolist() == [[[[0, 1, 0], [0, 1, 1]]]]
    pairs = torch.tensor([[[1, 0], [1, 1]]], dtype=torch.float32)
    assert pair_mask(pairs, 1, 2).int().tolist() == [pairs.int().tolist()]


@pytest.mark.slow
def test_the_benchmark_runs_whole_at_small_size():
    output = run_tool(sys.executable, ROOT / "benchmarks/attention.py", "--small", timeout=900, PYTHONWARNINGS="ignore",
                      PYTHONPATH=str(ROOT))
    found = json.loads(output.splitlines()[-1])
    assert found["multiplications"]["without, 32"] > 10 * found["multiplications"]["with a cache, 32"]
    assert found["attention"]["fused, 512"]["peak_memory_mb"] < found["attention"]["written out, 512"]["peak_memory_mb"]
