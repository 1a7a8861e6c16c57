"""Every example runs, is short, and leaves the picture that it promises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
STEPS = "6"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(example: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    if "mujoco" in example.read_text():
        pytest.importorskip("mujoco")
    from matplotlib import image

    done = subprocess.run(
        [sys.executable, str(example), STEPS],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"},
        text=True,
        capture_output=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
    (picture,) = tmp_path.glob("*.png")
    assert picture.stem == example.stem
    assert np.std(image.imread(picture)) > 0.02


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_short_and_uses_the_public_surface(example: Path) -> None:
    text = example.read_text()
    assert len(text.splitlines()) <= 60
    assert "import mpcrl\n" in text
    assert "from mpcrl" not in text
    assert f"{example.stem}.png" in text
