// Package lab_test runs the lab's programs as they are: real nodes on loopback ports.
package lab_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"virtengine.dev/vedr/lab/internal/chainrpc"
	"virtengine.dev/vedr/lab/internal/load"
	"virtengine.dev/vedr/lab/internal/node"
)

const patience = 60 * time.Second

var programs string

func TestMain(m *testing.M) {
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	var err error
	if programs, err = os.MkdirTemp("", "lab-programs-"); err != nil {
		panic(err)
	}
	defer os.RemoveAll(programs)
	build := exec.Command("go", "build", "-o", programs+"/", "./cmd/...")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("%v\n%s", err, out))
	}
	return m.Run()
}

// process is one running program of the lab.
type process struct {
	*testing.T
	name string
	cmd  *exec.Cmd
	log  string
	done chan error
}

func start(t *testing.T, program string, args ...string) *process {
	t.Helper()
	log, err := os.CreateTemp(t.TempDir(), program+"-*.log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p := &process{T: t, name: program, log: log.Name(), done: make(chan error, 1)}
	p.cmd = exec.Command(filepath.Join(programs, program), args...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// For a test run that is killed; Go keeps its threads, on which this hangs, while no
	// goroutine is locked to one.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.done <- p.cmd.Wait() }()
	t.Cleanup(func() { _ = p.cmd.Process.Kill() }) // most have ended by then
	return p
}

// stop wants a clean end on SIGTERM.
func (p *process) stop() {
	p.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.Fatalf("%s: %v\n%s", p.name, err, p.tail())
	}
	if err := p.wait(); err != nil {
		p.Fatalf("%s: %v\n%s", p.name, err, p.tail())
	}
}

func (p *process) kill() {
	p.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.Fatalf("%s: %v\n%s", p.name, err, p.tail())
	}
	_ = p.wait() // killed
}

func (p *process) wait() error {
	p.Helper()
	select {
	case err := <-p.done:
		return err
	case <-time.After(patience):
		p.Fatalf("%s did not end\n%s", p.name, p.tail())
		return nil
	}
}

func (p *process) tail() string {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(data[max(len(data)-3000, 0):])
}

func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(25 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// freeAddresses are loopback addresses that nothing listened on a moment ago.
func freeAddresses(t *testing.T, n int) []string {
	t.Helper()
	var addresses []string
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		addresses = append(addresses, listener.Addr().String())
	}
	return addresses
}

type network struct {
	*testing.T
	plan node.Plan
}

func makeNetwork(t *testing.T, timeoutCommit string, roles ...node.Role) *network {
	t.Helper()
	root := t.TempDir()
	n := &network{T: t, plan: node.Plan{ChainID: "lab-test", TimeoutCommit: timeoutCommit, DBBackend: "goleveldb"}}
	addresses := freeAddresses(t, 2*len(roles))
	for i, role := range roles {
		power := int64(0)
		if role == node.Validator {
			power = 10
		}
		name := fmt.Sprintf("node%d", i)
		n.plan.Nodes = append(n.plan.Nodes, node.NodePlan{
			Name: name, Home: filepath.Join(root, name), Role: role, Power: power,
			P2PListen: "tcp://" + addresses[2*i], P2PDial: addresses[2*i], RPCListen: "tcp://" + addresses[2*i+1],
			SnapshotInterval: 5, SnapshotKeep: 3,
		})
	}
	plan := filepath.Join(root, "plan.json")
	data, err := json.Marshal(n.plan)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(plan, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(filepath.Join(programs, "labnode"), "testnet", "--plan", plan).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return n
}

func (n *network) home(i int) string { return n.plan.Nodes[i].Home }
func (n *network) rpc(i int) string {
	return "http://" + strings.TrimPrefix(n.plan.Nodes[i].RPCListen, "tcp://")
}

func (n *network) start(i int) *process {
	n.Helper()
	return start(n.T, "labnode", "start", "--home", n.home(i))
}

// height is 0 while the node does not answer.
func height(t *testing.T, rpc string) int64 {
	t.Helper()
	client, err := chainrpc.New(rpc)
	if err != nil {
		t.Fatal(err)
	}
	status, err := client.Tip(context.Background())
	if err != nil {
		return 0
	}
	return status.LatestHeight
}

func get(t *testing.T, rpc, path string, result any) bool {
	t.Helper()
	response, err := http.Get(rpc + path)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	var answer struct{ Result json.RawMessage }
	return json.NewDecoder(response.Body).Decode(&answer) == nil && json.Unmarshal(answer.Result, result) == nil
}

func query(t *testing.T, rpc, path, data string) []byte {
	t.Helper()
	var answer struct {
		Response struct{ Value []byte }
	}
	get(t, rpc, "/abci_query?path="+url.QueryEscape(`"`+path+`"`)+"&data=0x"+hex.EncodeToString([]byte(data)), &answer)
	return answer.Response.Value
}

func inspect(t *testing.T, home string) node.Report {
	t.Helper()
	out, err := exec.Command(filepath.Join(programs, "labnode"), "inspect", "--home", home).Output()
	if err != nil {
		t.Fatalf("inspect %s: %v", home, err)
	}
	var report node.Report
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatal(err)
	}
	return report
}

func acked(t *testing.T, path string) []load.Ack {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer file.Close()
	var all []load.Ack
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var ack load.Ack
		if err := json.Unmarshal(lines.Bytes(), &ack); err == nil { // the last line may be half written
			all = append(all, ack)
		}
	}
	return all
}

// wantCommitted checks that what was acknowledged is in the state that rpc serves.
func wantCommitted(t *testing.T, rpc string, acks []load.Ack) {
	t.Helper()
	for _, ack := range acks {
		value := query(t, rpc, "/key", ack.Key)
		if sum := sha256.Sum256(value); hex.EncodeToString(sum[:]) != ack.SHA256 {
			t.Fatalf("%s has %d bytes with another hash under %s, acknowledged at height %d", rpc, len(value), ack.Key, ack.Height)
		}
	}
}

func TestANetworkMakesBlocksAndANewNodeJoinsByStateSync(t *testing.T) {
	n := makeNetwork(t, "100ms", node.Validator, node.Validator, node.Validator, node.Validator, node.Full, node.Full)
	var running []*process
	for i := range 5 {
		running = append(running, n.start(i))
	}
	ackFile := filepath.Join(t.TempDir(), "acked.jsonl")
	dead := freeAddresses(t, 1)[0]
	loader := start(t, "labload", "--rpc", n.rpc(4)+",http://"+dead+","+n.rpc(0), "--rate", "50", "--value-bytes", "3000", "--acked", ackFile)
	providerHome := t.TempDir()
	provider := start(t, "labprovider", "--home", providerHome, "--id", "provider-test-0", "--listen", freeAddresses(t, 1)[0], "--rpc", "http://"+dead+","+n.rpc(4))
	until(t, "snapshots with a state", func() bool { return len(acked(t, ackFile)) > 100 && height(t, n.rpc(4)) > 12 })

	trusted := height(t, n.rpc(4)) - 8
	var commit struct {
		SignedHeader struct {
			Commit struct {
				BlockID struct{ Hash string } `json:"block_id"`
			}
		} `json:"signed_header"`
	}
	get(t, n.rpc(4), fmt.Sprintf("/commit?height=%d", trusted), &commit)
	editConfig(t, n.home(5), map[string]string{
		"enable":         "true",
		"rpc_servers":    fmt.Sprintf("%q", n.rpc(0)+","+n.rpc(4)),
		"trust_height":   fmt.Sprint(trusted),
		"trust_hash":     fmt.Sprintf("%q", commit.SignedHeader.Commit.BlockID.Hash),
		"discovery_time": `"5s"`,
	})
	joined := n.start(5)
	until(t, "the new node is in sync", func() bool {
		here := height(t, n.rpc(5))
		return here > 0 && here >= height(t, n.rpc(4))-2
	})
	var status struct {
		SyncInfo struct {
			Earliest int64 `json:"earliest_block_height,string"`
		} `json:"sync_info"`
	}
	if !get(t, n.rpc(5), "/status", &status) || status.SyncInfo.Earliest <= 1 {
		t.Errorf("the new node starts at block %d: it did not join by state sync\n%s", status.SyncInfo.Earliest, joined.tail())
	}
	loader.stop()
	last := height(t, n.rpc(4)) + 1
	until(t, "all saw the last block", func() bool { return height(t, n.rpc(5)) > last && height(t, n.rpc(4)) > last })
	acks := acked(t, ackFile)
	wantCommitted(t, n.rpc(5), acks)
	if a, b := query(t, n.rpc(5), "/size", ""), query(t, n.rpc(4), "/size", ""); !bytes.Equal(a, b) {
		t.Errorf("%s keys on the new node, %s on the others", a, b)
	}
	provider.stop()
	if events := auditedOnce(t, providerHome); events < len(acks) {
		t.Errorf("the provider handled %d events, %d were acknowledged", events, len(acks))
	}
	joined.stop()
	isolatedServes(t, n.home(5))
	for _, p := range running {
		p.stop()
	}
}

// editConfig sets fields of the [statesync] section.
func editConfig(t *testing.T, home string, fields map[string]string) {
	t.Helper()
	path := filepath.Join(home, "config", "config.toml")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines, inside := strings.Split(string(data), "\n"), false
	for i, line := range lines {
		if strings.HasPrefix(line, "[") {
			inside = line == "[statesync]"
		}
		name, _, found := strings.Cut(line, " = ")
		if value, ours := fields[name]; inside && found && ours {
			lines[i] = name + " = " + value
		}
	}
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
}

// auditedOnce wants no event twice and returns how many there are for one stream.
func auditedOnce(t *testing.T, providerHome string) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(providerHome, "portal_audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	events := 0
	for line := range strings.Lines(string(data)) {
		var event struct {
			Subscriber string `json:"subscriber_id"`
			Sequence   int64
		}
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			t.Fatal(err)
		}
		key := fmt.Sprint(event.Subscriber, event.Sequence)
		if seen[key]++; seen[key] > 1 {
			t.Errorf("event %d was handled twice by %s", event.Sequence, event.Subscriber)
		}
		if strings.HasSuffix(event.Subscriber, "/marketplace") {
			events++
		}
	}
	return events
}

// isolatedServes starts a stopped node without peers and without its keys, as a restore
// is checked, and wants it to serve what its databases hold and to sign nothing.
func isolatedServes(t *testing.T, home string) {
	t.Helper()
	report := inspect(t, home)
	if !report.Consistent {
		t.Errorf("report %+v", report)
	}
	for _, key := range []string{"config/priv_validator_key.json", "config/node_key.json", "data/priv_validator_state.json"} {
		if err := os.Remove(filepath.Join(home, key)); err != nil {
			t.Fatal(err)
		}
	}
	address := freeAddresses(t, 1)[0]
	p := start(t, "labnode", "start", "--home", home, "--isolated", "--rpc-listen", "tcp://"+address)
	until(t, "the isolated node answers", func() bool { return height(t, "http://"+address) > 0 })
	var info struct {
		Response struct {
			Height int64  `json:"last_block_height,string"`
			Hash   []byte `json:"last_block_app_hash"`
		}
	}
	if !get(t, "http://"+address, "/abci_info", &info) || info.Response.Height != report.StoreHeight ||
		!strings.EqualFold(hex.EncodeToString(info.Response.Hash), report.AppHash) {
		t.Errorf("the isolated node says %+v, its databases said %+v", info, report)
	}
	p.stop()
	for _, key := range []string{"config/priv_validator_key.json", "config/node_key.json", "data/priv_validator_state.json"} {
		if _, err := os.Stat(filepath.Join(home, key)); !os.IsNotExist(err) {
			t.Errorf("the isolated node made %s: %v", key, err)
		}
	}
}

func TestANodeKilledAtAnyMomentComesBackWithAllItAcknowledged(t *testing.T) {
	const rounds = 8
	n := makeNetwork(t, "5ms", node.Validator)
	ackFile := filepath.Join(t.TempDir(), "acked.jsonl")
	loader := start(t, "labload", "--rpc", n.rpc(0), "--rate", "100", "--value-bytes", "2000", "--keys", "0", "--acked", ackFile)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	reached := int64(0)
	for range rounds {
		p := n.start(0)
		until(t, "new blocks", func() bool { return height(t, n.rpc(0)) > reached+2 })
		time.Sleep(time.Duration(random.IntN(300_000)) * time.Microsecond) // any moment will do
		p.kill()
		report := inspect(t, n.home(0))
		if !report.Consistent || report.StoreHeight < reached {
			t.Fatalf("after a kill: %+v, %d was reached before", report, reached)
		}
		reached = report.StoreHeight
	}
	p := n.start(0)
	until(t, "new blocks", func() bool { return height(t, n.rpc(0)) > reached })
	loader.stop()
	acks := acked(t, ackFile)
	if len(acks) == 0 {
		t.Fatal("nothing was acknowledged")
	}
	wantCommitted(t, n.rpc(0), acks)
	p.stop()
}
