// Package node makes, runs and inspects the lab's CometBFT nodes, with the kvapp
// application in the same process and VirtEngine's layout on disk.
package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"
)

// Role says what a node does in the network.
type Role string

// The roles of a plan. An archive node is a full node that keeps all application versions.
const (
	Validator Role = "validator"
	Full      Role = "full"
	Archive   Role = "archive"
)

// Plan describes a network whose homes are to be made.
type Plan struct {
	ChainID       string     `json:"chain_id"`
	GenesisTime   time.Time  `json:"genesis_time"` // now when absent
	TimeoutCommit string     `json:"timeout_commit"`
	DBBackend     string     `json:"db_backend"`
	Nodes         []NodePlan `json:"nodes"`
}

// NodePlan describes one node of the network.
type NodePlan struct {
	Name             string            `json:"name"`
	Home             string            `json:"home"`
	Role             Role              `json:"role"`
	Group            string            `json:"group"` // nodes of one group know each other; the lab's are its regions
	Power            int64             `json:"power"`
	P2PListen        string            `json:"p2p_listen"`
	P2PDial          string            `json:"p2p_dial"`
	DialVia          map[string]string `json:"dial_via"` // other node's name to the address this node dials it at
	RPCListen        string            `json:"rpc_listen"`
	MetricsListen    string            `json:"metrics_listen"`
	SnapshotInterval int64             `json:"snapshot_interval"`
	SnapshotKeep     int               `json:"snapshot_keep"`
	RetainBlocks     int64             `json:"retain_blocks"`
}

// LoadPlan reads and checks a plan file; absent optional fields get their defaults.
func LoadPlan(path string) (*Plan, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	decoder := json.NewDecoder(file)
	decoder.DisallowUnknownFields()
	plan := &Plan{TimeoutCommit: "1s", DBBackend: "goleveldb"}
	if err := decoder.Decode(plan); err != nil {
		return nil, fmt.Errorf("plan %s: %w", path, err)
	}
	if err := plan.check(); err != nil {
		return nil, fmt.Errorf("plan %s: %w", path, err)
	}
	return plan, nil
}

func (p *Plan) check() error {
	if p.ChainID == "" {
		return errors.New("chain_id is missing")
	}
	if p.DBBackend != "goleveldb" {
		return fmt.Errorf("db_backend %q: this build has goleveldb only", p.DBBackend)
	}
	if _, err := time.ParseDuration(p.TimeoutCommit); err != nil {
		return fmt.Errorf("timeout_commit: %w", err)
	}
	names := map[string]bool{}
	homes := map[string]string{}
	validators := 0
	for _, n := range p.Nodes {
		if err := n.check(); err != nil {
			return fmt.Errorf("node %q: %w", n.Name, err)
		}
		if names[n.Name] {
			return fmt.Errorf("two nodes are named %q", n.Name)
		}
		if other, taken := homes[n.Home]; taken {
			return fmt.Errorf("nodes %q and %q share the home %s", other, n.Name, n.Home)
		}
		names[n.Name], homes[n.Home] = true, n.Name
		if n.Role == Validator {
			validators++
		}
	}
	for _, n := range p.Nodes {
		for other := range n.DialVia {
			if !names[other] {
				return fmt.Errorf("node %q: dial_via names %q, which is not in the plan", n.Name, other)
			}
		}
	}
	if validators == 0 {
		return errors.New("no node is a validator")
	}
	return nil
}

func (n NodePlan) check() error {
	switch {
	case n.Name == "" || n.Home == "":
		return errors.New("name and home are needed")
	case n.Role != Validator && n.Role != Full && n.Role != Archive:
		return fmt.Errorf("role %q: want validator, full or archive", n.Role)
	case n.Role == Validator && n.Power <= 0:
		return fmt.Errorf("power %d: a validator needs a positive one", n.Power)
	case n.Role != Validator && n.Power != 0:
		return fmt.Errorf("power %d: only a validator has one", n.Power)
	case n.P2PListen == "" || n.P2PDial == "" || n.RPCListen == "":
		return errors.New("p2p_listen, p2p_dial and rpc_listen are needed")
	case n.SnapshotInterval < 0 || n.SnapshotKeep < 0 || n.RetainBlocks < 0:
		return errors.New("snapshot_interval, snapshot_keep and retain_blocks cannot be negative")
	}
	return nil
}
