package exchange

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

// ErrBodyTaken is the error of reading a body that now belongs to another attempt.
var ErrBodyTaken = errors.New("request body belongs to another attempt")

// requestBody is the body of a client's request, which several attempts may read one after the other. Each attempt has
// its own view, because a transport may still read after its attempt has failed. Up to a limit, the bytes read are kept,
// so that the next view can start at the beginning. A nil requestBody stands for no body.
type requestBody struct {
	whole bool // the front has buffered the body, and each attempt starts at its beginning
	limit int64
	small bool // kept fits into a buffer of keptSpace

	view      *bodyView // of the current attempt
	firstView bodyView  // of the first one
	first     sending   // of the first one

	mu     sync.Mutex // guards the fields up to end; held while source is read
	source io.Reader
	length int64  // of source; negative if unknown
	kept   []byte // the bytes read; nil if they exceeded limit
	end    error  // of source

	read atomic.Int64 // bytes read from source

	taking sync.Mutex  // guards setting lost, and taking the body from a view for another one
	lost   atomic.Bool // the bytes read were not kept

	broken atomic.Bool // source ended with an error, or too early
}

// sender is notified of what is read of a body.
type sender interface {
	// took is called after a read of n bytes.
	took(n int)
	// sent is called, possibly more than once, when the last byte has been read.
	sent()
}

// attach gives r a view of the body. Up to limit bytes are kept for the next view, unless whole is set: then the front has buffered the
// body, and each attempt starts at its beginning.
func (b *requestBody) attach(r *http.Request, limit int64, whole bool, by sender) {
	first := b.source == nil
	if first {
		b.whole, b.limit = whole, limit
		b.small = r.ContentLength > 0 && r.ContentLength <= min(limit, keptSize)
	}
	if b.whole {
		r.Body = &countedBody{ReadCloser: r.Body, left: r.ContentLength, by: by}
		b.source = r.Body
		return
	}
	view := &b.firstView
	if first {
		b.source, b.length = r.Body, r.ContentLength
	} else {
		view = new(bodyView)
	}
	view.body, view.length, view.by = b, r.ContentLength, by
	b.view, r.Body = view, view
	r.GetBody = b.again
}

// again returns another view for the current attempt. As GetBody, it lets the transport repeat the request if an idle connection turns out
// to be closed.
func (b *requestBody) again() (io.ReadCloser, error) {
	if !b.rewind() {
		return nil, ErrBodyTaken
	}
	b.view = &bodyView{body: b, length: b.view.length, by: b.view.by}
	return b.view, nil
}

// rewindable reports whether another view could start at the beginning now. While the current view can still read, that may become
// impossible.
func (b *requestBody) rewindable() bool {
	return b == nil || b.whole || b.read.Load() == 0 || !b.lost.Load()
}

// rewind detaches the current view, so that the next one can start at the beginning. If that is not possible, it returns false and the
// current view keeps the body.
func (b *requestBody) rewind() bool {
	if b == nil || b.whole {
		return true
	}
	b.taking.Lock()
	defer b.taking.Unlock()
	if !b.rewindable() {
		return false
	}
	b.detach()
	return true
}

// failed reports whether reading the client's body failed.
func (b *requestBody) failed() bool { return b != nil && b.broken.Load() }

// detach makes the current view unable to read.
func (b *requestBody) detach() {
	if b != nil && b.view != nil {
		b.view.detached.Store(true)
	}
}

// giveBack puts back the bytes read. If some of them were not kept, or a transport is still reading, the body is lost for the next reader.
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

// keptSize is the size of the buffers in keptSpace.
const keptSize = 16 << 10 // bytes

// keptSpace has buffers for the kept bytes of small bodies.
var keptSpace = sync.Pool{New: func() any { return new([keptSize]byte) }}

// forget drops the kept bytes when no other view will follow. It does nothing while a read of the source is blocked.
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

// readAt reads from the position of a view.
func (b *requestBody) readAt(v *bodyView, p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if v.detached.Load() {
		return 0, ErrBodyTaken // detached while this read waited for the one before it
	}
	at := v.at
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
	switch {
	case n == 0:
	case !b.keeps(v, total):
		b.kept = nil
	default:
		if b.kept == nil && b.small {
			b.kept = (*keptSpace.Get().(*[keptSize]byte))[:0]
		}
		b.kept = append(b.kept, p[:n]...)
	}
	return n, err
}

// keeps reports whether the bytes that v has just read are kept; total is the number of bytes read so far. Bytes that are read after v was
// detached belong to the next view, even beyond the limit. They come from a single read, because a detached view does not begin another.
func (b *requestBody) keeps(v *bodyView, total int64) bool {
	b.taking.Lock()
	defer b.taking.Unlock()
	if total > b.limit && !v.detached.Load() {
		b.lost.Store(true)
	}
	return !b.lost.Load()
}

// bodyView is one attempt's view of the body. Closing a view must never close the server's body. The next attempt may need it. More
// important, transports close the body when a backend answers before it has read all of it, and net/http's HTTP/1 server, because of
// Caddy's wrappers, does not notice that the rest has not been read. It would parse the rest as the client's next requests, which is
// request smuggling (RFC 9112, 9.3: a server reads a body to its end or closes the connection). If the body stays open, the server does one
// of the two.
type bodyView struct {
	body     *requestBody
	at       int64
	length   int64 // of the body; -1 if unknown
	by       sender
	detached atomic.Bool
}

func (v *bodyView) Read(p []byte) (int, error) {
	if v.detached.Load() {
		return 0, ErrBodyTaken
	}
	n, err := v.body.readAt(v, p)
	v.at += int64(n)
	v.by.took(n)
	if err != nil || v.at == v.length {
		v.by.sent()
	}
	return n, err
}

func (v *bodyView) Close() error {
	v.detached.Store(true)
	return nil
}

// countedBody is a body that notifies a sender when it has been read.
type countedBody struct {
	io.ReadCloser
	left int64
	by   sender
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.by.took(n)
	if b.left -= int64(n); err != nil || b.left == 0 {
		b.by.sent()
	}
	return n, err
}
