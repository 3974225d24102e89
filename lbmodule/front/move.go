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

// moveFrom is the minimum length, in bytes, of an answer's body that the kernel moves from connection to connection, where that is
// possible. Shorter bodies gain little or nothing.
const moveFrom = 64 << 10

// movers bounds the number of bodies that are moved at the same time; others are copied. Each takes a pipe, and a user other than root with
// 64 large pipes gets only tiny ones (pipe-user-pages-soft in pipe(7)).
var movers = places{most: 32}

// startSize is the maximum size of the first part of a body, in bytes. It is copied, because what was read together with the header cannot
// be moved.
const startSize = 4 << 10

var starts = sync.Pool{New: func() any { return new([startSize]byte) }}

// splicer is a body that can be moved. Splice calls move to pass on the next bytes, up to limit. It returns a read error, or
// [errors.ErrUnsupported] if the next bytes must be copied.
type splicer interface {
	io.Reader
	Splice(limit int64, move func(io.Reader) (int64, error)) (int64, error)
}

// mover moves a body to the client's connection. It does what the server's writer would do for each part.
type mover struct {
	from   splicer
	to     *caddyhttp.IdleTimeoutWriter
	failed error // a write error
}

// mover returns the mover of a body of that length; nil if the body must be copied. It can be moved if it comes unchanged from a
// connection, and if nothing between this handler and the client's connection, such as an access log, looks at what is written.
func (q *Request) mover(body io.Reader, length int64) *mover {
	from, ok := body.(splicer)
	if !ok || q.front.stock.VerboseLogs {
		return nil
	}
	to, ok := q.w.(*caddyhttp.IdleTimeoutWriter)
	if !ok || to.Deadline.MinRate > 0 { // to measure the rate, the writer counts the bytes that it writes
		return nil
	}
	if first := firstWriter(q.original); first != to {
		return nil
	}
	if named := to.Header()["Content-Length"]; len(named) != 1 || named[0] != strconv.FormatInt(length, 10) {
		return nil // the server does not check the number of moved bytes against the announced length
	}
	return &mover{from: from, to: to}
}

// firstWriter returns the first writer above the server's own, if the client's connection is plain TCP; otherwise nil.
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
	limit := int64(m.to.MaxChunk)
	if limit <= 0 {
		limit = caddyhttp.DefaultMaxWriteChunk
	}
	for {
		switch _, err := m.from.Splice(limit, m.part); {
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

// copyStart copies the first part of the body, and reports whether that was the whole body.
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
