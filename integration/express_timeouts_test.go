package integration

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// timed is a request whose parts are sent one after the other, and what becomes of it.
type timed struct {
	path  string
	parts []string      // of the body
	pause time.Duration // after each
	more  int           // bytes of the body that are announced, and not sent
	want  string        // of the answer: "whole", "refused", "broken" or "none"
}

func pieces(n int) []string { return slices.Repeat([]string{"x"}, n) }

// timedRequests are requests by the timeouts of a server.
var timedRequests = map[string][]timed{
	"read_body 1s": {
		{path: "/slow/1500ms", want: "whole"},
		{path: "/slow/1500ms", parts: []string{"body"}, want: "whole"},
		{path: "/drip", parts: pieces(8), pause: 200 * time.Millisecond, want: "refused"},
		{path: "/stops", parts: pieces(1), more: 1, want: "refused"},
	},
	"read_body 1s\n read_body_idle -1s": {
		{path: "/slow/1500ms", want: "whole"},
		{path: "/drip", parts: pieces(8), pause: 200 * time.Millisecond, want: "refused"},
	},
	"read_body_idle 1s 100": {
		{path: "/drip", parts: pieces(8), pause: 200 * time.Millisecond, want: "refused"},
		{path: "/quick", parts: []string{strings.Repeat("x", 9), "x"}, pause: 50 * time.Millisecond, want: "whole"},
	},
	"read_body_idle 2s": {
		{path: "/drip", parts: pieces(15), pause: 200 * time.Millisecond, want: "whole"},
		{path: "/stops", parts: pieces(1), more: 1, want: "refused"},
	},
	"write 1s": {
		{path: "/slow/1500ms", want: "none"},
		{path: "/quick", parts: []string{"body"}, want: "whole"},
		{path: "/streams/2s", want: "broken"},
		{path: "/long/1500ms", want: "none"},
	},
	"write 1s\n write_idle -1s": {
		{path: "/slow/1500ms", want: "none"},
		{path: "/streams/2s", want: "broken"},
	},
	"write_idle 1s 1000000": {
		{path: "/streams/2s", want: "broken"},
		{path: "/quick", want: "whole"},
	},
	"write_idle 1s": {
		{path: "/streams/2s", want: "whole"},
	},
}

// TestExpressTimeouts: what the timeouts of a server cut off in Caddy, they cut off in the express lane, and nothing else.
func TestExpressTimeouts(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	b.handle(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err != nil {
			return
		}
		_, how, _ := strings.Cut(r.URL.Path, "/")
		how, length, _ := strings.Cut(how, "/")
		takesTime, _ := time.ParseDuration(length)
		const text, pause = "some text", 100 * time.Millisecond
		switch how {
		case "streams":
			for start := time.Now(); time.Since(start) < takesTime; takes(r.Context(), pause) {
				fmt.Fprint(w, text)
				_ = http.NewResponseController(w).Flush()
			}
		case "long":
			takes(r.Context(), takesTime)
			fmt.Fprint(w, strings.Repeat(text, 10_000))
		default:
			takes(r.Context(), takesTime)
			fmt.Fprint(w, text)
		}
	})
	for _, timeouts := range slices.Sorted(maps.Keys(timedRequests)) {
		t.Run(timeouts, func(t *testing.T) {
			t.Parallel()
			logs := t.TempDir()
			o := startOnSides(t, "timeouts {\n "+timeouts+"\n }", func(i int, on side) string {
				return fmt.Sprintf("log {\n output file %s/%d\n format json\n}\n%s %s", logs, i, on.directive, b.addr)
			})
			for n, r := range timedRequests[timeouts] {
				for i, on := range sides {
					t.Run(fmt.Sprintf("%d %s", n, on.name), func(t *testing.T) {
						t.Parallel()
						what, again := r.ask(t, o.sites[i])
						if what != r.want {
							t.Errorf("%s: the answer was %s, want %s", r.path, what, r.want)
						}
						if again != (what == "whole") && i < right { // reverse_proxy refuses the next request as well
							t.Errorf("%s: %s, and the connection goes on: %v", r.path, what, again)
						}
					})
				}
			}
			t.Cleanup(func() { o.compareTimes(t, logs, timedRequests[timeouts]) })
		})
	}
}

// ask sends a request, and tells what came of it, and whether the connection can be used again.
func (r *timed) ask(t *testing.T, site string) (what string, again bool) {
	t.Helper()
	conn, err := net.Dial("tcp", site)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(differentialPatience))
	br := bufio.NewReader(conn)
	method, length := http.MethodGet, len(strings.Join(r.parts, ""))+r.more
	head := "Host: " + site + "\r\n"
	if length > 0 {
		method, head = http.MethodPost, head+fmt.Sprintf("Content-Length: %d\r\n", length)
	}
	for _, part := range append([]string{method + " " + r.path + " HTTP/1.1\r\n" + head + "\r\n"}, r.parts...) {
		if _, err := io.WriteString(conn, part); err != nil {
			break // what was answered can be read still
		}
		takes(t.Context(), r.pause)
	}
	answered := func() (string, bool) {
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			if e := net.Error(nil); errors.As(err, &e) && e.Timeout() {
				return "late", false
			}
			return "none", false
		}
		defer res.Body.Close()
		switch _, err := discard(res.Body); {
		case err != nil:
			return "broken", false
		case res.StatusCode != http.StatusOK:
			return "refused", !res.Close
		}
		return "whole", true
	}
	if what, again = answered(); !again {
		return what, false
	}
	if _, err := io.WriteString(conn, "GET /again HTTP/1.1\r\nHost: "+site+"\r\n\r\n"); err != nil {
		return what, false
	}
	second, _ := answered()
	return what, second == "whole"
}

// compareTimes compares what the sides have logged, and checks that the lane has served all requests.
func (o *onSides) compareTimes(t *testing.T, logs string, requests []timed) {
	t.Helper()
	var lines [len(sides)][]string
	waitFor(t, "the same number of lines in all logs of ours", func() bool {
		for i := range right {
			text, err := os.ReadFile(filepath.Join(logs, fmt.Sprint(i)))
			if err != nil {
				return false
			}
			lines[i] = timesLogged(string(text))
		}
		return len(lines[0]) >= len(requests) && len(lines[0]) == len(lines[1])
	})
	if a, b := strings.Join(lines[0], "\n"), strings.Join(lines[1], "\n"); a != b {
		t.Errorf("the access log (- handlers, + express)\n%s", lineDiff(a, b))
	}
	if got := o.laneOf(t, 1); int(got.Served) != len(lines[1]) || len(got.HandedOver) > 0 {
		t.Errorf("%d requests, of which the lane says %+v", len(lines[1]), got)
	}
}

// timesLogged is what an access log says about times, and how requests have ended, without what differs from one run to the next.
func timesLogged(text string) (lines []string) {
	for line := range strings.Lines(text) {
		var l struct {
			Request    struct{ URI string }
			Status     int
			Size       int
			Duration   float64
			WriteError string `json:"write_error"`
		}
		if json.Unmarshal([]byte(line), &l) != nil {
			continue // it is being written
		}
		if l.Duration == 0 || strings.HasPrefix(l.Request.URI, "/streams") {
			l.Size = 0 // how much it was is a matter of time, and of buffers
		}
		lines = append(lines, fmt.Sprintf("%s: %d, %d bytes, to the end %v, timeout %v", l.Request.URI, l.Status, l.Size, l.Duration > 0, strings.HasSuffix(l.WriteError, "i/o timeout")))
	}
	slices.Sort(lines)
	return lines
}

// laneOf is what the API tells of the express lane of a side.
func (o *onSides) laneOf(t *testing.T, side int) lane {
	t.Helper()
	var all []struct {
		lane
		Listen []string
	}
	o.api(http.MethodGet, "/load_balancer/express", &all)
	for _, l := range all {
		if slices.ContainsFunc(l.Listen, func(at string) bool { return strings.HasSuffix(at, ":"+port(t, o.sites[side])) }) {
			return l.lane
		}
	}
	t.Fatalf("no express lane at %s: %+v", o.sites[side], all)
	return lane{}
}
