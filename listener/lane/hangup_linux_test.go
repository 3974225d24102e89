package lane

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"testing"
	"time"
)

// soon is how long it may take until a client's leaving is noticed. Twice the interval of the rounds, and the slowness of a busy machine.
const soon = 2*watchEvery + 400*time.Millisecond

// waiting has a backend that never answers, and tells of the requests that it gets.
func waiting(t *testing.T, settings string) (*served, chan *backend) {
	t.Helper()
	asked := make(chan *backend, 1)
	over := make(chan struct{})
	s := start(t, settings, Options{}, func(b *backend) {
		if b.head() == "" {
			return
		}
		asked <- b
		<-over
	})
	t.Cleanup(func() { close(over) })
	return s, asked
}

// TestHangup: a request is given up when its client leaves, also when the connection stays open for answers, as in net/http.
func TestHangup(t *testing.T) {
	for name, leave := range map[string]func(c *client){
		"close": func(c *client) { c.Close() },
		"half":  func(c *client) { _ = c.CloseWrite() },
		"reset": func(c *client) { _ = c.SetLinger(0); c.Close() },
	} {
		for _, later := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				s, asked := waiting(t, "")
				c := s.dial()
				c.send(get("/"))
				b := <-asked
				if later && closed(b.Conn, 3*watchEvery) { // then the connection is watched when the client leaves
					t.Fatal("it is given up, and the client is there")
				}
				leave(c)
				if !closed(b.Conn, soon) {
					t.Error("it is not given up")
				}
				<-s.ended
			})
		}
	}
}

// TestHangupPipelined: a client that has sent its next request has not left.
func TestHangupPipelined(t *testing.T) {
	s, asked := waiting(t, "")
	c := s.dial()
	c.send(get("/"))
	b := <-asked
	c.send(get("/next"))
	_ = c.CloseWrite()
	if closed(b.Conn, soon) {
		t.Error("it is given up")
	}
}

// TestHangupUpload: a client that leaves behind the end of its body has left, however late the body is read.
func TestHangupUpload(t *testing.T) {
	for _, size := range []int{10, 3 << 20} {
		read := make(chan struct{})
		asked := make(chan *backend, 1)
		over := make(chan struct{})
		s := start(t, "", Options{}, func(b *backend) {
			if b.head() == "" {
				return
			}
			<-read
			_, _ = io.CopyN(io.Discard, b, int64(size))
			asked <- b
			<-over
		})
		c := s.dial()
		c.send(post("/", size))
		go func() {
			_, _ = c.Write(make([]byte, size))
			_ = c.CloseWrite()
		}()
		time.AfterFunc(4*watchEvery, func() { close(read) })
		if b := <-asked; !closed(b.Conn, soon) {
			t.Errorf("%d bytes: it is not given up", size)
		}
		close(over)
		c.Close()
	}
}

// TestHangupTLS: the same for clients that say that they leave.
func TestHangupTLS(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			s, asked := waiting(t, "")
			s.tls.Store(&tls.Config{Certificates: []tls.Certificate{certificate(t)}, MaxVersion: version})
			plain, err := net.Dial("tcp", s.address)
			if err != nil {
				t.Fatal(err)
			}
			defer plain.Close()
			c := tls.Client(plain, &tls.Config{InsecureSkipVerify: true})
			if _, err := io.WriteString(c, get("/")); err != nil {
				t.Fatal(err)
			}
			b := <-asked
			if closed(b.Conn, 3*watchEvery) {
				t.Fatal("it is given up, and the client is there")
			}
			c.Close()
			if !closed(b.Conn, soon) {
				t.Error("it is not given up")
			}
		})
	}
}

// certificate makes one.
func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	of := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	raw, err := x509.CreateCertificate(rand.Reader, of, of, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}
}
