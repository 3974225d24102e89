package listener

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/proxyprotocol"
)

const patience = 10 * time.Second

// listen opens a socket as Caddy does for a config. Sockets for the same address can be opened again.
func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	at, err := caddy.ParseNetworkAddress(address)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := at.Listen(t.Context(), 0, net.ListenConfig{})
	if err != nil {
		t.Fatal(err)
	}
	return ln.(net.Listener)
}

// start adds a generation that answers with name to the door of ln.
func start(t *testing.T, ln net.Listener, name string, with shape) *generation {
	t.Helper()
	s, ok := socketOf(ln)
	if !ok {
		t.Fatal("socket not found")
	}
	settled := make(chan struct{})
	close(settled)
	g := &generation{
		ln:        ln,
		socket:    s,
		handler:   http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) }),
		keepAlive: net.KeepAliveConfig{Enable: true},
		shape:     with,
		settled:   settled,
		logger:    zap.NewNop(),
		stdlib:    zap.NewNop(),
		handed:    make(chan net.Conn),
		closed:    make(chan struct{}),
	}
	if err := join(g, s); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}

// waitFor polls until done reports true.
func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for deadline := time.After(patience); !done(); {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

// peer is a client's connection.
type peer struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, addr net.Addr) *peer {
	t.Helper()
	c, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &peer{t, c, bufio.NewReader(c)}
}

func (p *peer) send(text string) {
	p.t.Helper()
	if _, err := io.WriteString(p, text); err != nil {
		p.t.Fatal(err)
	}
}

// receive returns the status and body of an answer; 0 if there is none.
func (p *peer) receive() (int, string) {
	p.t.Helper()
	_ = p.SetReadDeadline(time.Now().Add(patience))
	res, err := http.ReadResponse(p.r, nil)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err.Error()
	}
	return res.StatusCode, string(body)
}

const request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"

func (p *peer) expect(status int, body string) {
	p.t.Helper()
	if got, text := p.receive(); got != status || text != body {
		p.t.Errorf("got %d %q, want %d %q", got, text, status, body)
	}
}

func (p *peer) ask(status int, body string) {
	p.t.Helper()
	p.send(request)
	p.expect(status, body)
}

// pairs makes n TCP connections.
func pairs(t *testing.T, n int) (clients, accepted []net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for range n {
		client, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close() })
		clients, accepted = append(clients, client), append(accepted, c)
	}
	return clients, accepted
}

// TestGenerations: connections live over all configs, and every request is served by the config that serves when its head is complete.
func TestGenerations(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "unix/" + t.TempDir() + "/socket"} {
		t.Run(address[:4], func(t *testing.T) {
			ln := listen(t, address)
			first := start(t, ln, "first", shape{})
			if address == "127.0.0.1:0" {
				address = ln.Addr().String()
			}
			kept, silent, begun := dial(t, ln.Addr()), dial(t, ln.Addr()), dial(t, ln.Addr())
			kept.ask(200, "first")
			begun.send(request[:8])

			second := start(t, listen(t, address), "second", shape{})
			kept.ask(200, "first") // the second may still be given up
			rejected := start(t, listen(t, address), "rejected", shape{})
			rejected.Close()
			kept.ask(200, "first")

			first.Close()
			kept.ask(200, "second")
			begun.send(request[8:])
			begun.expect(200, "second")
			silent.ask(200, "second")
			dial(t, ln.Addr()).ask(200, "second")

			third := start(t, listen(t, address), "third", shape{readHeaderTimeout: time.Minute}) // another HTTP server
			second.Close()
			kept.ask(200, "third")
			dial(t, ln.Addr()).ask(200, "third")

			third.Close()
			if status, _ := kept.receive(); status != 0 {
				t.Errorf("status %d without a request and without a config", status)
			}
			if c, err := net.Dial(ln.Addr().Network(), ln.Addr().String()); err == nil {
				c.Close()
				t.Error("a door without config accepts connections")
			}
		})
	}
}

// TestDistrust: connections are closed, and their requests refused, if what was proved when they were made may not hold any more.
func TestDistrust(t *testing.T) {
	for name, shapes := range map[string][2]shape{
		"key":  {{key: "a"}, {key: "b"}},
		"tls":  {{}, {tls: true}},
		"only": {{only: new(generation)}, {only: new(generation)}},
		"h2":   {{h2: true}, {}},
	} {
		t.Run(name, func(t *testing.T) {
			ln := listen(t, "127.0.0.1:0")
			first := start(t, ln, "first", shapes[0])
			kept, begun := dial(t, ln.Addr()), dial(t, ln.Addr())
			kept.ask(200, "first")
			begun.send(request[:8])
			_, s := first.door.taking()
			waitFor(t, "both connections to be served", func() bool { return s.open.Load() == 2 })
			start(t, listen(t, ln.Addr().String()), "second", shapes[1])
			first.Close()
			begun.send(request[8:]) // it was made for the first config
			begun.expect(200, "first")
			if status, text := kept.receive(); status != 0 {
				t.Errorf("got %d %q on a connection that is not trusted", status, text)
			}
		})
	}
	t.Run("request", func(t *testing.T) {
		// One that arrives in the moment before the connection is closed is for the config for which it was made.
		ln := listen(t, "127.0.0.1:0")
		first := start(t, ln, "first", shape{})
		kept := dial(t, ln.Addr())
		kept.ask(200, "first")
		_, s := first.door.taking()
		s.last.Store(first)
		second := start(t, listen(t, ln.Addr().String()), "second", shape{})
		first.Close()
		kept.ask(200, "first")
		s.last.Store(nil)
		kept.ask(200, "second")
		second.Close()
	})
}

func doorAt(ln net.Listener) *door {
	s, _ := socketOf(ln)
	doors.Lock()
	defer doors.Unlock()
	return doors.at[s.address]
}

// TestAcceptErrors: the door accepts again after errors.
func TestAcceptErrors(t *testing.T) {
	ln := listen(t, "127.0.0.1:0")
	start(t, ln, "first", shape{})
	d := doorAt(ln)
	client, remote := net.Pipe()
	defer client.Close()
	failing := &failingListener{Listener: ln, errors: 2, conn: remote}
	go d.accept(failing, nil)
	p := &peer{t, client, bufio.NewReader(client)}
	p.ask(200, "first")
}

type failingListener struct {
	net.Listener
	errors int
	conn   net.Conn
}

func (f *failingListener) Accept() (net.Conn, error) {
	if f.errors > 0 {
		f.errors--
		return nil, fmt.Errorf("too many open files")
	}
	if c := f.conn; c != nil {
		f.conn = nil
		return c, nil
	}
	return nil, net.ErrClosed
}

// TestSettled: nothing is served before the config has what it needs.
func TestSettled(t *testing.T) {
	ln := listen(t, "127.0.0.1:0")
	s, _ := socketOf(ln)
	settled := make(chan struct{})
	served := make(chan struct{}, 1)
	g := &generation{
		ln: ln, socket: s, settled: settled, logger: zap.NewNop(), stdlib: zap.NewNop(), handed: make(chan net.Conn), closed: make(chan struct{}),
		handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			select {
			case <-settled:
			default:
				t.Error("a request was served before")
			}
			served <- struct{}{}
		}),
	}
	if err := join(g, s); err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	p := dial(t, ln.Addr())
	p.send(request)
	if got := g.door.connections(); got != 0 {
		t.Errorf("%d connections were accepted before", got)
	}
	close(settled)
	p.expect(200, "")
	<-served
}

// TestClosing: when Caddy exits, answers tell clients to close their connections.
func TestClosing(t *testing.T) {
	ln := listen(t, "127.0.0.1:0")
	start(t, ln, "first", shape{})
	p := dial(t, ln.Addr())
	p.ask(200, "first")
	doorAt(ln).closing.Store(true)
	p.send(request)
	res, err := http.ReadResponse(p.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if !res.Close {
		t.Errorf("header %v, want Connection: close", res.Header)
	}
}

// TestSocketOf finds the socket beneath what Caddy and listener wrappers make of it.
func TestSocketOf(t *testing.T) {
	plain := listen(t, "127.0.0.1:0")
	defer plain.Close()
	port := plain.Addr().(*net.TCPAddr).Port
	found, _ := socketOf(plain)
	file, err := found.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	path := t.TempDir() + "/socket"
	unix := listen(t, "unix/"+path)
	defer unix.Close()
	again := listen(t, "unix/"+path)
	defer again.Close()
	passed := listen(t, fmt.Sprintf("fd/%d", file.Fd()))
	defer passed.Close()
	pipe := &single{}
	for name, c := range map[string]struct {
		ln   net.Listener
		want socket
	}{
		"plain": {plain, socket{network: "tcp", address: "tcp/" + plain.Addr().String(), port: port}},
		"tls":   {tls.NewListener(plain, nil), socket{network: "tcp", address: "tcp/" + plain.Addr().String(), port: port}},
		"PROXY protocol": {
			tls.NewListener(new(proxyprotocol.ListenerWrapper).WrapListener(plain), nil),
			socket{network: "tcp", address: "tcp/" + plain.Addr().String(), port: port},
		},
		"redirect": {
			new(caddyhttp.HTTPRedirectListenerWrapper).WrapListener(plain),
			socket{network: "tcp", address: "tcp/" + plain.Addr().String(), port: port},
		},
		"unix":       {unix, socket{network: "unix", address: "unix/" + path, shared: true}},
		"unix again": {again, socket{network: "unix", address: "unix/" + path, shared: true}},
		"passed in": {passed, socket{
			network: "fd", address: fmt.Sprintf("fd/%d", file.Fd()), shared: true, inherited: true,
		}},
		"unknown": {pipe, socket{}},
	} {
		got, ok := socketOf(c.ln)
		if ok != (name != "unknown") {
			t.Errorf("%s: found %v", name, ok)
			continue
		}
		got.listening = nil
		if got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// TestPolicies: a handshake uses the settings of the config that serves when the client says hello.
func TestPolicies(t *testing.T) {
	choice := func(name string) func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return func(*tls.ClientHelloInfo) (*tls.Config, error) { return &tls.Config{ServerName: name}, nil }
	}
	d := new(door)
	first, second, plain := &generation{door: d}, &generation{door: d}, &generation{door: d}
	choose := first.policies(choice("first"))
	second.policies(choice("second"))
	for _, c := range []struct {
		serving *generation
		want    string
	}{{first, "first"}, {second, "second"}, {plain, "first"}} {
		d.serving.Store(c.serving)
		if got, err := choose(nil); err != nil || got.ServerName != c.want {
			t.Errorf("settings %+v, %v, want those of %s", got, err, c.want)
		}
	}
}

// TestYield: a config hands over when it stops, before its listeners are closed, but only if it serves and another one follows.
func TestYield(t *testing.T) {
	ln := listen(t, "127.0.0.1:0")
	first := start(t, ln, "first", shape{})
	kept := dial(t, ln.Addr())
	d := first.door
	d.yield(first)
	kept.ask(200, "first")
	second := start(t, listen(t, ln.Addr().String()), "second", shape{})
	d.yield(second) // it is given up
	kept.ask(200, "first")
	d.yield(first)
	kept.ask(200, "second")
	// The listener of the first is closed late, after that of the second.
	third := start(t, listen(t, ln.Addr().String()), "third", shape{})
	d.yield(second)
	second.Close()
	kept.ask(200, "third")
	first.Close()
	kept.ask(200, "third")
	third.Close()
}
