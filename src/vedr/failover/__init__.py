"""Judging failures, promotion order, fencing: what may act, and in which order."""
