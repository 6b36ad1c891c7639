"""Name all bundled files with their SHA-256 in llm_course/assets/SHA256SUMS.

    python tools/checksums.py

The tools that build assets call it; the package refuses a file that differs. NOTICE repeats the sums for readers.
"""

import hashlib
from pathlib import Path

ASSETS = Path(__file__).parents[1] / "llm_course" / "assets"


def write_checksums(folder: Path = ASSETS):
    "Write SHA256SUMS of all files in and under a folder"
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    sums = {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (folder / "SHA256SUMS").write_text("".join(f"{sums[name]}  {name}\n" for name in sorted(sums)))


if __name__ == "__main__":
    write_checksums()
