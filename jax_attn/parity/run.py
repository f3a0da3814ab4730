"""What one side gave for one call, in NumPy."""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Run:
    """Outputs in torch's order, gradients of parameters by torch key and in torch's layout, and of inputs."""

    outputs: list[np.ndarray]
    gradients: dict[str, np.ndarray] = field(default_factory=dict)
    input_gradients: list[np.ndarray] = field(default_factory=list)
