"""Write a reference page for each module into nbs/api: its public names, grouped as its notebook groups them.

    python tools/api_pages.py            # after nbdev_export; `make docs` does it, and git does not see them

nbdev draws the pages anew for the site. What is written here leaves out nbdev's links to lines of source code and
Quarto's attributes, so the pages read in JupyterLab too.
"""

import argparse
import ast
import hashlib
import importlib
import inspect
import json
import re
import shutil
import textwrap
from pathlib import Path

import nbformat
from nbdev.showdoc import show_doc

NBS = Path(__file__).parents[1] / "nbs"


def notebook_of(module: str) -> Path:
    "The notebook that exports a module"
    wing, _, name = module.rpartition(".")
    folders = [NBS / wing] if wing else [NBS / "lessons", NBS / "support"]
    return next(path for folder in folders for path in sorted(folder.glob("*.ipynb"))
                if re.fullmatch(rf"(\d\d_)?{name}", path.stem))


def defined_in(cell: str) -> list[str]:
    "The names of the functions and classes that a cell exports"
    if not re.match(r"#\| *exports?\b", cell):
        return []
    return [node.name for node in ast.parse(re.sub(r"^[%!].*$", "", cell, flags=re.MULTILINE)).body
            if isinstance(node, ast.FunctionDef | ast.ClassDef)]


def groups_of(path: Path, names: list[str]) -> dict[str, list[str]]:
    "The public functions and classes of a notebook under its headings of the second level"
    groups, heading = {}, "Contents"
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            heading = (re.findall(r"^## (.+)$", source, re.MULTILINE) or [heading])[-1]
        else:
            groups.setdefault(heading, []).extend(name for name in defined_in(source) if name in names)
    return {heading: found for heading, found in groups.items() if found}


def methods_of(thing: object) -> list[str]:
    "The public methods that a class defines and describes, itself or in private classes of its module that it is made of"
    if not inspect.isclass(thing):
        return []
    parts = [part for part in reversed(thing.__mro__) if part is thing
             or (part.__name__.startswith("_") and part.__module__ == thing.__module__)]
    found = {name: value for part in parts for name, value in vars(part).items() if not name.startswith("_")}
    return [name for name, value in found.items()
            if isinstance(value, classmethod | staticmethod | type(methods_of)) and getattr(thing, name).__doc__]


def shown(module: object, name: str) -> nbformat.NotebookNode:
    "A cell that documents a name, with what it shows"
    thing = module
    for part in name.split("."):
        thing = getattr(thing, part)
    text = show_doc(thing, name=name if "." in name else None)._repr_markdown_()
    text = re.sub(r"^---\s+(\[source\].*\n+)?", "", text)
    text = re.sub(r"(\]\([^)]*\))\{[^}]*\}", r"\1", text)  # a link's attributes
    text = re.sub(r"<(function|class) ([\w.]+)( at 0x\w+)?>", r"\2", text)  # an address differs in each run
    output = nbformat.v4.new_output("execute_result", {"text/markdown": text.rstrip(), "text/plain": name})
    return nbformat.v4.new_code_cell(f"show_doc({name})", outputs=[output])


def page_of(module_name: str) -> nbformat.NotebookNode:
    "The reference page of a module"
    module, source = importlib.import_module(f"llm_course.{module_name}"), notebook_of(module_name)
    title = "".join(nbformat.read(source, as_version=4).cells[0].source).splitlines()[0].removeprefix("# ")
    names = [name for name in module.__all__ if inspect.isclass(getattr(module, name))
             or inspect.isfunction(getattr(module, name))]
    groups = groups_of(source, names)
    names = [name for found in groups.values() for name in found]
    values = [name for name in module.__all__ if name not in names]
    kind = "lesson" if source.parent.name == "lessons" else "notebook"
    imports = textwrap.fill(f"from llm_course.{module_name} import ({', '.join(names)})", 100, subsequent_indent="    ",
                            break_long_words=False) if names else ""  # a module that only registers what it has
    summary = " ".join(module.__doc__.split())
    cells = [nbformat.v4.new_markdown_cell(f"# API: {module_name}\n\n> {summary}"),
             nbformat.v4.new_markdown_cell(f"The {kind} [{title}](../{source.parent.name}/{source.name}) explains and "
                                           f"tests this module, `llm_course.{module_name}`."),
             nbformat.v4.new_code_cell(f"#| echo: false\nfrom nbdev.showdoc import show_doc\n\n{imports}")]
    for heading, found in groups.items():
        cells.append(nbformat.v4.new_markdown_cell(f"## {heading}"))
        for name in found:
            cells += [shown(module, each) for each in (name, *(f"{name}.{method}" for method
                                                               in methods_of(getattr(module, name))))]
    if values:
        cells.append(nbformat.v4.new_markdown_cell(f"## Values\n\n{', '.join(f'`{name}`' for name in values)}"))
    for place, cell in enumerate(cells):
        cell["id"] = hashlib.sha256(f"{module_name} {place} {cell.source}".encode()).hexdigest()[:8]
    kernel = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    return nbformat.v4.new_notebook(cells=cells, metadata=kernel)


def modules() -> list[str]:
    "The modules that have a notebook, with the folder that they are in, in alphabetical order"
    package = NBS.parent / "llm_course"
    found = [path.relative_to(package).with_suffix("") for path in package.rglob("[!_]*.py")]
    return sorted(".".join(path.parts) for path in found)


def write_pages(
    folder: Path = NBS / "api",  # what stood there is removed
) -> list[Path]:
    "A page for each module"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in modules():
        (folder / f"{name}.ipynb").write_text(nbformat.writes(page_of(name)) + "\n", encoding="utf-8")
    return sorted(folder.iterdir())


def main():
    "Write the pages"
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(f"{len(write_pages())} pages of reference in {NBS / 'api'}")


if __name__ == "__main__":
    main()
