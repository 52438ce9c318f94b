"""From an attempt to its scores: graders, their versions, and whose fault a missing score is."""
