package integration

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	caddyserver "github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/ballastlb/ballast"
)

// ofEvery is all that an ordinary request allocates below our handler, by the function that does it.
var ofEvery = map[string]int{
	"lbmodule.(*Handler).ServeHTTP": 1, // what logs and placeholders may ask for when the handler has returned
	"observe.(*Request).Show":       1, // how the replacer asks for it
	"engine.(*answer).parse":        1, // the text of the answer's header
	"engine.(*answer).fill":         2, // its map, and the values
	"engine.add":                    1, // the map's space, for up to eight fields
	"front.passHeader":              1, // the values for the client, which other handlers may change
}

// ofBody is what a request with a small body allocates in addition.
var ofBody = map[string]int{
	"front.receive":                  1, // what tells the client's failures from the backend's
	"exchange.(*Exchange).prepare":   1, // the body as the attempts see it
	"exchange.(*requestBody).attach": 1, // how the body is got again
}

// TestAllocations holds what an ordinary request allocates from our handler on, with a kept connection to a real backend.
func TestAllocations(t *testing.T) {
	backend := startFrugal(t)
	server := handling(t, `{"handler": "load_balancer", "upstreams": [{"dial": "`+backend+`"}]}`)
	for name, test := range map[string]struct {
		body string
		more map[string]int
	}{
		"GET":  {"", nil},
		"POST": {strings.Repeat("x", 4<<10), ofBody},
	} {
		t.Run(name, func(t *testing.T) {
			want := maps.Clone(ofEvery)
			maps.Copy(want, test.more)
			got := allocationsBelow(t, "lbmodule.(*Handler).ServeHTTP", func() {
				r := httptest.NewRequest(http.MethodGet, "http://example.com/1k?q=1", nil)
				if test.body != "" {
					r = httptest.NewRequest(http.MethodPost, "http://example.com/post", strings.NewReader(test.body))
				}
				r.Header.Set("User-Agent", "test")
				w := &frugalWriter{header: make(http.Header, 16)}
				if server.ServeHTTP(w, r); w.status != http.StatusOK || w.size != 1<<10 {
					t.Fatalf("status %d, %d bytes", w.status, w.size)
				}
			})
			if !maps.Equal(got, want) {
				t.Errorf("allocations:\n%v\nwant:\n%v", got, want)
			}
		})
	}
}

// allocationsBelow returns how many allocations each function of ours, or of Caddy, makes in a run of f below the function named.
// Something else that happens to allocate less than once per run is not counted.
func allocationsBelow(t *testing.T, named string, f func()) map[string]int {
	t.Helper()
	const runs = 400
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // pools stay filled
	defer func(before int) { runtime.MemProfileRate = before }(runtime.MemProfileRate)
	runtime.MemProfileRate = 1
	for range runs { // connections, buffers and pools
		f()
	}
	before := profile(named)
	for range runs {
		f()
	}
	counts := make(map[string]int)
	for name, n := range profile(named) {
		if each := (n - before[name]) / runs; each > 0 {
			counts[name] = int(each)
		}
	}
	return counts
}

// profile returns how many objects have been allocated below the function named.
func profile(named string) map[string]int64 {
	runtime.GC() // the profile is that of the last collection
	runtime.GC()
	records := make([]runtime.MemProfileRecord, 100_000)
	n, _ := runtime.MemProfile(records, true)
	counts := make(map[string]int64)
	for _, r := range records[:n] {
		frames := runtime.CallersFrames(r.Stack())
		name, below := "", false
		for {
			frame, more := frames.Next()
			if strings.HasPrefix(frame.Function, "github.com/") {
				name = cmp.Or(name, frame.Function[strings.LastIndex(frame.Function, "/")+1:])
			}
			below = below || strings.HasSuffix(frame.Function, named)
			if !more {
				break
			}
		}
		if below {
			counts[name] += r.AllocObjects
		}
	}
	return counts
}

// handling returns a server of Caddy with this handler. It does not listen.
func handling(t *testing.T, handler string) *caddyhttp.Server {
	t.Helper()
	var config caddyserver.Config
	text := fmt.Sprintf(`{"admin": {"disabled": true}, "storage": {"module": "file_system", "root": %q}, "logging": {"logs": {"default": {"writer": {"output": "discard"}}}},
		"apps": {"http": {"servers": {"s": {"listen": ["127.0.0.1:1"], "automatic_https": {"disable": true}, "routes": [{"handle": [%s]}]}}}}}`, t.TempDir(), handler)
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		t.Fatal(err)
	}
	ctx, err := caddyserver.ProvisionContext(&config)
	if err != nil {
		t.Fatal(err)
	}
	app, err := ctx.App("http")
	if err != nil {
		t.Fatal(err)
	}
	return app.(*caddyhttp.App).Servers["s"]
}

// startFrugal starts a backend that allocates next to nothing. It answers every request with 1 KiB. POST requests must have a body of 4 KiB.
func startFrugal(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	answer := []byte("HTTP/1.1 200 OK\r\nServer: frugal\r\nDate: Sat, 28 Nov 2026 12:00:00 GMT\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n" +
		"Last-Modified: Sat, 28 Nov 2026 11:00:00 GMT\r\nEtag: \"1\"\r\nAccept-Ranges: bytes\r\n\r\n" + strings.Repeat("x", 1<<10))
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				buffer := make([]byte, 64<<10)
				for {
					n := 0
					for {
						more, err := conn.Read(buffer[n:])
						if err != nil {
							return
						}
						n += more
						head := bytes.Index(buffer[:n], []byte("\r\n\r\n"))
						if head >= 0 && (buffer[0] != 'P' || n == head+4+4<<10) {
							break
						}
					}
					if _, err := conn.Write(answer); err != nil {
						return
					}
				}
			}()
		}
	}()
	return listener.Addr().String()
}

// frugalWriter is a client that allocates nothing for an answer.
type frugalWriter struct {
	header http.Header
	status int
	size   int
}

func (w *frugalWriter) Header() http.Header    { return w.header }
func (w *frugalWriter) WriteHeader(status int) { w.status = status }
func (w *frugalWriter) Flush()                 {}

func (w *frugalWriter) SetWriteDeadline(time.Time) error { return nil }

func (w *frugalWriter) Write(p []byte) (int, error) {
	w.size += len(p)
	return len(p), nil
}
