"""Ask every address of nbs/references.bib whether it is still there.

    python tools/check_links.py            # or: make links

Prints those that are gone and those that refuse to answer a program; ends with 1 if any is gone, or if there is no
network.
"""

import argparse
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

BIBLIOGRAPHY = Path(__file__).parents[1] / "nbs/references.bib"
REFUSALS = {401, 403, 405, 418, 429, 503}  # the page is there, and answers browsers only, or not so many questions


def entries_of(text: str) -> list[dict[str, str]]:
    "The entries of a BibTeX file: key, kind and fields; braces around values are taken off"
    entries = []
    for kind, key, body in re.findall(r"^@(\w+)\{([^,\s]+),\n(.*?)^\}", text, re.MULTILINE | re.DOTALL):
        fields = {name: value.strip("{}") for name, value in re.findall(r"^\s*(\w+) = (\{.*\}),?$", body, re.MULTILINE)}
        entries.append({"kind": kind, "key": key, **fields})
    return entries


def answer_of(url: str, timeout: float = 20) -> int | str:
    "The status with which an address answers, or why it did not"
    status = "no answer"
    for method in ("HEAD", "GET"):  # some servers know only the second
        request = Request(url, method=method, headers={"User-Agent": "Mozilla/5.0 (llm_course link check)"})
        try:
            with urlopen(request, timeout=timeout) as response:
                return response.status
        except HTTPError as error:
            status = error.code
        except (URLError, OSError) as error:
            status = str(getattr(error, "reason", error))
    return status


def verdict(answers: dict[str, int | str]) -> tuple[list[str], int]:
    "Lines to print, and the exit code"
    if answers and not any(isinstance(answer, int) for answer in answers.values()):
        return ["No address answers: is there a network here?"], 1
    gone = {url: answer for url, answer in answers.items() if answer not in REFUSALS and not
            (isinstance(answer, int) and answer < 400)}
    refused = {url: answer for url, answer in answers.items() if answer in REFUSALS}
    lines = [f"refuses a program ({answer}): {url}" for url, answer in refused.items()]
    lines += [f"gone ({answer}): {url}" for url, answer in gone.items()]
    return [*lines, f"{len(answers)} addresses, {len(gone)} gone, {len(refused)} refuse a program"], int(bool(gone))


def main():
    "Ask all addresses, a few at a time"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bibliography", nargs="?", type=Path, default=BIBLIOGRAPHY)
    urls = [entry["url"] for entry in entries_of(parser.parse_args().bibliography.read_text(encoding="utf-8"))]
    with ThreadPoolExecutor(8) as pool:
        lines, code = verdict(dict(zip(urls, pool.map(answer_of, urls), strict=True)))
    print(*lines, sep="\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
