package zone

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// spawner starts processes and reaps all children, those of dead children included.
//
// The kernel sends a child its death signal when the *thread* that forked it ends, and
// Go ends threads as it likes: one goroutine owns a thread for ever and forks on it.
type spawner struct {
	requests chan func()
	keeper   *keeper

	mu      sync.Mutex // held over fork and over reaping, so that no exit is missed
	waiting map[int]chan int
}

func newSpawner() (*spawner, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become subreaper: %w", err)
	}
	s := &spawner{requests: make(chan func()), waiting: map[int]chan int{}}
	var err error
	if s.keeper, err = startKeeper(); err != nil {
		return nil, fmt.Errorf("start keeper: %w", err)
	}
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	go func() {
		runtime.LockOSThread()
		for request := range s.requests {
			request()
		}
	}()
	go func() {
		for range children {
			s.reap()
		}
	}()
	return s, nil
}

// start runs a unit's program in its own process group. The channel yields the exit
// code once: negative is the signal that ended the process.
func (s *spawner) start(u *Unit) (pid int, exited <-chan int, err error) {
	argv := u.command()
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return 0, nil, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, nil, err
	}
	defer null.Close()
	output := null
	if u.Log != "" {
		if output, err = os.OpenFile(u.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err != nil {
			return 0, nil, err
		}
		defer output.Close()
	}
	attr := &syscall.ProcAttr{
		Dir: u.Cwd, Env: u.environment(),
		Files: []uintptr{null.Fd(), output.Fd(), output.Fd()},
		Sys:   &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	}
	done := make(chan struct{})
	s.requests <- func() {
		defer close(done)
		pid, exited, err = s.fork(path, argv, attr)
	}
	<-done
	return pid, exited, err
}

func (s *spawner) fork(path string, argv []string, attr *syscall.ProcAttr) (int, <-chan int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return 0, nil, fmt.Errorf("run %s: %w", path, err)
	}
	s.keeper.watch(pid)
	exited := make(chan int, 1)
	s.waiting[pid] = exited
	return pid, exited, nil
}

func (s *spawner) reap() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		exited, ours := s.waiting[pid]
		if !ours {
			continue
		}
		delete(s.waiting, pid)
		// What the leader left behind goes with it. While such a process lives the
		// kernel does not give the group's number away.
		_ = syscall.Kill(-pid, syscall.SIGKILL)
		s.keeper.forget(pid)
		exited <- exitCode(status)
	}
}

// killOrphans ends adopted processes that left their unit's group.
func (s *spawner) killOrphans() {
	for range 100 { // their own children come to us as they die
		orphans := childrenOf(os.Getpid(), s.keeper.pid())
		if len(orphans) == 0 {
			return
		}
		for _, pid := range orphans {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		s.reap()
	}
}

func exitCode(status syscall.WaitStatus) int {
	if status.Signaled() {
		return -int(status.Signal())
	}
	return status.ExitStatus()
}
