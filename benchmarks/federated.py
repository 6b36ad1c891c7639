"""Federated averaging on frozen vectors: mixed and skewed clients, local steps, FedProx, and one real run of Flower.

    python benchmarks/federated.py                  # all parts; goes on where an earlier call was stopped
    python benchmarks/federated.py --part accuracy  # one of them
    python benchmarks/federated.py --small          # a quick try of each part; writes nothing

Four clients hold movie reviews, as vectors of the bundled encoder; a linear head is trained on them.

- rates: accuracy on 500 validation reviews for step sizes and, for FedProx, mu, with a deal that no other part
  has (pairs are drawn as in seed 0). Each way has its own choice.
- accuracy: on test reviews after so many rounds with the best of these, three seeds: mixed and skewed clients (nine of ten
  reviews of a client have its own label), all four or two of four that answer, 1, 5 and 20 local steps; beside it as many
  steps on all reviews in one place, and each client alone (the mean of the four). The mean of the last ten rounds is kept.
- flower: three rounds of four clients in real processes: the seconds, and the distance from the loop."""

import statistics
import time
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from common import make_parts, over_seeds, parser_of_parts

from llm_course.data import load_dataset
from llm_course.federated import Client, federated_averaging, share_right, skewed_clients
from llm_course.federation.launch import Federation, began, round_of
from llm_course.models import SentenceEncoder

NAME, SPARE = "federated", 100  # the seed that chooses settings
STEPS, SHARES, FRACTIONS = (1, 5, 20), {"mixed": 0.5, "skewed": 0.9}, (1.0, 0.5)
RATES, PULLS = (0.5, 1.0, 2.0), (0.03, 0.1, 0.3)


class Sizes(NamedTuple):
    "How much is read and trained"

    examples: int  # of each client
    judged: int
    rounds: int
    seeds: int


FULL, SMALL = Sizes(500, 500, 40, 3), Sizes(20, 40, 3, 2)


@lru_cache
def vectors_of(part: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    "Vectors (N, D) and labels of the first reviews of a part, in an order of its own"
    reviews = load_dataset("movies")[part].shuffle(seed=SPARE)
    reviews = reviews.select(range(min(count, len(reviews))))
    return SentenceEncoder(device="cpu").encode(reviews["text"]).double().numpy(), np.array(reviews["label"])


def clients_of(sizes: Sizes, kind: str, seed: int) -> list[Client]:
    "Four clients; more reviews are encoded than dealt, so that each gets the labels that it wants"
    vectors, labels = vectors_of("train", 8 * sizes.examples)
    return skewed_clients(vectors, labels, [sizes.examples] * 4, SHARES[kind], seed)


def together(clients: list[Client]) -> Client:
    "All reviews in one place"
    return Client("all", np.concatenate([c.vectors for c in clients]), np.concatenate([c.labels for c in clients]))


def ends(sizes: Sizes, clients: list[Client], part: str, **options: object) -> float:
    "Mean accuracy after the last ten rounds"
    judged, found = vectors_of(part, sizes.judged), []
    federated_averaging(clients, sizes.rounds,
                        after_round=lambda number, weights: found.append(share_right(weights, *judged)), **options)
    return statistics.mean(found[-10:])


def right(sizes: Sizes, clients: list[Client], way: str, part: str, **options: object) -> float:
    "Accuracy of one way to train: central and alone are federations of one client"
    groups = {"central": [[together(clients)]], "alone": [[client] for client in clients]}.get(way, [clients])
    return statistics.mean(ends(sizes, group, part, **options) for group in groups)


def rates(sizes: Sizes, rows: dict, kind: str, fraction: float, steps: int, way: str, rate: float, pull: float) -> dict:
    "Accuracy on validation reviews"
    options = {"steps": steps, "rate": rate, "proximal": pull, "fraction": fraction}
    return {"accuracy": right(sizes, clients_of(sizes, kind, SPARE), way, "validation", **options)}


def settings_of(kind: str, fraction: float, steps: int, way: str) -> list[tuple]:
    "All that is tried: FedProx alone has mu"
    return [(kind, fraction, steps, way, rate, pull) for rate in RATES
            for pull in (PULLS if way == "FedProx" else (0.0,))]


def name_of(setting: tuple) -> str:
    "The name of a row of rates"
    return " ".join(map(str, setting))


def accuracy(sizes: Sizes, rows: dict, kind: str, fraction: float, steps: int, way: str, seed: int) -> dict:
    "Accuracy on test reviews, with the best settings of the validation part"
    *_, rate, pull = max(settings_of(kind, fraction, steps, way),
                         key=lambda setting: rows["rates"][name_of(setting)]["accuracy"])
    options = {"steps": steps, "rate": rate, "proximal": pull, "fraction": fraction, "seed": seed}
    return {"accuracy": right(sizes, clients_of(sizes, kind, seed), way, "test", **options), "rate": rate,
            "proximal": pull}


def flower(sizes: Sizes, rows: dict, count: int, rounds: int) -> dict:
    "Seconds of a real run, and its distance from the loop"
    clients, start = clients_of(sizes, "skewed", SPARE)[:count], time.perf_counter()
    with Federation([(client.vectors, client.labels) for client in clients],
                    train="llm_course.federated:train_locally") as federation:
        began(federation, np.zeros((2, clients[0].vectors.shape[1] + 1)), rounds=rounds, steps=5, rate=1.0, patience=20)
        federation.start_clients(*range(count))
        begun = time.perf_counter()
        weights = [round_of(federation, number)[0] for number in range(1, rounds + 1)]
        done = time.perf_counter()
    apart = np.abs(weights[-1] - federated_averaging(clients, rounds, steps=5, rate=1.0)).max()
    return {"seconds": done - begun, "seconds to start": begun - start, "seconds to end": time.perf_counter() - done,
            "apart": float(apart), "clients": count, "rounds": rounds}


def jobs(sizes: Sizes) -> dict[str, dict[str, tuple]]:
    "The rows of each part, and what makes them"
    cases = [(kind, fraction, steps) for kind in SHARES for fraction in FRACTIONS for steps in STEPS]
    ways = {case: ["averaging", "FedProx", *(["central", "alone"] if case[1] == 1 else [])] for case in cases}
    tried = {setting for case in cases for way in ways[case] for setting in settings_of(*case, way)}
    return {
        "rates": {name_of(setting): setting for setting in sorted(tried)},
        "accuracy": {f"{kind}, {fraction:g} answer, {steps} steps, {way} {seed}": (kind, fraction, steps, way, seed)
                     for (kind, fraction, steps), some in ways.items() for way in some for seed in range(sizes.seeds)},
        "flower": {"run": (2, 1) if sizes == SMALL else (4, 3)},
    }


WORK = {"rates": rates, "accuracy": accuracy, "flower": flower}


def summary(rows: dict[str, dict[str, dict]]) -> dict:
    "Means and 95 % intervals over seeds"
    return {"accuracy": over_seeds(rows.get("accuracy", {}), "accuracy"), "flower": rows.get("flower", {}).get("run", {})}


def main():
    "Make the rows that are missing"
    given = parser_of_parts(__doc__, [*WORK]).parse_args()
    sizes = SMALL if given.small else FULL
    make_parts(NAME, given, sizes, jobs(sizes), WORK, summary, alone={"flower"})


if __name__ == "__main__":
    main()
