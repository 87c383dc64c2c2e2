package zone

import (
	"fmt"
	"syscall"
	"time"
)

// Limits of a pause. The longest is for what freezes a process as a fault and looks at what others do meanwhile.
const (
	defaultPauseLimit = 2 * time.Second
	maxPauseLimit     = 2 * time.Minute
	stoppedPoll       = 200 * time.Microsecond
	// A process that has just forked by vfork waits, deaf to signals, until its child has
	// executed a program, which a stopped child never does. So a freeze that is not complete
	// after this time is let go for a moment and made again, each time with twice the patience:
	// a process in the middle of a slow write is deaf as well, and only wants longer.
	firstPatience = 50 * time.Millisecond
	letGo         = 2 * time.Millisecond
)

// pause is one freeze of a unit with SIGSTOP.
type pause struct {
	began time.Time
	took  time.Duration // set at its end
	limit *time.Timer
}

// Paused answers a pause: from this moment no thread of the unit ran.
type Paused struct {
	PausedAtNS int64 `json:"paused_at_ns"` // Unix time
}

// Resumed answers a resume. When expired, the unit had already been running again:
// whatever was copied meanwhile is not consistent.
type Resumed struct {
	PausedMS float64 `json:"paused_ms"`
	Expired  bool    `json:"expired"`
}

// Pause freezes a unit and returns once all its threads are stopped. After limit the
// unit goes on by itself.
func (s *Supervisor) Pause(name string, limit time.Duration) (Paused, error) {
	if limit <= 0 || limit > maxPauseLimit {
		return Paused{}, fmt.Errorf("%w: a pause of %s: want above 0 and at most %s", ErrInvalid, limit, maxPauseLimit)
	}
	s.mu.Lock()
	m, err := s.find(name)
	if err == nil && m.status.State != StateRunning {
		err = fmt.Errorf("%w: unit %s is %s, only a running one can be paused", ErrConflict, name, m.status.State)
	}
	if err != nil {
		s.mu.Unlock()
		return Paused{}, err
	}
	group := m.status.PID
	p := &pause{began: time.Now()}
	m.pause, m.expired = p, nil
	p.limit = time.AfterFunc(limit, func() { s.expire(m, p) })
	m.enter(StatePaused)
	s.mu.Unlock()
	for patience := firstPatience; ; patience *= 2 {
		if err := s.signal(m, p, group, syscall.SIGSTOP); err != nil {
			return Paused{}, err
		}
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(stoppedPoll) {
			if !groupStopped(group) {
				continue
			}
			frozenAt := time.Now()
			if !s.inForce(m, p) {
				break
			}
			return Paused{PausedAtNS: frozenAt.UnixNano()}, nil
		}
		if err := s.signal(m, p, group, syscall.SIGCONT); err != nil {
			return Paused{}, err
		}
		time.Sleep(letGo)
	}
}

// signal sends a signal to a group of processes, if their pause is still in force: a later
// pause must not be undone by an earlier one.
func (s *Supervisor) signal(m *managed, p *pause, group int, signal syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.pause != p {
		return fmt.Errorf("%w: unit %s was not frozen in time and runs again", ErrTimeout, m.unit.Name)
	}
	if err := syscall.Kill(-group, signal); err != nil {
		s.unpause(m)
		return fmt.Errorf("send %s to unit %s: %w", signal, m.unit.Name, err)
	}
	return nil
}

// Resume lets a paused unit go on, or tells once that its limit did so before.
func (s *Supervisor) Resume(name string) (Resumed, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := s.find(name)
	if err != nil {
		return Resumed{}, err
	}
	if expired := m.expired; expired != nil {
		m.expired = nil
		return Resumed{PausedMS: milliseconds(expired.took), Expired: true}, nil
	}
	p := m.pause
	if p == nil {
		return Resumed{}, fmt.Errorf("%w: unit %s is %s, not paused", ErrConflict, name, m.status.State)
	}
	s.unpause(m)
	return Resumed{PausedMS: milliseconds(p.took)}, nil
}

func (s *Supervisor) inForce(m *managed, p *pause) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return m.pause == p
}

func (s *Supervisor) expire(m *managed, p *pause) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.pause == p {
		s.unpause(m)
		m.expired = p
	}
}

// unpause needs mu; it does nothing to a unit that is not paused.
func (s *Supervisor) unpause(m *managed) {
	if m.pause == nil {
		return
	}
	_ = syscall.Kill(-m.status.PID, syscall.SIGCONT) // fails only when the unit is gone
	m.endPause()
	m.enter(StateRunning)
}

func (m *managed) endPause() {
	if m.pause != nil {
		m.pause.took = time.Since(m.pause.began)
		m.pause.limit.Stop()
		m.pause = nil
	}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
