"""Speed of two checkouts of this package side by side: training, augmentation and attacks, before a change and after it.

    git worktree add ../before 245264b
    python benchmarks/before_after.py ../before [--repeats 3]

Both checkouts stand ready in a process each, with one thread, and take turns with every task; the one that begins
changes from turn to turn. Each works once before it is timed. A turn has work of its own, which both do in
alternation, four times and for eight seconds at least, and the fastest counts: other programs on the machine can only
make it slower. `after_by_before` is the median over the turns of the speed after, divided by the speed before: below
1, the change made the package slower. The speed is that per second of processor time, which other programs disturb
less; `by_the_clock` is the same by the clock. What they answer is compared too: `same_answers` says whether copies,
turned texts and losses are equal.
"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
TRIES, SECONDS = 4, 8.0  # at the same work, at least
COPIES = 8  # of each text in a turn: one alone is made in less time than a busy machine takes to wake up
Timing = tuple[float, float]  # items per second of processor time, and by the clock


def timed(items: int, work: Callable[[], object]) -> tuple[Timing, object]:
    "How many of so many items are done in a second, and what came out"
    start, busy = time.perf_counter(), time.process_time()
    out = work()
    return (items / (time.process_time() - busy), items / (time.perf_counter() - start)), out


def training(objective: str, size: int = 256) -> Callable[[int], tuple[Timing, object]]:
    "What trains on some reviews for an epoch: examples a second, and the losses"
    from llm_course import adversarial_training, fine_tuning
    from llm_course.data import load_dataset
    from llm_course.models import TextClassifier

    reviews = load_dataset("movies")["train"]

    def run(turn: int) -> tuple[Timing, object]:
        classifier = TextClassifier.from_pretrained("minilm", labels=["negative", "positive"], seed=turn)
        kind = getattr(fine_tuning, objective, None) or getattr(adversarial_training, objective)
        some = reviews.shuffle(seed=turn).select(range(size if objective == "CrossEntropy" else size // 2))
        speed, run = timed(len(some), lambda: fine_tuning.fine_tune(
            classifier, some, objective=kind(), epochs=1, batch_size=32, learning_rate=1e-4, seed=turn, progress=False))
        return speed, [round(row["loss"], 4) for row in run.steps]

    return run


def augmentation(name: str, joined: int) -> Callable[[int], tuple[Timing, object]]:
    "What augments 2,000 reviews, or 200 texts of twelve reviews each: copies a second, and the copies"
    import llm_course.augmentation
    from llm_course.data import load_dataset

    reviews = [text for text in load_dataset("movies")["train"]["text"] if 15 <= len(text.split()) <= 25]
    texts = [" ".join(reviews[i : i + joined]) for i in range(0, 2000 if joined == 1 else 200 * joined, joined)]
    augmenter = getattr(llm_course.augmentation, name)(0.1)

    def run(turn: int) -> tuple[Timing, object]:
        return timed(COPIES * len(texts), lambda: augmenter.augment(texts, n=COPIES, seed=turn))

    return run


def attacking(name: str, size: int, joined: int, **settings: object) -> Callable[[int], tuple[Timing, object]]:
    "What attacks some reviews that are read rightly, or some joined ones: texts a second, and what became of them"
    import llm_course.adversarial_examples
    from llm_course.data import load_dataset
    from llm_course.fine_tuning import baseline_classifier

    victim, test = baseline_classifier(), load_dataset("movies")["test"]
    answers = victim.predict(list(test["text"]))
    right = [row for row, said in zip(test, answers, strict=True) if said == victim.labels[row["label"]]]
    random.Random(0).shuffle(right)
    attack = getattr(llm_course.adversarial_examples, name)(**settings)

    def run(turn: int) -> tuple[Timing, object]:
        own = right[turn * 97 : turn * 97 + 300]
        if joined == 1:
            rows = [row for row in own if 22 <= len(row["text"].split()) <= 32][:size]
        else:
            parts = [[row["text"] for row in own if row["label"] == label][:joined] for label in (0, 1)]
            rows = [{"text": " ".join(texts), "label": label} for label, texts in enumerate(parts)][:size]
        speed, report = timed(len(rows), lambda: attack.attack(victim, rows, progress=False))
        return speed, [(result.status, result.perturbed, result.queries) for result in report.results]

    return run


TASKS: dict[str, Callable[[], Callable[[int], tuple[Timing, object]]]] = {
    "training: cross-entropy": lambda: training("CrossEntropy"),
    "training: FGM": lambda: training("FGM"),
    **{f"augmentation: {name}, {words} words": lambda name=name, joined=joined: augmentation(name, joined)
       for name in ("SynonymReplacement", "RandomSwap", "RandomDeletion", "TypingNoise", "RandomInsertion")
       for words, joined in (("20", 1), ("230", 12))},
    "attack: PWWS, 27 words": lambda: attacking("SynonymAttack", 12, 1),
    "attack: PWWS with shortlists, 200 words": lambda: attacking("SynonymAttack", 1, 10, shortlist=32),
    "attack: TextFooler, 27 words": lambda: attacking("TextFoolerAttack", 12, 1),
    "attack: typing errors, 27 words": lambda: attacking("TypoAttack", 12, 1),
}


def serve():
    "Answer each line (task, turn) with speed and a digest of what came out"
    ready: dict[str, Callable[[int], tuple[Timing, object]]] = {}
    for line in sys.stdin:
        name, turn = json.loads(line)
        if name not in ready:
            ready[name] = TASKS[name]()
            ready[name](turn)
        speed, said = ready[name](turn)
        digest = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12]
        print(json.dumps([speed, digest]), flush=True)


def started(checkout: Path) -> subprocess.Popen:
    "A process that has imported nothing but that checkout"
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve()), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    code = f"import runpy; runpy.run_path({str(Path(__file__).resolve())!r})['serve']()"
    return subprocess.Popen([sys.executable, "-c", code], cwd=checkout, env=environment, text=True,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def asked(process: subprocess.Popen, name: str, turn: int) -> dict:
    "One timing"
    print(json.dumps([name, turn]), file=process.stdin, flush=True)
    line = process.stdout.readline()
    while line and not line.startswith("["):  # what a library prints
        line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{name} failed: see above")
    (busy, clock), digest = json.loads(line)
    return {"per_second": busy, "by_the_clock": clock, "answer": digest}


def fastest(tries: list[dict]) -> dict:
    "The best speeds of the same work, and its answer; an error where it answers differently from itself"
    [answer] = {row["answer"] for row in tries}
    return {figure: max(row[figure] for row in tries) for figure in ("per_second", "by_the_clock")} | {"answer": answer}


def commit_of(checkout: Path) -> str:
    "Which commit it is, with a mark where files differ from it"
    said = subprocess.run(["git", "-C", checkout, "describe", "--always", "--dirty", "--exclude=*"],
                          capture_output=True, text=True, check=True)
    return said.stdout.strip()


def main():
    "Let both take turns, and keep what was measured"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="tasks whose name holds this")
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))
    from common import medians, ratios, write

    places = {"before": arguments.before, "after": ROOT}
    processes, tasks = {name: started(place) for name, place in places.items()}, {}
    for name in (name for name in TASKS if arguments.only in name):
        rows: dict[str, list[dict]] = {"before": [], "after": []}
        for turn in range(arguments.repeats):
            tries, start = {"before": [], "after": []}, time.perf_counter()
            while len(tries["after"]) < TRIES or time.perf_counter() - start < SECONDS:
                for which in sorted(rows, reverse=(turn + len(tries["after"])) % 2 == 0):
                    tries[which].append(asked(processes[which], name, turn))
            for which, each in tries.items():
                rows[which].append(fastest(each))
        speeds = {which: [{figure: row[figure] for figure in ("per_second", "by_the_clock")} for row in each]
                  for which, each in rows.items()}
        same = [a["answer"] == b["answer"] for a, b in zip(rows["before"], rows["after"], strict=True)]
        tasks[name] = {"after_by_before": ratios(speeds, "after", "per_second")["before"],
                       "by_the_clock": ratios(speeds, "after", "by_the_clock")["before"], "same_answers": all(same),
                       "medians": medians(speeds), "runs": speeds}
        print(name, round(tasks[name]["after_by_before"], 3), same, flush=True)
    commits = {name: commit_of(place) for name, place in places.items()}
    result = {"commits": commits, "lowest": min(task["after_by_before"] for task in tasks.values()), "tasks": tasks}
    if not arguments.only:
        write("before_after", result)


if __name__ == "__main__":
    main()
