"""Clients of a policy server."""
