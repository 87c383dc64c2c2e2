package kvapp

import (
	"encoding/json"
	"fmt"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"
	cryptoenc "github.com/cometbft/cometbft/crypto/encoding"
	cryptoproto "github.com/cometbft/cometbft/proto/tendermint/crypto"
	"github.com/cosmos/iavl"
)

// Everything the application knows is in the tree, so the app hash covers all of it.
const (
	userPrefix      = "kv/"
	evidencePrefix  = "evidence/"
	validatorPrefix = "validator/"
)

// Evidence is what the state keeps of a validator's proven misbehaviour.
type Evidence struct {
	Height  int64     `json:"height"`
	Address string    `json:"address"`
	Type    string    `json:"type"`
	Time    time.Time `json:"time"`
	Power   int64     `json:"power"`
}

// validator is an entry of the set; power 0 is a tombstone.
type validator struct {
	PubKey []byte `json:"pub_key"` // protobuf tendermint.crypto.PublicKey
	Power  int64  `json:"power"`
}

func validatorKey(address []byte) []byte { return fmt.Appendf(nil, "%s%X", validatorPrefix, address) }

func validatorFromUpdate(update abci.ValidatorUpdate) (address []byte, entry validator, err error) {
	key, err := cryptoenc.PubKeyFromProto(update.PubKey)
	if err != nil {
		return nil, validator{}, err
	}
	encoded, err := update.PubKey.Marshal()
	return key.Address(), validator{PubKey: encoded, Power: update.Power}, err
}

func putJSON(tree *iavl.MutableTree, key []byte, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = tree.Set(key, data)
	return err
}

// prefixEnd is the first key after all keys that start with prefix.
func prefixEnd(prefix string) []byte {
	end := []byte(prefix)
	end[len(end)-1]++
	return end
}

// countPrefix counts keys in logarithmic time from the tree's own indexes.
func countPrefix(tree *iavl.ImmutableTree, prefix string) (int64, error) {
	if tree.Size() == 0 {
		return 0, nil
	}
	first, _, err := tree.GetWithIndex([]byte(prefix))
	if err != nil {
		return 0, err
	}
	last, _, err := tree.GetWithIndex(prefixEnd(prefix))
	return last - first, err
}

// eachJSON decodes every value under prefix in key order.
func eachJSON[T any](tree *iavl.ImmutableTree, prefix string, visit func(T)) error {
	if tree.Size() == 0 {
		return nil
	}
	var failure error
	tree.IterateRange([]byte(prefix), prefixEnd(prefix), true, func(key, value []byte) bool {
		var entry T
		if failure = json.Unmarshal(value, &entry); failure != nil {
			failure = fmt.Errorf("state entry %q: %w", key, failure)
			return true
		}
		visit(entry)
		return false
	})
	return failure
}

// punish records misbehaviour and tombstones the validator, as slashing would. The
// last validator with power stays: CometBFT refuses an empty set.
func punish(tree *iavl.MutableTree, found abci.Misbehavior) (*abci.ValidatorUpdate, error) {
	address := fmt.Sprintf("%X", found.Validator.Address)
	entry := Evidence{
		Height: found.Height, Address: address, Type: found.Type.String(),
		Time: found.Time.UTC(), Power: found.Validator.Power,
	}
	key := fmt.Appendf(nil, "%s%d/%s", evidencePrefix, found.Height, address)
	if err := putJSON(tree, key, entry); err != nil {
		return nil, err
	}
	stored, err := tree.Get(validatorKey(found.Validator.Address))
	if err != nil || stored == nil {
		return nil, err
	}
	var guilty validator
	if err := json.Unmarshal(stored, &guilty); err != nil {
		return nil, fmt.Errorf("validator %s: %w", address, err)
	}
	withPower := 0
	err = eachJSON(tree.ImmutableTree, validatorPrefix, func(v validator) {
		if v.Power > 0 {
			withPower++
		}
	})
	if err != nil || guilty.Power == 0 || withPower < 2 {
		return nil, err
	}
	guilty.Power = 0
	if err := putJSON(tree, validatorKey(found.Validator.Address), guilty); err != nil {
		return nil, err
	}
	var pubKey cryptoproto.PublicKey
	if err := pubKey.Unmarshal(guilty.PubKey); err != nil {
		return nil, fmt.Errorf("validator %s: %w", address, err)
	}
	return &abci.ValidatorUpdate{PubKey: pubKey, Power: 0}, nil
}
