"""In a fresh process: how long the imports take and what they load, and how long the first plan takes after them."""

import json
import sys
import time

begin = time.perf_counter()
from mpcrl import Controller, make_task  # noqa: E402
from mpcrl.planners import mppi  # noqa: E402

imported = time.perf_counter() - begin
heavy = sorted({"torch", "mujoco", "gymnasium", "scipy"} & set(sys.modules))

begin = time.perf_counter()
controller = Controller(make_task("pendulum-swingup"), mppi(budget=1000, horizon=30), threads=int(sys.argv[1]))
controller.act([3.0, 0.0])
planned = time.perf_counter() - begin
print(json.dumps({"import": imported, "plan": planned, "heavy": heavy}))
