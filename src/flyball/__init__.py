"""Flyball: train the policy of a tool-using agent from graded attempts, and release it only on evidence."""
