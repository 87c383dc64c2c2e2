"""Keys: sealed, shared among custodians, held in HSMs, rotated; a key here is never armed (vedr.failover does that)."""
