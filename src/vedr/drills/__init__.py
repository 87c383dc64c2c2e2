"""Drills: what may be broken, whether the site can bear it, and whether it is as it was before."""
