package engine

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"
)

// errHandedOver is returned if a backend chose another protocol than HTTP/1.1 for a new connection. Nothing was sent on it.
var errHandedOver = errors.New("backend speaks another protocol")

// HandedOver is the error for a request that the client could not make, because the backend chose another protocol than HTTP/1.1 for a new
// connection. Nothing of the request was sent.
type HandedOver struct {
	Request *http.Request // to be made by the side that has taken the connection
}

func (*HandedOver) Error() string { return errHandedOver.Error() }

// instead returns the error for a request that got no connection because of err. If the backend speaks another protocol, that is a
// [HandedOver], and the request's body must still be open.
func instead(err error, r *http.Request) error {
	if errors.Is(err, errHandedOver) {
		return &HandedOver{r}
	}
	return err
}

// restored returns err. If that is a [HandedOver], its request gets a new body of these bytes, because its own has been read.
func restored(err error, body []byte) error {
	over, ok := errors.AsType[*HandedOver](err)
	if !ok {
		return err
	}
	r := over.Request.WithContext(over.Request.Context())
	if r.Body = http.NoBody; len(body) > 0 {
		r.Body = io.NopCloser(bytes.NewReader(bytes.Clone(body)))
	} else {
		r.ContentLength = 0
	}
	return &HandedOver{r}
}

// errHandshakeTimeout is returned if a TLS handshake took too long.
var errHandshakeTimeout net.Error = handshakeTimeout{}

type handshakeTimeout struct{}

func (handshakeTimeout) Error() string   { return "TLS handshake timeout" }
func (handshakeTimeout) Timeout() bool   { return true }
func (handshakeTimeout) Temporary() bool { return true }

// speaks reports whether the client can connect to the host of u. With TLS, a name outside ASCII would have to be converted.
func (c *Client) speaks(u *url.URL) bool {
	switch u.Scheme {
	case "http":
		return true
	case "https":
		for i := range len(u.Host) {
			if u.Host[i] >= 0x80 {
				return false
			}
		}
		return true
	}
	return false
}

// secure makes a TLS connection over a plain one, as net/http's transport does. If that fails, it closes the plain one.
func (c *Client) secure(ctx context.Context, plain net.Conn, u *url.URL) (*conn, error) {
	config := c.TLSClientConfig.Clone()
	if config == nil {
		config = new(tls.Config)
	}
	config.ServerName = cmp.Or(config.ServerName, u.Hostname())
	if c.TLSHandshakeTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.TLSHandshakeTimeout, errHandshakeTimeout)
		defer cancel()
	}
	under := newCiphertext(plain)
	made := tls.Client(under, config)
	if err := made.HandshakeContext(ctx); err != nil {
		plain.Close()
		if errors.Is(context.Cause(ctx), errHandshakeTimeout) {
			return nil, errHandshakeTimeout
		}
		return nil, err
	}
	state := made.ConnectionState()
	switch state.NegotiatedProtocol {
	case "", "http/1.1":
		secured := newConn(c, u.Host, made)
		secured.under, secured.raw, secured.state = under, under.raw, &state
		return secured, nil
	}
	if c.HandOver == nil {
		plain.Close()
		return nil, fmt.Errorf("backend chose protocol %q, want HTTP/1.1", state.NegotiatedProtocol)
	}
	c.HandOver(u.Host, made)
	return nil, errHandedOver
}

// ciphertext is the connection beneath a TLS connection. It knows where records end, and can read without blocking.
type ciphertext struct {
	net.Conn
	raw     syscall.RawConn // nil if the connection cannot be checked
	looking bool            // read without blocking

	into []byte // for look
	n    int    // result of look
	err  error  // result of look

	header [recordHeader]byte // of the record that is being read
	got    int                // bytes of the header
	rest   int                // bytes of the record that have not been read
}

// recordHeader is the length of a TLS record's header in bytes. It ends with the length of the rest.
const recordHeader = 5

// errNothing is returned by a read that would have to wait. TLS regards it as temporary.
var errNothing net.Error = nothing{}

type nothing struct{}

func (nothing) Error() string   { return "nothing to read" }
func (nothing) Timeout() bool   { return true }
func (nothing) Temporary() bool { return true }

func newCiphertext(plain net.Conn) *ciphertext {
	return &ciphertext{Conn: plain, raw: rawOf(plain)}
}

// Read implements [io.Reader].
func (c *ciphertext) Read(p []byte) (n int, err error) {
	if c.looking {
		n, err = c.readNow(p)
	} else {
		n, err = c.Conn.Read(p)
	}
	c.follow(p[:n])
	return n, err
}

// readNow reads what has arrived.
func (c *ciphertext) readNow(p []byte) (int, error) {
	c.into, c.n, c.err = p, 0, nil
	err := c.raw.Read(c.look)
	c.into = nil
	switch {
	case err != nil:
		return 0, err
	case c.err == nil && c.n == 0:
		return 0, io.EOF
	}
	return c.n, c.err
}

// follow tracks the ends of records in the bytes that were read.
func (c *ciphertext) follow(read []byte) {
	for len(read) > 0 {
		if c.rest > 0 {
			n := min(c.rest, len(read))
			c.rest -= n
			read = read[n:]
			continue
		}
		n := copy(c.header[c.got:], read)
		read = read[n:]
		if c.got += n; c.got == recordHeader {
			c.got, c.rest = 0, int(c.header[3])<<8|int(c.header[4])
		}
	}
}

// isQuiet reports whether an idle TLS connection is open and has no unrequested bytes. It reads what has arrived, because only the TLS
// layer can tell: it may have buffered bytes, and what has arrived may be a session ticket, which is harmless, or the end of the
// connection.
func (c *ciphertext) isQuiet(over net.Conn) bool {
	var one [1]byte
	c.looking = true
	n, err := over.Read(one[:])
	c.looking = false
	return n == 0 && errors.Is(err, errNothing) && c.got == 0 && c.rest == 0
}

// isAlert reports whether a backend ended a connection with a TLS alert, such as one about the client's certificate. In TLS 1.3, that
// alert comes after the client's side of the handshake has ended.
func isAlert(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error"
}

// rawOf returns the raw connection used to check whether a connection is alive, nil if it cannot be checked.
func rawOf(plain net.Conn) syscall.RawConn {
	if s, ok := plain.(syscall.Conn); ok && canCheckIdle {
		if raw, err := s.SyscallConn(); err == nil {
			return raw
		}
	}
	return nil
}
