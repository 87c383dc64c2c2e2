"""Capture, store, prove and restore snapshots."""
