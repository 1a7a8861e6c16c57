"""Tasks of the DeepMind Control Suite (Tassa et al. 2018), one file per domain.

Each cost is minus the suite's own reward, to rounding, which lies in [0, 1] per control step. Rewards read derived
fields that belong to the state after the step. Controls are in units of the actuators' range, [-1, 1].
"""
