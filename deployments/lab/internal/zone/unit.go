// Package zone supervises the processes of one lab zone and can cut the zone off: it is
// the lab's systemd and sshd in one.
//
// It guarantees that no unit outlives its agent, that a pause ends at its limit even if
// nobody resumes it, and that what should run is known after a restart. It never sends
// SIGKILL to a unit unless it is told to, or is itself ending.
package zone

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"time"

	"virtengine.dev/vedr/lab/internal/durable"
)

// Restart policies and desired states of a unit. At-boot is for what may come before something that it needs when
// a zone comes back: it is tried again while the zone boots, and afterwards stays down when it fails.
const (
	RestartNo        = "no"
	RestartOnFailure = "on-failure"
	RestartAtBoot    = "at-boot"

	DesiredRunning = "running"
	DesiredStopped = "stopped"
)

const defaultStopGraceS = 20

var unitName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// Unit is a program to be run. Desired is kept with it, so that an agent started anew
// knows what should run; autostart decides while it is not set.
type Unit struct {
	Name       string            `json:"name"`
	Argv       []string          `json:"argv"`
	Env        map[string]string `json:"env,omitempty"` // added to the agent's own
	Cwd        string            `json:"cwd,omitempty"`
	Log        string            `json:"log,omitempty"` // appended to; discarded when empty
	Autostart  bool              `json:"autostart"`
	Restart    string            `json:"restart,omitempty"`
	StopGraceS float64           `json:"stop_grace_s,omitempty"`
	Netns      string            `json:"netns,omitempty"` // run inside this named network namespace
	Desired    string            `json:"desired,omitempty"`
}

// normalise fills defaults in and refuses a unit that could not run.
func (u *Unit) normalise() error {
	if u.Restart == "" {
		u.Restart = RestartNo
	}
	if u.StopGraceS == 0 {
		u.StopGraceS = defaultStopGraceS
	}
	if u.Desired == "" {
		u.Desired = DesiredStopped
		if u.Autostart {
			u.Desired = DesiredRunning
		}
	}
	switch {
	case !unitName.MatchString(u.Name):
		return fmt.Errorf("unit name %q: want letters, digits, dot, dash, underscore", u.Name)
	case len(u.Argv) == 0:
		return fmt.Errorf("unit %s: argv is empty", u.Name)
	case !slices.Contains([]string{RestartNo, RestartOnFailure, RestartAtBoot}, u.Restart):
		return fmt.Errorf("unit %s: restart %q: want no, on-failure or at-boot", u.Name, u.Restart)
	case u.StopGraceS < 0:
		return fmt.Errorf("unit %s: stop_grace_s is negative", u.Name)
	case u.Desired != DesiredRunning && u.Desired != DesiredStopped:
		return fmt.Errorf("unit %s: desired %q: want running or stopped", u.Name, u.Desired)
	}
	return nil
}

func (u *Unit) grace() time.Duration { return time.Duration(u.StopGraceS * float64(time.Second)) }

// command is the argument vector with the namespace's entry in front. "ip netns exec"
// replaces itself by the program, so the process id is the program's.
func (u *Unit) command() []string {
	if u.Netns == "" {
		return u.Argv
	}
	return append([]string{"ip", "netns", "exec", u.Netns}, u.Argv...)
}

func (u *Unit) environment() []string {
	env := os.Environ()
	for name, value := range u.Env {
		env = append(env, name+"="+value)
	}
	return env
}

// loadUnits reads units.json, a JSON list of units; an absent file is an empty list.
func loadUnits(path string) ([]Unit, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var units []Unit
	if err := json.Unmarshal(data, &units); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	seen := map[string]bool{}
	for i := range units {
		if err := units[i].normalise(); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if seen[units[i].Name] {
			return nil, fmt.Errorf("%s: two units are named %q", path, units[i].Name)
		}
		seen[units[i].Name] = true
	}
	return units, nil
}

func saveUnits(path string, units []Unit) error {
	return durable.WriteJSON(path, units, 0o600) // environments may carry secrets
}
