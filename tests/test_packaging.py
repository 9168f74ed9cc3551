"""What is written in more than one file agrees."""

import re
import tomllib
from pathlib import Path

import crossentropy

ROOT = Path(__file__).parents[1]


def test_every_file_states_the_same_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text("utf-8"), re.MULTILINE)
    assert cited is not None
    assert project["version"] == crossentropy.__version__ == cited[1]
