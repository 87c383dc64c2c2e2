"""The remote signer: a process that holds a validator's key and answers its node, fenced by the regions' registers."""
