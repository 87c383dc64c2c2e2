// Package provider is the lab's stand-in for VirtEngine's provider daemon.
//
// It is not the daemon: it serves no marketplace. It follows the chain as the daemon
// does and keeps the same files in the same formats, so that backup, restore and
// reconciliation of provider state can be exercised. Every transaction that succeeded
// is an event with the sequence height*1000 + index. Events are handled at least once:
// one handled again after a restore shows as a second line in portal_audit.log.
package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"crypto/sha256"

	"virtengine.dev/vedr/lab/internal/chainrpc"
	"virtengine.dev/vedr/lab/internal/durable"
)

const (
	sequencesPerBlock = 1000
	pollInterval      = 500 * time.Millisecond
	// A chain that gave no news for this long makes /healthz say so.
	stalledAfter  = 15 * time.Second
	keptCallbacks = 16
)

// Config is one provider.
type Config struct {
	Home    string
	ID      string
	Listen  string
	Wait    bool // wait for a chain that is behind the checkpoints instead of refusing
	Reserve bool // go on as whoever the checkpoints are of: a failover put them there
}

type event struct {
	Subscriber string    `json:"subscriber_id"`
	Sequence   int64     `json:"sequence"`
	TxHash     string    `json:"tx_hash"`
	HandledAt  time.Time `json:"handled_at"`
}

// provisioningState is what provisioning_state.json holds.
type provisioningState struct {
	Provisioned  int64     `json:"provisioned"`
	LastSequence int64     `json:"last_sequence"`
	LastTxHash   string    `json:"last_tx_hash"`
	UpdatedAt    time.Time `json:"updated_at"`
}

// Health is the answer of /healthz.
type Health struct {
	Status       string `json:"status"` // starting, ok or stalled
	LastSequence int64  `json:"last_sequence"`
	Height       int64  `json:"height"`
	LagBlocks    int64  `json:"lag_blocks"`
}

type daemon struct {
	config      Config
	client      *chainrpc.Client
	checkpoints *checkpoints
	state       provisioningState
	audit       *os.File

	mu     sync.Mutex
	health Health
	seenAt time.Time // when an endpoint last answered
}

// Run follows the chain until ctx ends.
func Run(ctx context.Context, client *chainrpc.Client, config Config) error {
	d, err := open(client, config)
	if err != nil {
		return err
	}
	defer d.audit.Close()
	server := &http.Server{Addr: config.Listen, Handler: d.handler(), ReadHeaderTimeout: 5 * time.Second}
	defer server.Close()
	serving := make(chan error, 1)
	go func() { serving <- server.ListenAndServe() }()
	following := make(chan error, 1)
	go func() { following <- d.follow(ctx) }()
	select {
	case err = <-serving:
		return fmt.Errorf("serve /healthz: %w", err)
	case err = <-following:
	}
	if ctx.Err() != nil {
		err = nil
	}
	return errors.Join(err, d.audit.Sync())
}

func open(client *chainrpc.Client, config Config) (*daemon, error) {
	d := &daemon{config: config, client: client, health: Health{Status: "starting"}}
	if err := os.MkdirAll(filepath.Join(config.Home, "callbacks"), 0o755); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(d.dataDir(), 0o755); err != nil {
		return nil, err
	}
	var err error
	if config.Reserve {
		if d.config.ID, err = ownerOf(d.dataDir(), config.ID); err != nil {
			return nil, err
		}
	}
	if d.checkpoints, err = loadCheckpoints(d.dataDir(), d.config.ID); err != nil {
		return nil, err
	}
	if err := d.loadState(); err != nil {
		return nil, err
	}
	d.audit, err = os.OpenFile(filepath.Join(config.Home, "portal_audit.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	return d, err
}

func (d *daemon) dataDir() string   { return filepath.Join(d.config.Home, "data") }
func (d *daemon) statePath() string { return filepath.Join(d.dataDir(), "provisioning_state.json") }

func (d *daemon) loadState() error {
	data, err := os.ReadFile(d.statePath())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, &d.state); err != nil {
		return fmt.Errorf("%s is corrupt: %w", d.statePath(), err)
	}
	return nil
}

// follow handles block after block from the lowest checkpoint on.
func (d *daemon) follow(ctx context.Context) error {
	if err := d.awaitChain(ctx); err != nil {
		return err
	}
	height := max(d.checkpoints.lowest()/sequencesPerBlock, 1)
	for ctx.Err() == nil {
		status, err := d.client.Tip(ctx)
		if err != nil {
			pause(ctx)
			continue
		}
		if status.EarliestHeight > height {
			log.Printf("blocks %d to %d are not to be had: their events are missed", height, status.EarliestHeight-1)
			height = status.EarliestHeight
		}
		d.observe(height-1, status.LatestHeight)
		for ; height <= status.LatestHeight && ctx.Err() == nil; height++ {
			block, err := d.client.Block(ctx, height)
			if err != nil {
				break
			}
			if err := d.handle(block); err != nil {
				return err
			}
			d.observe(height, max(height, status.LatestHeight))
		}
		pause(ctx)
	}
	return ctx.Err()
}

// awaitChain refuses to start ahead of the chain: checkpoints from a future that the
// chain no longer has would make the daemon skip real events.
func (d *daemon) awaitChain(ctx context.Context) error {
	ahead := d.checkpoints.highest()
	for {
		status, err := d.client.Tip(ctx)
		tip := (status.LatestHeight+1)*sequencesPerBlock - 1
		if err == nil && ahead <= tip {
			return nil
		}
		if err == nil && !d.config.Wait {
			return fmt.Errorf("the checkpoints are at sequence %d, above the chain's tip at height %d (sequence %d): "+
				"reconcile them with the chain, or start with --wait if the chain is catching up", ahead, status.LatestHeight, tip)
		}
		if !pause(ctx) {
			return ctx.Err()
		}
	}
}

func (d *daemon) handle(block chainrpc.Block) error {
	for _, stream := range streams {
		last, handled := d.checkpoints.last[stream], false
		for i, tx := range block.Txs {
			sequence := block.Height*sequencesPerBlock + int64(i)
			if block.Codes[i] != 0 || sequence <= last || i >= sequencesPerBlock {
				continue
			}
			if err := d.handleEvent(stream, sequence, tx); err != nil {
				return err
			}
			last, handled = sequence, true
		}
		if !handled {
			continue
		}
		if stream == "provisioning" {
			if err := durable.WriteJSON(d.statePath(), d.state, 0o644); err != nil {
				return err
			}
		}
		if err := d.checkpoints.advance(stream, last); err != nil { // after the work it stands for
			return err
		}
	}
	return nil
}

func (d *daemon) handleEvent(stream string, sequence int64, tx []byte) error {
	hash := sha256.Sum256(tx)
	e := event{
		Subscriber: d.checkpoints.subscriber(stream), Sequence: sequence,
		TxHash: fmt.Sprintf("%X", hash), HandledAt: time.Now().UTC(),
	}
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if _, err := d.audit.Write(append(line, '\n')); err != nil {
		return err
	}
	if stream != "provisioning" {
		return nil
	}
	d.state = provisioningState{
		Provisioned: d.state.Provisioned + 1, LastSequence: sequence, LastTxHash: e.TxHash, UpdatedAt: e.HandledAt,
	}
	if d.state.Provisioned%100 != 0 {
		return nil
	}
	return d.callBack(e)
}

// callBack leaves a file as the daemon does for a callback that is under way.
func (d *daemon) callBack(e event) error {
	dir := filepath.Join(d.config.Home, "callbacks")
	if err := durable.WriteJSON(filepath.Join(dir, fmt.Sprintf("%020d.json", e.Sequence)), e, 0o644); err != nil {
		return err
	}
	all, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return err
	}
	slices.Sort(all)
	for _, old := range all[:max(len(all)-keptCallbacks, 0)] {
		if err := os.Remove(old); err != nil {
			return err
		}
	}
	return nil
}

func (d *daemon) observe(height, tip int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seenAt = time.Now()
	d.health = Health{Status: "ok", LastSequence: d.checkpoints.lowest(), Height: height, LagBlocks: tip - height}
}

func (d *daemon) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		d.mu.Lock()
		health := d.health
		if health.Status == "ok" && time.Since(d.seenAt) > stalledAfter {
			health.Status = "stalled"
		}
		d.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		if health.Status != "ok" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(health) // the client may have gone
	})
	return mux
}

func pause(ctx context.Context) bool {
	timer := time.NewTimer(pollInterval)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
