"""Ordered, budgeted, resumable steps over a durable ledger."""
