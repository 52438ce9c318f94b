"""Traces in the words of others: one JSON object a line, ATIF, OpenTelemetry GenAI, Langfuse."""
