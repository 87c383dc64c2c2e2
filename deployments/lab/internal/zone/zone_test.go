package zone

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	token    = "secret-of-the-test"
	patience = 20 * time.Second
)

// An agent reaps all children of its process, so the tests run it as another one: this
// test binary, told by its environment to be an agent.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == KeeperArg {
		RunKeeper(os.Stdin)
		return
	}
	if encoded := os.Getenv("ZONE_TEST_AGENT"); encoded != "" {
		var config Config
		if err := json.Unmarshal([]byte(encoded), &config); err != nil {
			panic(err)
		}
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		if err := Run(ctx, config); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// agent is a running labzoned.
type agent struct {
	*testing.T
	config Config
	dir    string
	cmd    *exec.Cmd
}

func startAgent(t *testing.T, units []Unit, relays []Relay) *agent {
	t.Helper()
	dir := t.TempDir()
	a := &agent{T: t, dir: dir, config: Config{
		Zone: "z1", Listen: freeAddress(t), Units: filepath.Join(dir, "units.json"),
		TokenFile: filepath.Join(dir, "token"), Control: filepath.Join(dir, "ctl"),
	}}
	a.write(a.config.TokenFile, []byte(token+"\n"))
	if units != nil {
		a.writeJSON(a.config.Units, units)
	}
	if relays != nil {
		a.config.Relay = filepath.Join(dir, "relay.json")
		a.writeJSON(a.config.Relay, relays)
	}
	a.start()
	t.Cleanup(func() {
		if a.cmd.ProcessState == nil {
			_ = a.cmd.Process.Kill() // the keeper takes the units with it
			_ = a.cmd.Wait()
		}
	})
	return a
}

func (a *agent) start() {
	a.Helper()
	encoded, err := json.Marshal(a.config)
	if err != nil {
		a.Fatal(err)
	}
	a.cmd = exec.Command("/proc/self/exe")
	a.cmd.Env = append(os.Environ(), "ZONE_TEST_AGENT="+string(encoded))
	a.cmd.Stderr = os.Stderr
	if err := a.cmd.Start(); err != nil {
		a.Fatal(err)
	}
	a.until("the agent answers", func() bool {
		conn, err := net.Dial("unix", a.config.Control)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

func (a *agent) write(path string, data []byte) {
	a.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		a.Fatal(err)
	}
}

func (a *agent) writeJSON(path string, v any) {
	a.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		a.Fatal(err)
	}
	a.write(path, data)
}

func (a *agent) until(what string, holds func() bool) {
	a.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			a.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// call asks over the control socket and wants the given status.
func (a *agent) call(want int, method, path string, body any, result any) {
	a.Helper()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return net.Dial("unix", a.config.Control)
		},
	}}
	a.callVia(&client, "http://agent", want, method, path, body, result)
}

func (a *agent) callVia(client *http.Client, base string, want int, method, path string, body any, result any) {
	a.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		a.Fatal(err)
	}
	request, err := http.NewRequest(method, base+path, bytes.NewReader(data))
	if err != nil {
		a.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := client.Do(request)
	if err != nil {
		a.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		a.Fatal(err)
	}
	if response.StatusCode != want {
		a.Fatalf("%s %s: %d, want %d: %s", method, path, response.StatusCode, want, answer)
	}
	if result != nil {
		if err := json.Unmarshal(answer, result); err != nil {
			a.Fatal(err)
		}
	}
}

func (a *agent) unit(name string) (status Status) {
	a.Helper()
	a.call(http.StatusOK, "GET", "/v1/units/"+name, nil, &status)
	return status
}

// counter is a unit that appends a line to its log every few milliseconds.
func (a *agent) counter(name string) (Unit, string) {
	log := filepath.Join(a.dir, name+".log")
	return Unit{Name: name, Argv: []string{"sh", "-c", "while :; do echo x; sleep 0.005; done"}, Log: log, Autostart: true}, log
}

func size(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if os.IsNotExist(err) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func gone(pid int) bool {
	stat, alive := readStat(fmt.Sprintf("/proc/%d/stat", pid))
	return !alive || stat.state == 'Z'
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func sleeper(name string) Unit {
	return Unit{Name: name, Argv: []string{"sleep", "1000"}, Autostart: true}
}

func TestAPausedUnitDoesNothingUntilItIsResumed(t *testing.T) {
	a := startAgent(t, nil, nil)
	unit, log := a.counter("c")
	a.call(200, "PUT", "/v1/units/c", unit, nil)
	a.until("the unit works", func() bool { return size(t, log) > 0 })
	before := time.Now().UnixNano()
	var paused Paused
	a.call(200, "POST", "/v1/units/c/pause?limit_ms=20000", nil, &paused)
	if now := time.Now().UnixNano(); paused.PausedAtNS < before || paused.PausedAtNS > now {
		t.Errorf("paused at %d, asked between %d and %d", paused.PausedAtNS, before, now)
	}
	frozen := size(t, log)
	if got := a.unit("c"); got.State != StatePaused {
		t.Errorf("state %s", got.State)
	}
	for range 20 { // as long as several of the unit's rounds
		if size(t, log) != frozen {
			t.Fatal("the paused unit wrote")
		}
		time.Sleep(5 * time.Millisecond)
	}
	a.call(409, "POST", "/v1/units/c/pause", nil, nil)
	var resumed Resumed
	a.call(200, "POST", "/v1/units/c/resume", nil, &resumed)
	if resumed.Expired || resumed.PausedMS < 50 {
		t.Errorf("resumed: %+v", resumed)
	}
	a.until("the unit works again", func() bool { return size(t, log) > frozen })
	a.call(409, "POST", "/v1/units/c/resume", nil, nil)
}

// A shell starts its commands by vfork: until the child has executed its program, the shell
// waits where no signal stops it. Stopping both in that moment leaves it there.
func TestAPauseHoldsAProcessThatIsJustStartingAnother(t *testing.T) {
	a := startAgent(t, []Unit{{Name: "spawner", Argv: []string{"sh", "-c", "while :; do /bin/true; done"}, Autostart: true}}, nil)
	for range 100 {
		a.call(200, "POST", "/v1/units/spawner/pause?limit_ms=5000", nil, nil)
		var resumed Resumed
		a.call(200, "POST", "/v1/units/spawner/resume", nil, &resumed)
		if resumed.Expired {
			t.Fatalf("resumed: %+v", resumed)
		}
	}
}

func TestAForgottenPauseEndsAtItsLimitAndSaysSo(t *testing.T) {
	a := startAgent(t, nil, nil)
	unit, log := a.counter("c")
	a.call(200, "PUT", "/v1/units/c", unit, nil)
	a.until("the unit works", func() bool { return size(t, log) > 0 })
	a.call(200, "POST", "/v1/units/c/pause?limit_ms=60", nil, nil)
	frozen := size(t, log)
	a.until("the unit works again by itself", func() bool { return size(t, log) > frozen })
	var resumed Resumed
	a.call(200, "POST", "/v1/units/c/resume", nil, &resumed)
	if !resumed.Expired || resumed.PausedMS < 60 {
		t.Errorf("resumed: %+v", resumed)
	}
	a.call(409, "POST", "/v1/units/c/resume", nil, nil)
	a.call(400, "POST", "/v1/units/c/pause?limit_ms=0", nil, nil)
	a.call(400, "POST", "/v1/units/c/pause?limit_ms=86400000", nil, nil)
	a.call(400, "POST", "/v1/units/c/pause?limit_ms=soon", nil, nil)
}

func TestAKilledUnitThatWasPausedCannotBeResumed(t *testing.T) {
	a := startAgent(t, []Unit{sleeper("s")}, nil)
	a.call(200, "POST", "/v1/units/s/pause?limit_ms=20000", nil, nil)
	a.call(200, "POST", "/v1/units/s/kill", nil, nil)
	a.call(409, "POST", "/v1/units/s/resume", nil, nil)
}

func TestStopAsksAndKillForces(t *testing.T) {
	ready := filepath.Join(t.TempDir(), "ready")
	a := startAgent(t, []Unit{sleeper("polite"), {
		Name: "stubborn", Argv: []string{"sh", "-c", "trap '' TERM; touch " + ready + "; while :; do sleep 0.01; done"},
		Autostart: true, StopGraceS: 0.1,
	}}, nil)
	var stopped Status
	a.call(200, "POST", "/v1/units/polite/stop", nil, &stopped)
	if stopped.State != StateStopped || *stopped.ExitCode != -int(syscall.SIGTERM) || stopped.Desired != DesiredStopped {
		t.Errorf("polite: %+v", stopped)
	}
	a.until("the unit ignores SIGTERM", func() bool { return size(t, ready) == 0 && fileThere(ready) })
	var late failure
	a.call(504, "POST", "/v1/units/stubborn/stop", nil, &late)
	if late.Unit == nil || late.Unit.State != StateRunning {
		t.Errorf("stubborn after stop: %+v", late)
	}
	var killed Status
	a.call(200, "POST", "/v1/units/stubborn/kill", nil, &killed)
	if *killed.ExitCode != -int(syscall.SIGKILL) || killed.PID != 0 {
		t.Errorf("stubborn after kill: %+v", killed)
	}
}

func fileThere(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestAKilledUnitTakesItsChildrenAlong(t *testing.T) {
	a := startAgent(t, nil, nil)
	pidFile := filepath.Join(a.dir, "child")
	a.call(200, "PUT", "/v1/units/p", parentUnit(pidFile), nil)
	child := a.childPID(pidFile)
	var killed Status
	a.call(200, "POST", "/v1/units/p/kill", nil, &killed)
	if killed.State != StateFailed || killed.Desired != DesiredRunning {
		t.Errorf("killed: %+v", killed)
	}
	a.until("the child is gone", func() bool { return gone(child) })
}

func parentUnit(pidFile string) Unit {
	return Unit{Name: "p", Argv: []string{"sh", "-c", "sleep 1000 & echo $! > " + pidFile + "; wait"}, Autostart: true}
}

func (a *agent) childPID(pidFile string) int {
	a.Helper()
	var pid int
	a.until("the child is there", func() bool {
		data, err := os.ReadFile(pidFile)
		if err != nil {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(data)))
		return err == nil
	})
	return pid
}

func TestNothingOutlivesAKilledAgent(t *testing.T) {
	a := startAgent(t, []Unit{sleeper("s")}, nil)
	pidFile := filepath.Join(a.dir, "child")
	a.call(200, "PUT", "/v1/units/p", parentUnit(pidFile), nil)
	child, leader, other := a.childPID(pidFile), a.unit("p").PID, a.unit("s").PID
	a.call(200, "POST", "/v1/units/s/pause?limit_ms=20000", nil, nil)
	if err := a.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = a.cmd.Wait()
	a.until("all are gone", func() bool { return gone(child) && gone(leader) && gone(other) })
}

func TestAnEndingAgentEndsItsUnitsAndTheNextStartsThemAgain(t *testing.T) {
	a := startAgent(t, []Unit{sleeper("on"), sleeper("off")}, nil)
	a.call(200, "POST", "/v1/units/off/stop", nil, nil)
	old := a.unit("on").PID
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := a.cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if !gone(old) {
		t.Error("the unit outlived its agent")
	}
	a.start()
	if on := a.unit("on"); on.State != StateRunning || on.PID == old {
		t.Errorf("on: %+v", on)
	}
	if off := a.unit("off"); off.State != StateStopped {
		t.Errorf("off: %+v", off)
	}
}

func TestAFailingUnitIsStartedAgainOnlyWhereThePolicySaysSo(t *testing.T) {
	a := startAgent(t, []Unit{
		{Name: "again", Argv: []string{"sh", "-c", "exit 3"}, Autostart: true, Restart: RestartOnFailure},
		{Name: "once", Argv: []string{"sh", "-c", "exit 4"}, Autostart: true},
		{Name: "absent", Argv: []string{"/no/such/program"}, Autostart: true},
	}, nil)
	a.until("a restart", func() bool { return a.unit("again").Restarts > 0 })
	if once := a.unit("once"); once.State != StateFailed || *once.ExitCode != 4 || once.Restarts != 0 {
		t.Errorf("once: %+v", once)
	}
	if absent := a.unit("absent"); absent.State != StateFailed || absent.Error == "" {
		t.Errorf("absent: %+v", absent)
	}
	a.call(500, "POST", "/v1/units/absent/start", nil, nil)
	a.call(200, "POST", "/v1/units/again/stop", nil, nil)
}

func TestAUnitThatNeedsAnotherIsTriedAgainWhileItsZoneBootsAndNeverAfterwards(t *testing.T) {
	a := startAgent(t, nil, nil)
	needed := filepath.Join(a.dir, "needed")
	a.call(200, "PUT", "/v1/units/n", Unit{
		Name: "n", Argv: []string{"sh", "-c", "test -e " + needed + " && exec sleep 1000; exit 1"}, Restart: RestartAtBoot,
	}, nil)
	a.call(200, "POST", "/v1/units/n/start", nil, nil)
	a.until("it fails", func() bool { return a.unit("n").State == StateFailed })
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := a.cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	a.start()
	a.until("it was tried again", func() bool { return a.unit("n").Restarts > 0 })
	if err := os.WriteFile(needed, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a.until("it runs", func() bool { return a.unit("n").State == StateRunning })
	tries := a.unit("n").Restarts
	a.call(200, "POST", "/v1/units/n/kill", nil, nil)
	time.Sleep(2 * firstRestartDelay << min(tries, 5))
	if killed := a.unit("n"); killed.State != StateFailed || killed.Restarts != tries {
		t.Errorf("killed: %+v", killed)
	}
}

func TestUnitsAreDefinedAndDeletedOnlyWhenTheyDoNotRun(t *testing.T) {
	a := startAgent(t, nil, nil)
	unit := sleeper("s")
	unit.Env = map[string]string{"GREETING": "hello"}
	a.call(200, "PUT", "/v1/units/s", unit, nil)
	a.call(409, "PUT", "/v1/units/s", unit, nil)
	a.call(409, "DELETE", "/v1/units/s", nil, nil)
	a.call(400, "PUT", "/v1/units/other", unit, nil)
	a.call(400, "PUT", "/v1/units/x", map[string]any{"argv": []string{"true"}, "surprise": 1}, nil)
	a.call(400, "PUT", "/v1/units/x", Unit{}, nil)
	a.call(404, "POST", "/v1/units/nobody/start", nil, nil)
	a.call(200, "POST", "/v1/units/s/stop", nil, nil)
	log := filepath.Join(a.dir, "s.log")
	unit.Argv, unit.Log = []string{"sh", "-c", "echo $GREETING"}, log
	a.call(200, "PUT", "/v1/units/s", unit, nil)
	a.until("the new definition ran", func() bool { return size(t, log) == int64(len("hello\n")) })
	a.until("the unit ended", func() bool { return a.unit("s").State == StateStopped })
	a.call(200, "DELETE", "/v1/units/s", nil, nil)
	var all []Status
	a.call(200, "GET", "/v1/units", nil, &all)
	if len(all) != 0 {
		t.Errorf("units %v", all)
	}
	if kept, err := loadUnits(a.config.Units); err != nil || len(kept) != 0 {
		t.Errorf("kept %v, %v", kept, err)
	}
}

func TestACallWithoutTheTokenIsRefused(t *testing.T) {
	a := startAgent(t, nil, nil)
	for _, header := range []string{"", "Bearer ", "Bearer wrong", token} {
		request, err := http.NewRequest("GET", "http://"+a.config.Listen+"/v1/zone", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", header)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusUnauthorized {
			t.Errorf("%q: %d", header, response.StatusCode)
		}
	}
}

func TestOnlyAZoneWithRelaysCanBeCutByItsAgent(t *testing.T) {
	a := startAgent(t, nil, nil)
	a.call(409, "POST", "/v1/zone/cut", nil, nil)
}
