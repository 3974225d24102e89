package exchange

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

// ErrBodyTaken is the error of reading a body that another attempt has been given.
var ErrBodyTaken = errors.New("request body belongs to another attempt")

// requestBody is the body of a client's request, which several attempts may read one after the other. Each has a view
// of its own: transports go on reading after they have given up. What is read is kept up to a limit, so that the next
// view can begin at the beginning. A nil requestBody is of a request without one.
type requestBody struct {
	whole bool // the body is buffered by the front, and comes anew with every attempt
	limit int64
	small bool // what is kept has room in one of keptSpace

	view *bodyView // of the current attempt

	mu     sync.Mutex // guards what follows, and is held while the source is read
	source io.Reader
	length int64  // of source; negative if it is not known
	kept   []byte // what has been read, unless that was more than limit
	end    error  // of the source

	read atomic.Int64 // bytes read from source
	lost atomic.Bool  // they were not kept

	broken atomic.Bool // source ended with an error, or before its end
}

// attach gives r a view of the body. Up to limit bytes are kept for the next one, unless the body is whole: buffered, so that it begins
// anew with each attempt. sent is called, maybe more than once, when the last byte has been read.
func (b *requestBody) attach(r *http.Request, limit int64, whole bool, sent func()) {
	if b.source == nil {
		b.whole, b.limit = whole, limit
		b.small = r.ContentLength > 0 && r.ContentLength <= min(limit, keptSize)
	}
	if b.whole {
		r.Body = &countedBody{ReadCloser: r.Body, left: r.ContentLength, sent: sent}
		b.source = r.Body
		return
	}
	if b.source == nil {
		b.source, b.length = r.Body, r.ContentLength
	}
	view := func() *bodyView { return &bodyView{body: b, length: r.ContentLength, sent: sent} }
	b.view = view()
	r.Body = b.view
	// With this the transport replaces a connection by itself that was closed while it was idle.
	r.GetBody = func() (io.ReadCloser, error) {
		if !b.rewindable() {
			return nil, ErrBodyTaken
		}
		b.detach()
		b.view = view()
		return b.view, nil
	}
}

// rewindable reports whether another view could begin at the beginning.
func (b *requestBody) rewindable() bool {
	return b == nil || b.whole || b.read.Load() == 0 || !b.lost.Load()
}

// failed reports whether it could not be read: the client has left, or sent more than it may.
func (b *requestBody) failed() bool { return b != nil && b.broken.Load() }

// detach takes the body from the view that has it.
func (b *requestBody) detach() {
	if b != nil && b.view != nil {
		b.view.detached.Store(true)
	}
}

// giveBack puts back what was read of the body. If some of it is lost, or a transport is still reading, nobody gets the rest.
func (b *requestBody) giveBack(to ClientBody) {
	if to == nil || b.whole {
		return
	}
	if !b.rewindable() || !b.mu.TryLock() {
		to.Lose()
		return
	}
	defer b.mu.Unlock()
	if b.end = ErrBodyTaken; len(b.kept) > 0 {
		to.Unread(bytes.Clone(b.kept))
	}
}

// keptSize is up to which size the room for what is kept is used again.
const keptSize = 16 << 10 // bytes

// keptSpace has room for small bodies.
var keptSpace = sync.Pool{New: func() any { return new([keptSize]byte) }}

// forget gives up what is kept: there will be no other view. Where somebody still waits for the source, it is left to him.
func (b *requestBody) forget() {
	if b == nil || !b.small || !b.mu.TryLock() {
		return
	}
	defer b.mu.Unlock()
	if cap(b.kept) == keptSize {
		keptSpace.Put((*[keptSize]byte)(b.kept[:keptSize]))
	}
	b.kept = nil
	b.lost.Store(true)
}

// readAt reads what stands at that position.
func (b *requestBody) readAt(at int64, p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if at < int64(len(b.kept)) {
		return copy(p, b.kept[at:]), nil
	}
	if at < b.read.Load() {
		return 0, ErrBodyTaken
	}
	if b.end != nil {
		return 0, b.end
	}
	n, err := b.source.Read(p)
	total := b.read.Add(int64(n))
	if err == io.EOF && total < b.length {
		err = io.ErrUnexpectedEOF
	}
	b.end = err
	if err != nil && err != io.EOF {
		b.broken.Store(true)
	}
	if n > 0 && (total > b.limit || b.lost.Load()) {
		b.lost.Store(true)
		b.kept = nil
	} else if n > 0 {
		if b.kept == nil && b.small {
			b.kept = (*keptSpace.Get().(*[keptSize]byte))[:0]
		}
		b.kept = append(b.kept, p[:n]...)
	}
	return n, err
}

// bodyView is a body as one attempt sees it. Closing it must never close the server's body. The next attempt may need that; above
// all, transports close bodies when a backend answers before it has read all, and net/http's HTTP/1 server does not notice through
// Caddy's wrappers that the rest is still to come: it would take the rest for the client's next requests, which is request smuggling
// (RFC 9112, 9.3: a server reads a body to its end or closes the connection). Left open, the server does one of the two.
type bodyView struct {
	body     *requestBody
	at       int64
	length   int64 // of the body; -1 if it is not known
	sent     func()
	detached atomic.Bool
}

func (v *bodyView) Read(p []byte) (int, error) {
	if v.detached.Load() {
		return 0, ErrBodyTaken
	}
	n, err := v.body.readAt(v.at, p)
	v.at += int64(n)
	if err != nil || v.at == v.length {
		v.sent()
	}
	return n, err
}

func (v *bodyView) Close() error {
	v.detached.Store(true)
	return nil
}

// countedBody is a body that tells when it has been read.
type countedBody struct {
	io.ReadCloser
	left int64
	sent func()
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); err != nil || b.left == 0 {
		b.sent()
	}
	return n, err
}
