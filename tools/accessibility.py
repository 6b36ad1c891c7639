"""Ask axe-core about every page of the built site, in the light and in the dark theme, at the width of a phone and a desk.

    python tools/accessibility.py _docs            # or: make check-site, after make docs; needs Chromium

Prints a line for each finding, and ends with 1 where one of them is serious or critical, 2 where there is no page.
"""

import argparse
import itertools
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from check_site import read_site, site_address
from playwright.sync_api import Browser, sync_playwright

FLAGS = ["--no-sandbox", "--disable-quic", "--disable-background-networking"]
GRAVE = {"serious", "critical"}
WIDTHS = (390, 1366)  # pixels


def pages_of(site: Path) -> list[Path]:
    "The pages that somebody reads: what Quarto brings along and what only sends on are none"
    return [site / name for name, page in read_site(site, site_address()).pages.items() if not page.is_redirect]


def findings(browser: Browser, path: Path, scheme: str, width: int) -> Iterator[tuple[str, str]]:
    "How grave each finding on a page is, and what it is"
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
    page = context.new_page()
    page.goto(path.resolve().as_uri())
    for violation in Axe().run(page).response["violations"]:
        nodes = violation["nodes"]
        example = nodes[0]["failureSummary"].split("\n")[-1].strip()
        yield violation["impact"], f"{violation['id']}: {violation['help']} ({len(nodes)} times: {nodes[0]['target']}; {example})"
    context.close()


def main(arguments: list[str] | None = None):
    "Print what was found, and end with 1 if it is grave"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path)
    site, chromium = parser.parse_args(arguments).site, shutil.which("chromium") or shutil.which("google-chrome")
    pages, grave = pages_of(site), 0
    if not pages or not chromium:
        print(f"{site} holds no page: build the site first" if chromium else "Chromium is missing", file=sys.stderr)
        sys.exit(2)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        for path, scheme, width in itertools.product(pages, ("light", "dark"), WIDTHS):
            for impact, said in findings(browser, path, scheme, width):
                grave += impact in GRAVE
                print(f"{path.relative_to(site)}, {scheme}, {width} pixels: {impact}: {said}")
        browser.close()
    print(f"{len(pages)} pages: {grave or 'no'} grave finding{'s' if grave > 1 else ''}")
    sys.exit(int(grave > 0))


if __name__ == "__main__":
    main()
