"""A ROS 2 node: joint states in, efforts out, a planner thread beside its executor. Untested: needs ROS 2 (rclpy).

Subscribes /joint_states (sensor_msgs/JointState: one joint, its angle and rate) and publishes /effort
(std_msgs/Float64MultiArray) at 100 Hz; /health (std_msgs/String) says what each answer is worth.
Run python examples/ros2_node.py in a sourced ROS 2 workspace.
"""

import math
import time

import mpcrl

HZ, DELAY = 100.0, 0.005  # answers per second; s from publishing to the motor


def main():
    import rclpy  # only here: importing this file needs no ROS
    from rclpy.node import Node
    from sensor_msgs.msg import JointState
    from std_msgs.msg import Float64MultiArray, String

    task = mpcrl.make_task("pendulum-swingup")
    controller = mpcrl.Controller(task, mpcrl.planners.icem(budget=128, horizon=30), threads=1, rate_limit=40.0)

    class Pendulum(Node):
        def __init__(self, realtime):
            super().__init__("mpcrl")
            self.realtime = realtime
            self.effort = self.create_publisher(Float64MultiArray, "effort", 1)
            self.health = self.create_publisher(String, "health", 10)
            self.create_subscription(JointState, "joint_states", self.on_state, 1)
            self.create_timer(1 / HZ, self.on_timer)

        def on_state(self, message):
            # ROS time may jump: only how old the message is matters, counted back from the monotonic clock
            sent = message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec
            age = max(0.0, 1e-9 * self.get_clock().now().nanoseconds - sent)
            self.realtime.submit([message.position[0], message.velocity[0]], time.monotonic() - age)

        def on_timer(self):
            answer = self.realtime.control()
            self.effort.publish(Float64MultiArray(data=answer.control.tolist()))
            age = "" if math.isinf(answer.age) else f" {1e3 * answer.age:.0f} ms"
            self.health.publish(String(data=f"{answer.status.value}{age} {answer.faults}"))

    rclpy.init()
    try:
        with controller.realtime(deadline=0.02, actuator_delay=DELAY, on_miss="safe") as realtime:
            rclpy.spin(Pendulum(realtime))
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
