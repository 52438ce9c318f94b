"""Suites, runs, summaries, paired comparisons, and the readiness check (`doctor`)."""
