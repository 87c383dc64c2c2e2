"""What people read after an incident or a drill, made from the ledger alone."""
