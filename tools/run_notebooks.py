"""Export the package, run notebooks in place, keep their outputs and clean them.

    python tools/run_notebooks.py [nbs/lessons/12_fine_tuning.ipynb ...]     # all of them if none is named
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NBS = Path(__file__).parents[1] / "nbs"


def run(path: Path):
    "Run one notebook in its own kernel and write it back with its outputs"
    notebook, start = nbformat.read(path, as_version=4), time.perf_counter()
    NotebookClient(notebook, timeout=900, kernel_name="python3",
                   resources={"metadata": {"path": str(path.parent)}}).execute()
    notebook.metadata.pop("widgets", None)  # its state would need a kernel; the figure below it does not
    for cell in notebook.cells:
        if cell.source.strip() == "progress()":  # the learner's own; what it lists grows with the course
            cell.outputs = []
        for output in cell.get("outputs", []):
            if "text/html" in output.get("data", {}):  # reads without a kernel
                output["data"].pop("application/vnd.jupyter.widget-view+json", None)
    notebook.metadata.pop("language_info", None)
    nbformat.write(notebook, path)
    print(f"{time.perf_counter() - start:6.1f} s  {path.relative_to(NBS)}", flush=True)


def main():
    "Run what the command line names"
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path)
    named = [path.resolve() for path in parser.parse_args().notebooks]
    bin_folder = Path(sys.executable).parent
    subprocess.run([bin_folder / "nbdev_export"], check=True, cwd=NBS.parent)
    os.environ["LLM_COURSE_PROGRESS"] = f"{tempfile.mkdtemp()}/progress.json"  # what a new learner sees
    everything = [path for path in sorted(NBS.rglob("[!.]*.ipynb")) if path.parent.name != "api"]  # the site's own
    for path in named or everything:
        run(path)
    subprocess.run([bin_folder / "nbdev_clean"], check=True, cwd=NBS.parent)


if __name__ == "__main__":
    main()
