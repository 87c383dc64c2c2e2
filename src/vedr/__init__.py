"""Disaster recovery for VirtEngine's chain: plain Python, no orchestrator needed."""

__version__ = "0.1.0"
