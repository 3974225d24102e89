package command

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ballastlb/ballast/command/api"
)

// output is what a command that goes on has printed so far.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// startStreams serves one stream of events after the other: each sends its text, and the last one stays open. last returns the
// queries of the streams, and the ids that they were asked to go on from.
func startStreams(t *testing.T, streams ...string) (address string, last func() string) {
	t.Helper()
	var mu sync.Mutex
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/load_balancer/events" {
			fmt.Fprint(w, `{"name":"web"}`)
			return
		}
		mu.Lock()
		n := len(asked)
		asked = append(asked, r.URL.RawQuery+"#"+r.Header.Get("Last-Event-ID"))
		mu.Unlock()
		if n >= len(streams) {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, streams[n])
		w.(http.Flusher).Flush()
		if n == len(streams)-1 {
			<-r.Context().Done()
		}
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String(), func() string {
		mu.Lock()
		defer mu.Unlock()
		return strings.Join(asked, ",")
	}
}

const (
	down   = `{"time":"2026-01-02T15:04:05Z","pool":"web","backend":"[::1]:8080","reason":"evil\u001b[31m"}`
	opened = `{"time":"2026-01-02T15:04:06Z","pool":"a/b","backend":"b","for":"5s","count":2}`
	up     = `{"time":"2026-01-02T15:04:07Z","pool":"web","backend":"[::1]:8080"}`
)

func TestEvents(t *testing.T) {
	streams := []string{
		": hello\n\nevent: backend_down\nid: 7\ndata: " + down + "\n\nevent: breaker_opened\nid: 8\ndata: " + opened + "\n\n",
		"", // ends at once
		"event: backend_up\nid: 9\ndata: " + up + "\n\n",
	}
	for _, test := range []struct{ command, asked, want string }{
		{"events", "all=1&last=50#,all=1#8,all=1#8", `
2026-01-02T15:04:05.000Z  backend_down         web  [::1]:8080  evil?[31m
2026-01-02T15:04:06.000Z  breaker_opened       a/b  b  count 2; for 5s
2026-01-02T15:04:07.000Z  backend_up           web  [::1]:8080  -`},
		{"events web --json --last 0", "pool=web#,pool=web#8,pool=web#8", `
{"backend":"[::1]:8080","event":"backend_down","id":"7","pool":"web","reason":"evil\u001b[31m","time":"2026-01-02T15:04:05Z"}
{"backend":"[::1]:8080","event":"backend_up","id":"9","pool":"web","time":"2026-01-02T15:04:07Z"}`},
	} {
		address, last := startStreams(t, streams...)
		ctx, cancel := context.WithCancel(t.Context())
		var out, errors output
		ended := make(chan int)
		go func() {
			ended <- execute(ctx, t, console{in: strings.NewReader(""), out: &out, err: &errors}, append(strings.Fields(test.command), "--address", address)...)
		}()
		deadline := time.After(20 * time.Second)
		for !strings.Contains(out.String(), "backend_up") {
			select {
			case code := <-ended:
				t.Fatalf("%s ended with %d: %s", test.command, code, errors.String())
			case <-deadline:
				t.Fatalf("%s: waited for 20 s:\n%s", test.command, out.String())
			case <-time.After(5 * time.Millisecond):
			}
		}
		cancel()
		if code := <-ended; code != 0 {
			t.Errorf("%s ended with %d", test.command, code)
		}
		lines(t, test.command, out.String(), test.want)
		if got := last(); got != test.asked {
			t.Errorf("%s: streams go on from %q, want %q", test.command, got, test.asked)
		}
		if got := errors.String(); strings.Count(got, "stream ended; connecting again") < 2 {
			t.Errorf("said %q", got)
		}
	}
}

// TestEventsThatWere checks that the command can end after the stored events, and that a misspelt pool is an error.
func TestEventsThatWere(t *testing.T) {
	address, last := startStreams(t, "event: backend_up\nid: 9\ndata: "+up+"\n\n", "")
	got := runCommand(t, console{in: strings.NewReader("")}, "events", "web", "--last", "7", "--no-follow", "--address", address)
	if got.code != 0 || got.err != "" || got.out != "2026-01-02T15:04:07.000Z  backend_up           web  [::1]:8080  -\n" || last() != "follow=0&last=7&pool=web#" {
		t.Errorf("%+v, asked %s", got, last())
	}
	if got := onePool(t, nil).run("events", "wbe"); got.code != exitNotFound {
		t.Errorf("a pool that there is not: %+v", got)
	}
}

// TestEventsGarbage puts invalid events into the stream.
func TestEventsGarbage(t *testing.T) {
	address, _ := startStreams(t, "id: 1\ndata: nonsense\n\n")
	got := runCommand(t, console{in: strings.NewReader("")}, "events", "--address", address)
	if got.code != exitRefused || !strings.HasPrefix(got.err, "Error: event 1: its data cannot be read") {
		t.Errorf("%+v", got)
	}
}

func TestTopOnce(t *testing.T) {
	f := onePool(t, nil)
	f.replies[pools] = []reply{{body: "[" + poolWeb + "]"}, {body: strings.Replace("["+poolWeb+"]", `"requests":100`, `"requests":101`, 1)}}
	got := f.run("top", "--once", "--interval", "100ms")
	if got.code != 0 || got.err != "" {
		t.Errorf("%+v", got)
	}
	for _, want := range []string{"web  degraded  1/2 usable", "BREAKER", "  10.0.0.1:8080  up", "draining; set by eve@ops: evil?[31m (4m59s left)\n"} {
		if !strings.Contains(got.out, want) {
			t.Errorf("has no %q:\n%s", want, got.out)
		}
	}
	if strings.Contains(got.out, "\x1b") {
		t.Errorf("escape sequences: %q", got.out)
	}
	lines(t, "top --once --json", f.run("top", "--once", "--json").out, strings.Replace("["+poolWeb+"]", `"requests":100`, `"requests":101`, 1))
}

// TestSampleOfDetails looks at a backend whose details are shown: its own events come with it.
func TestSampleOfDetails(t *testing.T) {
	other := strings.Replace(up, "[::1]:8080", "other", 1)
	f := onePool(t, map[string]reply{"GET /load_balancer/events?follow=0&last=256&pool=web": {
		body: "event: backend_down\nid: 7\ndata: " + down + "\n\nevent: backend_up\nid: 8\ndata: " + other + "\n\nevent: backend_up\nid: 9\ndata: " + up + "\n\n",
	}})
	tool := &tool{client: api.NewClient(f.address, "tcp", f.address)}
	s, err := tool.sample(t.Context(), &subject{"web", "[::1]:8080"})
	want := []string{"2026-01-02T15:04:05.000Z  backend_down         evil\x1b[31m", "2026-01-02T15:04:07.000Z  backend_up           -"}
	if err != nil || !slices.Equal(s.Events, want) || s.EventsOf != [2]string{"web", "[::1]:8080"} {
		t.Errorf("%v, %q, want %q", err, s.Events, want)
	}
	if s, err := tool.sample(t.Context(), &subject{"none", "b"}); err != nil || len(s.Events) != 0 || len(s.Pools) != 1 {
		t.Errorf("without events: %v, %+v", err, s)
	}
}
