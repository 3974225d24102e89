package lane

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// handedListener accepts what a lane hands over.
type handedListener struct{ s *served }

func (l handedListener) Accept() (net.Conn, error) {
	c, ok := <-l.s.handed
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (l handedListener) Close() error   { return nil }
func (l handedListener) Addr() net.Addr { return nil }

// TestHijack: a handler that takes over the connection of a plain request gets all that the client sends behind the request, whether it is there
// by then or not.
func TestHijack(t *testing.T) {
	s := start(t, "", Options{}, paths)
	s.site = siteOf(t, "respond own")
	taken := make(chan struct{})
	server := &http.Server{
		ConnState: func(c net.Conn, state http.ConnState) { c.(interface{ Became(http.ConnState) }).Became(state) },
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			c, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			taken <- struct{}{}
			_ = c.SetDeadline(time.Now().Add(patience))
			text := make([]byte, len("beginend"))
			if _, err := io.ReadFull(rw, text); err != nil {
				t.Errorf("%q, %v", text, err)
			}
			_, _ = c.Write(text)
		}),
	}
	over := make(chan struct{})
	go func() {
		_ = server.Serve(handedListener{s})
		close(over)
	}()
	for _, first := range []string{"", "begin"} {
		c := s.dial()
		c.send(get("/a") + first)
		<-taken
		c.send("beginend"[len(first):])
		if got, err := io.ReadAll(bufio.NewReader(c)); err != nil || string(got) != "beginend" {
			t.Errorf("%q, %v", got, err)
		}
	}
	close(s.handed)
	<-over
}
