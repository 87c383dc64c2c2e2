"""The schedule and the runbooks, each like its page."""
