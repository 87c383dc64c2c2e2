package kvapp

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/cosmos/iavl"

	"virtengine.dev/vedr/lab/internal/durable"
)

const (
	snapshotFormat     = 1
	snapshotChunkBytes = 1 << 20
	snapshotInfoFile   = "snapshot.json"
	snapshotTmpPrefix  = ".new-"
)

// snapshotStore keeps state-sync snapshots as data/snapshots/<height>/{snapshot.json,
// 0,1,2…}. A snapshot's metadata is the concatenation of its chunks' SHA-256 and its
// hash is the SHA-256 of that, so every chunk can be checked alone.
type snapshotStore struct{ dir string }

func openSnapshotStore(dir string) (*snapshotStore, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	leftovers, err := filepath.Glob(filepath.Join(dir, snapshotTmpPrefix+"*"))
	if err != nil {
		return nil, err
	}
	for _, path := range leftovers {
		if err := os.RemoveAll(path); err != nil {
			return nil, err
		}
	}
	return &snapshotStore{dir: dir}, nil
}

// create exports a version; the snapshot appears by rename once it is complete.
func (s *snapshotStore) create(tree *iavl.ImmutableTree, cancelled func() bool) error {
	height := tree.Version()
	tmp, err := os.MkdirTemp(s.dir, snapshotTmpPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp) // a no-op once renamed
	chunks := &chunkWriter{dir: tmp}
	if err := exportNodes(tree, chunks, cancelled); err != nil {
		return fmt.Errorf("snapshot of height %d: %w", height, err)
	}
	if err := chunks.flush(); err != nil {
		return fmt.Errorf("snapshot of height %d: %w", height, err)
	}
	hash := sum(chunks.sums)
	info := abci.Snapshot{
		Height: uint64(height), Format: snapshotFormat, Chunks: chunks.count,
		Hash: hash, Metadata: chunks.sums,
	}
	if err := durable.WriteJSON(filepath.Join(tmp, snapshotInfoFile), info, 0o644); err != nil {
		return err
	}
	final := filepath.Join(s.dir, strconv.FormatInt(height, 10))
	if err := os.RemoveAll(final); err != nil { // of an earlier life, after a rollback
		return err
	}
	if err := os.Rename(tmp, final); err != nil {
		return err
	}
	return durable.SyncDir(s.dir)
}

// list returns the snapshots, newest first.
func (s *snapshotStore) list() ([]*abci.Snapshot, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var found []*abci.Snapshot
	for _, entry := range entries {
		if _, err := strconv.ParseUint(entry.Name(), 10, 64); err != nil {
			continue
		}
		data, err := os.ReadFile(filepath.Join(s.dir, entry.Name(), snapshotInfoFile))
		if errors.Is(err, os.ErrNotExist) { // being pruned
			continue
		}
		if err != nil {
			return nil, err
		}
		info := new(abci.Snapshot)
		if err := json.Unmarshal(data, info); err != nil {
			return nil, fmt.Errorf("snapshot %s: %w", entry.Name(), err)
		}
		found = append(found, info)
	}
	slices.SortFunc(found, func(a, b *abci.Snapshot) int { return int(b.Height) - int(a.Height) })
	return found, nil
}

func (s *snapshotStore) chunk(height uint64, index uint32) ([]byte, error) {
	return os.ReadFile(filepath.Join(s.dir, strconv.FormatUint(height, 10), strconv.FormatUint(uint64(index), 10)))
}

// prune keeps the newest snapshots; keep 0 keeps all, as in cosmos-sdk.
func (s *snapshotStore) prune(keep int) error {
	if keep == 0 {
		return nil
	}
	found, err := s.list()
	if err != nil {
		return err
	}
	for _, old := range found[min(keep, len(found)):] {
		if err := os.RemoveAll(filepath.Join(s.dir, strconv.FormatUint(old.Height, 10))); err != nil {
			return err
		}
	}
	return nil
}

// checkOffer says whether an offered snapshot is well-formed.
func checkOffer(offer *abci.Snapshot) error {
	switch {
	case offer.Format != snapshotFormat:
		return fmt.Errorf("snapshot format %d, this node reads %d", offer.Format, snapshotFormat)
	case offer.Chunks == 0 || len(offer.Metadata) != int(offer.Chunks)*sha256.Size:
		return fmt.Errorf("snapshot of %d chunks with %d bytes of hashes", offer.Chunks, len(offer.Metadata))
	case !bytes.Equal(sum(offer.Metadata), offer.Hash):
		return errors.New("snapshot hash does not cover its chunk hashes")
	}
	return nil
}

func chunkMatches(offer *abci.Snapshot, index uint32, chunk []byte) bool {
	at := int(index) * sha256.Size
	return index < offer.Chunks && bytes.Equal(sum(chunk), offer.Metadata[at:at+sha256.Size])
}

// chunkWriter cuts a stream into files of snapshotChunkBytes.
type chunkWriter struct {
	dir   string
	buf   []byte
	sums  []byte
	count uint32
}

func (w *chunkWriter) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		n := min(len(p), snapshotChunkBytes-len(w.buf))
		w.buf = append(w.buf, p[:n]...)
		p = p[n:]
		if len(w.buf) == snapshotChunkBytes {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	return total, nil
}

func (w *chunkWriter) flush() error {
	if len(w.buf) == 0 && w.count > 0 {
		return nil
	}
	path := filepath.Join(w.dir, strconv.FormatUint(uint64(w.count), 10))
	if err := durable.WriteFile(path, w.buf, 0o644); err != nil {
		return err
	}
	w.sums = append(w.sums, sum(w.buf)...)
	w.count++
	w.buf = w.buf[:0]
	return nil
}

func sum(data []byte) []byte {
	hash := sha256.Sum256(data)
	return hash[:]
}
