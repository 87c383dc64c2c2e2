package zone

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

const maxRequestBytes = 1 << 20

// Modes of a zone.
const (
	ModeDirect = "direct" // the agent cannot cut the zone; namespaces may
	ModeRelay  = "relay"
)

// api serves a supervisor over HTTP.
type api struct {
	zone       string
	mode       string
	token      [sha256.Size]byte
	supervisor *Supervisor
	gate       *gate
}

func (a *api) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/zone", a.getZone)
	mux.HandleFunc("POST /v1/zone/cut", a.setCut(true))
	mux.HandleFunc("POST /v1/zone/heal", a.setCut(false))
	mux.HandleFunc("GET /v1/units", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, a.supervisor.List(), nil)
	})
	mux.HandleFunc("GET /v1/units/{name}", a.onUnit(a.supervisor.Get))
	mux.HandleFunc("PUT /v1/units/{name}", a.putUnit)
	mux.HandleFunc("DELETE /v1/units/{name}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, struct{}{}, a.supervisor.Delete(r.PathValue("name")))
	})
	mux.HandleFunc("POST /v1/units/{name}/start", a.onUnit(a.supervisor.Start))
	mux.HandleFunc("POST /v1/units/{name}/stop", a.onUnit(a.supervisor.Stop))
	mux.HandleFunc("POST /v1/units/{name}/kill", a.onUnit(a.supervisor.Kill))
	mux.HandleFunc("POST /v1/units/{name}/pause", a.pauseUnit)
	mux.HandleFunc("POST /v1/units/{name}/resume", func(w http.ResponseWriter, r *http.Request) {
		resumed, err := a.supervisor.Resume(r.PathValue("name"))
		answer(w, resumed, err)
	})
	return a.authorised(mux)
}

func (a *api) authorised(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		given, isBearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		sum := sha256.Sum256([]byte(given))
		if !isBearer || subtle.ConstantTimeCompare(sum[:], a.token[:]) != 1 {
			writeJSON(w, http.StatusUnauthorized, failure{Error: "a valid bearer token is needed"})
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxRequestBytes)
		next.ServeHTTP(w, r)
	})
}

func (a *api) getZone(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]any{
		"zone": a.zone, "pid": os.Getpid(), "mode": a.mode, "cut": a.gate.shut(),
	})
}

func (a *api) setCut(cut bool) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if a.mode != ModeRelay {
			answer(w, nil, fmt.Errorf("%w: this agent has no relays; cut the zone's network namespace instead", ErrConflict))
			return
		}
		a.gate.set(!cut)
		writeJSON(w, http.StatusOK, map[string]any{"zone": a.zone, "cut": cut})
	}
}

func (a *api) onUnit(do func(string) (Status, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		status, err := do(r.PathValue("name"))
		answer(w, status, err)
	}
}

func (a *api) putUnit(w http.ResponseWriter, r *http.Request) {
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	var unit Unit
	if err := decoder.Decode(&unit); err != nil {
		answer(w, nil, fmt.Errorf("%w: unit: %w", ErrInvalid, err))
		return
	}
	if unit.Name == "" {
		unit.Name = r.PathValue("name")
	}
	if unit.Name != r.PathValue("name") {
		answer(w, nil, fmt.Errorf("%w: the unit is named %q, the path says %q", ErrInvalid, unit.Name, r.PathValue("name")))
		return
	}
	status, err := a.supervisor.Define(unit)
	answer(w, status, err)
}

func (a *api) pauseUnit(w http.ResponseWriter, r *http.Request) {
	limit := defaultPauseLimit
	if text := r.URL.Query().Get("limit_ms"); text != "" {
		ms, err := strconv.ParseUint(text, 10, 31)
		if err != nil {
			answer(w, nil, fmt.Errorf("%w: limit_ms %q: want a whole number of milliseconds", ErrInvalid, text))
			return
		}
		limit = time.Duration(ms) * time.Millisecond
	}
	paused, err := a.supervisor.Pause(r.PathValue("name"), limit)
	answer(w, paused, err)
}

type failure struct {
	Error string  `json:"error"`
	Unit  *Status `json:"unit,omitempty"` // where it stands, if that is known
}

func answer(w http.ResponseWriter, value any, err error) {
	if err == nil {
		writeJSON(w, http.StatusOK, value)
		return
	}
	code := http.StatusInternalServerError
	for known, status := range map[error]int{
		ErrUnknownUnit: http.StatusNotFound,
		ErrConflict:    http.StatusConflict,
		ErrTimeout:     http.StatusGatewayTimeout,
		ErrInvalid:     http.StatusBadRequest,
	} {
		if errors.Is(err, known) {
			code = status
		}
	}
	body := failure{Error: err.Error()}
	if status, ok := value.(Status); ok && status.Name != "" {
		body.Unit = &status
	}
	writeJSON(w, code, body)
}

func writeJSON(w http.ResponseWriter, code int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(value) // the client may have gone
}
