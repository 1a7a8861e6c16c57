"""The view in the browser: the page is served, the robot moves, sliders change the planner and the task."""

from __future__ import annotations

import urllib.request

import numpy as np
import pytest

from mpcrl.cli import main
from mpcrl.core.errors import InvalidInput
from mpcrl.tasks.registry import make_task

pytest.importorskip("mjviser")
pytest.importorskip("gymnasium")

from mpcrl.experiments.view import Settings, View

SETTINGS = Settings(planner="icem", budget=16, horizon=6)


@pytest.fixture(scope="module")
def viewed():
    with View(make_task("InvertedPendulum-v5"), SETTINGS, threads=1, port=0) as view:
        yield view


def test_the_page_is_served_and_the_robot_moves(viewed):
    with urllib.request.urlopen(viewed.address, timeout=10) as page:
        assert page.status == 200 and b"<html" in page.read().lower()
    before = viewed._state
    viewed.run(steps=5)
    assert not np.array_equal(viewed._state, before)
    viewed.draw()
    assert "icem, 16 x 6" in viewed._status.content and "planned" in viewed._status.content


def test_paths_begin_where_the_robot_was_and_follow_its_plan(viewed):
    viewed.step()
    paths = viewed.paths(viewed._plan)
    assert paths.shape == (5, 7, 3) and np.isfinite(paths).all()
    assert np.ptp(paths[:, 0], axis=0).max() == 0, "all start from one state"
    assert np.ptp(paths[:, -1], axis=0).max() > 1e-4, "samples differ"
    state = viewed._seen
    viewed.step()
    model = viewed.controller.model
    assert np.array_equal(model.rollout(state, viewed._plan.controls[None], 0, viewed.params)[0, 0], state)


def test_sliders_change_the_planner_and_the_task(viewed):
    viewed._want("budget", lambda: viewed.change(budget=24))
    viewed._want("horizon", lambda: viewed.change(horizon=9))
    viewed._want("width", lambda: viewed.change(width=0.3))
    viewed._want("max_angle", lambda: viewed.tune("max_angle", 0.1))
    viewed.step()
    planner = viewed.controller.planner
    assert (planner.budget, planner.horizon, planner.width) == (24, 9, 0.3)
    assert viewed._plan.samples <= 24 and viewed.paths(viewed._plan).shape[1] == 10
    assert viewed.params.max_angle == 0.1
    viewed.change(budget=1)
    viewed.step()
    viewed.draw()
    assert viewed.controller.planner.budget == 24 and "too small" in viewed._status.content
    viewed.change(budget=16, horizon=6)


def test_a_reset_begins_an_episode(viewed):
    viewed.step()
    episode = viewed._episode
    viewed._want("reset", viewed._reset)
    viewed.step()
    assert viewed._episode == episode + 1 and viewed._steps == 1
    assert viewed.params.max_angle == 0.1, "what was tuned stays"


def test_the_command(capsys):
    arguments = ["view", "InvertedPendulum-v5", "--budget", "16", "--horizon", "6", "--port", "0", "--steps", "3"]
    assert main([*arguments, "--threads", "1"]) == 0
    assert "http://127.0.0.1:" in capsys.readouterr().out


def test_bad_input_is_refused(viewed):
    with pytest.raises(InvalidInput, match="mpcrl run pendulum-swingup --video"):
        View(make_task("pendulum-swingup"), Settings())
    with pytest.raises(InvalidInput, match="--port 0"):
        View(viewed.task, SETTINGS, threads=1, port=int(viewed.address.rpartition(":")[2]))
