"""End with an error unless a tag is the version that settings.ini states.

    python tools/release_tag.py v0.2.0
"""

import sys
from configparser import ConfigParser
from pathlib import Path

SETTINGS = Path(__file__).parents[1] / "settings.ini"


def refusal(tag: str, path: Path = SETTINGS) -> str:
    "Why a release under this tag would be wrong; nothing where it is right"
    parser = ConfigParser(delimiters=["="])
    parser.read(path, encoding="utf-8")
    version = parser["DEFAULT"]["version"]
    return "" if tag == f"v{version}" else f"The tag is {tag!r}, but settings.ini has version {version}: expected 'v{version}'."


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(refusal(sys.argv[1]) or None)
