"""Make the built site read without a network: no script, style or font from elsewhere, and links inside of it relative.

    python tools/offline_site.py _docs           # `make docs` does it after nbdev_docs

Quarto adds two scripts from a CDN to each page with an HTML output, in case it holds a widget that needs them. The
course's outputs do not. nbdev writes the full address of the site into its cross-links. Nothing that is loaded from
elsewhere may remain; tools/check_site.py looks for everything else. In the index of the search the pages of the API come
last, so that of what fits equally well a lesson stands above.
"""

import argparse
import json
import re
import sys
from pathlib import Path

from check_site import Site, loaded_from_elsewhere, site_address

ELSEWHERE = r"""["'](?:https?:)?//"""
SCRIPT = re.compile(rf"<script\b[^>]*\bsrc={ELSEWHERE}[^>]*>\s*</script>\s*", re.IGNORECASE)
JQUERY = re.compile(r"<script\b[^>]*>define\('jquery'.*?</script>\s*")  # of use only after those scripts
IMPORT = re.compile(rf"@import\s*(?:url\()?(?:{ELSEWHERE}|https?://)[^;]*;")
STYLE = re.compile(rf"<link\b(?=[^>]*\brel=[\"']?(?:stylesheet|preload|preconnect))[^>]*\bhref={ELSEWHERE}[^>]*>\s*")


def offline(text: str, depth: int, address: str) -> str:
    "A page or a style sheet without what it loads from elsewhere; `depth` folders below the top of the site"
    for pattern in (SCRIPT, JQUERY, IMPORT, STYLE):
        text = pattern.sub("", text)
    return re.sub(rf"(<a\b[^>]*\bhref=\"){re.escape(address)}/?", r"\1" + ("../" * depth or "./"), text)


def lessons_first(items: list[dict]) -> list[dict]:
    "The entries of the search in their order: lessons, other pages, the pages of the API"
    places = {"lessons": 0, "api": 2}
    return sorted(items, key=lambda item: places.get(item.get("href", "").partition("/")[0], 1))


def main():
    "Rewrite every page and style sheet, and fail where something is left"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path)
    folder, address = parser.parse_args().site, site_address()
    site, left = Site(folder, address, {}), []
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix in {".html", ".css"}]
    if not paths:
        sys.exit(f"{folder} holds no page: build the site first")
    for path in paths:
        name = path.relative_to(folder).as_posix()
        text = offline(path.read_text(encoding="utf-8"), name.count("/"), address)
        path.write_text(text, encoding="utf-8")
        left += [f"{path}: {fault}" for fault in loaded_from_elsewhere(site, name, text)]
    if (found := folder / "search.json").exists():
        items = lessons_first(json.loads(found.read_text(encoding="utf-8")))
        found.write_text(json.dumps(items, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.exit("\n".join(left) if left else 0)


if __name__ == "__main__":
    main()
