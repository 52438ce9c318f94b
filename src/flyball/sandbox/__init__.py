"""Untrusted code under limits: one protocol, several rungs, and a refusal where no rung holds."""
