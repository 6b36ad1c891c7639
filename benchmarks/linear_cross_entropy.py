"""Memory and time of a language model's head: all logits at once, our chunks, and torch's own chunks.

2,048 tokens x 256 hidden x 128,000 words in float32, forward and backward, gradients of hidden states and embeddings.
Each contestant runs in a process of its own; the contestants take turns. The peak is the highest resident memory
during the call, less the resident memory before it; all three hold the gradient of the embeddings (131 MB) in it. The
time is that of a second call in the same process. Torch's own gets chunks of our size: its default was far slower.
One more process computes all gradients and compares them.

    python benchmarks/linear_cross_entropy.py [--repeats 5] [--chunk-size 128]
"""

import argparse
import json
import time

import torch
import torch.nn.functional as F
from common import in_own_process, interleaved, medians, peak_memory, ratios, write

from llm_course.cross_entropy import linear_cross_entropy

TOKENS, HIDDEN, WORDS = 2048, 256, 128_000
OURS, ALL, TORCHS = "linear_cross_entropy", "cross_entropy of all logits", "torch's linear_cross_entropy, in chunks"


def contestants() -> list[str]:
    "Torch's own only where this torch has it"
    return [OURS, ALL] + [TORCHS] * hasattr(torch.nn, "LinearCrossEntropyOptions")


def loss_of(name: str, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, chunk_size: int):
    "The mean loss, as this contestant computes it"
    if name == OURS:
        return linear_cross_entropy(hidden, weight, targets, chunk_size=chunk_size)
    if name == ALL:
        return F.cross_entropy(hidden @ weight.T, targets)
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=chunk_size)  # its default is slower
    return F.linear_cross_entropy(hidden, weight, targets, options=options)


def inputs(tokens: int = TOKENS, words: int = WORDS) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    "Hidden states (N, D), embeddings (V, D) and next words (N,)"
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, HIDDEN, generator=generator)
    weight = torch.randn(words, HIDDEN, generator=generator) / HIDDEN**0.5
    return hidden.requires_grad_(), weight.requires_grad_(), torch.randint(words, (tokens,), generator=generator)


def contest(name: str, chunk_size: int) -> dict:
    "Peak memory in MB above what was there before, and the seconds of the second call"
    loss_of(name, *inputs(8, 100), chunk_size).backward()  # what is loaded once is not counted
    hidden, weight, targets = inputs()
    peak = peak_memory(lambda: loss_of(name, hidden, weight, targets, chunk_size).backward())
    hidden.grad = weight.grad = None
    start = time.perf_counter()
    loss_of(name, hidden, weight, targets, chunk_size).backward()
    return {"peak_memory_mb": peak, "seconds": time.perf_counter() - start}


def difference(chunk_size: int) -> dict:
    "The greatest distance of our loss and gradients from those of all logits, as a share of the largest value"
    hidden, weight, targets = inputs()
    results = []
    for name in (OURS, ALL):
        loss = loss_of(name, hidden, weight, targets, chunk_size)
        results.append((loss.detach(), *torch.autograd.grad(loss, (hidden, weight))))
    return {part: ((ours - theirs).abs().max() / theirs.abs().max()).item()
            for part, ours, theirs in zip(("loss", "hidden", "weight"), *results, strict=True)}


def main():
    "Run one contestant, or all of them in turn"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--chunk-size", type=int, default=128)
    parser.add_argument("--contestant", choices=[*contestants(), "difference"])
    arguments = parser.parse_args()
    if arguments.contestant:
        chosen = arguments.contestant
        print(json.dumps(difference(arguments.chunk_size) if chosen == "difference" else
                         contest(chosen, arguments.chunk_size)))
        return
    size = ("--chunk-size", str(arguments.chunk_size))
    rows = interleaved(contestants(), arguments.repeats,
                       lambda name, repeat: in_own_process(__file__, "--contestant", name, *size))
    write("linear_cross_entropy", {
        "data": f"{TOKENS} tokens x {HIDDEN} hidden x {WORDS} words, float32, chunks of {arguments.chunk_size} tokens",
        "medians": medians(rows), "memory_as_share_of": ratios(rows, OURS, "peak_memory_mb"),
        "time_as_share_of": ratios(rows, OURS, "seconds"),
        "difference": in_own_process(__file__, "--contestant", "difference", *size), "runs": rows})


if __name__ == "__main__":
    main()
