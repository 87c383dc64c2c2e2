"""What the chain says, and how we know that it is true."""
