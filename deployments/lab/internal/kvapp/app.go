// Package kvapp is the lab's application: a key/value store whose app hash covers the
// whole state (an iavl tree), with state-sync snapshots.
//
// It guarantees that a block is on disk before ABCI Commit returns, that a snapshot is
// only put in place when its state has the app hash the light client verified, and that
// equal blocks give equal app hashes. It has no accounts, fees or permissions.
package kvapp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"

	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/cometbft/cometbft/libs/log"
	"github.com/cosmos/iavl"

	"virtengine.dev/vedr/lab/internal/kvtx"
)

// Version is the application's name and version as /abci_info shows them.
const (
	Name       = "vedr-lab-kv"
	Version    = "1.0.0"
	AppVersion = 1
)

// Result codes of CheckTx, FinalizeBlock and Query.
const (
	codeOK        = abci.CodeTypeOK
	codeMalformed = 1
	codeNotFound  = 2
	codeBadQuery  = 3
)

// Config is the part of app.toml that the application reads.
type Config struct {
	KeepRecent       int64 // versions kept; 0 keeps all
	PruneInterval    int64 // blocks between prunings
	RetainBlocks     int64 // blocks kept by the node; 0 keeps all
	SnapshotInterval int64 // blocks between snapshots; 0 makes none
	SnapshotKeep     int   // snapshots kept; 0 keeps all
}

// App implements abci.Application on dataDir. Its methods are safe for concurrent use.
type App struct {
	abci.BaseApplication

	dataDir   string
	config    Config
	logger    log.Logger
	snapshots *snapshotStore

	mu        sync.RWMutex // guards everything below
	store     *store
	hash      []byte // app hash of the last commit
	restoring *restore

	snapshotRun  sync.WaitGroup
	snapshotting atomic.Int64 // height being exported, 0 when none
	closing      atomic.Bool
}

// Open loads the application's last committed state.
func Open(dataDir string, config Config, logger log.Logger) (*App, error) {
	if err := os.RemoveAll(dbPath(dataDir, importDBName)); err != nil { // a restore that died
		return nil, err
	}
	snapshots, err := openSnapshotStore(filepath.Join(dataDir, "snapshots"))
	if err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	opened, err := openStore(dataDir, dbName, false)
	if err != nil {
		return nil, err
	}
	return &App{
		dataDir: dataDir, config: config, logger: logger, snapshots: snapshots,
		store: opened, hash: opened.tree.Hash(),
	}, nil
}

// Close waits for a running snapshot to give up and closes the database.
func (a *App) Close() error {
	a.closing.Store(true)
	a.snapshotRun.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	var abortErr error
	if a.restoring != nil {
		abortErr = a.restoring.abort()
		a.restoring = nil
	}
	return errors.Join(abortErr, a.store.close())
}

func (a *App) Info(context.Context, *abci.RequestInfo) (*abci.ResponseInfo, error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	info := &abci.ResponseInfo{Data: Name, Version: Version, AppVersion: AppVersion}
	if height := a.store.tree.Version(); height > 0 {
		info.LastBlockHeight, info.LastBlockAppHash = height, a.hash
	}
	return info, nil
}

func (a *App) InitChain(_ context.Context, req *abci.RequestInitChain) (*abci.ResponseInitChain, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	tree := a.store.tree
	tree.Rollback() // of an InitChain whose first block was never committed
	tree.SetInitialVersion(uint64(req.InitialHeight))
	for _, update := range req.Validators {
		address, entry, err := validatorFromUpdate(update)
		if err != nil {
			return nil, err
		}
		if err := putJSON(tree, validatorKey(address), entry); err != nil {
			return nil, err
		}
	}
	return &abci.ResponseInitChain{AppHash: tree.WorkingHash()}, nil
}

func (a *App) CheckTx(_ context.Context, req *abci.RequestCheckTx) (*abci.ResponseCheckTx, error) {
	if _, _, err := kvtx.Parse(req.Tx); err != nil {
		return &abci.ResponseCheckTx{Code: codeMalformed, Log: err.Error()}, nil
	}
	return &abci.ResponseCheckTx{Code: codeOK, GasWanted: 1}, nil
}

func (a *App) FinalizeBlock(_ context.Context, req *abci.RequestFinalizeBlock) (*abci.ResponseFinalizeBlock, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	tree := a.store.tree
	if tree.Version() > 0 {
		tree.Rollback() // of a block that was finalized and never committed
	}
	response := &abci.ResponseFinalizeBlock{}
	for _, found := range req.Misbehavior {
		update, err := punish(tree, found)
		if err != nil {
			return nil, err
		}
		if update != nil {
			response.ValidatorUpdates = append(response.ValidatorUpdates, *update)
		}
	}
	for _, tx := range req.Txs {
		result, err := deliver(tree, tx)
		if err != nil {
			return nil, err
		}
		response.TxResults = append(response.TxResults, result)
	}
	response.AppHash = tree.WorkingHash()
	return response, nil
}

func deliver(tree *iavl.MutableTree, tx []byte) (*abci.ExecTxResult, error) {
	key, value, err := kvtx.Parse(tx)
	if err != nil {
		return &abci.ExecTxResult{Code: codeMalformed, Log: err.Error()}, nil
	}
	if _, err := tree.Set(append([]byte(userPrefix), key...), value); err != nil {
		return nil, err
	}
	return &abci.ExecTxResult{Code: codeOK, GasWanted: 1, GasUsed: 1}, nil
}

func (a *App) Commit(context.Context, *abci.RequestCommit) (*abci.ResponseCommit, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	hash, height, err := a.store.tree.SaveVersion()
	if err != nil {
		return nil, fmt.Errorf("commit: %w", err)
	}
	a.hash = hash
	a.startSnapshot(height)
	if err := a.pruneVersions(height); err != nil {
		return nil, fmt.Errorf("prune at height %d: %w", height, err)
	}
	response := &abci.ResponseCommit{}
	if retain := a.config.RetainBlocks; retain > 0 && height > retain {
		response.RetainHeight = height - retain
	}
	return response, nil
}

// startSnapshot exports height in the background; a slow export skips later ones.
func (a *App) startSnapshot(height int64) {
	interval := a.config.SnapshotInterval
	if interval == 0 || height%interval != 0 || a.snapshotting.Load() != 0 {
		return
	}
	a.snapshotting.Store(height) // from here on pruning spares it
	from := a.store
	a.snapshotRun.Go(func() {
		defer a.snapshotting.Store(0)
		tree, err := from.version(height)
		if err == nil {
			err = a.snapshots.create(tree, a.closing.Load)
		}
		if err == nil {
			err = a.snapshots.prune(a.config.SnapshotKeep)
		}
		if err != nil {
			a.logger.Error("snapshot failed", "height", height, "err", err)
			return
		}
		a.logger.Info("snapshot made", "height", height)
	})
}

func (a *App) pruneVersions(height int64) error {
	if a.config.KeepRecent == 0 || height%max(a.config.PruneInterval, 1) != 0 {
		return nil
	}
	target := height - a.config.KeepRecent
	if exporting := a.snapshotting.Load(); exporting != 0 {
		target = min(target, exporting-1)
	}
	if target < 1 || !a.store.tree.VersionExists(target) {
		return nil
	}
	return a.store.tree.DeleteVersionsTo(target)
}

// Query answers /key (data is the key), /size (number of keys) and /evidence (JSON).
func (a *App) Query(_ context.Context, req *abci.RequestQuery) (*abci.ResponseQuery, error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	response := &abci.ResponseQuery{Height: a.store.tree.Version(), Key: req.Data}
	if response.Height == 0 {
		response.Code, response.Log = codeNotFound, "no block was committed yet"
		return response, nil
	}
	tree, err := a.store.tree.GetImmutable(response.Height)
	if err != nil {
		return nil, err
	}
	switch req.Path {
	case "/key":
		response.Value, err = tree.Get(append([]byte(userPrefix), req.Data...))
		if response.Value == nil {
			response.Code, response.Log = codeNotFound, "no such key"
		}
	case "/size":
		var size int64
		size, err = countPrefix(tree, userPrefix)
		response.Value = strconv.AppendInt(nil, size, 10)
	case "/evidence":
		all := []Evidence{}
		if err = eachJSON(tree, evidencePrefix, func(e Evidence) { all = append(all, e) }); err == nil {
			response.Value, err = json.Marshal(all)
		}
	default:
		response.Code = codeBadQuery
		response.Log = fmt.Sprintf("unknown path %q: want /key, /size or /evidence", req.Path)
	}
	return response, err
}

func (a *App) ListSnapshots(context.Context, *abci.RequestListSnapshots) (*abci.ResponseListSnapshots, error) {
	found, err := a.snapshots.list()
	return &abci.ResponseListSnapshots{Snapshots: found}, err
}

func (a *App) LoadSnapshotChunk(_ context.Context, req *abci.RequestLoadSnapshotChunk) (*abci.ResponseLoadSnapshotChunk, error) {
	chunk, err := a.snapshots.chunk(req.Height, req.Chunk)
	if errors.Is(err, os.ErrNotExist) { // pruned since it was offered: the peer asks another
		return &abci.ResponseLoadSnapshotChunk{}, nil
	}
	return &abci.ResponseLoadSnapshotChunk{Chunk: chunk}, err
}

func (a *App) OfferSnapshot(_ context.Context, req *abci.RequestOfferSnapshot) (*abci.ResponseOfferSnapshot, error) {
	if err := checkOffer(req.Snapshot); err != nil {
		a.logger.Error("snapshot refused", "height", req.Snapshot.Height, "err", err)
		return &abci.ResponseOfferSnapshot{Result: abci.ResponseOfferSnapshot_REJECT}, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.restoring != nil {
		if err := a.restoring.abort(); err != nil {
			return nil, err
		}
	}
	var err error
	a.restoring, err = startRestore(a.dataDir, req.Snapshot, req.AppHash)
	return &abci.ResponseOfferSnapshot{Result: abci.ResponseOfferSnapshot_ACCEPT}, err
}

func (a *App) ApplySnapshotChunk(_ context.Context, req *abci.RequestApplySnapshotChunk) (*abci.ResponseApplySnapshotChunk, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.restoring
	if r == nil {
		return &abci.ResponseApplySnapshotChunk{Result: abci.ResponseApplySnapshotChunk_ABORT}, nil
	}
	if !chunkMatches(r.offer, req.Index, req.Chunk) {
		a.logger.Error("snapshot chunk is corrupt", "height", r.offer.Height, "chunk", req.Index, "sender", req.Sender)
		return &abci.ResponseApplySnapshotChunk{
			Result:        abci.ResponseApplySnapshotChunk_RETRY,
			RefetchChunks: []uint32{req.Index},
			RejectSenders: []string{req.Sender},
		}, nil
	}
	last := req.Index == r.offer.Chunks-1
	err := r.apply(req.Chunk)
	if err == nil && last {
		a.restoring = nil
		err = a.finishRestore(r)
	} else if err != nil {
		a.restoring = nil
		err = errors.Join(err, r.abort())
	}
	if err != nil {
		a.logger.Error("snapshot rejected", "height", r.offer.Height, "err", err)
		return &abci.ResponseApplySnapshotChunk{Result: abci.ResponseApplySnapshotChunk_REJECT_SNAPSHOT}, nil
	}
	return &abci.ResponseApplySnapshotChunk{Result: abci.ResponseApplySnapshotChunk_ACCEPT}, nil
}

// finishRestore swaps the verified import in and opens it.
func (a *App) finishRestore(r *restore) error {
	if err := r.finish(); err != nil {
		return err
	}
	if err := a.store.close(); err != nil {
		return err
	}
	swapErr := replaceStore(a.dataDir)
	opened, err := openStore(a.dataDir, dbName, false)
	if err != nil {
		return errors.Join(swapErr, err)
	}
	a.store, a.hash = opened, opened.tree.Hash()
	return swapErr
}
