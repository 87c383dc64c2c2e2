package zone

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// States of a unit.
const (
	StateRunning = "running"
	StatePaused  = "paused"
	StateStopped = "stopped"
	StateFailed  = "failed"
)

const (
	firstRestartDelay = time.Second
	maxRestartDelay   = 30 * time.Second
	// bootPeriod is how long a zone that comes back is thought to be booting.
	bootPeriod = time.Minute
	// killWait bounds the wait for a process in uninterruptible sleep.
	killWait = 10 * time.Second
)

// Errors that the API turns into statuses.
var (
	ErrUnknownUnit = errors.New("no such unit")
	ErrConflict    = errors.New("the unit's state does not allow this")
	ErrTimeout     = errors.New("the unit did not follow in time")
	ErrInvalid     = errors.New("invalid request")
)

// Status is a unit's state as the API shows it.
type Status struct {
	Name     string    `json:"name"`
	State    string    `json:"state"`
	PID      int       `json:"pid,omitempty"`
	Since    time.Time `json:"since"`
	ExitCode *int      `json:"exit_code"` // of the last run; negative is a signal
	Restarts int       `json:"restarts"`
	Desired  string    `json:"desired"`
	Error    string    `json:"error,omitempty"` // why the last start failed
}

// managed is a unit with its current or last run.
type managed struct {
	unit     Unit
	status   Status
	exited   chan struct{} // closed at the end of the current run
	stopping bool          // its end was asked for
	booted   bool          // the agent's own start began it, nobody since
	pause    *pause
	expired  *pause // a pause that ended at its limit and was not asked about yet
	retry    *time.Timer
}

func (m *managed) alive() bool {
	return m.status.State == StateRunning || m.status.State == StatePaused
}

func (m *managed) enter(state string) {
	m.status.State, m.status.Since = state, time.Now().UTC()
}

func (m *managed) cancelRetry() {
	if m.retry != nil {
		m.retry.Stop()
		m.retry = nil
	}
}

// Supervisor owns the units of one zone.
type Supervisor struct {
	path    string
	began   time.Time
	spawner *spawner
	saving  sync.Mutex // orders writes of units.json; never taken while holding mu

	mu     sync.Mutex // held briefly only: a pause's limit needs it
	units  map[string]*managed
	ending bool
}

// NewSupervisor loads units.json and starts what should run.
func NewSupervisor(path string) (*Supervisor, error) {
	units, err := loadUnits(path)
	if err != nil {
		return nil, err
	}
	processes, err := newSpawner()
	if err != nil {
		return nil, err
	}
	s := &Supervisor{path: path, began: time.Now(), spawner: processes, units: map[string]*managed{}}
	for _, unit := range units {
		s.units[unit.Name] = newManaged(unit)
	}
	for _, unit := range units {
		if unit.Desired == DesiredRunning {
			s.mu.Lock()
			s.units[unit.Name].booted = true
			s.launch(s.units[unit.Name]) // a failure shows in the unit's status
			s.mu.Unlock()
		}
	}
	return s, nil
}

func newManaged(unit Unit) *managed {
	m := &managed{unit: unit, status: Status{Name: unit.Name}}
	m.enter(StateStopped)
	return m
}

// List returns all units by name.
func (s *Supervisor) List() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Status, 0, len(s.units))
	for _, m := range s.units {
		all = append(all, m.report())
	}
	slices.SortFunc(all, func(a, b Status) int { return strings.Compare(a.Name, b.Name) })
	return all
}

func (m *managed) report() Status {
	status := m.status
	status.Desired = m.unit.Desired
	return status
}

// Get returns one unit's status.
func (s *Supervisor) Get(name string) (Status, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := s.find(name)
	if err != nil {
		return Status{}, err
	}
	return m.report(), nil
}

func (s *Supervisor) find(name string) (*managed, error) {
	m, ok := s.units[name]
	if !ok {
		return nil, fmt.Errorf("%w: %s", ErrUnknownUnit, name)
	}
	return m, nil
}

// Define adds a unit or replaces one that is not running; autostart starts a new one.
func (s *Supervisor) Define(unit Unit) (Status, error) {
	if err := unit.normalise(); err != nil {
		return Status{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	s.mu.Lock()
	if old, ok := s.units[unit.Name]; ok {
		if old.alive() {
			s.mu.Unlock()
			return Status{}, fmt.Errorf("%w: unit %s is %s; stop it before replacing it", ErrConflict, unit.Name, old.status.State)
		}
		old.cancelRetry()
	}
	s.units[unit.Name] = newManaged(unit)
	s.mu.Unlock()
	if err := s.save(); err != nil {
		return Status{}, err
	}
	if unit.Desired == DesiredRunning {
		return s.Start(unit.Name)
	}
	return s.Get(unit.Name)
}

// Delete forgets a unit that is not running.
func (s *Supervisor) Delete(name string) error {
	s.mu.Lock()
	m, err := s.find(name)
	if err == nil && m.alive() {
		err = fmt.Errorf("%w: unit %s is %s; stop it before deleting it", ErrConflict, name, m.status.State)
	}
	if err == nil {
		m.cancelRetry()
		delete(s.units, name)
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.save()
}

// Start runs a unit; one that runs already is left alone.
func (s *Supervisor) Start(name string) (Status, error) {
	if err := s.setDesired(name, DesiredRunning); err != nil {
		return Status{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := s.find(name)
	if err != nil {
		return Status{}, err
	}
	if s.ending {
		return m.report(), fmt.Errorf("%w: the agent is ending", ErrConflict)
	}
	if !m.alive() {
		err = s.launch(m)
	}
	return m.report(), err
}

func (s *Supervisor) setDesired(name, desired string) error {
	s.mu.Lock()
	m, err := s.find(name)
	if err == nil {
		m.unit.Desired = desired
		m.booted = false
		m.cancelRetry()
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.save()
}

// launch needs mu.
func (s *Supervisor) launch(m *managed) error {
	pid, exited, err := s.spawner.start(&m.unit)
	m.stopping, m.expired = false, nil
	if err != nil {
		m.enter(StateFailed)
		m.status.Error, m.status.ExitCode = err.Error(), nil
		return fmt.Errorf("start unit %s: %w", m.unit.Name, err)
	}
	m.enter(StateRunning)
	m.status.PID, m.status.ExitCode, m.status.Error = pid, nil, ""
	m.exited = make(chan struct{})
	go func() { s.ended(m, <-exited) }()
	return nil
}

// ended notes a run's end and plans the next where the policy asks for it.
func (s *Supervisor) ended(m *managed, code int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.endPause()
	m.status.PID, m.status.ExitCode = 0, &code
	lasted := time.Since(m.status.Since)
	if code == 0 || m.stopping {
		m.enter(StateStopped)
	} else {
		m.enter(StateFailed)
	}
	close(m.exited)
	if m.status.State != StateFailed || !s.restarts(m, code) || s.ending {
		return
	}
	delay := min(firstRestartDelay<<min(m.status.Restarts, 5), maxRestartDelay)
	if lasted > maxRestartDelay {
		delay = firstRestartDelay
	}
	m.retry = time.AfterFunc(delay, func() { s.relaunch(m) })
}

// restarts tells whether the unit's policy has it tried again; one that somebody killed has not failed by itself.
func (s *Supervisor) restarts(m *managed, code int) bool {
	if m.unit.Restart == RestartAtBoot {
		return m.booted && code > 0 && time.Since(s.began) < bootPeriod
	}
	return m.unit.Restart == RestartOnFailure
}

func (s *Supervisor) relaunch(m *managed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.retry == nil || s.ending || m.alive() || s.units[m.unit.Name] != m {
		return
	}
	m.retry = nil
	m.status.Restarts++
	_ = s.launch(m) // shows in the unit's status
}

// Stop asks a unit to end with SIGTERM and waits for its grace. It never kills: a unit
// that does not follow is reported with ErrTimeout, still running.
func (s *Supervisor) Stop(name string) (Status, error) {
	if err := s.setDesired(name, DesiredStopped); err != nil {
		return Status{}, err
	}
	return s.end(name, syscall.SIGTERM)
}

// Kill ends a unit with SIGKILL. What should run does not change: the restart policy holds.
func (s *Supervisor) Kill(name string) (Status, error) { return s.end(name, syscall.SIGKILL) }

func (s *Supervisor) end(name string, sig syscall.Signal) (Status, error) {
	s.mu.Lock()
	m, err := s.find(name)
	if err != nil || !m.alive() {
		defer s.mu.Unlock()
		if err != nil {
			return Status{}, err
		}
		return m.report(), nil
	}
	wait := killWait
	if sig == syscall.SIGTERM {
		m.stopping, wait = true, m.unit.grace()
		s.unpause(m)
	}
	exited, signalErr := m.exited, syscall.Kill(-m.status.PID, sig)
	s.mu.Unlock()
	if signalErr != nil && !errors.Is(signalErr, syscall.ESRCH) {
		return Status{}, fmt.Errorf("signal unit %s: %w", name, signalErr)
	}
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	select {
	case <-exited:
	case <-timeout.C:
		status, err := s.Get(name)
		return status, errors.Join(err, fmt.Errorf("%w: unit %s still runs %s after %s", ErrTimeout, name, wait, unix.SignalName(sig)))
	}
	return s.Get(name)
}

// Shutdown ends all units: SIGTERM, their grace, SIGKILL. What should run stays recorded.
func (s *Supervisor) Shutdown() {
	s.mu.Lock()
	s.ending = true
	var names []string
	for name, m := range s.units {
		m.cancelRetry()
		names = append(names, name)
	}
	s.mu.Unlock()
	var all sync.WaitGroup
	for _, name := range names {
		all.Go(func() {
			if _, err := s.end(name, syscall.SIGTERM); errors.Is(err, ErrTimeout) {
				_, _ = s.end(name, syscall.SIGKILL)
			}
		})
	}
	all.Wait()
	s.spawner.killOrphans()
}

func (s *Supervisor) save() error {
	s.saving.Lock()
	defer s.saving.Unlock()
	s.mu.Lock()
	units := make([]Unit, 0, len(s.units))
	for _, m := range s.units {
		units = append(units, m.unit)
	}
	s.mu.Unlock()
	slices.SortFunc(units, func(a, b Unit) int { return strings.Compare(a.Name, b.Name) })
	return saveUnits(s.path, units)
}
