package node

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	dbm "github.com/cometbft/cometbft-db"
	cfg "github.com/cometbft/cometbft/config"
	"github.com/cometbft/cometbft/crypto/ed25519"
	cmtflags "github.com/cometbft/cometbft/libs/cli/flags"
	"github.com/cometbft/cometbft/libs/log"
	comet "github.com/cometbft/cometbft/node"
	"github.com/cometbft/cometbft/p2p"
	"github.com/cometbft/cometbft/privval"
	"github.com/cometbft/cometbft/proxy"
	"github.com/cometbft/cometbft/types"

	"virtengine.dev/vedr/lab/internal/kvapp"
)

// redialEvery is the pause between attempts to reach a lost persistent peer. CometBFT
// itself waits ever longer after twenty attempts and gives up after some hours.
const redialEvery = 5 * time.Second

// StartOptions change how a home is run.
type StartOptions struct {
	Isolated  bool   // no peers, no signing, p2p on loopback only
	RPCListen string // overrides config.toml when not empty
	P2PListen string // overrides config.toml when not empty
}

// Run runs the node of home until ctx ends, then closes every database.
func Run(ctx context.Context, home string, options StartOptions) (err error) {
	config, err := LoadConfig(home)
	if err != nil {
		return err
	}
	appConfig, err := LoadAppConfig(home)
	if err != nil {
		return err
	}
	options.apply(config)
	signer, nodeKey, err := identities(config, appConfig.Role, options.Isolated)
	if err != nil {
		return err
	}
	logger, err := cmtflags.ParseLogLevel(config.LogLevel, log.NewTMLogger(log.NewSyncWriter(os.Stdout)), cfg.DefaultLogLevel)
	if err != nil {
		return err
	}
	app, err := kvapp.Open(config.DBDir(), appConfig.App, logger.With("module", "app"))
	if err != nil {
		return err
	}
	databases := &openDatabases{}
	defer func() { err = errors.Join(err, app.Close(), databases.close()) }()

	n, err := comet.NewNodeWithContext(ctx, config, signer, nodeKey,
		proxy.NewConnSyncLocalClientCreator(app),
		comet.DefaultGenesisDocProviderFunc(config),
		databases.open,
		comet.DefaultMetricsProvider(config.Instrumentation),
		logger)
	if err != nil {
		return err
	}
	if err := n.Start(); err != nil {
		return err
	}
	if !options.Isolated {
		go redial(ctx, n.Switch(), config.P2P.PersistentPeers)
	}
	select {
	case <-ctx.Done():
		err = n.Stop()
	case <-n.Quit():
		err = errors.New("the node stopped by itself: see the log above")
	}
	n.Wait()
	return err
}

func (o StartOptions) apply(c *cfg.Config) {
	if o.Isolated {
		c.P2P.ListenAddress = "tcp://127.0.0.1:0"
		c.P2P.ExternalAddress = ""
		c.P2P.PersistentPeers = ""
		c.P2P.Seeds = ""
		c.P2P.PexReactor = false
		c.StateSync.Enable = false
		c.PrivValidatorListenAddr = ""
		c.Instrumentation.Prometheus = false
		c.RPC.GRPCListenAddress = ""
		c.RPC.PprofListenAddress = ""
	}
	if o.RPCListen != "" {
		c.RPC.ListenAddress = o.RPCListen
	}
	if o.P2PListen != "" {
		c.P2P.ListenAddress = o.P2PListen
	}
}

// identities loads the keys. CometBFT would make new ones for missing files in silence:
// a validator would go on under another identity, a node would be a stranger to its peers.
func identities(c *cfg.Config, role Role, isolated bool) (types.PrivValidator, *p2p.NodeKey, error) {
	if isolated {
		return types.NewMockPV(), &p2p.NodeKey{PrivKey: ed25519.GenPrivKey()}, nil
	}
	if found, err := fileExists(c.NodeKeyFile()); err != nil || !found {
		return nil, nil, errors.Join(err, fmt.Errorf("node key %s is missing: restore it; a new one would not be known to the peers", c.NodeKeyFile()))
	}
	nodeKey, err := p2p.LoadNodeKey(c.NodeKeyFile())
	if err != nil {
		return nil, nil, fmt.Errorf("node key %s: %w", c.NodeKeyFile(), err)
	}
	signer, err := consensusSigner(c, role)
	return signer, nodeKey, err
}

func consensusSigner(c *cfg.Config, role Role) (types.PrivValidator, error) {
	if c.PrivValidatorListenAddr != "" { // a remote signer connects: CometBFT replaces this one
		return types.NewMockPV(), removeSocket(c.PrivValidatorListenAddr)
	}
	keyFile, stateFile := c.PrivValidatorKeyFile(), c.PrivValidatorStateFile()
	hasKey, err := fileExists(keyFile)
	if err != nil {
		return nil, err
	}
	if !hasKey {
		if role == Full || role == Archive {
			return types.NewMockPV(), nil
		}
		return nil, fmt.Errorf("consensus key %s is missing: restore it under the signing protocol; this node never makes a new one", keyFile)
	}
	if hasState, err := fileExists(stateFile); err != nil || !hasState {
		return nil, errors.Join(err, fmt.Errorf("sign state %s is missing: without it the key could sign a height twice; restore the highest known state first", stateFile))
	}
	return privval.LoadFilePV(keyFile, stateFile), nil
}

// removeSocket takes away what a killed node left: CometBFT cannot listen where a unix socket lies.
func removeSocket(address string) error {
	path, isUnix := strings.CutPrefix(address, "unix://")
	if !isUnix {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("signer socket: %w", err)
	}
	return nil
}

// redial keeps trying lost persistent peers at a steady pace.
func redial(ctx context.Context, sw *p2p.Switch, persistentPeers string) {
	if persistentPeers == "" {
		return
	}
	peers, _ := p2p.NewNetAddressStrings(strings.Split(persistentPeers, ","))
	ticker := time.NewTicker(redialEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for _, peer := range peers {
			if sw.IsRunning() && !sw.IsDialingOrExistingAddress(peer) {
				go func() { _ = sw.DialPeerWithAddress(peer) }() // the switch logs it; the next tick tries again
			}
		}
	}
}

// openDatabases remembers what the node opened: it leaves its transaction index open.
type openDatabases struct {
	mu  sync.Mutex
	all map[string]dbm.DB
}

func (o *openDatabases) open(ctx *cfg.DBContext) (dbm.DB, error) {
	db, err := cfg.DefaultDBProvider(ctx)
	if err != nil {
		return nil, fmt.Errorf("open %s.db: %w", ctx.ID, err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.all == nil {
		o.all = map[string]dbm.DB{}
	}
	o.all[ctx.ID] = db
	return db, nil
}

func (o *openDatabases) close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var all error
	for id, db := range o.all {
		if err := db.Close(); err != nil && !isClosed(err) {
			all = errors.Join(all, fmt.Errorf("close %s.db: %w", id, err))
		}
	}
	return all
}

func dbContext(id string, c *cfg.Config) *cfg.DBContext { return &cfg.DBContext{ID: id, Config: c} }

func base64Of(data []byte) string { return base64.StdEncoding.EncodeToString(data) }
