package node

import (
	"errors"
	"fmt"

	sm "github.com/cometbft/cometbft/state"
	"github.com/cometbft/cometbft/store"

	"virtengine.dev/vedr/lab/internal/kvapp"
)

// RollBack takes a stopped node one block back: CometBFT's state and the application's.
// The block itself stays in the block store and is executed again at the next start.
func RollBack(home string) (height int64, appHash []byte, err error) {
	config, err := LoadConfig(home)
	if err != nil {
		return 0, nil, err
	}
	databases := &openDatabases{}
	defer func() { err = errors.Join(err, databases.close()) }()
	blockDB, err := databases.open(dbContext("blockstore", config))
	if err != nil {
		return 0, nil, err
	}
	stateDB, err := databases.open(dbContext("state", config))
	if err != nil {
		return 0, nil, err
	}
	height, appHash, err = sm.Rollback(store.NewBlockStore(blockDB), sm.NewStore(stateDB, sm.StoreOptions{}), false)
	if err != nil {
		return 0, nil, fmt.Errorf("roll back %s: %w", home, err)
	}
	if err := kvapp.RollBack(config.DBDir(), height); err != nil {
		return 0, nil, fmt.Errorf("CometBFT's state is at height %d, but the application's rollback failed: %w", height, err)
	}
	return height, appHash, nil
}
