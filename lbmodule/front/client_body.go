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

// stallTime is for how long an attempt must have waited for the client's body, and for half of its time at least, before its failure
// is put down to that. Whoever gives up on a slow upload has waited for longer, and a backend that drops every upload drops it sooner. (net/http's transport
// tells of that when the client sends the next bytes: of a client that pauses just then nobody can say what kept the backend.)
const stallTime = 200 * time.Millisecond

// errBodyShort and errBodyLong are of bodies that do not have the length that was announced. HTTP/3's server tells of a short one by
// a plain io.EOF.
var (
	errBodyShort = fmt.Errorf("request body is shorter than its Content-Length: %w", io.ErrUnexpectedEOF)
	errBodyLong  = errors.New("request body is longer than its Content-Length")
)

// ClientBody is the body of a request as its client sends it, and how that goes: what a client does is no backend's failure. It is
// read by one goroutine at a time, and asked by others. A nil ClientBody is of a request without a body.
type ClientBody struct {
	io.ReadCloser
	stream bool // the client sends when it has something to say, as in gRPC: waiting for it is nothing unusual

	mu     sync.Mutex // guards what follows; it is not held while the body is read
	left   int64      // of the announced length; negative if none was announced
	whole  bool       // it has come to its end
	broken error      // how it ended before that
	lost   bool       // some of it is gone
	since  time.Time  // since when the client is waited for; zero while it is not
	waited time.Duration
}

// receive has r's body tell how it comes. A load balancer that has the request after another one goes on with what that one left.
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

// isAnnounced reports whether the header announces a body. net/http's HTTP/2 server does not look at that where the stream ends with the
// header (RFC 9113, 8.1.1).
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
		return 0, http.ErrBodyReadAfterClose // as after reverse_proxy, which has the body closed
	}
	b.since = start
	b.mu.Unlock()
	n, err := b.ReadCloser.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waited += time.Since(start)
	b.since = time.Time{}
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

// Unread puts back what has been read last. That the client has sent it stays true.
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

// Lose tells that some of the body is gone, or still on its way to somebody: who reads it from now on would take the rest for the body.
func (b *ClientBody) Lose() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lost = true
}

// Wait is for how long the client has been waited for until now.
func (b *ClientBody) Wait(now time.Time) time.Duration {
	waited, _ := b.wait(now)
	return waited
}

// wait is that, and whether more is to come from it.
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

// Failure is how the client, or the server on its behalf, broke the body off; nil if it did not.
func (b *ClientBody) Failure() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.broken
}

// Refusal is the error with which a request is answered whose body broke off; nil if it did not. This is the one place where it is
// said with which status: 400 for what is no body (RFC 9110, 15.5.1), 408 for one that did not come in time (15.5.9), 499, as
// reverse_proxy has it, where the client has left, and what a handler said who has read it, such as 413.
func (b *ClientBody) Refusal(ctx context.Context) error {
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
		// A client that has closed its side of an HTTP/1 connection is taken for one that has left, but may yet read.
		return caddyhttp.Error(http.StatusBadRequest, err)
	case ctx.Err() != nil, hasLeft(err):
		return fmt.Errorf("%w: %w", context.Canceled, err)
	case ok && timeout.Timeout():
		return caddyhttp.Error(http.StatusRequestTimeout, err)
	case errors.Is(err, http.ErrBodyReadAfterClose):
		return err // the server closed it
	default:
		return caddyhttp.Error(http.StatusBadRequest, err)
	}
}

// hasLeft reports whether err, of reading a body, says that nobody is there any more who could be answered.
func hasLeft(err error) bool {
	if canceled, ok := errors.AsType[*http3.Error](err); ok {
		return canceled.Remote
	}
	// The last one is an error of net/http's HTTP/2 server, which has no name.
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed) || err.Error() == "client disconnected"
}

// Stalled reports whether an attempt that began then, when the client had been waited for so long, spent its time on that.
func (b *ClientBody) Stalled(began time.Time, waited time.Duration, now time.Time) bool {
	if b == nil || b.stream {
		return false
	}
	all, unfinished := b.wait(now)
	return unfinished && all-waited >= max(stallTime, now.Sub(began)/2)
}

// CloseAfter has the server close the client's connection if there is more of the body to come, so that it is not taken for the next
// requests. By itself the server reads the rest, or closes the connection; not so with full duplex, where it would have to know the body
// for its own, which Caddy has wrapped.
func (b *ClientBody) CloseAfter(w http.ResponseWriter, r *http.Request) {
	server, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || !server.EnableFullDuplex || r.ProtoMajor != 1 {
		return
	}
	if _, unfinished := b.wait(time.Time{}); !unfinished {
		return
	}
	for { // bound: there are as many as handlers
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = wrapper.Unwrap()
	}
	// A body that is larger than it may be is what has net/http close a connection and give its client the time to read the answer.
	_, _ = http.MaxBytesReader(w, io.NopCloser(strings.NewReader("more")), 1).Read(make([]byte, 4))
}
