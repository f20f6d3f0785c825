"""LeRobot plugin: the policy type `lift_vla` and the environment type `lift_vla`.

LeRobot imports every installed distribution whose name begins with `lerobot_policy_`, and thereby registers both.
"""

from lerobot_policy_lift_vla.configuration_lift_vla import LiftVlaConfig
from lerobot_policy_lift_vla.environment import LeRobotLiftEnv, LiftVlaEnvConfig
from lerobot_policy_lift_vla.modeling_lift_vla import LiftVlaPolicy
from lerobot_policy_lift_vla.processor_lift_vla import make_lift_vla_pre_post_processors

__all__ = ["LeRobotLiftEnv", "LiftVlaConfig", "LiftVlaEnvConfig", "LiftVlaPolicy", "make_lift_vla_pre_post_processors"]
