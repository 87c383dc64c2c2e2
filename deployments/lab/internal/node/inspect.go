package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	dbm "github.com/cometbft/cometbft-db"
	sm "github.com/cometbft/cometbft/state"
	"github.com/cometbft/cometbft/store"
	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/opt"

	"virtengine.dev/vedr/lab/internal/kvapp"
)

// Report is what the databases of a stopped node, or of a copy of its data, say.
// Hashes are upper-case hex.
type Report struct {
	ChainID         string `json:"chain_id"`
	StoreBase       int64  `json:"store_base"`
	StoreHeight     int64  `json:"store_height"`
	StateHeight     int64  `json:"state_height"`
	AppHeight       int64  `json:"app_height"`
	AppHash         string `json:"app_hash"`           // state.db's, after state_height: header(state_height+1).app_hash
	AppDBHash       string `json:"app_db_hash"`        // application.db's, after app_height
	LastBlockIDHash string `json:"last_block_id_hash"` // of state_height
	ValidatorsHash  string `json:"validators_hash"`    // of the set that signs state_height+1
	Consistent      bool   `json:"consistent"`         // a node can start from these heights and hashes
	DBBackend       string `json:"db_backend"`
	// AppHashRecomputed is the hash of all keys and values of application.db; only a deep inspection reads them.
	AppHashRecomputed string `json:"app_hash_recomputed,omitempty"`
}

// Inspect reads the databases under dataDir. It changes, makes and removes nothing
// there: goleveldb, even when told to be read-only, would create LOCK files, so it sees
// a temporary folder of links instead. A crashed process's journals are replayed in memory.
// A deep inspection reads the whole state as well.
func Inspect(dataDir string, deep bool) (report *Report, err error) {
	defer func() {
		if r := recover(); r != nil { // the stores panic on undecodable records
			report, err = nil, fmt.Errorf("inspect %s: corrupt database: %v", dataDir, r)
		}
	}()
	view, err := os.MkdirTemp("", "labnode-inspect-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(view)
	for _, name := range []string{"blockstore", "state", "application"} {
		if err := linkDatabase(dataDir, view, name+".db"); err != nil {
			return nil, err
		}
	}
	report = &Report{DBBackend: string(dbm.GoLevelDBBackend)}
	steps := []func(string, *Report) error{inspectBlocks, inspectState, inspectApp}
	if deep {
		steps = append(steps, recomputeApp)
	}
	for _, step := range steps {
		if err := step(view, report); err != nil {
			return nil, fmt.Errorf("inspect %s: %w", dataDir, err)
		}
	}
	report.Consistent = report.consistent()
	return report, nil
}

func (r *Report) consistent() bool {
	heights := r.AppHeight <= r.StoreHeight && r.AppHeight >= r.StateHeight &&
		(r.StoreHeight == r.StateHeight || r.StoreHeight == r.StateHeight+1)
	return heights && (r.AppHeight != r.StateHeight || r.AppHash == r.AppDBHash)
}

// linkDatabase shows one database's files, but not its LOCK, in the view.
func linkDatabase(dataDir, view, name string) error {
	source, err := filepath.Abs(filepath.Join(dataDir, name))
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(source)
	if err != nil {
		return fmt.Errorf("database %s is missing or unreadable: %w", source, err)
	}
	if err := refuseLocked(filepath.Join(source, "LOCK")); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(view, name), 0o700); err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() || entry.Name() == "LOCK" || entry.Name() == "LOG" {
			continue
		}
		if err := os.Symlink(filepath.Join(source, entry.Name()), filepath.Join(view, name, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// refuseLocked keeps from reading a database while a process writes it.
func refuseLocked(path string) error {
	lock, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("database %s is in use by a running process (%w): stop it, or inspect a copy whose LOCK is not a hard link", filepath.Dir(path), err)
	}
	return nil
}

func openReadOnly(view, name string) (dbm.DB, error) {
	db, err := dbm.NewGoLevelDBWithOpts(name, view, &opt.Options{ReadOnly: true, ErrorIfMissing: true})
	if err != nil {
		return nil, fmt.Errorf("open %s.db: %w", name, err)
	}
	return db, nil
}

func inspectBlocks(view string, report *Report) (err error) {
	db, err := openReadOnly(view, "blockstore")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	blocks := store.NewBlockStore(db)
	report.StoreBase, report.StoreHeight = blocks.Base(), blocks.Height()
	if report.StoreHeight > 0 && blocks.LoadBlockMeta(report.StoreHeight) == nil {
		return fmt.Errorf("blockstore.db: block %d, its newest, is missing", report.StoreHeight)
	}
	return nil
}

func inspectState(view string, report *Report) (err error) {
	db, err := openReadOnly(view, "state")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	state, err := sm.NewStore(db, sm.StoreOptions{}).Load()
	if err != nil {
		return fmt.Errorf("state.db: %w", err)
	}
	if state.IsEmpty() {
		return errors.New("state.db holds no state: the node never started")
	}
	report.ChainID = state.ChainID
	report.StateHeight = state.LastBlockHeight
	report.AppHash = fmt.Sprintf("%X", state.AppHash)
	report.LastBlockIDHash = state.LastBlockID.Hash.String()
	report.ValidatorsHash = fmt.Sprintf("%X", state.Validators.Hash())
	return nil
}

func inspectApp(view string, report *Report) error {
	height, hash, err := kvapp.ReadTip(view)
	if err != nil {
		return err
	}
	report.AppHeight, report.AppDBHash = height, fmt.Sprintf("%X", hash)
	return nil
}

func recomputeApp(view string, report *Report) error {
	_, hash, err := kvapp.RecomputeRoot(view)
	if err != nil {
		return fmt.Errorf("application.db can't be read to its end: %w", err)
	}
	report.AppHashRecomputed = fmt.Sprintf("%X", hash)
	return nil
}

func isClosed(err error) bool { return errors.Is(err, leveldb.ErrClosed) }
