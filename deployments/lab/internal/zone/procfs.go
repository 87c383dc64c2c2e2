package zone

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// procStat is what the agent needs of /proc/<pid>/stat.
type procStat struct {
	state        byte
	parent, pgrp int
}

// readStat is false when the process or thread is gone.
func readStat(path string) (procStat, bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return procStat{}, false
	}
	// The command in parentheses may hold anything, so parse after the last one.
	_, rest, found := strings.Cut(string(data[max(strings.LastIndexByte(string(data), ')'), 0):]), ") ")
	fields := strings.Fields(rest)
	if !found || len(fields) < 3 {
		return procStat{}, false
	}
	parent, parentErr := strconv.Atoi(fields[1])
	pgrp, pgrpErr := strconv.Atoi(fields[2])
	return procStat{state: fields[0][0], parent: parent, pgrp: pgrp}, parentErr == nil && pgrpErr == nil
}

func allProcesses(match func(pid int, stat procStat) bool) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var found []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if stat, ok := readStat(filepath.Join("/proc", entry.Name(), "stat")); ok && match(pid, stat) {
			found = append(found, pid)
		}
	}
	return found
}

func processesOfGroup(group int) []int {
	return allProcesses(func(_ int, stat procStat) bool { return stat.pgrp == group })
}

func childrenOf(parent, except int) []int {
	return allProcesses(func(pid int, stat procStat) bool {
		return stat.parent == parent && pid != except && stat.state != 'Z'
	})
}

// groupStopped says whether nothing of a process group can run. Only when a second look
// finds the same processes was none being born during the first.
func groupStopped(group int) bool {
	members := processesOfGroup(group)
	return allThreadsStopped(members) && slices.Equal(members, processesOfGroup(group))
}

// allThreadsStopped says whether no thread of the processes can run.
func allThreadsStopped(pids []int) bool {
	for _, pid := range pids {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if err != nil {
			return false
		}
		for _, thread := range threads {
			stat, alive := readStat(thread)
			if alive && stat.state != 'T' && stat.state != 'Z' && stat.state != 'X' {
				return false
			}
		}
	}
	return true
}
