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
ROS = ROOT / "examples" / "ros2_node.py"  # has no picture, and runs where ROS is only
PICTURES = [example for example in EXAMPLES if example != ROS]
STEPS = "6"


@pytest.mark.parametrize("example", PICTURES, ids=lambda path: path.stem)
def test_example_runs(example: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for package in ("mujoco", "filterpy", "torch"):
        if package in example.read_text():
            pytest.importorskip(package)
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
    assert f"{example.stem}.png" in text or example == ROS


def test_the_ros_node_needs_ros_only_when_it_runs() -> None:
    code = f"import runpy; node = runpy.run_path({str(ROS)!r}); print(callable(node['main']))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, text=True, capture_output=True, timeout=300)
    assert done.stdout.split() == ["True"], done.stderr
