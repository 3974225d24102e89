package engine

import (
	"errors"
	"io"
	"net"
)

// Splice waits for the next bytes of the body, and calls move to pass on those that have arrived, up to limit. move gets an
// [io.LimitedReader] of a TCP connection. If it hands that to ReadFrom of another one, the kernel moves the bytes without copying them.
// Splice returns the number of bytes that move returns. Its error is one of reading, or io.EOF at the end of the body; the caller must keep
// move's own errors. If the next bytes do not come unchanged from a TCP connection, Splice returns [errors.ErrUnsupported] without calling
// move.
func (b *body) Splice(limit int64, move func(io.Reader) (int64, error)) (int64, error) {
	from, plain := b.conn.net.(*net.TCPConn)
	if !canSplice || !plain || b.from.form != byLength || b.err != nil || b.over.Load() || b.conn.br.Buffered() > 0 {
		return 0, errors.ErrUnsupported
	}
	// Waiting here and not in move does not count towards write timeouts, and distinguishes read errors from write errors.
	arrived, err := b.conn.arrived()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		b.err = b.end(err)
		return 0, b.err
	}
	want := min(limit, arrived)
	if b.from.left < uint64(want) {
		want = int64(b.from.left)
	}
	b.piece = io.LimitedReader{R: from, N: want}
	n, err := move(&b.piece)
	switch b.from.left -= uint64(n); {
	case b.from.left == 0:
		err = io.EOF
	case err == nil && n < want:
		err = io.ErrUnexpectedEOF
	case err == nil || !b.conn.closed.Load():
		return n, nil
	}
	b.err = b.end(err)
	return n, b.err
}
