"""Readiness: the daily checks and the topology audit."""
