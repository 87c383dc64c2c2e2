package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	cfg "github.com/cometbft/cometbft/config"
	"github.com/spf13/viper"

	"virtengine.dev/vedr/lab/internal/kvapp"
	"virtengine.dev/vedr/lab/internal/kvtx"
)

const (
	// The lab's pruning of application versions: VirtEngine's "custom 100/10".
	keepRecentVersions = 100
	pruneInterval      = 10

	mempoolTxs      = 2000
	mempoolBytes    = 16 << 20
	txOverheadBytes = 1 << 10
	appConfigFile   = "app.toml"
)

// appConfigTemplate follows cosmos-sdk's app.toml; [lab] is ours.
const appConfigTemplate = `# Application settings of a lab node.

# "nothing" keeps every version of the state, "custom" the newest pruning-keep-recent.
pruning = %q
pruning-keep-recent = "%d"
pruning-interval = "%d"

# Blocks that the node keeps; 0 keeps all.
min-retain-blocks = %d

[state-sync]
# Blocks between state-sync snapshots; 0 makes none.
snapshot-interval = %d
# Snapshots kept; 0 keeps all.
snapshot-keep-recent = %d

[lab]
# A validator refuses to start without its consensus key.
role = %q
`

func appConfigText(n NodePlan) string {
	pruning := "custom"
	if n.Role == Archive {
		pruning = "nothing"
	}
	return fmt.Sprintf(appConfigTemplate, pruning, keepRecentVersions, pruneInterval,
		n.RetainBlocks, n.SnapshotInterval, n.SnapshotKeep, n.Role)
}

// AppConfig is what app.toml says. An absent role counts as validator, the stricter one.
type AppConfig struct {
	App  kvapp.Config
	Role Role
}

// LoadAppConfig reads config/app.toml of home.
func LoadAppConfig(home string) (AppConfig, error) {
	v := viper.New()
	v.SetConfigFile(filepath.Join(home, "config", appConfigFile))
	v.SetDefault("pruning", "custom")
	v.SetDefault("pruning-keep-recent", keepRecentVersions)
	v.SetDefault("pruning-interval", pruneInterval)
	v.SetDefault("lab.role", string(Validator))
	if err := v.ReadInConfig(); err != nil {
		return AppConfig{}, fmt.Errorf("read app.toml: %w", err)
	}
	c := kvapp.Config{
		KeepRecent:       v.GetInt64("pruning-keep-recent"),
		PruneInterval:    v.GetInt64("pruning-interval"),
		RetainBlocks:     v.GetInt64("min-retain-blocks"),
		SnapshotInterval: v.GetInt64("state-sync.snapshot-interval"),
		SnapshotKeep:     v.GetInt("state-sync.snapshot-keep-recent"),
	}
	switch pruning := v.GetString("pruning"); pruning {
	case "nothing":
		c.KeepRecent = 0
	case "custom":
	default:
		return AppConfig{}, fmt.Errorf("app.toml: pruning %q: want nothing or custom", pruning)
	}
	if min(c.KeepRecent, c.PruneInterval, c.RetainBlocks, c.SnapshotInterval, int64(c.SnapshotKeep)) < 0 {
		return AppConfig{}, errors.New("app.toml: a count is negative")
	}
	return AppConfig{App: c, Role: Role(v.GetString("lab.role"))}, nil
}

// LoadConfig reads config/config.toml of home.
func LoadConfig(home string) (*cfg.Config, error) {
	v := viper.New()
	v.SetConfigFile(filepath.Join(home, "config", "config.toml"))
	if err := v.ReadInConfig(); err != nil {
		return nil, fmt.Errorf("read config.toml: %w", err)
	}
	config := cfg.DefaultConfig()
	if err := v.Unmarshal(config); err != nil {
		return nil, fmt.Errorf("read config.toml: %w", err)
	}
	config.SetRoot(home)
	if err := config.ValidateBasic(); err != nil {
		return nil, fmt.Errorf("config.toml: %w", err)
	}
	return config, nil
}

// cometConfig is the config.toml of a planned node.
func cometConfig(p *Plan, n NodePlan, peers string) (*cfg.Config, error) {
	c := cfg.DefaultConfig()
	c.SetRoot(n.Home)
	c.Moniker = n.Name
	c.DBBackend = p.DBBackend
	c.LogLevel = "info"
	c.LogFormat = cfg.LogFormatPlain

	c.P2P.ListenAddress = n.P2PListen
	c.P2P.PersistentPeers = peers
	c.P2P.PexReactor = false
	c.P2P.AddrBookStrict = false
	c.P2P.AllowDuplicateIP = true
	c.P2P.PersistentPeersMaxDialPeriod = redialEvery
	c.P2P.HandshakeTimeout = 5 * time.Second
	c.P2P.DialTimeout = 2 * time.Second

	c.RPC.ListenAddress = n.RPCListen
	c.Mempool.Size = mempoolTxs
	c.Mempool.MaxTxsBytes = mempoolBytes
	c.Mempool.CacheSize = 2 * mempoolTxs
	c.Mempool.MaxTxBytes = kvtx.MaxBytes + txOverheadBytes

	timeout, err := time.ParseDuration(p.TimeoutCommit)
	if err != nil {
		return nil, err
	}
	c.Consensus.TimeoutCommit = timeout
	c.TxIndex.Indexer = "kv"
	if n.Role == Validator {
		c.TxIndex.Indexer = "null"
	}
	c.Instrumentation.Prometheus = n.MetricsListen != ""
	c.Instrumentation.PrometheusListenAddr = n.MetricsListen
	c.StateSync.Enable = false
	return c, c.ValidateBasic()
}

// fileExists is false only for a file that is certainly not there.
func fileExists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
