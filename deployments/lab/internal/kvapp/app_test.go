package kvapp

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	abci "github.com/cometbft/cometbft/abci/types"
	"github.com/cometbft/cometbft/crypto/ed25519"
	cryptoenc "github.com/cometbft/cometbft/crypto/encoding"
	"github.com/cometbft/cometbft/libs/log"
	"github.com/syndtr/goleveldb/leveldb"
)

var ctx = context.Background()

// chain drives one application as CometBFT would.
type chain struct {
	*testing.T
	app    *App
	dir    string
	config Config
	height int64
	hash   []byte
}

func newChain(t *testing.T, config Config, validators ...abci.ValidatorUpdate) *chain {
	t.Helper()
	c := &chain{T: t, dir: t.TempDir(), config: config}
	c.open()
	if _, err := c.app.InitChain(ctx, &abci.RequestInitChain{InitialHeight: 1, Validators: validators}); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *chain) open() {
	c.Helper()
	app, err := Open(c.dir, c.config, log.NewNopLogger())
	if err != nil {
		c.Fatal(err)
	}
	c.app = app
	c.Cleanup(func() { _ = app.Close() }) // some tests close it earlier
}

func (c *chain) finalize(request abci.RequestFinalizeBlock) *abci.ResponseFinalizeBlock {
	c.Helper()
	request.Height = c.height + 1
	response, err := c.app.FinalizeBlock(ctx, &request)
	if err != nil {
		c.Fatal(err)
	}
	return response
}

func (c *chain) block(txs ...string) []byte {
	c.Helper()
	request := abci.RequestFinalizeBlock{}
	for _, tx := range txs {
		request.Txs = append(request.Txs, []byte(tx))
	}
	response := c.finalize(request)
	c.commit()
	c.hash = response.AppHash
	return c.hash
}

func (c *chain) commit() *abci.ResponseCommit {
	c.Helper()
	response, err := c.app.Commit(ctx, &abci.RequestCommit{})
	if err != nil {
		c.Fatal(err)
	}
	c.height++
	return response
}

func (c *chain) fill(blocks, txs int, seed uint64) {
	c.Helper()
	random := rand.New(rand.NewPCG(seed, 1))
	for range blocks {
		var block []string
		for range txs {
			value := make([]byte, 20_000)
			for i := range value {
				value[i] = byte(random.Uint32())
			}
			block = append(block, fmt.Sprintf("key-%d=%s", random.IntN(1000), value))
		}
		c.block(block...)
	}
}

func (c *chain) query(path, data string) *abci.ResponseQuery {
	c.Helper()
	response, err := c.app.Query(ctx, &abci.RequestQuery{Path: path, Data: []byte(data)})
	if err != nil {
		c.Fatal(err)
	}
	return response
}

func (c *chain) info() *abci.ResponseInfo {
	c.Helper()
	info, err := c.app.Info(ctx, &abci.RequestInfo{})
	if err != nil {
		c.Fatal(err)
	}
	return info
}

func TestEqualBlocksGiveEqualAppHashes(t *testing.T) {
	one, other := newChain(t, Config{KeepRecent: 3}), newChain(t, Config{})
	for i := range 20 {
		tx := fmt.Sprintf("key-%d=%d", i%7, i)
		if a, b := one.block(tx, "malformed"), other.block(tx, "malformed"); !bytes.Equal(a, b) {
			t.Fatalf("block %d: %X and %X", i+1, a, b)
		}
	}
}

func TestTheAppHashCoversEveryValue(t *testing.T) {
	one, other := newChain(t, Config{}), newChain(t, Config{})
	one.block("a=1", "b=1")
	other.block("a=1", "b=2")
	if a, b := one.block("c=1"), other.block("c=1"); bytes.Equal(a, b) {
		t.Fatalf("different states have the app hash %X", a)
	}
}

func TestACommittedBlockIsThereAfterReopening(t *testing.T) {
	c := newChain(t, Config{})
	c.block("a=1")
	hash := c.block()
	if err := c.app.Close(); err != nil {
		t.Fatal(err)
	}
	c.open()
	if info := c.info(); info.LastBlockHeight != 2 || !bytes.Equal(info.LastBlockAppHash, hash) {
		t.Fatalf("height %d, app hash %X, want 2, %X", info.LastBlockHeight, info.LastBlockAppHash, hash)
	}
	if got := c.query("/key", "a"); string(got.Value) != "1" || got.Height != 2 {
		t.Fatalf("query: %+v", got)
	}
}

func TestABlockThatWasNotCommittedLeavesNoTrace(t *testing.T) {
	c, plain := newChain(t, Config{}), newChain(t, Config{})
	c.block("a=1")
	plain.block("a=1")
	c.finalize(abci.RequestFinalizeBlock{Txs: [][]byte{[]byte("ghost=1")}})
	if a, b := c.block("b=2"), plain.block("b=2"); !bytes.Equal(a, b) {
		t.Fatalf("app hash %X, want %X", a, b)
	}
	if got := c.query("/key", "ghost"); got.Code != codeNotFound {
		t.Fatalf("the ghost is there: %q", got.Value)
	}
}

func TestQueriesAnswerKeySizeAndUnknownPaths(t *testing.T) {
	c := newChain(t, Config{}, update(t, 10))
	if got := c.query("/size", ""); got.Code != codeNotFound {
		t.Fatalf("before the first block: %+v", got)
	}
	c.block("a=1", "b=", "a=2")
	if got := c.query("/size", ""); string(got.Value) != "2" {
		t.Fatalf("size %q, want 2", got.Value)
	}
	if got := c.query("/key", "b"); got.Code != codeOK {
		t.Fatalf("an empty value is not found: %+v", got)
	}
	if got := c.query("/nothing", ""); got.Code != codeBadQuery {
		t.Fatalf("unknown path: %+v", got)
	}
}

func TestPruningKeepsRecentVersionsAndAnArchiveKeepsAll(t *testing.T) {
	pruned, archive := newChain(t, Config{KeepRecent: 5, PruneInterval: 2}), newChain(t, Config{})
	for range 20 {
		pruned.block("a=1")
		archive.block("a=1")
	}
	if first := pruned.app.store.tree.AvailableVersions()[0]; first != 16 {
		t.Errorf("the pruned tree starts at version %d, want 16", first)
	}
	if first := archive.app.store.tree.AvailableVersions()[0]; first != 1 {
		t.Errorf("the archive starts at version %d, want 1", first)
	}
}

func TestBlocksOutsideTheRetainedRangeAreReleased(t *testing.T) {
	c := newChain(t, Config{RetainBlocks: 3})
	for _, want := range []int64{0, 0, 0, 1, 2} {
		c.finalize(abci.RequestFinalizeBlock{})
		if got := c.commit().RetainHeight; got != want {
			t.Errorf("height %d: retain height %d, want %d", c.height, got, want)
		}
	}
}

func update(t *testing.T, power int64) abci.ValidatorUpdate {
	t.Helper()
	key, err := cryptoenc.PubKeyToProto(ed25519.GenPrivKey().PubKey())
	if err != nil {
		t.Fatal(err)
	}
	return abci.ValidatorUpdate{PubKey: key, Power: power}
}

func TestMisbehaviourIsRecordedAndTakesAllPower(t *testing.T) {
	guilty, honest := update(t, 10), update(t, 10)
	c := newChain(t, Config{}, guilty, honest)
	c.block()
	punishOnce := func(who abci.ValidatorUpdate, height int64) []abci.ValidatorUpdate {
		address, _, err := validatorFromUpdate(who)
		if err != nil {
			t.Fatal(err)
		}
		response := c.finalize(abci.RequestFinalizeBlock{Misbehavior: []abci.Misbehavior{{
			Type: abci.MisbehaviorType_DUPLICATE_VOTE, Height: height, Time: time.Unix(1, 0),
			Validator: abci.Validator{Address: address, Power: 10},
		}}})
		c.commit()
		return response.ValidatorUpdates
	}
	if got := punishOnce(guilty, 1); len(got) != 1 || got[0].Power != 0 || !got[0].PubKey.Equal(guilty.PubKey) {
		t.Fatalf("validator updates %v", got)
	}
	if got := punishOnce(guilty, 2); len(got) != 0 {
		t.Errorf("a tombstoned validator was removed again: %v", got)
	}
	if got := punishOnce(honest, 3); len(got) != 0 {
		t.Errorf("the last validator was removed: %v", got)
	}
	var found []Evidence
	if err := json.Unmarshal(c.query("/evidence", "").Value, &found); err != nil || len(found) != 3 {
		t.Fatalf("evidence %v, %v", found, err)
	}
	if found[0].Height != 1 || found[0].Type != "DUPLICATE_VOTE" {
		t.Errorf("evidence %+v", found[0])
	}
}

// source returns a chain with one finished snapshot, made at its last height.
func source(t *testing.T) (*chain, *abci.Snapshot) {
	t.Helper()
	c := newChain(t, Config{SnapshotInterval: 10, SnapshotKeep: 2}, update(t, 10))
	c.fill(10, 15, 7)
	c.app.snapshotRun.Wait()
	listed, err := c.app.ListSnapshots(ctx, &abci.RequestListSnapshots{})
	if err != nil || len(listed.Snapshots) != 1 {
		t.Fatalf("snapshots %v, %v", listed, err)
	}
	return c, listed.Snapshots[0]
}

func (c *chain) offer(s *abci.Snapshot, appHash []byte) abci.ResponseOfferSnapshot_Result {
	c.Helper()
	response, err := c.app.OfferSnapshot(ctx, &abci.RequestOfferSnapshot{Snapshot: s, AppHash: appHash})
	if err != nil {
		c.Fatal(err)
	}
	return response.Result
}

func (c *chain) apply(index uint32, chunk []byte) *abci.ResponseApplySnapshotChunk {
	c.Helper()
	response, err := c.app.ApplySnapshotChunk(ctx, &abci.RequestApplySnapshotChunk{Index: index, Chunk: chunk, Sender: "peer"})
	if err != nil {
		c.Fatal(err)
	}
	return response
}

func (c *chain) chunk(s *abci.Snapshot, index uint32) []byte {
	c.Helper()
	response, err := c.app.LoadSnapshotChunk(ctx, &abci.RequestLoadSnapshotChunk{Height: s.Height, Format: s.Format, Chunk: index})
	if err != nil {
		c.Fatal(err)
	}
	return response.Chunk
}

func empty(t *testing.T) *chain {
	t.Helper()
	c := &chain{T: t, dir: t.TempDir()}
	c.open()
	return c
}

func TestASnapshotRestoresTheSameState(t *testing.T) {
	from, snapshot := source(t)
	to := empty(t)
	if snapshot.Chunks < 2 {
		t.Fatalf("%d chunk: the test wants several", snapshot.Chunks)
	}
	if got := to.offer(snapshot, from.hash); got != abci.ResponseOfferSnapshot_ACCEPT {
		t.Fatal(got)
	}
	for i := range snapshot.Chunks {
		if got := to.apply(i, from.chunk(snapshot, i)); got.Result != abci.ResponseApplySnapshotChunk_ACCEPT {
			t.Fatalf("chunk %d: %v", i, got)
		}
	}
	if info := to.info(); info.LastBlockHeight != 10 || !bytes.Equal(info.LastBlockAppHash, from.hash) {
		t.Fatalf("height %d, app hash %X", info.LastBlockHeight, info.LastBlockAppHash)
	}
	to.height = 10
	for i := range 30 {
		tx := fmt.Sprintf("key-%d=new", i*31)
		if a, b := from.block(tx), to.block(tx); !bytes.Equal(a, b) {
			t.Fatalf("block %d after the restore: %X and %X", i+1, a, b)
		}
	}
	if a, b := from.query("/size", ""), to.query("/size", ""); !bytes.Equal(a.Value, b.Value) {
		t.Fatalf("sizes %s and %s", a.Value, b.Value)
	}
}

func TestTwoNodesMakeTheSameSnapshot(t *testing.T) {
	one, other := newChain(t, Config{SnapshotInterval: 4}), newChain(t, Config{SnapshotInterval: 2})
	var hashes [][]byte
	for _, c := range []*chain{one, other} {
		for seed := range uint64(4) {
			c.fill(1, 5, seed)
			c.app.snapshotRun.Wait() // a running export skips later ones
		}
		listed, err := c.app.ListSnapshots(ctx, &abci.RequestListSnapshots{})
		if err != nil || len(listed.Snapshots) == 0 || listed.Snapshots[0].Height != 4 {
			t.Fatalf("snapshots %v, %v", listed, err)
		}
		hashes = append(hashes, listed.Snapshots[0].Hash)
	}
	if !bytes.Equal(hashes[0], hashes[1]) {
		t.Fatal("peers could not share the load of one snapshot")
	}
}

func TestACorruptChunkIsRefusedAndAGoodOneStillTaken(t *testing.T) {
	from, snapshot := source(t)
	to := empty(t)
	to.offer(snapshot, from.hash)
	for i := range snapshot.Chunks {
		good := from.chunk(snapshot, i)
		bad := bytes.Clone(good)
		bad[len(bad)/2] ^= 1
		if got := to.apply(i, bad); got.Result != abci.ResponseApplySnapshotChunk_RETRY || len(got.RejectSenders) != 1 {
			t.Fatalf("corrupt chunk %d: %v", i, got)
		}
		if got := to.apply(i, good); got.Result != abci.ResponseApplySnapshotChunk_ACCEPT {
			t.Fatalf("chunk %d: %v", i, got)
		}
	}
	if info := to.info(); !bytes.Equal(info.LastBlockAppHash, from.hash) {
		t.Fatalf("app hash %X, want %X", info.LastBlockAppHash, from.hash)
	}
}

func TestAStateThatIsNotTheChainsIsNeverPutInPlace(t *testing.T) {
	from, snapshot := source(t)
	to := empty(t)
	to.offer(snapshot, bytes.Repeat([]byte{1}, 32))
	var last *abci.ResponseApplySnapshotChunk
	for i := range snapshot.Chunks {
		last = to.apply(i, from.chunk(snapshot, i))
	}
	if last.Result != abci.ResponseApplySnapshotChunk_REJECT_SNAPSHOT {
		t.Fatal(last)
	}
	if info := to.info(); info.LastBlockHeight != 0 {
		t.Fatalf("height %d after a rejected snapshot", info.LastBlockHeight)
	}
	if _, err := os.Stat(dbPath(to.dir, importDBName)); !os.IsNotExist(err) {
		t.Errorf("the rejected import was left behind: %v", err)
	}
}

func TestAMalformedStreamIsAnErrorNotACrash(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 50 {
		chunk := make([]byte, 1+random.IntN(300))
		for i := range chunk {
			chunk[i] = byte(random.Uint32() % 5) // small numbers get further into the decoder
		}
		to := empty(t)
		w := &chunkWriter{dir: t.TempDir()}
		if _, err := w.Write(chunk); err != nil {
			t.Fatal(err)
		}
		if err := w.flush(); err != nil {
			t.Fatal(err)
		}
		offer := &abci.Snapshot{Height: 5, Format: snapshotFormat, Chunks: 1, Metadata: w.sums, Hash: sum(w.sums)}
		if got := to.offer(offer, []byte("hash")); got != abci.ResponseOfferSnapshot_ACCEPT {
			t.Fatal(got)
		}
		if got := to.apply(0, chunk); got.Result != abci.ResponseApplySnapshotChunk_REJECT_SNAPSHOT {
			t.Fatalf("round %d: %v", round, got)
		}
		if err := to.app.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMalformedOffersAreRejected(t *testing.T) {
	_, good := source(t)
	to := empty(t)
	for name, spoil := range map[string]func(*abci.Snapshot){
		"format":   func(s *abci.Snapshot) { s.Format = 9 },
		"chunks":   func(s *abci.Snapshot) { s.Chunks++ },
		"none":     func(s *abci.Snapshot) { s.Chunks, s.Metadata = 0, nil },
		"hash":     func(s *abci.Snapshot) { s.Hash = []byte("x") },
		"metadata": func(s *abci.Snapshot) { s.Metadata[0] ^= 1 },
	} {
		offer := *good
		offer.Metadata = bytes.Clone(good.Metadata)
		spoil(&offer)
		if got := to.offer(&offer, []byte("hash")); got != abci.ResponseOfferSnapshot_REJECT {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestARestoreThatDiedIsClearedAway(t *testing.T) {
	from, snapshot := source(t)
	to := empty(t)
	to.offer(snapshot, from.hash)
	to.apply(0, from.chunk(snapshot, 0))
	if err := to.app.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dbPath(to.dir, importDBName), 0o755); err != nil { // as a killed process leaves it
		t.Fatal(err)
	}
	to.open()
	if _, err := os.Stat(dbPath(to.dir, importDBName)); !os.IsNotExist(err) {
		t.Errorf("the old import is still there: %v", err)
	}
	if got := to.offer(snapshot, from.hash); got != abci.ResponseOfferSnapshot_ACCEPT {
		t.Fatal(got)
	}
}

func TestOldSnapshotsArePruned(t *testing.T) {
	c := newChain(t, Config{SnapshotInterval: 2, SnapshotKeep: 2})
	for range 10 {
		c.block("a=1")
		c.app.snapshotRun.Wait()
	}
	listed, err := c.app.ListSnapshots(ctx, &abci.RequestListSnapshots{})
	if err != nil || len(listed.Snapshots) != 2 || listed.Snapshots[0].Height != 10 || listed.Snapshots[1].Height != 8 {
		t.Fatalf("snapshots %v, %v", listed, err)
	}
}

func TestTheRootIsRecomputedFromEveryKeyAndValue(t *testing.T) {
	c := newChain(t, Config{})
	for i := range 30 {
		c.block(fmt.Sprintf("key-%d=value-%d", i%11, i), fmt.Sprintf("b-%d=%d", i, i))
	}
	if err := c.app.Close(); err != nil {
		t.Fatal(err)
	}
	height, hash, err := RecomputeRoot(c.dir)
	if err != nil || height != 30 || !bytes.Equal(hash, c.hash) {
		t.Fatalf("height %d, %X, %v; want 30, %X", height, hash, err, c.hash)
	}
	damageLeaf(t, c.dir, "value-29")
	if _, hash, err := ReadTip(c.dir); err != nil || !bytes.Equal(hash, c.hash) {
		t.Fatalf("the stored root was to stay as it was: %X, %v", hash, err)
	}
	if _, hash, err := RecomputeRoot(c.dir); err != nil || bytes.Equal(hash, c.hash) {
		t.Fatalf("a damaged value is not seen: %X, %v", hash, err)
	}
}

// damageLeaf alters a value as a fault of the node's memory would: before the database's own checksums.
func damageLeaf(t *testing.T, dir, value string) {
	t.Helper()
	db, err := leveldb.OpenFile(dbPath(dir, dbName), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	found := db.NewIterator(nil, nil)
	defer found.Release()
	for found.Next() {
		if bytes.Contains(found.Value(), []byte(value)) {
			altered := bytes.Replace(found.Value(), []byte(value), []byte("X"+value[1:]), 1)
			if err := db.Put(found.Key(), altered, nil); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatal("no such value")
}

func TestAStateWithoutKeysHasARootToo(t *testing.T) {
	c := newChain(t, Config{})
	c.block()
	if err := c.app.Close(); err != nil {
		t.Fatal(err)
	}
	if _, hash, err := RecomputeRoot(c.dir); err != nil || !bytes.Equal(hash, c.hash) {
		t.Fatalf("%X, %v; want %X", hash, err, c.hash)
	}
}

func TestRollBackReturnsToTheOlderState(t *testing.T) {
	c := newChain(t, Config{})
	c.block("a=1")
	older := c.block("a=2")
	c.block("a=3")
	if err := c.app.Close(); err != nil {
		t.Fatal(err)
	}
	if err := RollBack(c.dir, 2); err != nil {
		t.Fatal(err)
	}
	height, hash, err := ReadTip(c.dir)
	if err != nil || height != 2 || !bytes.Equal(hash, older) {
		t.Fatalf("height %d, app hash %X, %v, want 2, %X", height, hash, err, older)
	}
}
