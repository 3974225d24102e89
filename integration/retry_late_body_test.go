package integration

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestRetryBeforeBody: a client sends its body only when the second backend has been asked, so that the attempt at the first one still
// waits for it. What that attempt reads belongs to the second, even if the body is too large to be kept.
func TestRetryBeforeBody(t *testing.T) {
	unavailable := func(conn *net.TCPConn, br *bufio.Reader) {
		_, _ = io.WriteString(conn, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
		_, _ = io.Copy(io.Discard, br)
	}
	for name, first := range map[string]func(*net.TCPConn, *bufio.Reader){
		"503":   unavailable,
		"reset": func(conn *net.TCPConn, _ *bufio.Reader) { _ = conn.SetLinger(0) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := startRaw(t, func(conn *net.TCPConn) {
				br := bufio.NewReader(conn)
				if readHead(br) != "" {
					first(conn, br)
				}
			})
			asked := make(chan struct{}, 1)
			b := startRaw(t, func(conn *net.TCPConn) {
				br := bufio.NewReader(conn)
				r, err := http.ReadRequest(br)
				if err != nil {
					return
				}
				asked <- struct{}{}
				body, _ := io.ReadAll(r.Body)
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: "+strconv.Itoa(len(body))+"\r\n\r\n"+string(body))
				_, _ = io.Copy(io.Discard, br)
			})
			c := startCaddy(t, "load_balancer "+a+" "+b+" {\n lb_policy first\n}")
			body := strings.Repeat("0123456789abcdef", 200<<10/16)
			conn, err := net.Dial("tcp", c.site)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(patience))
			if _, err := io.WriteString(conn, "PUT / HTTP/1.1\r\nHost: "+c.site+"\r\nContent-Length: "+strconv.Itoa(len(body))+"\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			select {
			case <-asked:
			case <-time.After(patience):
				t.Fatal("the second backend is not asked")
			}
			if _, err := io.WriteString(conn, body); err != nil {
				t.Fatal(err)
			}
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if got, err := io.ReadAll(res.Body); res.StatusCode != http.StatusOK || string(got) != body || err != nil {
				t.Errorf("status %d, %d bytes, %v; want all %d that were sent, from the second backend", res.StatusCode, len(got), err, len(body))
			}
		})
	}
}
