package integration

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// long is the length of an answer that the kernel moves from connection to connection where it can.
const long = 1 << 20

// content returns that many bytes, in which no shift, loss or repetition goes unnoticed.
func content(n int) []byte {
	b := make([]byte, 0, n+4)
	for i := uint32(1); len(b) < n; i++ {
		x := i * 2654435761
		b = append(b, byte(x>>24), byte(x>>16), byte(x>>8), byte(x))
	}
	return b[:n]
}

// answerSite is a site with handlers whose answers take different ways to the client.
func answerSite(addresses string) string {
	var site strings.Builder
	for _, way := range answerWays {
		fmt.Fprintf(&site, "handle_path /%s/* {\n %s\n}\n", way.name, strings.ReplaceAll(way.handler, "BACKEND", addresses))
	}
	return site.String()
}

var answerWays = []struct{ name, handler string }{
	{"plain", "load_balancer BACKEND"},
	{"flushed", "load_balancer BACKEND {\n flush_interval 1ms\n }"},
	{"changed", "load_balancer BACKEND {\n header_down X-Changed yes\n }"},
	{"transport", "load_balancer BACKEND {\n " + overTransport + "\n }"},
	{"control", "reverse_proxy BACKEND"},
}

// TestAnswersOfAllSizes: an answer arrives as the backend sent it, whatever its length, over every protocol, and leaves the connections
// in order.
func TestAnswersOfAllSizes(t *testing.T) {
	all := content(4 * long)
	b := startBackend(t)
	b.handle(func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.URL.Path[1:])
		w.Header().Set("Content-Type", "text/plain")
		switch r.Header.Get("Test-Status") {
		case "204":
			w.WriteHeader(http.StatusNoContent)
		case "304":
			w.Header().Set("Content-Length", strconv.Itoa(n))
			w.WriteHeader(http.StatusNotModified)
		default:
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(all[:n]))
		}
	})
	sizes := []int{0, 1, 3800, 3900, 100 << 10, long, 4 * long}
	for _, edge := range []int{1 << 10, 2 << 10, 4 << 10, 32 << 10, 64 << 10, 68 << 10, 128 << 10, 192 << 10} {
		sizes = append(sizes, edge-1, edge, edge+1)
	}
	plain, encrypted := startCaddy(t, answerSite(b.addr)), startTLSCaddy(t, answerSite(b.addr))
	logged := startCaddy(t, "log {\n output discard\n }\n"+answerSite(b.addr))
	for _, over := range []struct {
		name string
		c    *caddy
		h2   bool
	}{{"h1", plain, false}, {"h1 logged", logged, false}, {"h1 TLS", encrypted, false}, {"h2 TLS", encrypted, true}} {
		for _, way := range answerWays {
			t.Run(over.name+" "+way.name, func(t *testing.T) {
				t.Parallel()
				var dials atomic.Int64
				transport := &http.Transport{
					MaxConnsPerHost: 1, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, Protocols: new(http.Protocols), DisableCompression: true,
					DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
						dials.Add(1)
						return new(net.Dialer).DialContext(ctx, network, address)
					},
				}
				defer transport.CloseIdleConnections()
				transport.Protocols.SetHTTP1(!over.h2)
				transport.Protocols.SetHTTP2(over.h2)
				from := &http.Client{Transport: transport, Timeout: patience}
				url := over.c.url("/" + way.name + "/")
				if over.c == encrypted {
					url = strings.Replace(url, "http:", "https:", 1)
				}
				ask := func(method string, size, status int, want []byte, header ...string) {
					t.Helper()
					r, _ := http.NewRequest(method, url+strconv.Itoa(size), nil)
					for i := 0; i < len(header); i += 2 {
						r.Header.Set(header[i], header[i+1])
					}
					res, err := from.Do(r)
					if err != nil {
						t.Fatal(err)
					}
					got, err := io.ReadAll(res.Body)
					res.Body.Close()
					if res.StatusCode != status || err != nil || !bytes.Equal(got, want) {
						t.Errorf("%s %d %v: status %d, %d bytes, the right ones: %t, %v; want %d, %d bytes",
							method, size, header, res.StatusCode, len(got), bytes.Equal(got, want), err, status, len(want))
					}
				}
				for _, size := range sizes {
					ask(http.MethodGet, size, http.StatusOK, all[:size])
				}
				ask(http.MethodHead, long, http.StatusOK, nil)
				ask(http.MethodGet, long, http.StatusNotModified, nil, "Test-Status", "304")
				ask(http.MethodGet, 0, http.StatusNoContent, nil, "Test-Status", "204")
				ask(http.MethodGet, long, http.StatusPartialContent, all[1000:200_000], "Range", "bytes=1000-199999")
				ask(http.MethodGet, 100, http.StatusOK, all[:100])
				if n := dials.Load(); n != 1 {
					t.Errorf("the requests took %d connections to the load balancer, want 1", n)
				}
			})
		}
	}
}

// TestVeryLongAnswers: 64 MiB arrive byte for byte, with a length and in chunks, over every protocol.
func TestVeryLongAnswers(t *testing.T) {
	t.Parallel()
	all := content(64 << 20)
	sum := sha256.Sum256(all)
	b := startBackend(t)
	b.handle(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", strconv.Itoa(len(all)))
		}
		for rest, n := all, 1; len(rest) > 0; n = n*7%100_003 + 1 { // chunks of many sizes
			piece := rest[:min(n, len(rest))]
			if _, err := w.Write(piece); err != nil {
				return
			}
			rest = rest[len(piece):]
		}
	})
	site := "load_balancer " + b.addr + " {\n name p\n }"
	plain, encrypted := startCaddy(t, site), startTLSCaddy(t, site)
	for _, over := range []struct {
		name, scheme string
		c            *caddy
		h2           bool
	}{{"h1", "http", plain, false}, {"h1 TLS", "https", encrypted, false}, {"h2 TLS", "https", encrypted, true}} {
		transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, Protocols: new(http.Protocols), DisableCompression: true}
		transport.Protocols.SetHTTP1(!over.h2)
		transport.Protocols.SetHTTP2(over.h2)
		from := &http.Client{Transport: transport, Timeout: patience}
		for path, length := range map[string]int64{"length": int64(len(all)), "chunks": -1} {
			res, err := from.Get(over.scheme + "://" + over.c.site + "/" + path)
			if err != nil {
				t.Fatal(over.name, path, err)
			}
			got := sha256.New()
			n, err := io.Copy(got, res.Body)
			res.Body.Close()
			if n != int64(len(all)) || err != nil || !bytes.Equal(got.Sum(nil), sum[:]) || res.ContentLength != length || res.ProtoAtLeast(2, 0) != over.h2 {
				t.Errorf("%s, %s: %d bytes, SHA-256 %x, %v, Content-Length %d, %s; want %d, %x, %d",
					over.name, path, n, got.Sum(nil), err, res.ContentLength, res.Proto, len(all), sum, length)
			}
		}
		transport.CloseIdleConnections()
	}
	for c, n := range map[*caddy]uint64{plain: 2, encrypted: 4} {
		waitFor(t, "the attempts to be counted", func() bool { return c.transport("p").sum() == n })
		if got := c.transport("p"); got.Engine != n {
			t.Errorf("%+v, want %d over the engine", got, n)
		}
	}
}

// pipes is the number of ends of pipes that the process has open.
func (c *caddy) pipes() (n int) {
	dir := fmt.Sprintf("/proc/%d/fd", c.cmd.Process.Pid)
	open, err := os.ReadDir(dir)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, fd := range open {
		if to, _ := os.Readlink(filepath.Join(dir, fd.Name())); strings.HasPrefix(to, "pipe:") {
			n++
		}
	}
	return n
}

// TestWhichAnswersAreMoved: the kernel moves a long answer where nothing has to see it. That takes a pipe.
func TestWhichAnswersAreMoved(t *testing.T) {
	if runtime.GOOS != "linux" {
		return
	}
	half := content(long / 2)
	address := startRaw(t, func(conn *net.TCPConn) {
		readHead(bufio.NewReader(conn))
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", long, half)
		_, _ = discard(conn)
	})
	for name, test := range map[string]struct {
		config  string
		moved   bool
		express bool // whether the express lane moves it
	}{
		"plain":           {siteConfig("load_balancer " + address), true, true},
		"default servers": {"{\n admin ADMIN_ADDRESS\n persist_config off\n}\nhttp://SITE_ADDRESS {\n load_balancer " + address + "\n}", true, true},
		"timeouts":        {siteConfig("timeouts {\n write_timeout 1m\n }\nload_balancer " + address), true, true},
		"logged":          {siteConfig("log {\n output discard\n }\nload_balancer " + address), false, true},
		"measured":        {strings.Replace(siteConfig("load_balancer "+address), "{\n", "{\n metrics\n", 1), false, true},
		"encoded":         {siteConfig("encode gzip\nload_balancer " + address), false, false},
		"flushed":         {siteConfig("load_balancer " + address + " {\n flush_interval 1s\n }"), false, true},
		"rate":            {siteConfig("timeouts {\n write_timeout 1m 1\n }\nload_balancer " + address), false, false},
		"length changed":  {siteConfig("load_balancer " + address + " {\n header_down -Content-Length\n }"), false, false},
		"only HTTP/1.1":   {strings.Replace(siteConfig("load_balancer "+address), "h1 h2c", "h1", 1), false, true},
		"control":         {siteConfig("reverse_proxy " + address), false, false},
	} {
		for side, want := range map[string]bool{expressOn: test.express, expressOff: test.moved} {
			t.Run(name+", "+strings.Join(strings.Fields(side), " "), func(t *testing.T) {
				t.Parallel()
				c := startCaddyConfig(t, strings.Replace(test.config, seamless, side, 1))
				before := c.pipes()
				conn := c.dial()
				fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", c.site)
				br := bufio.NewReader(conn)
				head := readHead(br)
				if _, err := io.CopyN(io.Discard, br, long/4); err != nil {
					t.Fatal(head, err)
				}
				if moved := c.pipes() > before; moved != want {
					t.Errorf("moved: %t, want %t", moved, want)
				}
			})
		}
	}
}

// TestBrokenLongAnswers: a long answer that breaks off is never taken for a whole one, and is its backend's failure; one whose client leaves
// is nobody's.
func TestBrokenLongAnswers(t *testing.T) {
	some := content(300 << 10)
	for name, test := range map[string]struct {
		then   func(conn *net.TCPConn, arrived <-chan bool) // what the backend does after some of the answer; much has arrived once it is told
		length int
		leaves bool // the client
		want   float64
	}{
		"ends early":                        {func(*net.TCPConn, <-chan bool) {}, long, false, 1},
		"ends early by reset":               {func(conn *net.TCPConn, arrived <-chan bool) { <-arrived; _ = conn.SetLinger(0) }, long, false, 1},
		"client leaves":                     {func(conn *net.TCPConn, _ <-chan bool) { _, _ = discard(conn) }, long, true, 0},
		"client leaves, backend has closed": {func(*net.TCPConn, <-chan bool) {}, len(some), true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			arrived := make(chan bool, 2) // one of each client
			address := startRaw(t, func(conn *net.TCPConn) {
				readHead(bufio.NewReader(conn))
				if _, err := fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", test.length, some); err == nil {
					test.then(conn, arrived)
				}
			})
			for _, site := range []string{"", "log {\n output discard\n }\n"} {
				c := startCaddy(t, site+"load_balancer "+address+" {\n name p\n }")
				conn := c.dial().(*net.TCPConn)
				if test.leaves {
					_ = conn.SetReadBuffer(4 << 10)
				}
				fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", c.site)
				br := bufio.NewReader(conn)
				readHead(br)
				if test.leaves {
					_, _ = io.CopyN(io.Discard, br, 20<<10)
					_ = conn.SetLinger(0)
					conn.Close()
				} else {
					n, err := io.CopyN(io.Discard, br, int64(len(some)/2))
					arrived <- true
					if err == nil {
						var more int64
						more, err = io.Copy(io.Discard, br)
						n += more
					}
					if n < int64(len(some)/2) || n >= int64(test.length) || errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("%q: client got %d bytes, %v; want %d to %d, and an end", site, n, err, len(some)/2, test.length-1)
					}
				}
				waitFor(t, "the request to end", func() bool { return c.poolNamed("p").Backends[0].InFlight == 0 })
				if n := c.failures(address); n != test.want {
					t.Errorf("%q: backend is blamed %v times, want %v", site, n, test.want)
				}
			}
		})
	}
}

// TestPausesInLongAnswers: the server's bound on writes does not count the time that a backend takes, nor cut off a client that is slow but
// reads; it cuts off one that stops.
func TestPausesInLongAnswers(t *testing.T) {
	t.Parallel()
	const bound, beginning = 3 * time.Second, 100_000
	all := content(16 * long) // more than sockets hold
	b := startBackend(t)
	b.handle(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(all)))
		_, _ = w.Write(all[:beginning])
		if r.URL.Path == "/pauses" {
			_ = http.NewResponseController(w).Flush()
			takes(r.Context(), bound+bound/2)
		}
		_, _ = w.Write(all[beginning:])
	})
	c := startCaddyConfig(t, strings.Replace(siteConfig(answerSite(b.addr)), "protocols", "timeouts {\n write_idle "+bound.String()+"\n }\n protocols", 1))
	for way, handler := range map[string]string{"plain": "load_balancer", "control": "reverse_proxy"} {
		for does, whole := range map[string]bool{"pauses": true, "slow": true, "stops": false} {
			t.Run(way+" "+does, func(t *testing.T) {
				t.Parallel()
				conn := c.dial()
				fmt.Fprintf(conn, "GET /%s/%s HTTP/1.1\r\nHost: %s\r\n\r\n", way, does, c.site)
				br := bufio.NewReader(conn)
				readHead(br)
				var got bytes.Buffer
				switch does {
				case "slow":
					for start := time.Now(); time.Since(start) < bound+bound/2; time.Sleep(bound / 20) {
						// Sockets hold megabytes, and a writer is told of room only when there is a lot.
						if _, err := io.CopyN(&got, br, 400_000); err != nil {
							t.Fatal(err)
						}
					}
				case "stops":
					c.waitLogged("aborting with incomplete response", "handlers."+handler)
				}
				_, err := io.CopyN(&got, br, int64(len(all)-got.Len()))
				if arrived := err == nil && bytes.Equal(got.Bytes(), all); arrived != whole {
					t.Errorf("%d of %d bytes, %v", got.Len(), len(all), err)
				}
			})
		}
	}
}
