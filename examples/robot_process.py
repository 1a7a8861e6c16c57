"""A robot in a process of its own, over UDP: its clock does not wait; packets come late, out of order, or not at all.

A cart-pole to swing up: steps at 500 Hz, tells its state at 100 Hz, obeys 30 ms late or more. Beside it plans are made
at 50 Hz. Run python examples/robot_process.py [STEPS of 40 ms]; it writes robot_process.png.
"""

import multiprocessing.connection
import socket
import sys
import time
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np

import mpcrl

TICK, DELAY, LOSS = 0.002, 0.030, 0.05  # s, s, share of packets
TASK = mpcrl.make_task("cartpole-swingup")


def robot(seconds, port):
    rng, link = np.random.default_rng(0), socket.socket(type=socket.SOCK_DGRAM)
    link.connect(("127.0.0.1", port))
    x, force, coming, begin = tuple(TASK.reset(rng)), (0.0,), [], time.monotonic()
    for tick in range(round(seconds / TICK)):
        time.sleep(max(0.0, begin + tick * TICK - time.monotonic()))
        if tick % 5 == 0 and rng.random() > LOSS:
            link.send(np.array([time.monotonic(), *x]).tobytes())
        while tick and multiprocessing.connection.wait([link], 0):
            (effort,) = np.frombuffer(link.recv(64))
            coming += [(time.monotonic() + DELAY + rng.exponential(0.002), effort)] * (rng.random() > LOSS)
        while coming and min(coming)[0] <= time.monotonic():
            force = (coming.pop(coming.index(min(coming)))[1],)
        x = TASK.step(x, force, TASK.params._replace(dt=TICK))


if __name__ == "__main__":
    seconds = 0.04 * int(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    link, log, address = socket.socket(type=socket.SOCK_DGRAM), [], None
    link.bind(("127.0.0.1", 0))
    controller = mpcrl.Controller(TASK, mpcrl.planners.icem(budget=128, horizon=30), threads=1)
    process = multiprocessing.get_context("spawn").Process(target=robot, args=(seconds, link.getsockname()[1]))
    with controller.realtime(hz=50, deadline=0.015, actuator_delay=DELAY + 0.002) as realtime:
        process.start()
        while process.is_alive():
            if multiprocessing.connection.wait([link], 0.01):
                packet, address = link.recvfrom(64)
                stamp, *state = np.frombuffer(packet)
                realtime.submit(state, stamp)
            if address:
                answer = realtime.control()
                link.sendto(answer.control.tobytes(), address)
                log.append((time.monotonic(), state[1], 1e3 * answer.age, answer.status.value, str(answer.faults)))
    times, angles, ages, statuses, flags = zip(*log, strict=True)
    print(f"{len(log)} answers: {dict(Counter(statuses))}, {dict(Counter(flags))}; plans {np.median(ages):.0f} ms old")
    print(f"at the end the pole is {abs((angles[-1] + np.pi) % (2 * np.pi) - np.pi):.2f} rad from upright")
    plt.plot(np.subtract(times, times[0]), angles)
    plt.gca().set(title="Swing-up over a bad line", xlabel="time, s", ylabel="angle from upright, rad")
    plt.savefig("robot_process.png", dpi=120)
