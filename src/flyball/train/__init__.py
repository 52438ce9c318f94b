"""Training: the learner that owns a network, supervised fine-tuning, reinforcement learning with tools in the loop."""
