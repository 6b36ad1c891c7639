"""Time and memory of attention by the number of tokens: written out, fused, and with a key-value cache.

Three parts, each a sequence of interleaved rounds; every figure is a median over them. Where a call is short, a round
takes the best of three.

- attention: one text, 12 heads of 32 numbers, forward only. `attention` of the lesson writes all weights down, torch's
  scaled_dot_product_attention does not. The peak is the highest resident memory during the call, less that before it,
  in a process of its own.
- layer: a whole EncoderLayer of the bundled model's sizes (384 numbers, 12 heads), forward only. To its seconds a line
  and a parabola are fitted, a T + b T², with equal weight on relative errors.
- generation: a decoder of six such layers reads N tokens one by one, with a cache and without; each is what writing N
  tokens costs. Multiplications are counted by torch's FLOP counter.

    python benchmarks/attention.py [--repeats 7] [--small]
"""

import argparse
import json
import time

import numpy as np
import torch
from common import in_own_process, interleaved, medians, peak_memory, write
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from llm_course.attention import Encoder, EncoderLayer, attention

ATTENTIONS = {"written out": lambda q, k, v: attention(q, k, v)[0], "fused": F.scaled_dot_product_attention}
LENGTHS, WRITTEN, HEADS, SIZE = (128, 256, 512, 1024, 2048, 4096), (16, 32, 64, 128, 256), 12, 384


def seconds_of(call) -> float:
    "Seconds of a call, without gradients"
    with torch.no_grad():
        start = time.perf_counter()
        call()
        return time.perf_counter() - start


def alone(name: str, tokens: int) -> dict:
    "Seconds and peak memory of one attention"
    q, k, v = torch.randn(3, 1, HEADS, tokens, SIZE // HEADS, generator=torch.Generator().manual_seed(0))
    seconds_of(lambda: ATTENTIONS[name](q[..., :64, :], k[..., :64, :], v[..., :64, :]))  # what is loaded once
    peak = peak_memory(lambda: seconds_of(lambda: ATTENTIONS[name](q, k, v)))
    return {"seconds": min(seconds_of(lambda: ATTENTIONS[name](q, k, v)) for _ in range(3)), "peak_memory_mb": peak}


def fitted(seconds: dict[int, float]) -> dict:
    "a and b of a T + b T² with the smallest relative errors, and where both parts are equal"
    T, y = np.array(list(seconds), float), np.array(list(seconds.values()))
    a, b = np.linalg.lstsq(np.stack([T / y, T**2 / y], 1), np.ones(len(T)), rcond=None)[0]
    return {"a": a, "b": b, "equal_at": a / b, "largest_relative_error": float(np.abs((a * T + b * T**2) / y - 1).max())}


def written(model: Encoder, ids: torch.Tensor, cached: bool):
    "Read tokens one by one, as a model that writes them must; the last hidden state"
    cache = model.new_cache() if cached else None
    for end in range(1, ids.shape[1] + 1):
        seen = ids[:, end - 1:end] if cached else ids[:, :end]
        last = model(seen, causal=True, cache=cache).states[-1][:, -1]
    return last


def counted(model: Encoder, ids: torch.Tensor, cached: bool) -> int:
    "Multiplications of `written`"
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        written(model, ids, cached)
    return counter.get_total_flops() // 2


def main():
    "Measure all three parts, or one attention in this process"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--small", action="store_true", help="short texts, two repeats; prints, and writes nothing")
    parser.add_argument("--alone", nargs=2, metavar=("NAME", "TOKENS"))
    arguments = parser.parse_args()
    if arguments.alone:
        print(json.dumps(alone(arguments.alone[0], int(arguments.alone[1]))))
        return
    lengths, steps, repeats = (LENGTHS[:3], WRITTEN[:2], 2) if arguments.small else (LENGTHS, WRITTEN, arguments.repeats)
    torch.manual_seed(0)
    layer, model = EncoderLayer(SIZE, HEADS).eval(), Encoder(1000, positions=max(steps)).eval()
    ids = torch.randint(1000, (1, max(steps)), generator=torch.Generator().manual_seed(0))
    vectors = torch.randn(1, max(lengths), SIZE, generator=torch.Generator().manual_seed(0))
    single = interleaved([f"{name}, {tokens}" for tokens in lengths for name in ATTENTIONS], repeats,
                         lambda case, _: in_own_process(__file__, "--alone", *case.split(", ")))
    whole = interleaved([str(tokens) for tokens in lengths], 3 * repeats, lambda tokens, _: {
        "seconds": min(seconds_of(lambda: layer(vectors[:, :int(tokens)])) for _ in range(3))})
    ways = {"with a cache": True, "without": False}
    generated = interleaved([f"{way}, {tokens}" for tokens in steps for way in ways], repeats, lambda case, _: {
        "seconds": seconds_of(lambda: written(model, ids[:, :int(case.split(", ")[1])], ways[case.split(", ")[0]]))})
    by_length = medians(whole)
    content = {
        "data": f"one text, {HEADS} heads, {SIZE} numbers a token, float32", "lengths": list(lengths), "written": list(steps),
        "attention": medians(single), "layer": by_length,
        "fit": fitted({int(tokens): row["seconds"] for tokens, row in by_length.items()}),
        "counted_equal_at": 6 * SIZE, "generation": medians(generated),
        "multiplications": {f"{way}, {tokens}": counted(model, ids[:, :tokens], cached)
                            for tokens in steps for way, cached in ways.items()},
        "runs": {"attention": single, "layer": whole, "generation": generated}}
    if arguments.small:
        print(json.dumps(content))
    else:
        write("attention", content)


if __name__ == "__main__":
    main()
