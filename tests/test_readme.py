"""The README's program runs as written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_the_embed_example_runs(tmp_path):
    (program,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    (tmp_path / "embed.py").write_text(program)
    done = subprocess.run([sys.executable, tmp_path / "embed.py"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Status." in done.stdout and "p50_ms" in done.stdout


def test_pictures_and_targets_exist():
    text = README.read_text()
    for picture in re.findall(r"!\[[^]]*\]\(([^)]*)\)", text):
        assert (README.parent / picture).is_file()
    makefile = (README.parent / "Makefile").read_text()
    for target in set(re.findall(r"`make ([a-z-]+)", text)):
        assert re.search(rf"^{target}:", makefile, re.M)
