package node

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// freeAddress is a loopback address that nothing listened on a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func onePlan(t *testing.T) *Plan {
	t.Helper()
	address := freeAddress(t)
	return &Plan{
		ChainID: "node-test", TimeoutCommit: "50ms", DBBackend: "goleveldb",
		Nodes: []NodePlan{{
			Name: "only", Home: filepath.Join(t.TempDir(), "only"), Role: Validator, Power: 10,
			P2PListen: "tcp://" + address, P2PDial: address, RPCListen: "tcp://" + freeAddress(t),
			SnapshotInterval: 3, SnapshotKeep: 2,
		}},
	}
}

// runUntil runs a node in this process until its state has the height.
func runUntil(t *testing.T, home string, height int64) {
	t.Helper()
	quietStdout(t)
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- Run(ctx, home, StartOptions{}) }()
	for signed := int64(0); signed <= height; {
		select {
		case err := <-done:
			t.Fatalf("the node ended: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
		signed = signState(t, home)
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func signState(t *testing.T, home string) int64 {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(home, "data", "priv_validator_state.json"))
	if err != nil {
		t.Fatal(err)
	}
	var state struct {
		Height int64 `json:"height,string"`
	}
	if err := json.Unmarshal(data, &state); err != nil {
		t.Fatal(err)
	}
	return state.Height
}

// quietStdout keeps the node's log out of the test's output.
func quietStdout(t *testing.T) {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	stdout := os.Stdout
	os.Stdout = null
	t.Cleanup(func() { os.Stdout = stdout; null.Close() })
}

// fingerprint names every file below dir with its content and times.
func fingerprint(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		var content []byte
		if !entry.IsDir() {
			if content, err = os.ReadFile(path); err != nil {
				return err
			}
		}
		fmt.Fprintf(&all, "%s %s %v %x\n", path, info.Mode(), info.ModTime(), sha256.Sum256(content))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// hardLink makes a capture of dir that shares every file with it, locks left out.
func hardLink(t *testing.T, dir string) string {
	t.Helper()
	copied := t.TempDir()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() == "LOCK" {
			return err
		}
		relative, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return os.MkdirAll(filepath.Join(copied, relative), 0o755)
		}
		return os.Link(path, filepath.Join(copied, relative))
	})
	if err != nil {
		t.Fatal(err)
	}
	return copied
}

func TestInspectReportsAStoppedNodeAndChangesNothing(t *testing.T) {
	plan := onePlan(t)
	if _, err := MakeTestnet(plan); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(plan.Nodes[0].Home, "data")
	runUntil(t, plan.Nodes[0].Home, 5)
	capture := hardLink(t, data)
	before, captureBefore := fingerprint(t, data), fingerprint(t, capture)

	report, err := Inspect(data, false)
	if err != nil {
		t.Fatal(err)
	}
	if report.ChainID != "node-test" || report.StoreHeight < 5 || report.StoreBase != 1 || !report.Consistent ||
		report.AppHeight != report.StateHeight || report.AppHash != report.AppDBHash || len(report.ValidatorsHash) != 64 {
		t.Errorf("report %+v", report)
	}
	ofCapture, err := Inspect(capture, false)
	if err != nil {
		t.Fatal(err)
	}
	if *ofCapture != *report {
		t.Errorf("the capture reports %+v, the original %+v", ofCapture, report)
	}
	deep, err := Inspect(data, true)
	if err != nil || deep.AppHashRecomputed != report.AppDBHash {
		t.Errorf("deep: %+v, %v", deep, err)
	}
	if fingerprint(t, data) != before || fingerprint(t, capture) != captureBefore {
		t.Error("inspect changed files")
	}
}

func TestInspectRefusesDamagedMissingAndBusyDatabases(t *testing.T) {
	plan := onePlan(t)
	if _, err := MakeTestnet(plan); err != nil {
		t.Fatal(err)
	}
	home := plan.Nodes[0].Home
	data := filepath.Join(home, "data")
	if _, err := Inspect(data, false); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("a node that never ran: %v", err)
	}
	runUntil(t, home, 2)
	for _, name := range []string{"blockstore.db", "state.db", "application.db"} {
		t.Run(name, func(t *testing.T) {
			capture := t.TempDir()
			if err := os.CopyFS(capture, os.DirFS(data)); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(capture, name, "CURRENT"), []byte("MANIFEST-999999\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := Inspect(capture, false); err == nil {
				t.Error("a database without its manifest was accepted")
			}
			if err := os.RemoveAll(filepath.Join(capture, name)); err != nil {
				t.Fatal(err)
			}
			if _, err := Inspect(capture, false); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("a missing database: %v", err)
			}
		})
	}
	databases := &openDatabases{}
	config, err := LoadConfig(home)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := databases.open(dbContext("state", config)); err != nil {
		t.Fatal(err)
	}
	defer databases.close()
	if _, err := Inspect(data, false); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a database that is in use: %v", err)
	}
}

func TestRollbackGoesOneBlockBackAndTheNodeGoesOn(t *testing.T) {
	plan := onePlan(t)
	if _, err := MakeTestnet(plan); err != nil {
		t.Fatal(err)
	}
	home := plan.Nodes[0].Home
	data := filepath.Join(home, "data")
	runUntil(t, home, 4)
	before, err := Inspect(data, false)
	if err != nil {
		t.Fatal(err)
	}
	height, _, err := RollBack(home)
	if err != nil {
		t.Fatal(err)
	}
	after, err := Inspect(data, false)
	if err != nil {
		t.Fatal(err)
	}
	if height != before.StateHeight-1 || after.StateHeight != height || after.AppHeight != height || !after.Consistent {
		t.Fatalf("rolled back to %d: %+v", height, after)
	}
	runUntil(t, home, before.StateHeight+2)
}

func TestATestnetNeverTouchesAHomeInUse(t *testing.T) {
	plan := onePlan(t)
	second := plan.Nodes[0]
	second.Name, second.Home = "second", filepath.Join(t.TempDir(), "second")
	plan.Nodes = append(plan.Nodes, second)
	precious := filepath.Join(second.Home, "precious")
	if err := os.MkdirAll(precious, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := MakeTestnet(plan); err == nil || !strings.Contains(err.Error(), second.Home) {
		t.Fatalf("got %v", err)
	}
	if _, err := os.Stat(plan.Nodes[0].Home); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the other home was begun: %v", err)
	}
}

func TestANodeNeverMakesKeysOfItsOwn(t *testing.T) {
	for file, role := range map[string]Role{
		"config/priv_validator_key.json": Validator,
		"data/priv_validator_state.json": Full,
		"config/node_key.json":           Full,
	} {
		t.Run(file, func(t *testing.T) {
			plan := onePlan(t)
			if _, err := MakeTestnet(plan); err != nil {
				t.Fatal(err)
			}
			home := plan.Nodes[0].Home
			if err := os.Remove(filepath.Join(home, file)); err != nil {
				t.Fatal(err)
			}
			config, err := LoadConfig(home)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := identities(config, role, false); err == nil || !strings.Contains(err.Error(), "is missing") {
				t.Errorf("got %v", err)
			}
			if _, err := os.Stat(filepath.Join(home, file)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the file is there: %v", err)
			}
		})
	}
}

func TestAFullNodeRunsWithoutAConsensusKey(t *testing.T) {
	plan := onePlan(t)
	if _, err := MakeTestnet(plan); err != nil {
		t.Fatal(err)
	}
	config, err := LoadConfig(plan.Nodes[0].Home)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(config.PrivValidatorKeyFile()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := identities(config, Full, false); err != nil {
		t.Error(err)
	}
}

func TestAPlanWithAMistakeIsRefused(t *testing.T) {
	for name, spoil := range map[string]func(*Plan){
		"no chain id":    func(p *Plan) { p.ChainID = "" },
		"backend":        func(p *Plan) { p.DBBackend = "rocksdb" },
		"timeout":        func(p *Plan) { p.TimeoutCommit = "1" },
		"role":           func(p *Plan) { p.Nodes[0].Role = "boss" },
		"no power":       func(p *Plan) { p.Nodes[0].Power = 0 },
		"power of full":  func(p *Plan) { p.Nodes[0].Role = Full },
		"no home":        func(p *Plan) { p.Nodes[0].Home = "" },
		"negative":       func(p *Plan) { p.Nodes[0].RetainBlocks = -1 },
		"unknown via":    func(p *Plan) { p.Nodes[0].DialVia = map[string]string{"x": "y"} },
		"same name":      func(p *Plan) { p.Nodes = append(p.Nodes, p.Nodes[0]); p.Nodes[1].Home = "/other" },
		"same home":      func(p *Plan) { p.Nodes = append(p.Nodes, p.Nodes[0]); p.Nodes[1].Name = "other" },
		"no validator":   func(p *Plan) { p.Nodes = nil },
		"unknown fields": nil,
	} {
		t.Run(name, func(t *testing.T) {
			plan := onePlan(t)
			extra := ""
			if spoil == nil {
				extra = `"surprise": 1, `
			} else {
				spoil(plan)
			}
			data, err := json.Marshal(plan)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "plan.json")
			if err := os.WriteFile(path, []byte("{"+extra+string(data[1:])), 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := LoadPlan(path); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestPeersAreDialledWhereThePlanSays(t *testing.T) {
	plan := onePlan(t)
	for _, name := range []string{"b", "c"} {
		n := plan.Nodes[0]
		n.Name, n.Home, n.P2PDial = name, filepath.Join(t.TempDir(), name), name+":1"
		n.DialVia = map[string]string{"only": "via-" + name + ":2"}
		plan.Nodes = append(plan.Nodes, n)
	}
	made, err := MakeTestnet(plan)
	if err != nil {
		t.Fatal(err)
	}
	config, err := LoadConfig(plan.Nodes[2].Home)
	if err != nil {
		t.Fatal(err)
	}
	want := made[0].NodeID + "@via-c:2," + made[1].NodeID + "@b:1"
	if config.P2P.PersistentPeers != want {
		t.Errorf("peers %s, want %s", config.P2P.PersistentPeers, want)
	}
}
