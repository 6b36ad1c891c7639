"""Tell the JupyterLab of this environment not to ask about news and not to look for updates: it may have no network.

    python tools/lab_settings.py            # `make setup` does it; what others have set there stays
"""

import json
import sys
from pathlib import Path

PLACE = Path("share/jupyter/lab/settings/overrides.json")
NOTIFICATION = "@jupyterlab/apputils-extension:notification"
QUIET = {"fetchNews": "false", "checkForUpdates": False}


def quiet(
    settings: dict,  # by plugin, as overrides.json holds them
) -> dict:
    "Settings that ask for no news, where nobody has said otherwise"
    return {**settings, NOTIFICATION: {**QUIET, **settings.get(NOTIFICATION, {})}}


def main(prefix: str = sys.prefix):
    "Write them; what cannot be read stays as it is"
    path = Path(prefix) / PLACE
    try:
        settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        new = quiet(settings)
    except (ValueError, TypeError, AttributeError) as error:
        sys.exit(f"{path} cannot be read, and stays as it is: {error}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(new, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
