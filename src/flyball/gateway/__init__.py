"""The data plane: OpenAI's interface for agents, routed by release, checked while it serves, and captured."""
