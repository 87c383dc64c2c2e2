package zone

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

const relayDialTimeout = 2 * time.Second

// Relay carries one TCP port of the zone. Where network namespaces are not to be had, a
// zone's services listen on hidden ports and are reached through relays only.
type Relay struct {
	Name   string `json:"name"`
	Listen string `json:"listen"`
	Target string `json:"target"`
}

func loadRelays(path string) ([]Relay, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var relays []Relay
	if err := json.Unmarshal(data, &relays); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return relays, nil
}

// gate lets traffic through, or not. While it is shut, connections stay open and
// silent, as behind a router that drops packets; when it opens, what waited goes on.
type gate struct {
	mu   sync.Mutex
	open chan struct{} // closed while traffic may pass
}

func newGate() *gate {
	g := &gate{open: make(chan struct{})}
	close(g.open)
	return g
}

func (g *gate) set(open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.open:
		if !open {
			g.open = make(chan struct{})
		}
	default:
		if open {
			close(g.open)
		}
	}
}

func (g *gate) shut() bool {
	select {
	case <-g.passage():
		return false
	default:
		return true
	}
}

func (g *gate) passage() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

// relays are the running relays of a zone.
type relays struct {
	gate      *gate
	listeners []net.Listener
	done      chan struct{}
}

func startRelays(specs []Relay, g *gate) (*relays, error) {
	r := &relays{gate: g, done: make(chan struct{})}
	for _, spec := range specs {
		listener, err := net.Listen("tcp", spec.Listen)
		if err != nil {
			r.close()
			return nil, fmt.Errorf("relay %s: %w", spec.Name, err)
		}
		r.listeners = append(r.listeners, listener)
		go r.serve(listener, spec.Target)
	}
	return r, nil
}

func (r *relays) close() {
	close(r.done)
	for _, listener := range r.listeners {
		listener.Close()
	}
}

func (r *relays) serve(listener net.Listener, target string) {
	for {
		client, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			go r.carry(client, target)
		}
	}
}

func (r *relays) carry(client net.Conn, target string) {
	defer client.Close()
	if !r.wait() {
		return
	}
	server, err := net.DialTimeout("tcp", target, relayDialTimeout)
	if err != nil {
		return
	}
	defer server.Close()
	var both sync.WaitGroup
	both.Go(func() { r.copy(server, client) })
	both.Go(func() { r.copy(client, server) })
	ended := make(chan struct{})
	go func() { both.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-r.done:
	}
}

// wait returns when traffic may pass; false when the relays end.
func (r *relays) wait() bool {
	select {
	case <-r.gate.passage():
		return true
	case <-r.done:
		return false
	}
}

// copy moves bytes one way. The end of a stream waits at the gate as well: a cut network
// does not carry the news.
func (r *relays) copy(to, from net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if !r.wait() {
			return
		}
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				from.Close()
				return
			}
		}
		if err != nil {
			if half, ok := to.(*net.TCPConn); ok {
				_ = half.CloseWrite() // the other way may still carry an answer
			}
			return
		}
	}
}

// gatedListener makes the agent's own port part of the zone that is cut.
type gatedListener struct {
	net.Listener
	gate *gate
}

func (l gatedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &gatedConn{Conn: conn, gate: l.gate, closed: make(chan struct{})}, nil
}

// gatedConn hears nothing while the gate is shut. Writing goes on, so that the request
// which cuts the zone gets its answer.
type gatedConn struct {
	net.Conn
	gate   *gate
	once   sync.Once
	closed chan struct{}
}

func (c *gatedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	select {
	case <-c.gate.passage():
		return n, err
	case <-c.closed:
		return 0, net.ErrClosed
	}
}

func (c *gatedConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
