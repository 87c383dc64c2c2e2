"""One file a vendor or mechanism: the only place that imports its SDK."""
