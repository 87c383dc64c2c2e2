package zone

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

const (
	requestHeaderTimeout = 10 * time.Second
	shutdownTimeout      = 5 * time.Second
)

// Config is what an agent is started with.
type Config struct {
	Zone      string
	Listen    string // TCP address of the API
	Units     string // units.json
	TokenFile string
	Relay     string // relay.json; empty means direct mode
	Control   string // unix socket that serves the API even while the zone is cut
}

// Run serves the zone until ctx ends, then ends its units.
func Run(ctx context.Context, config Config) error {
	token, err := os.ReadFile(config.TokenFile)
	if err != nil {
		return err
	}
	secret := strings.TrimSpace(string(token))
	if secret == "" {
		return fmt.Errorf("token file %s is empty", config.TokenFile)
	}
	a := &api{zone: config.Zone, mode: ModeDirect, token: sha256.Sum256([]byte(secret)), gate: newGate()}
	listeners, err := listen(config, a.gate)
	if err != nil {
		return err
	}
	if config.Relay != "" {
		a.mode = ModeRelay
		specs, err := loadRelays(config.Relay)
		if err != nil {
			return err
		}
		running, err := startRelays(specs, a.gate)
		if err != nil {
			return err
		}
		defer running.close()
	}
	if a.supervisor, err = NewSupervisor(config.Units); err != nil {
		return err
	}
	return serve(ctx, a, listeners)
}

func listen(config Config, g *gate) ([]net.Listener, error) {
	tcp, err := net.Listen("tcp", config.Listen)
	if err != nil {
		return nil, err
	}
	listeners := []net.Listener{gatedListener{Listener: tcp, gate: g}}
	if config.Control == "" {
		return listeners, nil
	}
	// A socket left by a killed agent would be in the way; the TCP port was free, so
	// no other agent serves this zone.
	if err := os.Remove(config.Control); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	control, err := net.Listen("unix", config.Control)
	if err != nil {
		return nil, err
	}
	return append(listeners, control), os.Chmod(config.Control, 0o600)
}

func serve(ctx context.Context, a *api, listeners []net.Listener) error {
	server := &http.Server{Handler: a.handler(), ReadHeaderTimeout: requestHeaderTimeout}
	failed := make(chan error, len(listeners))
	for _, listener := range listeners {
		go func() { failed <- server.Serve(listener) }()
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	a.supervisor.Shutdown() // the API still answers meanwhile
	closing, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	if shutdownErr := server.Shutdown(closing); shutdownErr != nil {
		err = errors.Join(err, server.Close())
	}
	return err
}
