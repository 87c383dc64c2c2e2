package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/syndtr/goleveldb/leveldb"
	"github.com/syndtr/goleveldb/leveldb/opt"
)

const (
	bytesPerHeight  = 40_000 // rows of all databases together
	storedPerHeight = 34_900 // the same as tables, measured
	loadedShare     = 0.97   // of the first state is loaded in key order; the rest is lived through, height by height
	usualBytes      = 2_000_000_000
	batchBytes      = 512 << 10
	firstHeight     = 2_000_000 // of a chain that has run for months, and whose nodes prune
	minHeights      = 100
	settlePoll      = 2 * time.Millisecond
	settleQuiet     = 500 * time.Millisecond
	logBytes        = 10 << 20 // of the consensus write-ahead log's head, as a node keeps it
)

// family is one kind of row of a database.
type family struct {
	share     float64 // of bytesPerHeight
	valueSize int
	prunes    bool // the oldest heights are deleted as new ones come
	updates   bool // new heights overwrite random earlier rows: an index of live state, not a history
	key       func(height, row int64, place uint64) []byte
}

// shape is a database's name and families, in key order.
type shape struct {
	name     string
	families []family
}

// shapes give the measured mix of a node: history in order of versions or heights, and rows under random keys.
var shapes = []shape{
	{"application.db", []family{
		{share: 0.10, valueSize: 160, updates: true, key: randomKey("s/k:bank/f")},
		{share: 0.32, valueSize: 190, prunes: true, key: versionKey("s/k:bank/s")},
	}},
	{"blockstore.db", []family{
		{share: 0.02, valueSize: 420, prunes: true, key: heightKey("C:%d")},
		{share: 0.33, valueSize: 6000, prunes: true, key: heightRowKey("P:%d:%d")},
	}},
	{"tx_index.db", []family{
		{share: 0.08, valueSize: 900, prunes: true, key: randomKey("")},
		{share: 0.08, valueSize: 70, prunes: true, key: heightRowKey("tx.height/%[1]d/%[1]d/%[2]d$es$0")},
	}},
	{"state.db", []family{
		{share: 0.07, valueSize: 1400, prunes: true, key: heightRowKey("abciResponsesKey:%d:%d")},
	}},
}

func (f family) rowsPerHeight() int64 {
	return max(1, int64(f.share*bytesPerHeight/float64(f.valueSize+24)))
}

// randomKey spreads rows over the whole key space: place is uniform.
func randomKey(prefix string) func(int64, int64, uint64) []byte {
	return func(_, row int64, place uint64) []byte {
		key := binary.BigEndian.AppendUint64([]byte(prefix), place)
		return binary.BigEndian.AppendUint64(key, mix(place^uint64(row)))
	}
}

// versionKey orders rows by version, as iavl since 1.0 does.
func versionKey(prefix string) func(int64, int64, uint64) []byte {
	return func(height, row int64, _ uint64) []byte {
		key := binary.BigEndian.AppendUint64([]byte(prefix), uint64(height))
		return binary.BigEndian.AppendUint32(key, uint32(row))
	}
}

func heightKey(format string) func(int64, int64, uint64) []byte {
	return func(height, _ int64, _ uint64) []byte { return fmt.Appendf(nil, format, height) }
}

func heightRowKey(format string) func(int64, int64, uint64) []byte {
	return func(height, row int64, _ uint64) []byte { return fmt.Appendf(nil, format, height, row) }
}

// database writes one of the shapes.
type database struct {
	shape   shape
	seed    uint64
	db      *leveldb.DB
	batch   leveldb.Batch
	values  *values
	heights int64 // of the first state
}

func openDatabase(folder string, s shape, p plan) (*database, error) {
	// Else goleveldb's defaults, as cometbft-db and cosmos-db open with: snappy, blocks of 4 KiB, tables of 2 MiB.  The
	// buffer is half the default: what is loaded in key order stays as it was flushed, and should be of a table's size.
	// Levels shrink with a smaller set, so that it has as many of them as the usual one.
	level := int(int64(opt.DefaultCompactionTotalSize) * min(p.Bytes, usualBytes) / usualBytes)
	options := &opt.Options{NoSync: true, WriteBuffer: opt.DefaultCompactionTableSize, CompactionTotalSize: level}
	db, err := leveldb.OpenFile(filepath.Join(folder, s.name), options)
	if err != nil {
		return nil, err
	}
	seed := p.Seed
	for _, letter := range s.name {
		seed = mix(seed ^ uint64(letter))
	}
	return &database{shape: s, seed: seed, db: db, values: newValues(seed ^ uint64(p.Height)), heights: p.Bytes / storedPerHeight}, nil
}

func (d *database) close() error { return d.db.Close() }

// loaded is how many heights of the first state went in by key order.
func (d *database) loaded() int64 { return int64(float64(d.heights) * loadedShare) }

// load writes the first state.  Most of it goes in by key order, which spares the rewriting that years of life would
// have cost; the last heights go in as a node writes them, so that the upper levels are filled too.
func (d *database) load(height int64) error {
	loaded := d.loaded()
	for i, f := range d.shape.families {
		rows := f.rowsPerHeight()
		for n := range loaded * rows {
			if err := d.put(f.key(firstHeight+n/rows, n%rows, d.place(i, n, loaded*rows)), f.valueSize); err != nil {
				return err
			}
		}
	}
	if err := d.flush(); err != nil {
		return err
	}
	return d.live(firstHeight+loaded, height, 0, firstHeight)
}

// live writes heights as a node does, and deletes the oldest `pruned` heights from `base` on.
func (d *database) live(from, to, pruned, base int64) error {
	for height := from; height <= to; height++ {
		for i, f := range d.shape.families {
			for row := range f.rowsPerHeight() {
				if err := d.put(f.key(height, row, d.livePlace(i, f, height, row)), f.valueSize); err != nil {
					return err
				}
			}
		}
		if old := base + height - from; old < base+pruned {
			d.prune(old)
		}
	}
	if err := d.flush(); err != nil {
		return err
	}
	return d.settle(settleQuiet)
}

// prune deletes a height's rows.
func (d *database) prune(height int64) {
	loaded := d.loaded()
	for i, f := range d.shape.families {
		rows := f.rowsPerHeight()
		for row := range rows {
			if f.prunes {
				d.batch.Delete(f.key(height, row, d.place(i, d.scattered((height-firstHeight)*rows+row, loaded*rows), loaded*rows)))
			}
		}
	}
}

// place is where row n of the load stands in a random family's key space: ascending, evenly spread, not guessable.
func (d *database) place(familyIndex int, n, total int64) uint64 {
	stride := ^uint64(0) / uint64(max(1, total))
	return uint64(n)*stride + mix(d.seed^uint64(familyIndex)<<56^uint64(n))%stride
}

// livePlace is a loaded row's place for a family that updates, and a new one for a family that only adds.
func (d *database) livePlace(familyIndex int, f family, height, row int64) uint64 {
	random := mix(d.seed ^ uint64(height)<<20 ^ uint64(row)<<4 ^ uint64(familyIndex))
	if !f.updates {
		return random
	}
	total := d.loaded() * f.rowsPerHeight()
	return d.place(familyIndex, int64(random%uint64(max(1, total))), total)
}

// scattered maps the rows of one height to places all over the key space, as hashes do.
func (d *database) scattered(n, total int64) int64 {
	return int64(mix(d.seed^uint64(n)) % uint64(max(1, total)))
}

func (d *database) put(key []byte, valueSize int) error {
	d.batch.Put(key, d.values.next(valueSize))
	if len(d.batch.Dump()) < batchBytes {
		return nil
	}
	return d.flush()
}

func (d *database) flush() error {
	err := d.db.Write(&d.batch, nil)
	d.batch.Reset()
	if err != nil {
		return err
	}
	return d.settle(0)
}

// settle waits until compaction has caught up, and has then done nothing for a while.  A node writes so slowly that it
// always has; without this, what ends in which table would depend on how busy the machine is.
func (d *database) settle(quiet time.Duration) error {
	var last string
	since := time.Now()
	for {
		files, err := d.db.GetProperty("leveldb.num-files-at-level0")
		if err != nil {
			return err
		}
		stats, err := d.db.GetProperty("leveldb.stats")
		if err != nil {
			return err
		}
		if stats != last {
			last, since = stats, time.Now()
		}
		if count, err := strconv.Atoi(files); err != nil || (count < opt.DefaultCompactionL0Trigger && time.Since(since) >= quiet) {
			return err
		}
		time.Sleep(settlePoll)
	}
}

// values makes row contents: hashes, keys and signatures, which don't compress, among names and addresses that come
// again and again, but seldom within one block of a table, where snappy would find them.
type values struct {
	random *rand.ChaCha8
	pool   [][]byte
	buffer []byte
}

const (
	poolEntries  = 120
	poolBytes    = 80 // two addresses, or a validator with its key
	pooledShare  = 0.26
	pooledPerRow = 1000 // thousandths
)

func newValues(seed uint64) *values {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	v := &values{random: rand.NewChaCha8(key), buffer: make([]byte, 8192)}
	for range poolEntries {
		entry := make([]byte, poolBytes)
		_, _ = v.random.Read(entry)
		v.pool = append(v.pool, entry)
	}
	return v
}

func (v *values) next(size int) []byte {
	value := v.buffer[:size]
	_, _ = v.random.Read(value)
	for at := 0; at+poolBytes <= size; at += poolBytes {
		dice := v.random.Uint64()
		if dice%pooledPerRow < pooledShare*pooledPerRow {
			copy(value[at:], v.pool[(dice>>32)%poolEntries])
		}
	}
	return value
}

// mix is splitmix64's finaliser: a cheap bijection without visible pattern.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb
	return x ^ (x >> 31)
}

// writeLog makes the head of the consensus write-ahead log, which is another one at every height.
func writeLog(folder string, p plan) error {
	if err := os.MkdirAll(filepath.Join(folder, "cs.wal"), 0o700); err != nil {
		return err
	}
	v := newValues(p.Seed ^ mix(uint64(p.Height)))
	content := make([]byte, 0, logBytes)
	for len(content) < int(min(logBytes, p.Bytes/100)) {
		content = append(content, v.next(8000)...)
	}
	return os.WriteFile(filepath.Join(folder, "cs.wal", "wal"), content, 0o600)
}
