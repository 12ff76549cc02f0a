"""The paper's net2 in PyTorch, for the peers' loops. Runs under their interpreter: nothing but torch is imported."""

from __future__ import annotations

import torch


def torso(num_frames: int = 4, features: int = 128) -> torch.nn.Sequential:
    """All layers but the last: float32 ``[N, num_frames, 84, 84]`` to ``[N, features]``."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(num_frames, 16, 8, stride=4),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 16, 4, stride=2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 16, 3),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(7 * 7 * 16, features),
        torch.nn.ReLU(),
    )
