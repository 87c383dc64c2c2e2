package zone

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

// KeeperArg makes labzoned run as a keeper instead of an agent.
const KeeperArg = "__keeper"

// keeper is a small process that outlives an agent killed with SIGKILL just long enough
// to kill the units' process groups. The death signal alone ends only their leaders.
type keeper struct {
	command *exec.Cmd
	pipe    io.WriteCloser
}

func startKeeper() (*keeper, error) {
	command := exec.Command("/proc/self/exe", KeeperArg)
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	command.Stderr = os.Stderr
	pipe, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	return &keeper{command: command, pipe: pipe}, command.Start()
}

func (k *keeper) pid() int { return k.command.Process.Pid }

// A failed write means that the keeper was killed; the death signal still holds.
func (k *keeper) watch(group int)  { fmt.Fprintf(k.pipe, "+%d\n", group) }
func (k *keeper) forget(group int) { fmt.Fprintf(k.pipe, "-%d\n", group) }

// RunKeeper reads "+group" and "-group" lines until its agent is gone, then kills the
// groups that are left.
func RunKeeper(in io.Reader) {
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	groups := map[int]bool{}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var sign rune
		var group int
		if _, err := fmt.Sscanf(lines.Text(), "%c%d", &sign, &group); err != nil || group <= 1 {
			continue
		}
		if sign == '+' {
			groups[group] = true
		} else {
			delete(groups, group)
		}
	}
	for group := range groups {
		_ = syscall.Kill(-group, syscall.SIGKILL)
	}
}
