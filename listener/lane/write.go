package lane

import (
	"errors"
	"io"
	"net/http"
)

// write writes to the client. It reports whether this and all earlier writes succeeded.
func (x *request) write(b []byte) bool {
	a := &x.answer
	for len(b) > 0 && a.failed == nil {
		piece := b[:min(len(b), a.piece)]
		a.bound.moved = int64(a.size)
		x.conn.writeWithin(&a.bound)
		_, a.failed = x.conn.io.Write(piece)
		b = b[len(piece):]
	}
	return a.failed == nil
}

// writeWhole writes a whole answer. A short one counts as complete even if writing it fails: Caddy's server buffers it, and writes it after
// the handlers have returned.
func (x *request) writeWhole(b []byte) {
	const buffered = 4 << 10
	whole := x.write(b)
	if !whole {
		x.answer.close = true
	}
	x.answer.complete = whole || len(b) <= buffered
}

// moveFrom is the length, in bytes, from which on the kernel moves a body between the connections, where that is possible.
const moveFrom = 64 << 10

// splicer is a body that can be moved.
type splicer interface {
	Splice(limit int64, move func(io.Reader) (int64, error)) (int64, error)
}

// move moves the rest of a body. It returns [errors.ErrUnsupported] if the next bytes must be copied.
func (x *request) move(res *http.Response) error {
	from, ok := res.Body.(splicer)
	if !ok || x.conn.tcp == nil {
		return errors.ErrUnsupported
	}
	limit := int64(x.answer.piece)
	part := func(from io.Reader) (n int64, _ error) {
		x.answer.bound.moved = int64(x.answer.size)
		x.conn.writeWithin(&x.answer.bound)
		n, x.answer.failed = x.conn.tcp.ReadFrom(from)
		x.answer.size += int(n)
		return n, x.answer.failed
	}
	for {
		switch _, err := from.Splice(limit, part); {
		case x.answer.failed != nil:
			return nil
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}
