"""Where the package may find itself: no home, nothing that can be written, odd paths, Windows' line ends."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from llm_course.core import cache_folder
from llm_course.data import load_dataset
from llm_course.exercises import read_progress, record
from llm_course.models import TextClassifier

KEPT = ("HOME", "LLM_COURSE_CACHE", "LLM_COURSE_PROGRESS")
TRY = """
import warnings
from llm_course.core import cache_folder
from llm_course.exercises import record
try:
    print("cache", cache_folder())
except OSError as error:
    print("cache:", error)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    record("exercises", "x", True)
print("progress:", *[warning.message for warning in said])
"""


def test_no_home_says_which_variables_to_set():
    """As for a user whom the system does not list"""
    env = {name: value for name, value in os.environ.items() if name not in KEPT}
    nobody = "import pwd\ndef unknown(number):\n    raise KeyError(number)\npwd.getpwuid = unknown\n"
    done = subprocess.run([sys.executable, "-c", nobody + TRY], env={**env, "PYTHONPATH": str(ROOT)}, cwd="/",
                          text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert "cannot be created" in done.stdout and "Set LLM_COURSE_CACHE to a folder" in done.stdout
    assert "could not be kept" in done.stdout and "Set LLM_COURSE_PROGRESS to a file" in done.stdout


@pytest.mark.parametrize("variable", ["HOME", "LLM_COURSE_CACHE"])
def test_nothing_that_can_be_written(variable, tmp_path, monkeypatch):
    """A path below a file: root, who may write anywhere else, cannot write there either"""
    (tmp_path / "file").touch()
    for name in (*KEPT, "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(variable, str(tmp_path / "file/deep"))
    with pytest.raises(OSError, match=r"file.*cannot be created.*Set LLM_COURSE_CACHE"):
        cache_folder("baselines")
    if variable == "HOME":
        with pytest.warns(UserWarning, match="could not be kept.*LLM_COURSE_PROGRESS"):
            record("exercises", "x", True)
        assert read_progress()["exercises"] == {}


def test_paths_with_spaces_and_chinese_characters(tmp_path, monkeypatch):
    place = tmp_path / "my data 我的数据"
    monkeypatch.setenv("LLM_COURSE_CACHE", str(place / "缓存"))
    assert cache_folder("baselines") == place / "缓存/baselines"
    classifier = TextClassifier.from_pretrained("minilm", labels=["negative", "positive"])
    classifier.save(place / "模型")
    texts = ["A gorgeous film.", "一部精彩的电影"]
    assert TextClassifier.load(place / "模型").predict(texts) == classifier.predict(texts)
    shutil.rmtree(place)


def test_windows_line_ends_change_nothing(tmp_path):
    rows = "\n".join(f"这 film number {i} {'shines' if i % 2 else 'drags'} a lot,{i % 2}" for i in range(40))
    found = []
    for name, end in (("unix", "\n"), ("windows", "\r\n")):
        path = tmp_path / f"{name} 评论.csv"
        path.write_bytes(f"text,label\n{rows}\n".replace("\n", end).encode("utf-8-sig" if end == "\r\n" else "utf-8"))
        splits = load_dataset(path)
        found.append({split: (list(part["text"]), list(part["label"])) for split, part in splits.items()})
    assert found[0] == found[1] and not any("\r" in text for texts, _ in found[1].values() for text in texts)
