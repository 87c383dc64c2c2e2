package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	cfg "github.com/cometbft/cometbft/config"
	"github.com/cometbft/cometbft/crypto/ed25519"
	"github.com/cometbft/cometbft/p2p"
	"github.com/cometbft/cometbft/privval"
	"github.com/cometbft/cometbft/types"

	"virtengine.dev/vedr/lab/internal/durable"
	"virtengine.dev/vedr/lab/internal/kvapp"
)

// maxBlockBytes bounds a block, and with it the memory of twelve nodes on one machine.
const maxBlockBytes = 2 << 20

// Identity is what others need to know of a node that was made.
type Identity struct {
	Name            string `json:"name"`
	NodeID          string `json:"node_id"`
	ValidatorAddr   string `json:"validator_address"`
	ValidatorPubKey string `json:"validator_pubkey"` // base64, Ed25519
}

type identity struct {
	nodeKey *p2p.NodeKey
	signer  *privval.FilePV
}

// MakeTestnet writes the homes of all planned nodes. It refuses homes that hold
// anything, before writing the first. Full and archive nodes get throwaway consensus
// keys, which are not in the genesis.
func MakeTestnet(plan *Plan) ([]Identity, error) {
	for _, n := range plan.Nodes {
		if err := refuseUsedHome(n); err != nil {
			return nil, err
		}
	}
	ids := make(map[string]identity, len(plan.Nodes))
	for _, n := range plan.Nodes {
		id, err := makeIdentity(n)
		if err != nil {
			return nil, fmt.Errorf("node %q: %w", n.Name, err)
		}
		ids[n.Name] = id
	}
	genesis, err := makeGenesis(plan, ids)
	if err != nil {
		return nil, err
	}
	made := make([]Identity, 0, len(plan.Nodes))
	for _, n := range plan.Nodes {
		if err := writeHome(plan, n, ids, genesis); err != nil {
			return nil, fmt.Errorf("node %q: %w", n.Name, err)
		}
		made = append(made, ids[n.Name].public(n.Name))
	}
	return made, nil
}

func refuseUsedHome(n NodePlan) error {
	entries, err := os.ReadDir(n.Home)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("node %q: %w", n.Name, err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("node %q: home %s exists and is not empty: remove it or choose another; nothing was written", n.Name, n.Home)
	}
	return nil
}

func makeIdentity(n NodePlan) (identity, error) {
	for _, dir := range []string{"config", "data"} {
		if err := os.MkdirAll(filepath.Join(n.Home, dir), 0o755); err != nil {
			return identity{}, err
		}
	}
	c := cfg.DefaultConfig()
	c.SetRoot(n.Home)
	signer := privval.NewFilePV(ed25519.GenPrivKey(), c.PrivValidatorKeyFile(), c.PrivValidatorStateFile())
	return identity{nodeKey: &p2p.NodeKey{PrivKey: ed25519.GenPrivKey()}, signer: signer}, nil
}

func (id identity) public(name string) Identity {
	key := id.signer.Key
	return Identity{
		Name: name, NodeID: string(id.nodeKey.ID()),
		ValidatorAddr: key.Address.String(), ValidatorPubKey: base64Of(key.PubKey.Bytes()),
	}
}

func makeGenesis(plan *Plan, ids map[string]identity) (*types.GenesisDoc, error) {
	genesis := &types.GenesisDoc{
		ChainID: plan.ChainID, GenesisTime: plan.GenesisTime,
		ConsensusParams: types.DefaultConsensusParams(),
	}
	if genesis.GenesisTime.IsZero() {
		genesis.GenesisTime = time.Now().UTC()
	}
	genesis.ConsensusParams.Block.MaxBytes = maxBlockBytes
	genesis.ConsensusParams.Version.App = kvapp.AppVersion
	for _, n := range plan.Nodes {
		if n.Role != Validator {
			continue
		}
		key := ids[n.Name].signer.Key
		genesis.Validators = append(genesis.Validators, types.GenesisValidator{
			Address: key.Address, PubKey: key.PubKey, Power: n.Power, Name: n.Name,
		})
	}
	return genesis, genesis.ValidateAndComplete()
}

func writeHome(plan *Plan, n NodePlan, ids map[string]identity, genesis *types.GenesisDoc) error {
	c, err := cometConfig(plan, n, persistentPeers(plan, n, ids))
	if err != nil {
		return err
	}
	cfg.WriteConfigFile(filepath.Join(n.Home, "config", "config.toml"), c)
	appConfig := filepath.Join(n.Home, "config", appConfigFile)
	if err := durable.WriteFile(appConfig, []byte(appConfigText(n)), 0o644); err != nil {
		return err
	}
	if err := genesis.SaveAs(c.GenesisFile()); err != nil {
		return err
	}
	if err := ids[n.Name].nodeKey.SaveAs(c.NodeKeyFile()); err != nil {
		return err
	}
	ids[n.Name].signer.Save()
	return durable.SyncDir(filepath.Join(n.Home, "config"))
}

// persistentPeers are the nodes that n dials.  Validators form a full mesh; everybody knows the archive nodes, which keep
// a region connected whose validators are gone; neighbours of one group (a region) know each other.  A full
// mesh of all nodes costs half as much processor time again, for gossip that arrives many times over.
func persistentPeers(plan *Plan, n NodePlan, ids map[string]identity) string {
	var peers []string
	for _, other := range plan.Nodes {
		if other.Name == n.Name || !linked(n, other) {
			continue
		}
		address := other.P2PDial
		if via, ok := n.DialVia[other.Name]; ok {
			address = via
		}
		peers = append(peers, p2p.IDAddressString(ids[other.Name].nodeKey.ID(), address))
	}
	return strings.Join(peers, ",")
}

// linked is symmetric.
func linked(a, b NodePlan) bool {
	bothValidate := a.Role == Validator && b.Role == Validator
	oneKeepsAll := a.Role == Archive || b.Role == Archive
	neither := a.Role != Validator && b.Role != Validator
	return bothValidate || (oneKeepsAll && neither) || a.Group == b.Group
}
