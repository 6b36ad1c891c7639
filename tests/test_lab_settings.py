"""JupyterLab asks nothing that has to do with a network."""

import json
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import lab_settings


def test_settings_of_others_stay(tmp_path):
    path = tmp_path / lab_settings.PLACE
    path.parent.mkdir(parents=True)
    theirs = {"@jupyterlab/terminal-extension:plugin": {"theme": "dark"},
              lab_settings.NOTIFICATION: {"checkForUpdates": True, "doNotDisturbMode": True}}
    path.write_text(json.dumps(theirs))
    lab_settings.main(tmp_path)
    found = json.loads(path.read_text())
    assert found["@jupyterlab/terminal-extension:plugin"] == {"theme": "dark"}
    assert found[lab_settings.NOTIFICATION] == {"fetchNews": "false", "checkForUpdates": True, "doNotDisturbMode": True}
    lab_settings.main(tmp_path)
    assert json.loads(path.read_text()) == found


@pytest.mark.parametrize("text", ["[damaged", "[1]", f'{{"{lab_settings.NOTIFICATION}": 3}}'])
def test_what_cannot_be_read_stays(text, tmp_path):
    path = tmp_path / lab_settings.PLACE
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(SystemExit, match="stays as it is"):
        lab_settings.main(tmp_path)
    assert path.read_text() == text


def test_setup_writes_them_and_jupyterlab_reads_them_there():
    from jupyterlab.commands import get_app_dir
    assert "$(BIN)/python tools/lab_settings.py" in (ROOT / "Makefile").read_text()
    assert str(lab_settings.PLACE).endswith("lab/settings/overrides.json")
    assert get_app_dir().replace("\\", "/").endswith("share/jupyter/lab")
