package server_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/websocket"

	"github.com/ballastlb/ballast/examples/backend/server"
)

func start(t *testing.T) (*server.Server, string) {
	t.Helper()
	s := server.New("one")
	http := httptest.NewServer(s)
	t.Cleanup(http.Close)
	return s, http.URL
}

func do(t *testing.T, method, url, body string) (int, string, error) {
	t.Helper()
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Close = true // on a connection that is used again, the client would ask twice when it breaks
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	if got := res.Header.Get("X-Backend"); got != "one" {
		t.Errorf("%s %s: X-Backend = %q", method, url, got)
	}
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, string(text), err
}

// The answer to an echo begins before the end of its request, unless the query says otherwise.
func TestEcho(t *testing.T) {
	_, url := start(t)
	piece := strings.Repeat("x", 64<<10)
	for path, early := range map[string]bool{"/echo": true, "/echo?whole=1": false} {
		body, rest := io.Pipe()
		begun, whole := make(chan struct{}), make(chan string, 1)
		go func() {
			defer close(whole)
			res, err := http.Post(url+path, "text/plain", body)
			if err != nil {
				t.Errorf("%s: %v", path, err)
				return
			}
			defer res.Body.Close()
			close(begun)
			text, err := io.ReadAll(res.Body)
			if err != nil {
				t.Errorf("%s: %v", path, err)
			}
			whole <- string(text)
		}()
		if _, err := io.WriteString(rest, piece); err != nil {
			t.Fatal(err)
		}
		patience := 50 * time.Millisecond
		if early {
			patience = 10 * time.Second
		}
		select {
		case <-begun:
			if !early {
				t.Errorf("%s: answered before the end of the request", path)
			}
		case <-time.After(patience):
			if early {
				t.Errorf("%s: no answer before the end of the request", path)
			}
		}
		rest.Close()
		if got := <-whole; got != piece {
			t.Errorf("%s: %d bytes of %d come back", path, len(got), len(piece))
		}
	}
}

func TestAnswers(t *testing.T) {
	s, url := start(t)
	tests := []struct {
		method, path, body string
		status             int
		want               string // the answer begins with it
		breaks             bool
	}{
		{"GET", "/a", "", 200, "one GET /a\n", false},
		{"GET", "/?status=503&delay=1ms", "", 503, "one", false},
		{"GET", "/?size=5", "", 200, ".....", false},
		{"GET", "/?slow=3x1ms&size=7", "", 200, ".......", false},
		{"POST", "/echo", "hello", 200, "hello", false},
		{"GET", "/headers", "", 200, `{"Accept-Encoding":["gzip"]`, false},
		{"GET", "/healthz", "", 200, "one", false},
		{"GET", "/sse?every=1ms&count=2", "", 200, "data: 1 from one\n\ndata: 2 from one\n\n", false},
		{"GET", "/?abort=header", "", 0, "", true},
		{"GET", "/?abort=body&size=100", "", 200, "....", true},
		{"PATCH", "/_settings", `{"status":500,"health":503,"delay":"1ms"}`, 200, `{"status":500,`, false},
		{"GET", "/", "", 500, "one", false},
		{"GET", "/healthz", "", 503, "one", false},
		{"PATCH", "/_settings", `{"status":99}`, 400, "status 99", false},
		{"PATCH", "/_settings", `{"nonsense":1}`, 400, "json: unknown field", false},
		{"PATCH", "/_settings", `{"abort":"x"}`, 400, "abort \"x\"", false},
		{"PATCH", "/_settings", `{"abort":"header"}`, 200, `{"status":500,`, false},
		{"GET", "/", "", 0, "", true},
		{"PATCH", "/_settings", `{"abort":"body"}`, 200, `{"status":500,`, false},
		{"GET", "/?size=100", "", 500, "....", true},
		{"PATCH", "/_settings", `{"abort":""}`, 200, `{"status":500,`, false},
		{"PATCH", "/_settings", `{"sigma":4}`, 400, "sigma 4", false},
		{"PATCH", "/_settings", `{"workers":-1}`, 400, "workers -1", false},
		{"PATCH", "/_settings", `{"slow_next":-1}`, 400, "slow_next -1", false},
		{"GET", "/_settings", "", 200, `{"status":500,`, false},
	}
	requests := int64(0)
	for _, tt := range tests {
		status, got, err := do(t, tt.method, url+tt.path, tt.body)
		if (err != nil) != tt.breaks || status != tt.status || !strings.HasPrefix(got, tt.want) {
			t.Errorf("%s %s: %d %q, %v; want %d %q, broken %v", tt.method, tt.path, status, got, err, tt.status, tt.want, tt.breaks)
		}
		if !strings.HasPrefix(tt.path, "/_") {
			requests++
		}
	}
	// A client has an answer of known length before its handler has returned.
	for deadline := time.Now().Add(10 * time.Second); s.Stats().InFlight > 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if got := s.Stats(); got.Requests != requests || got.InFlight != 0 || got.Statuses[503] != 2 {
		t.Errorf("stats = %+v, want %d requests, none in flight, two 503", got, requests)
	}
	if status, _, _ := do(t, "POST", url+"/_reset", ""); status != http.StatusNoContent {
		t.Errorf("reset: status %d", status)
	}
	if got := s.Stats(); got.Requests != 0 || got.MaxInFlight != 0 {
		t.Errorf("stats after the reset = %+v", got)
	}
}

// TestDelays: when requests that come at the same time are answered.
func TestDelays(t *testing.T) {
	const s = time.Second
	tests := []struct {
		settings string
		want     []time.Duration
	}{
		{`{"delay":"1s"}`, []time.Duration{s, s, s, s, s}},
		{`{"delay":"1s","workers":1}`, []time.Duration{s, 2 * s, 3 * s, 4 * s, 5 * s}},
		{`{"delay":"1s","workers":2}`, []time.Duration{s, s, 2 * s, 2 * s, 3 * s}},
		{`{"delay":"1s","slow_next":2,"slow_delay":"5s"}`, []time.Duration{s, s, s, 5 * s, 5 * s}},
		{`{"delay":"1s","slow_ratio":1,"slow_delay":"5s"}`, []time.Duration{5 * s, 5 * s, 5 * s, 5 * s, 5 * s}},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			backend := tell(t, tt.settings)
			start := time.Now()
			ended := make(chan time.Duration, len(tt.want))
			for range tt.want {
				go func() {
					backend.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
					ended <- time.Since(start)
				}()
			}
			var got []time.Duration
			for range tt.want {
				got = append(got, <-ended)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("%s: answers after %v, want %v", tt.settings, got, tt.want)
			}
		})
	}
}

// TestSigma: half of the delays are below the median, and a sixth above what is one standard deviation more.
func TestSigma(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := tell(t, `{"delay":"100ms","sigma":1.5}`)
		const requests = 4000
		above, farAbove := 0, 0
		for range requests {
			start := time.Now()
			backend.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
			took := time.Since(start)
			if took > 100*time.Millisecond {
				above++
			}
			if took > 448*time.Millisecond { // e to the power of 1.5
				farAbove++
			}
		}
		// 0.5 and 0.159 of them, give or take six standard errors.
		if above < 1810 || above > 2190 || farAbove < 495 || farAbove > 775 {
			t.Errorf("%d of %d above the median, %d above one standard deviation", above, requests, farAbove)
		}
	})
}

// TestLeaveWhileWaiting: a client that leaves while it waits for a worker takes none.
func TestLeaveWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := tell(t, `{"delay":"1s","workers":1}`)
		ask := func(ctx context.Context) {
			backend.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil))
		}
		start := time.Now()
		go ask(t.Context())
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		ask(ctx)
		if left := time.Since(start); left != time.Second/2 {
			t.Errorf("the client had left after %v", left)
		}
		ask(t.Context())
		if ended := time.Since(start); ended != 2*time.Second {
			t.Errorf("the next client had its answer after %v", ended)
		}
	})
}

// tell returns a server with these settings.
func tell(t *testing.T, settings string) *server.Server {
	t.Helper()
	s, w := server.New("one"), httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodPatch, "/_settings", strings.NewReader(settings)))
	if w.Code != http.StatusOK {
		t.Fatalf("%s: status %d: %s", settings, w.Code, w.Body)
	}
	return s
}

func TestWebSocket(t *testing.T) {
	_, url := start(t)
	conn, err := websocket.Dial("ws"+strings.TrimPrefix(url, "http")+"/ws", "", url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var got string
	if err := websocket.Message.Send(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := websocket.Message.Receive(conn, &got); err != nil || got != "hello" {
		t.Errorf("got %q, %v", got, err)
	}
}
