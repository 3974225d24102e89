package server_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
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
