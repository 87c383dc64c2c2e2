// Package load writes transactions to a chain at a steady rate and records which of
// them were committed.
//
// A line in the acknowledgement file means that the transaction stands in a block that
// an endpoint served, with result code 0. A transaction without a line may be committed
// or not. Memory is bounded: what is not confirmed in time is forgotten.
package load

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"virtengine.dev/vedr/lab/internal/chainrpc"
)

const (
	senders        = 4
	maxPending     = 4096
	confirmTimeout = 2 * time.Minute
	pollInterval   = 250 * time.Millisecond
	// lastConfirm is how long an ending run still waits for its transactions.
	lastConfirm = 3 * time.Second
)

// Config is one run of the generator.
type Config struct {
	Rate       float64 // transactions per second
	ValueBytes int
	Keys       int // the number of different keys; 0 makes every key new
	Acked      string
	Duration   time.Duration // 0 runs until stopped
	Seed       uint64
}

// Ack is a line of the acknowledgement file.
type Ack struct {
	Key    string    `json:"key"`
	SHA256 string    `json:"sha256"` // of the value
	Height int64     `json:"height"`
	Time   time.Time `json:"time"` // of the block
}

type sent struct {
	key   string
	value string // its SHA-256
	at    time.Time
}

type generator struct {
	config Config
	client *chainrpc.Client
	acked  *os.File

	mu      sync.Mutex
	pending map[[sha256.Size]byte]sent
	counts  struct{ broadcast, refused, acked, forgotten int64 }
}

// Run generates load until ctx ends or the duration is over.
func Run(ctx context.Context, client *chainrpc.Client, config Config) error {
	acked, err := os.OpenFile(config.Acked, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer acked.Close()
	g := &generator{config: config, client: client, acked: acked, pending: map[[sha256.Size]byte]sent{}}
	height, err := g.firstHeight(ctx)
	if err != nil {
		return ctxDone(ctx, err)
	}
	sending, stopSending := ctx, context.CancelFunc(func() {})
	if config.Duration > 0 {
		sending, stopSending = context.WithTimeout(ctx, config.Duration)
	}
	defer stopSending()
	confirming, stopConfirming := context.WithCancel(context.Background())
	defer stopConfirming()
	confirmed := make(chan error, 1)
	go func() { confirmed <- g.confirm(confirming, height) }()
	g.send(sending)
	g.drain(confirming, confirmed)
	stopConfirming()
	err = <-confirmed
	log.Printf("sent %d, refused %d, acknowledged %d, not confirmed in time %d",
		g.counts.broadcast, g.counts.refused, g.counts.acked, g.counts.forgotten)
	return errors.Join(err, acked.Sync())
}

// firstHeight waits for an endpoint; confirmation starts behind its tip.
func (g *generator) firstHeight(ctx context.Context) (int64, error) {
	for {
		status, err := g.client.Tip(ctx)
		if err == nil {
			return status.LatestHeight + 1, nil
		}
		log.Printf("waiting for the chain: %v", err)
		if !pause(ctx, time.Second) {
			return 0, err
		}
	}
}

// send hands out transactions at the rate; what senders cannot take is skipped.
func (g *generator) send(ctx context.Context) {
	txs := make(chan [2][]byte)
	var all sync.WaitGroup
	for range senders {
		all.Go(func() {
			for tx := range txs {
				g.broadcast(ctx, tx[0], tx[1])
			}
		})
	}
	ticker := time.NewTicker(time.Duration(float64(time.Second) / g.config.Rate))
	defer ticker.Stop()
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], g.config.Seed)
	random := rand.NewChaCha8(seed)
	for n := uint64(0); ; n++ {
		select {
		case <-ctx.Done():
			close(txs)
			all.Wait()
			return
		case <-ticker.C:
		}
		select {
		case txs <- [2][]byte{g.key(n), randomValue(random, g.config.ValueBytes)}:
		default:
		}
	}
}

func (g *generator) key(n uint64) []byte {
	if g.config.Keys > 0 {
		return fmt.Appendf(nil, "load/%d", n%uint64(g.config.Keys))
	}
	return fmt.Appendf(nil, "load/%x/%d", g.config.Seed, n)
}

func randomValue(random *rand.ChaCha8, size int) []byte {
	value := make([]byte, size)
	_, _ = random.Read(value) // never fails
	return value
}

func (g *generator) broadcast(ctx context.Context, key, value []byte) {
	tx := append(append(key, '='), value...)
	id, valueHash := sha256.Sum256(tx), sha256.Sum256(value)
	g.mu.Lock()
	full := len(g.pending) >= maxPending
	if !full { // before the broadcast: the block may come first
		g.pending[id] = sent{key: string(key), value: hex.EncodeToString(valueHash[:]), at: time.Now()}
	}
	g.mu.Unlock()
	if full {
		return
	}
	err := g.client.BroadcastSync(ctx, tx)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil { // it stays pending: an endpoint may have taken it before failing
		g.counts.refused++
		return
	}
	g.counts.broadcast++
}

// confirm reads blocks as they come and acknowledges what it finds.
func (g *generator) confirm(ctx context.Context, height int64) error {
	for {
		block, err := g.client.Block(ctx, height)
		if err != nil {
			if !pause(ctx, pollInterval) {
				return nil
			}
			if height, err = g.skipPruned(ctx, height); err != nil {
				g.forgetOld()
			}
			continue
		}
		if err := g.acknowledge(block); err != nil {
			return err
		}
		g.forgetOld()
		height++
	}
}

// skipPruned moves on when no endpoint keeps the height any more.
func (g *generator) skipPruned(ctx context.Context, height int64) (int64, error) {
	status, err := g.client.Tip(ctx)
	if err == nil && status.EarliestHeight > height {
		log.Printf("blocks %d to %d are not to be had: going on after them", height, status.EarliestHeight-1)
		return status.EarliestHeight, nil
	}
	return height, err
}

func (g *generator) acknowledge(block chainrpc.Block) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var lines []byte
	for i, tx := range block.Txs {
		id := sha256.Sum256(tx)
		found, ours := g.pending[id]
		if !ours {
			continue
		}
		delete(g.pending, id)
		if block.Codes[i] != 0 {
			continue
		}
		line, err := json.Marshal(Ack{Key: found.key, SHA256: found.value, Height: block.Height, Time: block.Time})
		if err != nil {
			return err
		}
		lines = append(append(lines, line...), '\n')
		g.counts.acked++
	}
	if len(lines) == 0 {
		return nil
	}
	_, err := g.acked.Write(lines)
	return err
}

func (g *generator) forgetOld() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, tx := range g.pending {
		if time.Since(tx.at) > confirmTimeout {
			delete(g.pending, id)
			g.counts.forgotten++
		}
	}
}

// drain gives the last transactions a moment to be confirmed.
func (g *generator) drain(ctx context.Context, confirmed chan error) {
	deadline := time.Now().Add(lastConfirm)
	for time.Now().Before(deadline) {
		g.mu.Lock()
		left := len(g.pending)
		g.mu.Unlock()
		if left == 0 || len(confirmed) > 0 || !pause(ctx, pollInterval/2) {
			return
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// ctxDone turns a failure into a clean end when the run was stopped.
func ctxDone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
