package kvapp

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"

	cosmosdb "github.com/cosmos/cosmos-db"
	"github.com/cosmos/iavl"
	iavldb "github.com/cosmos/iavl/db"
	"github.com/syndtr/goleveldb/leveldb/filter"
	"github.com/syndtr/goleveldb/leveldb/opt"

	"virtengine.dev/vedr/lab/internal/durable"
)

const (
	dbName           = "application"
	importDBName     = "application.import"
	nodeCacheEntries = 10_000
	// exportCacheEntries is small: an export reads every node once.
	exportCacheEntries = 100
	// bloomBitsPerKey is what cosmos-sdk nodes use.
	bloomBitsPerKey = 10
)

// oneBatchDB keeps a version's writes in one batch. iavl splits batches at a size
// limit and reads its latest version from whatever nodes it finds, so a crash
// between two batches would leave a version without a root.
type oneBatchDB struct{ *iavldb.Wrapper }

// NewBatchWithSize ignores the size, which iavl sets to the flush limit.
func (d oneBatchDB) NewBatchWithSize(int) iavldb.Batch { return d.NewBatch() }

// store is the versioned state: an iavl tree on a goleveldb database.
type store struct {
	db   iavldb.DB
	tree *iavl.MutableTree
}

func newTree(db iavldb.DB, cacheEntries int) *iavl.MutableTree {
	return iavl.NewMutableTree(db, cacheEntries, true, iavl.NewNopLogger(),
		iavl.SyncOption(true), iavl.FlushThresholdOption(math.MaxInt))
}

// openStore loads the newest version of database name in dataDir.
func openStore(dataDir, name string, readOnly bool) (*store, error) {
	ldb, err := cosmosdb.NewGoLevelDBWithOpts(name, dataDir, &opt.Options{
		Filter:         filter.NewBloomFilter(bloomBitsPerKey),
		ReadOnly:       readOnly,
		ErrorIfMissing: readOnly,
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dbPath(dataDir, name), err)
	}
	db := oneBatchDB{iavldb.NewWrapper(ldb)}
	tree := newTree(db, nodeCacheEntries)
	if _, err := tree.Load(); err != nil {
		return nil, errors.Join(fmt.Errorf("load state of %s: %w", dbPath(dataDir, name), err), db.Close())
	}
	return &store{db: db, tree: tree}, nil
}

// version returns a saved version that can be read while the tree is written. It shares
// no node in memory with the tree, as iavl's own GetImmutable does through its cache.
func (s *store) version(height int64) (*iavl.ImmutableTree, error) {
	tree := newTree(s.db, exportCacheEntries)
	if _, err := tree.LoadVersion(height); err != nil {
		return nil, fmt.Errorf("load version %d: %w", height, err)
	}
	return tree.ImmutableTree, nil
}

func (s *store) close() error {
	return errors.Join(s.tree.Close(), s.db.Close())
}

// replaceStore makes the finished import the application's database. The old one holds
// nothing that is needed: CometBFT restores only into a node without state.
func replaceStore(dataDir string) error {
	if err := os.RemoveAll(dbPath(dataDir, dbName)); err != nil {
		return err
	}
	if err := os.Rename(dbPath(dataDir, importDBName), dbPath(dataDir, dbName)); err != nil {
		return err
	}
	return durable.SyncDir(dataDir)
}

func dbPath(dataDir, name string) string { return filepath.Join(dataDir, name+".db") }

// ReadTip returns the newest committed version in dataDir and its hash, opening the
// database read-only.
func ReadTip(dataDir string) (height int64, hash []byte, err error) {
	s, err := openStore(dataDir, dbName, true)
	if err != nil {
		return 0, nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	return s.tree.Version(), s.tree.Hash(), nil
}

// RollBack removes all versions above height.
func RollBack(dataDir string, height int64) (err error) {
	s, err := openStore(dataDir, dbName, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if s.tree.Version() <= height {
		return nil
	}
	return s.tree.LoadVersionForOverwriting(height)
}
