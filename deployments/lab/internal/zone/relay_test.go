package zone

import (
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// echo is a service of the zone, behind a relay.
func echo(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn); conn.Close() }()
		}
	}()
	return listener.Addr().String()
}

func echoes(t *testing.T, conn net.Conn, word string, within time.Duration) bool {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, word); err != nil {
		return false
	}
	return hears(conn, word)
}

func hears(conn net.Conn, word string) bool {
	got := make([]byte, len(word))
	_, err := io.ReadFull(conn, got)
	return err == nil && string(got) == word
}

func TestACutZoneIsSilentUntilItIsHealed(t *testing.T) {
	front := freeAddress(t)
	a := startAgent(t, nil, []Relay{{Name: "echo", Listen: front, Target: echo(t)}})
	const silence = 100 * time.Millisecond
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", front)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	established := dial()
	if !echoes(t, established, "before", patience) {
		t.Fatal("the relay does not carry")
	}
	outside := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	a.callVia(outside, "http://"+a.config.Listen, 200, "POST", "/v1/zone/cut", nil, nil)

	fresh := dial()
	if echoes(t, established, "during", silence) || echoes(t, fresh, "during", silence) {
		t.Error("the cut zone answers")
	}
	deaf := &http.Client{Timeout: silence}
	if _, err := deaf.Get("http://" + a.config.Listen + "/v1/zone"); err == nil {
		t.Error("the agent of the cut zone answers from outside")
	}
	var zone struct{ Cut bool }
	a.call(200, "GET", "/v1/zone", nil, &zone)
	if !zone.Cut {
		t.Error("the agent does not say that the zone is cut")
	}
	a.call(200, "POST", "/v1/zone/heal", nil, nil)
	for name, conn := range map[string]net.Conn{"established": established, "fresh": fresh} {
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if !hears(conn, "during") {
			t.Errorf("the %s connection lost what it sent while the zone was cut", name)
		}
	}
	a.callVia(outside, "http://"+a.config.Listen, 200, "GET", "/v1/zone", nil, nil)
}
