package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// answersEarly is a backend that answers an upload before it has read it, and closes the connection or keeps it. Over HTTP/1.1 by hand:
// net/http's server would read some of the rest first.
func answersEarly(t *testing.T, keep bool, smuggled *sync.Map) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", freeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	serve := func(conn net.Conn) {
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		from := bufio.NewReader(conn)
		for { // bound: each request is read, and the deadline
			r, err := http.ReadRequest(from)
			if err != nil {
				return
			}
			if r.Method != http.MethodPost {
				n, _ := smuggled.LoadOrStore(r.URL.Path, new(atomic.Int64))
				n.(*atomic.Int64).Add(1)
			}
			end := "Connection: close\r\n"
			if keep || r.Method != http.MethodPost {
				end = ""
			}
			if _, err := io.WriteString(conn, "HTTP/1.1 413 Content Too Large\r\n"+end+"Content-Length: 3\r\n\r\nno\n"); err != nil || end != "" {
				return
			}
			if _, err := discard(r.Body); err != nil {
				return
			}
		}
	}
	go func() {
		for { // bound: until the listener is closed
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	return l.Addr().String()
}

// TestNoSmuggling: when a backend answers before the client has sent its body, what is left of the body is never taken for requests.
func TestNoSmuggling(t *testing.T) {
	uploads := 12 // of each kind
	if *soak {
		uploads = 30
	}
	var smuggled sync.Map // *atomic.Int64 by the path they were sent to
	closing, keeping := answersEarly(t, false, &smuggled), answersEarly(t, true, &smuggled)
	var sites strings.Builder
	var kinds []string
	site := func(directive, backend, settings string) {
		path := fmt.Sprint("/", len(kinds), "/")
		kinds = append(kinds, directive+" "+backend+" "+strings.Join(strings.Fields(settings), " "))
		fmt.Fprintf(&sites, "handle %s* {\n %s %s {\n %s\n}\n}\n", path, directive, backend, settings)
	}
	site("reverse_proxy", closing, "")
	site("reverse_proxy", keeping, "")
	for _, settings := range []string{
		"", "retry off", "retry {\n non_idempotent\n body_limit 2MiB\n }", "request_buffers 4KiB", "request_buffers 2MiB", "retry {\n non_idempotent\n }\n request_buffers 300KiB",
		"lb_retries 1",
	} {
		site("load_balancer", closing, settings)
		site("load_balancer", keeping, settings)
	}
	// What is taken for a request comes here.
	fmt.Fprintf(&sites, "handle /s* {\n reverse_proxy %s\n}\n", closing)
	for _, options := range []string{"", "enable_full_duplex", seamless, "enable_full_duplex\n" + seamless} {
		c := startCaddyConfig(t, "{\n\tadmin ADMIN_ADDRESS\n\tpersist_config off\n\tservers {\n\t\t"+options+"\n\t}\n}\n\nhttp://SITE_ADDRESS {\n"+sites.String()+"\n}\n")
		smuggled.Clear()
		upload := func(kind, size int, chunked bool) {
			// Wherever in the method it begins, what is left is a request.
			fake := fmt.Sprintf("%s /s%d HTTP/1.1\r\nHost:%s\r\n\r\n", strings.Repeat("G", 32), kind, c.site)
			body, length := strings.Repeat(fake, size/len(fake)), ""
			if chunked {
				length, body = "Transfer-Encoding: chunked", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
			} else {
				length = fmt.Sprint("Content-Length: ", len(body))
			}
			conn, err := net.Dial("tcp", c.site)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
			written := make(chan struct{})
			go func() {
				defer close(written)
				if _, err := io.WriteString(conn, fmt.Sprintf("POST /%d/", kind)+" HTTP/1.1\r\nHost: "+c.site+"\r\n"+length+"\r\n\r\n"+body); err == nil {
					_ = conn.(*net.TCPConn).CloseWrite()
				}
			}()
			_, _ = discard(conn)
			conn.Close()
			<-written
		}
		var wg sync.WaitGroup
		room := make(chan struct{}, 40) // connections linger for half a second after such answers
		for n := range uploads {
			for kind := range kinds {
				room <- struct{}{}
				wg.Go(func() {
					defer func() { <-room }()
					upload(kind, (600+450*n/uploads)<<10, n%2 == 1)
				})
			}
		}
		wg.Wait()
		for kind, what := range kinds {
			taken, ok := smuggled.Load(fmt.Sprint("/s", kind))
			switch {
			case !ok:
			case strings.HasPrefix(what, "reverse_proxy"):
				t.Logf("%s, %q: %d requests taken out of %d bodies", what, options, taken.(*atomic.Int64).Load(), uploads)
			default:
				t.Errorf("%s, %q: %d requests taken out of %d bodies", what, options, taken.(*atomic.Int64).Load(), uploads)
			}
		}
	}
}
