package engine

import (
	"errors"
	"io"
	"net"
)

// Splice has move pass on the next bytes of the body, at most most. move gets an [io.LimitedReader] of a TCP connection: where it hands
// that to another one's ReadFrom, the kernel moves the bytes without copying them (Linux). Splice returns the number of bytes that move
// returns, and an error only of reading, io.EOF at the end of the body; move's own errors are for the caller to keep. If the next bytes
// do not come straight from a TCP connection, Splice returns [errors.ErrUnsupported] and does not call move.
func (b *body) Splice(most int64, move func(io.Reader) (int64, error)) (int64, error) {
	from, plain := b.conn.net.(*net.TCPConn)
	if !canSplice || !plain || b.from.form != byLength || b.err != nil || b.over.Load() || b.conn.br.Buffered() > 0 {
		return 0, errors.ErrUnsupported
	}
	size := int64(min(b.from.left, uint64(most)))
	b.piece = io.LimitedReader{R: from, N: size}
	n, err := move(&b.piece)
	whole := n == size
	switch b.from.left -= uint64(n); {
	case b.from.left == 0:
		err = io.EOF
	case err == nil && !whole:
		err = io.ErrUnexpectedEOF
	case err != nil && (b.conn.closed.Load() || b.conn.isBroken()):
	default:
		return n, nil
	}
	b.err = b.end(err)
	return n, b.err
}
