package lane

import (
	"crypto/tls"
	"io"
	"net"
)

// Replayed is a connection of which some bytes were read already. They are read again first.
type Replayed struct {
	net.Conn
	again  []byte
	state  *tls.ConnectionState
	broken error   // of reading what follows; nil if more can be read
	failed *Failed // the first request
}

// TLSState returns the state of the connection; nil without TLS.
func (r *Replayed) TLSState() *tls.ConnectionState { return r.state }

// Failed returns what became of the request that is read next; nil if nothing did. It is told once.
func (r *Replayed) Failed() *Failed {
	f := r.failed
	r.failed = nil
	return f
}

// replay returns r as what it is for net/http.
func replay(r *Replayed) net.Conn {
	if tcp, ok := r.Conn.(*net.TCPConn); ok {
		return &replayedTCP{r, tcp}
	}
	return r
}

// Read implements [io.Reader].
func (r *Replayed) Read(p []byte) (int, error) {
	if len(r.again) == 0 {
		if r.broken != nil {
			return 0, r.broken
		}
		return r.Conn.Read(p)
	}
	n := copy(p, r.again)
	if r.again = r.again[n:]; len(r.again) == 0 {
		r.again = nil
	}
	return n, nil
}

// CloseWrite closes the connection for writing, if it can.
func (r *Replayed) CloseWrite() error {
	half, ok := r.Conn.(interface{ CloseWrite() error })
	if !ok {
		return net.ErrClosed
	}
	return half.CloseWrite()
}

// replayedTCP is a Replayed to which the kernel can move bytes.
type replayedTCP struct {
	*Replayed
	tcp *net.TCPConn
}

// ReadFrom implements [io.ReaderFrom].
func (r *replayedTCP) ReadFrom(from io.Reader) (int64, error) { return r.tcp.ReadFrom(from) }
