"""Write the site's sidebar into nbs/_quarto.yml, from the folders of the notebooks and the numbers of the lessons.

    python tools/sidebar.py            # `--check` only says whether it is up to date

Lessons stand by part, then the glossary and the page for teachers; each other folder of notebooks has a section of its
own; then come the reference pages, one for each module, which tools/api_pages.py makes when the site is built.
"""

import argparse
import re
import sys
from pathlib import Path

import yaml

NBS = Path(__file__).parents[1] / "nbs"
sys.path.insert(0, str(NBS.parent))
from llm_course.course import PARTS, read_lesson  # noqa: E402


def notebooks_of(folder: Path) -> list[Path]:
    "The notebooks of a folder, in the order of their names; what others are based on comes first"
    found = [path for path in folder.glob("*.ipynb") if not path.name.startswith((".", "_"))]
    return sorted(found, key=lambda path: (path.stem != "base", path.name))


def wings(nbs: Path) -> list[str]:
    "The folders of notebooks beside the lessons: `support` first, then by name"
    names = {path.parent.name for path in nbs.glob("*/*.ipynb") if not path.parent.name.startswith((".", "_"))}
    return sorted(names - {"lessons", "api"}, key=lambda name: (name != "support", name))


def numbered(path: Path) -> dict[str, str]:
    "A lesson in the sidebar, with its number"
    lesson = read_lesson(path)
    return {"text": f"{lesson.label} · {lesson.title}", "href": f"lessons/{path.name}"}


def sidebar(nbs: Path = NBS) -> list:
    "What the sidebar holds, as Quarto reads it"
    lessons, sections = notebooks_of(nbs / "lessons"), []
    unknown = [path.name for path in lessons if int(path.name[:1]) not in PARTS]
    if unknown:
        raise ValueError(f"{', '.join(unknown)} belong to no part of the course; its parts are {sorted(PARTS)}")
    for part, name in PARTS.items():
        if own := [numbered(path) for path in lessons if path.name.startswith(str(part))]:
            sections.append({"section": f"{part} · {name}", "contents": own})
    own = {wing: notebooks_of(nbs / wing) for wing in wings(nbs)}
    others = [{"section": wing.capitalize(), "contents": [f"{wing}/{path.name}" for path in found]}
              for wing, found in own.items()]
    pages = {"lessons": [f"api/{path.stem[3:]}.ipynb" for path in lessons]}
    pages |= {wing: [f"api/{'' if wing == 'support' else f'{wing}.'}{path.stem}.ipynb" for path in found]
              for wing, found in own.items()}
    references = [{"section": f"API: {name}", "contents": found} for name, found in pages.items()]
    return ["index.ipynb", *sections, "glossary.ipynb", "teaching.ipynb", *others, *references]


def with_sidebar(text: str, contents: list) -> str:
    "The settings of the site with another sidebar"
    block = yaml.safe_dump({"contents": contents}, sort_keys=False, allow_unicode=True, width=200)
    lines = "".join(f"    {line}\n" for line in block.splitlines())
    new, count = re.subn(r"(?m)^    contents:\n(?:    [ -].*\n)+", lambda _: lines, text)
    if count != 1:
        raise ValueError("nbs/_quarto.yml has no list of contents in its sidebar")
    return new


def main():
    "Write it, or say whether it is up to date"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check, path = parser.parse_args().check, NBS / "_quarto.yml"
    old = path.read_text(encoding="utf-8")
    new = with_sidebar(old, sidebar())
    if not check:
        path.write_text(new, encoding="utf-8")
    sys.exit(int(check and new != old))


if __name__ == "__main__":
    main()
