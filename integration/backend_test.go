package integration

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// backend is a real HTTP server (HTTP/1.1 and h2c) behind the load balancer. It answers with its address, unless the test sets another
// handler.
type backend struct {
	addr    string
	server  *http.Server
	handler atomic.Pointer[http.HandlerFunc]

	requests    atomic.Int64
	inFlight    atomic.Int64
	maxInFlight atomic.Int64
}

func startBackend(t *testing.T) *backend {
	t.Helper()
	return startBackendAt(t, "tcp", freeAddress(t))
}

func startBackendAt(t *testing.T, network, address string) *backend {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{addr: l.Addr().String()}
	b.server = &http.Server{Handler: b, Protocols: new(http.Protocols)}
	b.server.Protocols.SetHTTP1(true)
	b.server.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = b.server.Serve(l) }()
	t.Cleanup(b.kill)
	return b
}

// startBackends starts n backends, and returns them with their addresses as arguments of a directive.
func startBackends(t *testing.T, n int) ([]*backend, string) {
	t.Helper()
	backends := make([]*backend, n)
	addresses := make([]string, n)
	for i := range backends {
		backends[i] = startBackend(t)
		addresses[i] = backends[i].addr
	}
	return backends, strings.Join(addresses, " ")
}

// handle sets the handler of later requests.
func (b *backend) handle(f http.HandlerFunc) { b.handler.Store(&f) }

// kill closes the server and its connections at once. A process that another test is just starting has a copy of the listener between
// fork and exec; kill waits until the address is closed.
func (b *backend) kill() {
	_ = b.server.Close()
	for n := 0; canConnect(b.addr) && n < 1000; n++ {
		time.Sleep(time.Millisecond)
	}
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.requests.Add(1)
	n := b.inFlight.Add(1)
	defer b.inFlight.Add(-1)
	for { // ends: each failed turn means that another request has raised the maximum
		highest := b.maxInFlight.Load()
		if n <= highest || b.maxInFlight.CompareAndSwap(highest, n) {
			break
		}
	}
	if f := b.handler.Load(); f != nil {
		(*f)(w, r)
		return
	}
	w.Header().Set("X-Backend", b.addr)
	fmt.Fprint(w, b.addr)
}

// certificateFile writes the certificate of a TLS server to a file, for clients to trust.
func certificateFile(t *testing.T, server *httptest.Server) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// counts maps each backend to the number of requests it got.
func counts(backends []*backend) []int64 {
	n := make([]int64, len(backends))
	for i, b := range backends {
		n[i] = b.requests.Load()
	}
	return n
}

func discard(r io.Reader) (int64, error) { return io.Copy(io.Discard, r) }

// takes waits for a time, as a busy backend does, or until the client leaves.
func takes(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
