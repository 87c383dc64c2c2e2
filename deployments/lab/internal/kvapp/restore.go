package kvapp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	abci "github.com/cometbft/cometbft/abci/types"
)

// restore imports one offered snapshot into a database beside the application's.
type restore struct {
	dataDir string
	offer   *abci.Snapshot
	appHash []byte // from the light client: the only thing here that is trusted
	target  *store
	feed    *io.PipeWriter
	done    chan error
}

func startRestore(dataDir string, offer *abci.Snapshot, appHash []byte) (*restore, error) {
	if err := os.RemoveAll(dbPath(dataDir, importDBName)); err != nil {
		return nil, err
	}
	target, err := openStore(dataDir, importDBName, false)
	if err != nil {
		return nil, err
	}
	source, feed := io.Pipe()
	r := &restore{
		dataDir: dataDir, offer: offer, appHash: appHash,
		target: target, feed: feed, done: make(chan error, 1),
	}
	go func() {
		err := importNodes(target.tree, int64(offer.Height), source)
		source.CloseWithError(errors.Join(err, io.ErrClosedPipe)) // lets a late apply return
		r.done <- err
	}()
	return r, nil
}

// apply takes the next chunk, whose hash was checked.
func (r *restore) apply(chunk []byte) error {
	_, err := r.feed.Write(chunk)
	return err
}

// finish compares the imported state with the trusted app hash and puts it in place.
func (r *restore) finish() error {
	r.feed.Close()
	err := <-r.done
	if err == nil && !bytes.Equal(r.target.tree.Hash(), r.appHash) {
		err = fmt.Errorf("app hash of the imported state is %X, the chain says %X", r.target.tree.Hash(), r.appHash)
	}
	if closeErr := r.target.close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(dbPath(r.dataDir, importDBName)))
	}
	return nil
}

// abort drops what was imported so far.
func (r *restore) abort() error {
	r.feed.CloseWithError(errors.New("restore aborted"))
	<-r.done
	return errors.Join(r.target.close(), os.RemoveAll(dbPath(r.dataDir, importDBName)))
}
