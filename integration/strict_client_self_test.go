package integration

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
)

// TestStrictClient: the client names every failure, asks nothing twice, and takes it well that a server closes a connection after having
// said so.
func TestStrictClient(t *testing.T) {
	t.Parallel()
	const ok = "HTTP/1.1 200 OK\r\nX-Config: 3\r\nContent-Length: 2\r\n"
	tests := []struct {
		answer string // what the server sends before it closes the connection
		reset  bool
		kinds  string // of two requests
	}{
		{ok + "\r\nok", false, "[no answer: EOF:1]"},
		{ok + "Connection: close\r\n\r\nok", false, ""},
		{"HTTP/1.1 100 Continue\r\n\r\n" + ok + "Connection: close\r\n\r\nok", false, ""},
		{"", false, "[no answer: EOF:2]"},
		{"", true, "[no answer: reset:2]"},
		{"HTTP/1.1 200 OK\r\n", false, "[cut answer: EOF:2]"},
		{ok + "\r\no", false, "[cut answer: EOF:2]"},
		{"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", false, "[request: unexpected status 502:2]"},
		{"HTTP/1.1 200 OK\r\nConnection: close\r\nX-Config: 2\r\nContent-Length: 0\r\n\r\n", false, "[answer: of an old config:2]"},
		{"HTTP/1.1 200 OK\r\nConnection: close\r\nX-Config: 5\r\nContent-Length: 0\r\n\r\n", false, "[answer: of a config that never served:2]"},
	}
	var configs epoch
	configs.committed.Store(3)
	configs.begun.Store(4)
	for _, tt := range tests {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
						_, _ = io.WriteString(conn, tt.answer)
					}
					if tcp := conn.(*net.TCPConn); tt.reset {
						_ = tcp.SetLinger(0)
					} else if tcp.CloseWrite() == nil {
						_, _ = io.Copy(io.Discard, tcp) // closing it with a request unread would reset it
					}
				}()
			}
		}()
		c := newStrictClient(way{"", "plain", "h1", true, asWhole, 1}, l.Addr().String(), &configs)
		c.size = 1
		c.send(0)
		c.send(1)
		if n, _, kinds := c.result(); n != 2 || kinds != tt.kinds {
			t.Errorf("%q: %d requests, failed: %q, want %q", tt.answer, n, kinds, tt.kinds)
		}
		c.close()
		l.Close()
	}
	gone := newStrictClient(way{"", "plain", "h1", false, asWhole, 1}, freeAddress(t), nil)
	gone.send(0)
	if _, _, kinds := gone.result(); kinds != "[connect: refused:1]" {
		t.Errorf("where nobody listens: %q", kinds)
	}
}
