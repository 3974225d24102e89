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

// body is the body of an answer. Its connection is kept after the end of the body, and closed if the body is closed before.
type body struct {
	conn  *conn
	ctx   context.Context
	from  content
	piece io.LimitedReader // passed to move by Splice
	again bool             // the connection may be used again
	err   error
	over  atomic.Bool
}

// errClosed is returned by a read from a closed body.
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

// IsReady reports whether the next Read returns without waiting.
func (b *body) IsReady() bool { return b.err != nil || b.over.Load() || b.from.isReady() }

// end releases the connection because of err, and returns the error for the reader.
func (b *body) end(err error) error {
	if b.over.Swap(true) {
		return errClosed
	}
	open, complete := b.conn.unwatch(), errors.Is(err, io.EOF)
	b.conn.release(complete && open && b.again)
	if !complete && (!open || b.ctx.Err() != nil) {
		return context.Cause(b.ctx)
	}
	return err
}

// Close implements [io.Closer]. It may be called during a Read.
func (b *body) Close() error {
	if !b.over.Swap(true) {
		b.conn.unwatch()
		b.conn.close()
	}
	return nil
}

// unpacked is the body of an answer that is compressed only because the client asked for gzip.
type unpacked struct {
	packed *body
	reader *gzip.Reader // nil before the first read
	err    error        // why the compressed body could not be read
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

// isGzip reports whether an answer's body is compressed.
func isGzip(h http.Header) bool { return strings.EqualFold(first(h, "Content-Encoding"), "gzip") }
