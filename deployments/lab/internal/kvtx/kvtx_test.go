package kvtx

import (
	"bytes"
	"testing"
)

func TestATransactionIsCutAtItsFirstEqualsSign(t *testing.T) {
	key, value, err := Parse([]byte("a=\x00=b"))
	if err != nil || string(key) != "a" || string(value) != "\x00=b" {
		t.Fatalf("got %q, %q, %v", key, value, err)
	}
}

func TestMalformedTransactionsAreRefused(t *testing.T) {
	for name, tx := range map[string][]byte{
		"empty":    nil,
		"no sign":  []byte("key"),
		"no key":   []byte("=value"),
		"long key": append(bytes.Repeat([]byte("k"), MaxKeyBytes+1), '='),
		"too long": append([]byte("k="), make([]byte, MaxBytes-1)...),
	} {
		if _, _, err := Parse(tx); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestALargestTransactionIsTaken(t *testing.T) {
	if _, _, err := Parse(append([]byte("k="), make([]byte, MaxBytes-2)...)); err != nil {
		t.Fatal(err)
	}
}
