package kvapp

import (
	"bytes"
	"errors"
	"fmt"
)

// Limits of one transaction.
const (
	MaxTxBytes  = 64 << 10
	MaxKeyBytes = 1 << 10
)

// ParseTx splits a transaction "key=value" at its first '='. The value may be empty or binary.
func ParseTx(tx []byte) (key, value []byte, err error) {
	if len(tx) > MaxTxBytes {
		return nil, nil, fmt.Errorf("transaction has %d bytes, the limit is %d", len(tx), MaxTxBytes)
	}
	key, value, found := bytes.Cut(tx, []byte("="))
	switch {
	case !found:
		return nil, nil, errors.New("transaction has no '=': want key=value")
	case len(key) == 0:
		return nil, nil, errors.New("transaction has an empty key: want key=value")
	case len(key) > MaxKeyBytes:
		return nil, nil, fmt.Errorf("key has %d bytes, the limit is %d", len(key), MaxKeyBytes)
	}
	return key, value, nil
}
