"""The door through which every agent reaches the policy, and the ledger of what was sampled there."""
