"""What is asked of a policy and where: datasets of tasks, splits without leaks, and the worlds they open."""
