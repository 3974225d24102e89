package front

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// moveFrom is the length from which on an answer's body is moved from connection to connection by the kernel, where that is possible. It
// pays for shorter ones hardly or not at all.
const moveFrom = 64 << 10

// movers bounds the number of bodies that are moved at the same time; others are copied. Each takes a pipe, and a user other than root gets
// only tiny pipes once he has 64 large ones (pipe-user-pages-soft in pipe(7)).
var movers = places{most: 32}

// startSize is the size of the first part of a body, which is copied: what has been read together with the header cannot be moved.
const startSize = 4 << 10

var starts = sync.Pool{New: func() any { return new([startSize]byte) }}

// splicer is a body that can be moved. Splice has move pass on the next bytes, at most most; its own error is one of reading, or
// [errors.ErrUnsupported] if the next bytes must be copied.
type splicer interface {
	io.Reader
	Splice(most int64, move func(io.Reader) (int64, error)) (int64, error)
}

// mover moves a body to the client's connection. It does what the server's writer would do for each part.
type mover struct {
	from   splicer
	to     *caddyhttp.IdleTimeoutWriter
	failed error // an error of writing
}

// mover returns what moves a body of that length; nil if it must be copied. It can be moved if it comes as it is from a connection, and if
// nothing between this handler and the client's connection, such as an access log, looks at what is written.
func (q *Request) mover(body io.Reader, length int64) *mover {
	from, ok := body.(splicer)
	if !ok || q.front.stock.VerboseLogs {
		return nil
	}
	to, ok := q.w.(*caddyhttp.IdleTimeoutWriter)
	if !ok || to.Deadline.MinRate > 0 { // the writer counts for the rate
		return nil
	}
	if first := firstWriter(q.original); first != to {
		return nil
	}
	if named := to.Header()["Content-Length"]; len(named) != 1 || named[0] != strconv.FormatInt(length, 10) {
		return nil // the server does not hold moved bytes against the length that it announces
	}
	return &mover{from: from, to: to}
}

// firstWriter returns the writer below which there are only the server's own and a plain TCP connection; nil if there is none.
func firstWriter(r *http.Request) *caddyhttp.IdleTimeoutWriter {
	server, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || server.WriteIdleTimeout <= 0 || r.ProtoMajor != 1 || r.TLS != nil {
		return nil
	}
	offers := func(version string) bool { return slices.Contains(server.Protocols, version) }
	if !offers("h1") || !offers("h2") && !offers("h2c") {
		return nil // Caddy wraps the connection to look for the other protocol
	}
	_, w := caddyhttp.IdleTimeoutsFromContext(r.Context())
	return w
}

// move moves the whole body. It returns [errors.ErrUnsupported] if the rest of the body must be copied.
func (m *mover) move() error {
	if !movers.take() {
		return errors.ErrUnsupported
	}
	defer movers.leave()
	if over, err := m.copyStart(); over || err != nil {
		return err
	}
	most := int64(m.to.MaxChunk)
	if most <= 0 {
		most = caddyhttp.DefaultMaxWriteChunk
	}
	for {
		switch _, err := m.from.Splice(most, m.part); {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, errors.ErrUnsupported):
			return err
		case err != nil:
			return reading(err)
		case m.failed != nil:
			return writing(m.failed)
		}
	}
}

// copyStart copies the first part of the body, and reports whether that is all.
func (m *mover) copyStart() (over bool, _ error) {
	buffer := starts.Get().(*[startSize]byte)
	defer starts.Put(buffer)
	n, err := m.from.Read(buffer[:])
	if n > 0 {
		if _, failed := m.to.Write(buffer[:n]); failed != nil {
			return false, writing(failed)
		}
	}
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	if err != nil {
		return false, reading(err)
	}
	return false, nil
}

// part moves a part of the body.
func (m *mover) part(from io.Reader) (n int64, _ error) {
	if m.failed = m.to.FlushError(); m.failed == nil { // sets the deadline for this part
		n, m.failed = m.to.ResponseWriterWrapper.ReadFrom(from)
	}
	return n, m.failed
}
