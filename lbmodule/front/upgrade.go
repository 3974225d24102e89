package front

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// For how long nothing may pass through a tunnel of which one side has said that it will send nothing more. A backend that is done has no
// use for its slot, and has closed its connection altogether as a rule, which TCP does not tell: the client has the time to take its
// leave. A client that is done may wait for as long as the backend works, as those of container consoles do; a backend that was told so
// and neither sends nor closes for that long works no more.
const (
	backendDone = 5 * time.Second
	clientDone  = time.Hour
)

// tunnel is the connection to a backend that has switched protocols. Half closed, it ends when nothing passes any more. It is read by one
// goroutine and written by another.
type tunnel struct {
	io.ReadWriteCloser
	client http.ResponseWriter
	half   atomic.Bool // one side is done

	mu     sync.Mutex // guards what follows
	silent *time.Timer
	bound  time.Duration // after which silent ends the tunnel
	over   bool          // client must not be used any more
}

// watch has the tunnel that an answer begins, if it begins one, end in time. reverse_proxy reads, writes and closes the body, and closes
// one direction of it.
func (x *Request) watch(res *http.Response) {
	if backend, ok := res.Body.(io.ReadWriteCloser); ok && res.StatusCode == http.StatusSwitchingProtocols {
		x.tunnel = &tunnel{ReadWriteCloser: backend, client: x.w}
		res.Body = x.tunnel
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

// CloseWrite tells the backend that the client is done.
func (t *tunnel) CloseWrite() error {
	closer, ok := t.ReadWriteCloser.(interface{ CloseWrite() error })
	if !ok {
		return http.ErrNotSupported
	}
	t.halfClose(clientDone)
	return closer.CloseWrite()
}

// halfClose begins to wait, when one side is done.
func (t *tunnel) halfClose(bound time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.silent == nil && !t.over {
		t.bound, t.silent = bound, time.AfterFunc(bound, t.end)
		t.half.Store(true)
	}
}

// passed begins to wait anew.
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

// end breaks both directions, so that those who copy them stop.
func (t *tunnel) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return
	}
	t.ReadWriteCloser.Close()
	// The deadline is that of the client's connection also after that has been taken over.
	_ = http.NewResponseController(t.client).SetReadDeadline(time.Unix(1, 0))
}

// finish is called when the client's request ends. A nil tunnel is of a request that has none.
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
