package front

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// How long a half-closed tunnel may be silent before it ends. A backend that has closed its side has usually closed the whole connection,
// which TCP does not show, and needs its slot no longer; the client gets a short time to finish. A client that has closed its side may wait
// while the backend works, as clients of container consoles do; a backend that neither sends nor closes for clientDone is considered dead.
const (
	backendDone = 5 * time.Second
	clientDone  = time.Hour
)

// tunnel is the connection to a backend that has switched protocols. A half-closed tunnel ends when it is silent for too long. One
// goroutine reads from it and another writes to it.
type tunnel struct {
	io.ReadWriteCloser
	client http.ResponseWriter
	half   atomic.Bool // one side has closed

	mu     sync.Mutex // guards the fields below
	silent *time.Timer
	bound  time.Duration // of silent
	over   bool          // client must not be used any more
}

// watch wraps the connection of an answer that switches protocols in a tunnel. reverse_proxy reads, writes and closes it, and closes one
// direction of it.
func (q *Request) watch(res *http.Response) {
	if backend, ok := res.Body.(io.ReadWriteCloser); ok && res.StatusCode == http.StatusSwitchingProtocols {
		q.tunnel = &tunnel{ReadWriteCloser: backend, client: q.w}
		res.Body = q.tunnel
	}
}

// Read implements [io.Reader].
func (t *tunnel) Read(p []byte) (int, error) {
	n, err := t.ReadWriteCloser.Read(p)
	if n > 0 {
		t.passed()
	}
	if errors.Is(err, io.EOF) {
		t.halfClose(backendDone)
	}
	return n, err
}

// Write implements [io.Writer].
func (t *tunnel) Write(p []byte) (int, error) {
	n, err := t.ReadWriteCloser.Write(p)
	if n > 0 {
		t.passed()
	}
	return n, err
}

// CloseWrite tells the backend that the client has closed its side.
func (t *tunnel) CloseWrite() error {
	closer, ok := t.ReadWriteCloser.(interface{ CloseWrite() error })
	if !ok {
		return http.ErrNotSupported
	}
	t.halfClose(clientDone)
	return closer.CloseWrite()
}

// halfClose starts the timer for silence, when one side has closed.
func (t *tunnel) halfClose(bound time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.silent == nil && !t.over {
		t.bound, t.silent = bound, time.AfterFunc(bound, t.end)
		t.half.Store(true)
	}
}

// passed restarts the timer when data passes.
func (t *tunnel) passed() {
	if !t.half.Load() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.over {
		t.silent.Reset(t.bound)
	}
}

// end breaks both directions, so that the goroutines that copy them stop.
func (t *tunnel) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return
	}
	t.ReadWriteCloser.Close()
	// The deadline applies to the client's connection even after it was hijacked.
	_ = http.NewResponseController(t.client).SetReadDeadline(time.Unix(1, 0))
}

// finish is called when the client's request ends. t may be nil.
func (t *tunnel) finish() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over = true; t.silent != nil {
		t.silent.Stop()
	}
}
