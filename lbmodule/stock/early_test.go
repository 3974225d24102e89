package stock

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// resetConn is a connection that was reset: writes fail, and reads take what is there.
type resetConn struct {
	net.Conn
	err    error
	chunks chan string // closed at the end
}

func (c resetConn) Write([]byte) (int, error) { return 0, c.err }
func (c resetConn) Close() error              { return nil }
func (c resetConn) CloseWrite() error         { return nil }

func (c resetConn) Read(p []byte) (int, error) {
	text, more := <-c.chunks
	if !more {
		return 0, io.EOF
	}
	return copy(p, text), nil
}

func TestDeferWriteErrors(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		then func(c *deferringConn, chunks chan string) // what happens after the write has begun
		want time.Duration                              // when the write has failed
	}{
		"reset, silent": {syscall.ECONNRESET, func(*deferringConn, chan string) {}, readWait},
		"reset, read to the end": {syscall.ECONNRESET, func(c *deferringConn, chunks chan string) {
			for range 3 {
				time.Sleep(readWait - time.Second)
				chunks <- "x"
				_, _ = c.Read(make([]byte, 1))
			}
			close(chunks)
			_, _ = c.Read(make([]byte, 1))
			_, _ = c.Read(make([]byte, 1))
		}, 3 * (readWait - time.Second)},
		"pipe, closed": {syscall.EPIPE, func(c *deferringConn, _ chan string) {
			time.Sleep(time.Second)
			c.Close()
			c.Close()
		}, time.Second},
		"pipe, closed for writing before": {syscall.EPIPE, nil, 0},
		"timeout":                         {syscall.ETIMEDOUT, func(*deferringConn, chan string) {}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				chunks := make(chan string, 1)
				c := &deferringConn{Conn: resetConn{err: test.err, chunks: chunks}, over: make(chan struct{})}
				c.both.Store(true) // as a transport's goroutines have it
				if test.then == nil {
					if err := c.CloseWrite(); err != nil {
						t.Error(err)
					}
				} else {
					go test.then(c, chunks)
				}
				start := time.Now()
				if _, err := c.Write([]byte("x")); !errors.Is(err, test.err) {
					t.Errorf("%v, want %v", err, test.err)
				}
				if took := time.Since(start); took != test.want {
					t.Errorf("failed after %v, want %v", took, test.want)
				}
			})
		})
	}
	here, there := net.Pipe()
	defer there.Close()
	c := &deferringConn{Conn: here, over: make(chan struct{})}
	defer c.Close()
	if err := c.CloseWrite(); !errors.Is(err, http.ErrNotSupported) {
		t.Errorf("closing for writing what cannot be: %v", err)
	}
}

// During a handshake no other goroutine reads: a write that fails then does not wait.
func TestDeferWriteErrorsInHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &deferringConn{Conn: resetConn{err: syscall.ECONNRESET, chunks: make(chan string)}, over: make(chan struct{})}
		start := time.Now()
		if err := tls.Client(c, &tls.Config{ServerName: "x"}).HandshakeContext(t.Context()); err == nil {
			t.Fatal("no error")
		}
		if took := time.Since(start); took >= time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// A transport reads and writes at the same time: the write that fails waits for the reads then.
func TestDeferWriteErrorsByReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chunks := make(chan string)
		c := &deferringConn{Conn: resetConn{err: syscall.ECONNRESET, chunks: chunks}, over: make(chan struct{})}
		go func() {
			for { // until the end
				if _, err := c.Read(make([]byte, 1)); err != nil {
					return
				}
			}
		}()
		synctest.Wait()
		time.AfterFunc(time.Second, func() { close(chunks) })
		start := time.Now()
		if _, err := c.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
			t.Error(err)
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("failed after %v, want 1s, when everything had been read", took)
		}
	})
}
