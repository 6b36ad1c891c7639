"""What becomes of 100,000 requests while workers are killed, the folder is read again, and the service is restarted.

    python benchmarks/hundred_thousand.py            # writes results/hundred_thousand.json
    python benchmarks/hundred_thousand.py --small    # 2,000 requests; writes nothing

32 clients ask for one text at a time; one request in fifty is given up as soon as it is sent. The classifier is random
and small, so that the service and not the model is tried; its answers to the texts lie far apart, so that an answer to
somebody else's text counts as wrong. The service listens on a socket that it inherits, so that no connection is refused
between its end and its next beginning. Requests that were told 429 or 503 were not lost: their clients know.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from common import write

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from storm import outcomes, telling_classifier

from llm_course.deployment import model_card, pack


def main():
    "Count, and keep the counts"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    requests, clients = (2000, 8) if (small := parser.parse_args().small) else (100_000, 32)
    with tempfile.TemporaryDirectory() as place:
        classifier, began = telling_classifier(), time.perf_counter()
        counts = outcomes(pack(classifier, Path(place) / "telling", model_card(classifier)), requests, clients)
    found = {"clients": clients, "counts": counts, "seconds": round(time.perf_counter() - began, 1)}
    print(found) if small else write("hundred_thousand", found)


if __name__ == "__main__":
    main()
