package lane

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// body is a request's body that did not arrive completely with its head. A goroutine other than the connection's may read it.
type body struct {
	conn *conn

	mu     sync.Mutex // held while it is read
	bound  bound
	ending bool // the rest is being read, within the time of one read
	left   int64
	err    error // of the last read, or the reason why there is no further one
	read   int64
}

// Read implements [io.Reader].
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.take(p)
}

func (b *body) take(p []byte) (n int, err error) {
	if b.err != nil {
		return 0, b.err
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	c := b.conn
	if c.start < c.end {
		n = copy(p, c.buf[c.start:c.end])
		c.start += n
	} else {
		if !b.ending {
			c.readWithin(&b.bound)
		}
		n, err = c.net.Read(p)
	}
	b.left -= int64(n)
	b.bound.moved += int64(n)
	b.read += int64(n)
	switch {
	case b.left == 0:
		err = io.EOF
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	b.err = err
	return n, err
}

// Close implements [io.Closer]. It does not discard the rest of the body, which must be read before the next request.
func (*body) Close() error { return nil }

// maxRest is the largest rest of a body, in bytes, that is read to keep its connection, as in net/http.
const maxRest = 256 << 10

// finish reads the rest of the body, if it is not too long. It reports whether the body is complete; otherwise the connection must be
// closed after the answer. The rest is not counted as read, because Caddy's log does not count what its server discards.
func (b *body) finish() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left > maxRest {
		return false
	}
	buffer := takeBuffer()
	defer putBuffer(buffer)
	read := b.read
	b.conn.readWithin(&b.bound)
	b.ending = true // otherwise a client that sends a byte from time to time could delay the answer
	for b.err == nil {
		_, _ = b.take(buffer)
	}
	b.read = read
	return b.left == 0
}

// end makes sure that no goroutine reads the body any more.
func (b *body) end() {
	if !b.mu.TryLock() {
		_ = b.conn.net.SetReadDeadline(time.Unix(1, 0)) // the connection is closed afterwards, because the rest was not read
		b.mu.Lock()
	}
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = http.ErrBodyReadAfterClose
	}
}
