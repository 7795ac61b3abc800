"""The generator: calls providers, once for each call that a job needs, and makes the bytes durable."""
