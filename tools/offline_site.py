"""Make the built site read without a network: no script, style or font from elsewhere, and links inside of it relative.

    python tools/offline_site.py _docs           # `make docs` does it after nbdev_docs

Quarto adds two scripts from a CDN to each page with an HTML output, in case it holds a widget that needs them. The
course's outputs do not. nbdev writes the full address of the site into its cross-links. What remains is the Colab
badge, an image from Colab: without a network its text stands in its place.
"""

import argparse
import configparser
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ELSEWHERE = r"""["'](?:https?:)?//"""
SCRIPT = re.compile(rf"<script\b[^>]*\bsrc={ELSEWHERE}[^>]*>\s*</script>\s*", re.IGNORECASE)
JQUERY = re.compile(r"<script\b[^>]*>define\('jquery'.*?</script>\s*")  # of use only after those scripts
IMPORT = re.compile(rf"@import\s*(?:url\()?(?:{ELSEWHERE}|https?://)[^;]*;")
STYLE = re.compile(rf"<link\b(?=[^>]*\brel=[\"']?(?:stylesheet|preload|preconnect))[^>]*\bhref={ELSEWHERE}[^>]*>\s*")
LOADED = re.compile(rf"<(?:script|iframe)\b[^>]*\bsrc={ELSEWHERE}[^>]*>|url\([\"']?https?://[^)]*\)|" + STYLE.pattern)


def offline(text: str, depth: int, address: str) -> str:
    "A page or a style sheet without what it loads from elsewhere; `depth` folders below the top of the site"
    for pattern in (SCRIPT, JQUERY, IMPORT, STYLE):
        text = pattern.sub("", text)
    return re.sub(rf"(<a\b[^>]*\bhref=\"){re.escape(address)}/?", r"\1" + ("../" * depth or "./"), text)


def loaded_from_elsewhere(text: str) -> list[str]:
    "Scripts, frames, styles and fonts that a page or style sheet still loads"
    return [found[0] for found in LOADED.finditer(text)] + [found[0] for found in IMPORT.finditer(text)]


def main():
    "Rewrite every page and style sheet, and fail where something is left"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path)
    site = parser.parse_args().site
    settings = configparser.ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    address = settings["DEFAULT"]["doc_host"] + settings["DEFAULT"]["doc_baseurl"]
    pages = [path for path in sorted(site.rglob("*")) if path.suffix in {".html", ".css"}]
    if not pages:
        sys.exit(f"{site} holds no page: build the site first")
    left = []
    for path in pages:
        text = offline(path.read_text(encoding="utf-8"), len(path.relative_to(site).parts) - 1, address)
        path.write_text(text, encoding="utf-8")
        left += [f"{path}: {found}" for found in loaded_from_elsewhere(text)]
    sys.exit("\n".join(left) if left else 0)


if __name__ == "__main__":
    main()
