"""The embedded lab: a real three-region network on one machine."""
