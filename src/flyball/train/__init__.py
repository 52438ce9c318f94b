"""Training: the learner that owns a network, supervised fine-tuning, and reinforcement learning with tools in the loop."""
