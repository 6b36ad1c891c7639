"""Things that a chain of pairs joins."""

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def linked(count: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    "The numbers below `count` in groups that no pair leaves, ordered by their first members"
    first, second = np.array([*pairs], int).reshape(-1, 2).T
    labels = connected_components(coo_array((np.ones(len(first)), (first, second)), (count, count)), directed=False)[1]
    groups = defaultdict(list)
    for place, label in enumerate(labels):
        groups[label].append(place)
    return list(groups.values())
