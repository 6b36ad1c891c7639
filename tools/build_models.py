"""Train the three tiny models that the package carries, and write them to llm_course/assets.

    python tools/build_models.py                     # all three, one after another; goes on where it was stopped
    python tools/build_models.py tiny-gpt            # one of them
    python tools/build_models.py --passes 1 --folder /tmp/models     # a quick try, elsewhere

Each reads the training part of the four bundled sets, labels left out, twenty times: up to an hour on one thread. The
pass with the lowest loss on the validation part is kept. All have the same tokenizer of 4,096 byte pairs. What is
written is a folder in the format of transformers, weights in bfloat16. The same call on the same machine, with the same
versions, gives the same bytes. The losses on the way go to benchmarks/results/tiny_models.json, the checksums to
llm_course/assets/SHA256SUMS.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from checksums import write_checksums

from llm_course.data import bundled_texts
from llm_course.language_models import LanguageModel, new_language_model
from llm_course.pretraining import PretrainingRun, objective_for, pretrain, train_tokenizer

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "llm_course/assets"
sys.path.insert(0, str(ROOT / "benchmarks"))
from common import RESULTS, keep  # noqa: E402

VOCABULARY, PASSES, SEED = 4096, 20, 0
SETTINGS = {  # learning rate, blocks of a step, what is asked for: after part rates of benchmarks/pretraining.py
    "tiny-bert": (2e-3, 8, {"share": 0.3}), "tiny-gpt": (2e-3, 8, {}), "tiny-t5": (3e-3, 8, {"share": 0.5, "span": 5.0})}
DROPOUT = {"tiny-t5": 0.05}  # it hides numbers at more places than the others, which have 0.1


def trained(name: str, passes: int, checkpoints: Path, seed: int = SEED, most: int | None = None) -> PretrainingRun:
    "A model, trained on one thread, on all texts or the first of them; a run that was stopped goes on"
    torch.set_num_threads(1)  # sums of several threads may come in another order
    train = bundled_texts("train")[:most]
    model = new_language_model(name.removeprefix("tiny-"), train_tokenizer(train, VOCABULARY), seed=seed, device="cpu",
                               dropout=DROPOUT.get(name, 0.1))
    rate, batch, asked = SETTINGS[name]
    objective = replace(objective_for(model, None), **asked)
    return pretrain(model, train, bundled_texts("validation")[:most], objective=objective, epochs=passes,
                    learning_rate=rate, batch_size=batch, seed=seed, mixed_precision="bf16", progress=False,
                    checkpoints=checkpoints / name, keep_best=True, resume="auto")


def written(model: LanguageModel, folder: Path) -> Path:
    "The model in half precision, without what nobody reads"
    model.model.to(torch.bfloat16)
    model.save(folder)
    for path in folder.iterdir():
        if path.name not in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
            path.unlink()
    return folder


def main():
    "Train what is asked for"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[], metavar="NAME", help=", ".join(SETTINGS))
    parser.add_argument("--passes", type=int, default=PASSES)
    parser.add_argument("--folder", type=Path, default=ASSETS)
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints-of-tiny-models"))
    given = parser.parse_args()
    for name in given.names or SETTINGS:
        run = trained(name, given.passes, given.checkpoints)
        folder = written(LanguageModel.from_pretrained(given.checkpoints / name / "best"), given.folder / name)
        write_checksums(given.folder)
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(name, run, f"{size:,} bytes", flush=True)
        if given.folder == ASSETS and given.passes == PASSES:
            path = RESULTS / "tiny_models.json"
            models = json.loads(path.read_text())["models"] if path.is_file() else {}
            rate, batch, asked = SETTINGS[name]
            models[name] = {"parameters": run.language_model.parameters, "learning_rate": rate, "batch_size": batch,
                            "share": asked.get("share"), "span": asked.get("span"), "dropout": DROPOUT.get(name, 0.1), "seed": SEED,
                            "passes": given.passes, "steps": len(run.steps), "seconds": run.seconds, "bytes": size, "evaluations": run.evaluations,
                            "training": [row["loss"] for row in run.steps[::25]]}
            keep("tiny_models", {"script": Path(__file__).name, "models": models})


if __name__ == "__main__":
    main()
