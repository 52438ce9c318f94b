"""Whatever drives the policy through an attempt: the built-in tool loop, a callable, a command, an HTTP agent."""
