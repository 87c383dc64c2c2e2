// Package kvtx is the format of the lab application's transactions.
package kvtx

import (
	"bytes"
	"errors"
	"fmt"
)

// Limits of one transaction.
const (
	MaxBytes    = 64 << 10
	MaxKeyBytes = 1 << 10
)

// Parse splits a transaction "key=value" at its first '='. The value may be empty or binary.
func Parse(tx []byte) (key, value []byte, err error) {
	if len(tx) > MaxBytes {
		return nil, nil, fmt.Errorf("transaction has %d bytes, the limit is %d", len(tx), MaxBytes)
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
