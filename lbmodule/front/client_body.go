package front

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/quic-go/quic-go/http3"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// stallTime is the shortest wait for the client's body that can be the cause of a failed attempt; the wait must also be at least half of
// the attempt's time. A backend that gives up on a slow upload has waited longer than this, and one that drops every upload drops it
// sooner. (net/http's transport reports a dropped upload only when the client sends the next bytes, so a client that pauses at that moment
// hides the cause.)
const stallTime = 200 * time.Millisecond

// errBodyShort and errBodyLong are the errors of bodies whose length differs from Content-Length. HTTP/3's server reports a short body
// as a plain io.EOF.
var (
	errBodyShort = fmt.Errorf("request body is shorter than its Content-Length: %w", io.ErrUnexpectedEOF)
	errBodyLong  = errors.New("request body is longer than its Content-Length")
)

// ClientBody is the body of a request as its client sends it. It records errors and delays that the client causes, because these are not
// failures of a backend. One goroutine at a time may read it; the other methods may be called concurrently. A nil ClientBody stands for no
// body.
type ClientBody struct {
	io.ReadCloser
	stream bool // the client may pause between messages, as in gRPC, so that waiting for it is normal

	mu     sync.Mutex // guards the fields below; not held while the body is read
	left   int64      // bytes left of Content-Length; negative if there is none
	whole  bool       // all of it has arrived
	broken error      // the error with which it broke off
	lost   bool       // some of it is gone
	since  time.Time  // when the current read began; zero if there is none
	waited time.Duration
	ended  chan struct{} // closed when the current read ends; nil if no goroutine waits for that
}

// receive replaces r's body by a ClientBody. If another load balancer has handled the request before, its ClientBody is used.
func receive(r *http.Request) *ClientBody {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		if r.ProtoMajor == 2 && isAnnounced(r.Header) {
			return &ClientBody{ReadCloser: http.NoBody, broken: errBodyShort}
		}
		return nil
	}
	if b, ok := r.Body.(*ClientBody); ok {
		return b
	}
	b := &ClientBody{ReadCloser: r.Body, stream: strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc"), left: r.ContentLength}
	r.Body = b
	return b
}

// isAnnounced reports whether Content-Length announces a body. net/http's HTTP/2 server ignores it if the stream ends with the header
// (RFC 9113, 8.1.1).
func isAnnounced(h http.Header) bool {
	length := h["Content-Length"]
	return len(length) > 0 && strings.Trim(length[0], "0") != ""
}

// Read implements [io.Reader].
func (b *ClientBody) Read(p []byte) (int, error) {
	start := time.Now()
	b.mu.Lock()
	if err := b.broken; err != nil {
		b.mu.Unlock()
		return 0, err
	}
	if b.lost {
		b.mu.Unlock()
		return 0, http.ErrBodyReadAfterClose // the error after reverse_proxy, which closes the body
	}
	b.since = start
	b.mu.Unlock()
	n, err := b.ReadCloser.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waited += time.Since(start)
	b.since = time.Time{}
	if b.ended != nil {
		close(b.ended)
		b.ended = nil
	}
	announced := b.left >= 0
	if announced && int64(n) > b.left {
		n, err = int(b.left), errBodyLong
	}
	if announced {
		b.left -= int64(n)
	}
	switch {
	case err == nil:
		b.whole = b.whole || announced && b.left == 0
	case err != io.EOF:
		b.broken = err
	case announced && b.left > 0:
		err = errBodyShort
		b.broken = err
	default:
		b.whole = true
	}
	return n, err
}

// Unread puts back what was read last.
func (b *ClientBody) Unread(p []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.broken != nil {
		return
	}
	if b.left >= 0 {
		b.left += int64(len(p))
	}
	b.ReadCloser = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(p), b.ReadCloser), b.ReadCloser}
}

// Again returns the first n bytes of the body, which were read and put back. ok is false if they are no longer available.
func (b *ClientBody) Again(n int64) (bytes []byte, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lost || b.broken != nil {
		return nil, false
	}
	bytes = make([]byte, n)
	_, err := io.ReadFull(b.ReadCloser, bytes)
	return bytes, err == nil
}

// Lose marks the body as lost: some of it is gone or still being read, and the next reader would mistake the rest for the whole body.
func (b *ClientBody) Lose() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lost = true
}

// Wait returns how long readers have waited for the client so far.
func (b *ClientBody) Wait(now time.Time) time.Duration {
	waited, _ := b.wait(now)
	return waited
}

// wait returns the same, and whether more of the body is expected.
func (b *ClientBody) wait(now time.Time) (waited time.Duration, unfinished bool) {
	if b == nil {
		return 0, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	waited = b.waited
	if !b.since.IsZero() {
		waited += now.Sub(b.since)
	}
	return waited, !b.whole
}

// Failure returns the error with which the body broke off, on the client's side; nil if it did not.
func (b *ClientBody) Failure() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.broken
}

// lastRead is how long after the cancellation of its request a read of the body may end for its error to count.
const lastRead = 100 * time.Millisecond

// finish waits for the current read, if there is one, for a short time. If a body ends too soon, net/http's HTTP/1 server cancels the
// request before the read that found the end returns. So when the cancellation is seen, the error may not be recorded yet.
func (b *ClientBody) finish() {
	if b == nil {
		return
	}
	b.mu.Lock()
	if b.since.IsZero() {
		b.mu.Unlock()
		return
	}
	if b.ended == nil {
		b.ended = make(chan struct{})
	}
	ended := b.ended
	b.mu.Unlock()
	timer := time.NewTimer(lastRead)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
	}
}

// Refusal returns the error with which to answer a request whose body broke off; nil if it did not. Only this function decides on the
// status: 400 for an invalid body (RFC 9110, 15.5.1), 408 for one that was too slow (15.5.9), 499 if the client left, as in reverse_proxy,
// and the status of a handler that wraps the body, such as 413.
func (b *ClientBody) Refusal(ctx context.Context) error {
	if ctx.Err() != nil {
		b.finish()
	}
	err := b.Failure()
	if err == nil {
		return nil
	}
	if _, said := errors.AsType[caddyhttp.HandlerError](err); said {
		return err
	}
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return caddyhttp.Error(http.StatusRequestEntityTooLarge, err)
	}
	timeout, ok := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		// ctx is also done if the client closed only its side of an HTTP/1 connection. It may still read the answer.
		return caddyhttp.Error(http.StatusBadRequest, err)
	case ok && timeout.Timeout(): // for which net/http cancels ctx as well
		return caddyhttp.Error(http.StatusRequestTimeout, err)
	case ctx.Err() != nil, hasLeft(err):
		return fmt.Errorf("%w: %w", context.Canceled, err)
	case errors.Is(err, http.ErrBodyReadAfterClose):
		return err // the server closed it
	default:
		return caddyhttp.Error(http.StatusBadRequest, err)
	}
}

// hasLeft reports whether err, an error of reading a body, means that the client is gone.
func hasLeft(err error) bool {
	if canceled, ok := errors.AsType[*http3.Error](err); ok {
		return canceled.Remote
	}
	// The last one is an unexported error of net/http's HTTP/2 server.
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed) || err.Error() == "client disconnected"
}

// Stalled reports whether an attempt spent most of its time waiting for the client. waited is the result of Wait when it began.
func (b *ClientBody) Stalled(began time.Time, waited time.Duration, now time.Time) bool {
	if b == nil || b.stream {
		return false
	}
	all, unfinished := b.wait(now)
	return unfinished && all-waited >= max(stallTime, now.Sub(began)/2)
}

// CloseAfter makes the server close the client's connection if more of the body is expected, so that the rest is not parsed as the next
// requests. The server normally reads the rest or closes the connection by itself. With full duplex it does not, because it does not
// recognize its own body in Caddy's wrapper.
func (b *ClientBody) CloseAfter(w http.ResponseWriter, r *http.Request) {
	server, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || !server.EnableFullDuplex || r.ProtoMajor != 1 {
		return
	}
	if _, unfinished := b.wait(time.Time{}); !unfinished {
		return
	}
	for { // bound: each handler adds at most a few wrappers
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = wrapper.Unwrap()
	}
	// On a body that is too large, net/http closes the connection, but leaves the client the time to read the answer.
	_, _ = http.MaxBytesReader(w, io.NopCloser(strings.NewReader("more")), 1).Read(make([]byte, 4))
}
