package lab_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"virtengine.dev/vedr/lab/internal/node"
)

func TestAProviderResumesAndRefusesACheckpointAheadOfTheChain(t *testing.T) {
	n := makeNetwork(t, "20ms", node.Validator)
	chain := n.start(0)
	ackFile := filepath.Join(t.TempDir(), "acked.jsonl")
	loader := start(t, "labload", "--rpc", n.rpc(0), "--rate", "100", "--acked", ackFile)
	home := t.TempDir()
	args := []string{"--home", home, "--id", "provider-test-0", "--rpc", n.rpc(0), "--listen"}
	checkpointFile := filepath.Join(home, "data", "marketplace_checkpoint.json")
	sequence := func() int64 {
		var c struct {
			LastSequence int64 `json:"last_sequence"`
		}
		data, err := os.ReadFile(checkpointFile)
		if err == nil {
			err = json.Unmarshal(data, &c)
		}
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return c.LastSequence
	}
	provider := start(t, "labprovider", append(args, freeAddresses(t, 1)[0])...)
	until(t, "a checkpoint", func() bool { return sequence() > 5000 })
	provider.stop()
	before := sequence()

	address := freeAddresses(t, 1)[0]
	provider = start(t, "labprovider", append(args, address)...)
	until(t, "it goes on", func() bool { return sequence() > before })
	until(t, "it is healthy", func() bool { return health(t, address) == "ok" })
	loader.stop()
	provider.stop()
	auditedOnce(t, home)

	ahead := fmt.Sprintf(`{"subscriber_id":"provider-test-0/marketplace","last_sequence":%d,"updated_at":"2026-01-01T00:00:00Z"}`, (height(t, n.rpc(0))+300)*1000)
	if err := os.WriteFile(checkpointFile, []byte(ahead), 0o600); err != nil {
		t.Fatal(err)
	}
	provider = start(t, "labprovider", append(args, freeAddresses(t, 1)[0])...)
	if err := provider.wait(); err == nil || !strings.Contains(provider.tail(), "above the chain's tip") {
		t.Errorf("a checkpoint from the future: %v, %s", err, provider.tail())
	}
	address = freeAddresses(t, 1)[0]
	provider = start(t, "labprovider", append(append([]string{"--wait"}, args...), address)...)
	until(t, "it waits", func() bool { return health(t, address) == "starting" })
	until(t, "the chain has caught up", func() bool { return health(t, address) == "ok" })
	provider.stop()

	foreign := `{"subscriber_id":"provider-other-0/marketplace","last_sequence":1,"updated_at":"2026-01-01T00:00:00Z"}`
	if err := os.WriteFile(checkpointFile, []byte(foreign), 0o600); err != nil {
		t.Fatal(err)
	}
	provider = start(t, "labprovider", append(args, freeAddresses(t, 1)[0])...)
	if err := provider.wait(); err == nil || !strings.Contains(provider.tail(), "not this provider's") {
		t.Errorf("another provider's checkpoint: %v, %s", err, provider.tail())
	}
	for _, stream := range []string{"waldur_order", "provisioning"} {
		if err := os.Remove(filepath.Join(home, "data", stream+"_checkpoint.json")); err != nil {
			t.Fatal(err)
		}
	}
	address = freeAddresses(t, 1)[0]
	provider = start(t, "labprovider", append(append([]string{"--reserve"}, args...), address)...)
	until(t, "one in reserve goes on as the other", func() bool { return health(t, address) == "ok" })
	provider.stop()
	if data, err := os.ReadFile(checkpointFile); err != nil || !strings.Contains(string(data), "provider-other-0/marketplace") {
		t.Errorf("it changed whose checkpoint it is: %s %v", data, err)
	}
	chain.stop()
}

func health(t *testing.T, address string) string {
	t.Helper()
	response, err := http.Get("http://" + address + "/healthz")
	if err != nil {
		return ""
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return ""
	}
	var answer struct{ Status string }
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return answer.Status
}
