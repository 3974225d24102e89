package engine

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
)

// body is the body of an answer. At its end the connection is kept; closed before, it is closed.
type body struct {
	conn  *conn
	stop  func() bool // ends the watch over ctx; false if ctx has ended
	ctx   context.Context
	from  io.Reader
	again bool // another answer may follow
	err   error
	over  atomic.Bool
}

// errClosed is the error of reading from a body that was closed.
var errClosed = errors.New("body of the answer is closed")

// Read implements [io.Reader].
func (b *body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if b.over.Load() {
		return 0, errClosed
	}
	n, err := b.from.Read(p)
	if err != nil {
		b.err = b.end(err)
	}
	return n, b.err
}

// end gives up the connection because of err, and returns what reading ends with.
func (b *body) end(err error) error {
	if b.over.Swap(true) {
		return errClosed
	}
	watched, complete := b.stop(), errors.Is(err, io.EOF)
	b.conn.release(complete && watched && b.again)
	if !complete && !watched {
		return context.Cause(b.ctx)
	}
	return err
}

// Close implements [io.Closer]. It may be called while somebody reads.
func (b *body) Close() error {
	if !b.over.Swap(true) {
		b.stop()
		b.conn.close()
	}
	return nil
}

// unpacked is a body that came packed only because the client asked for it.
type unpacked struct {
	packed *body
	reader *gzip.Reader // nil before the first read
	err    error        // of what should have been the beginning of a packed body
}

// Read implements [io.Reader].
func (u *unpacked) Read(p []byte) (int, error) {
	if u.err != nil {
		return 0, u.err
	}
	if u.reader == nil {
		if u.reader, u.err = gzip.NewReader(u.packed); u.err != nil {
			return 0, u.err
		}
	}
	return u.reader.Read(p)
}

// Close implements [io.Closer].
func (u *unpacked) Close() error { return u.packed.Close() }

// isGzip tells whether an answer's body is packed.
func isGzip(h http.Header) bool { return strings.EqualFold(h.Get("Content-Encoding"), "gzip") }
