package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// logSites have access logs, which are compared when all of a site's exchanges are over.
func logSites() []site {
	shown := ""
	for i, placeholder := range []string{
		"reverse_proxy.upstream.hostport", "reverse_proxy.upstream.address", "reverse_proxy.upstream.host", "reverse_proxy.upstream.port", "reverse_proxy.upstream.fails", "reverse_proxy.upstream.max_requests",
		"reverse_proxy.status_code", "reverse_proxy.status_text", "reverse_proxy.header.X-Count", "reverse_proxy.header.Connection", "reverse_proxy.retries",
		"request.header.X-A", "request.header.Via", "request.host", "request.uri", "request.method", "request.orig_uri",
	} {
		shown += fmt.Sprintf("log_append shown%d {http.%s}\n ", i, placeholder)
	}
	for _, placeholder := range []string{"reverse_proxy.upstream.latency_ms", "reverse_proxy.upstream.duration_ms", "reverse_proxy.duration_ms"} {
		shown += fmt.Sprintf("log_append took_%s {http.%s}\n ", placeholder, placeholder)
	}
	exchanges := append(usual(), unanswered()...)
	exchanges = append(exchanges, leavers()...)
	return []site{{name: "logs", ours: untried, settings: "header_up X-A changed\n header_up Host other", tail: "log {\n output file LOG\n format json\n}", route: shown + "PROXY", exchanges: append(exchanges,
		exchange{name: "body cut", answer: answerHead("200 OK", typed, "Content-Length: 9") + "abc", then: hangsUp},
		exchange{name: "upgrade", request: webSocket, near: tunnels()[0].near, far: tunnels()[0].far},
		exchange{name: "large", request: sized("POST", filled(70<<10)), answer: answer("200 OK", filled(70<<10))},
	)}}
}

// compareLogs compares what all sides have logged of requests. Lines are written when a request is over, which its client may be before.
func (p *columns) compareLogs(t *testing.T) {
	t.Helper()
	var lines [len(sides)][]string
	waitFor(t, "as many lines in one log as in the others", func() bool {
		for i := range sides {
			text, err := os.ReadFile(p.logs[i])
			if err != nil {
				return false
			}
			lines[i] = logged(t, string(text))
			if len(lines[i]) == 0 || len(lines[i]) != len(lines[0]) {
				return false
			}
		}
		return true
	})
	want := strings.Join(lines[right], "\n")
	for i, on := range sides[:right] {
		got := strings.Join(lines[i], "\n")
		if got == want {
			continue
		}
		var changes strings.Builder
		for line := range strings.Lines(lineDiff(want, got)) {
			if !strings.HasPrefix(line, "    ") {
				changes.WriteString(line)
			}
		}
		t.Errorf("the access log (- reverse_proxy, + %v)\n%s", on, changes.String())
	}
}

// logged are the lines of an access log, in order of what they say, without what differs from one run to the next.
func logged(t *testing.T, text string) (lines []string) {
	t.Helper()
	for line := range strings.Lines(text) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			continue // it is being written
		}
		for _, name := range []string{"ts", "duration", "load_balancer", "logger", "level"} {
			delete(fields, name)
		}
		for name, value := range fields { // times: what counts is that there is one
			if _, number := value.(float64); number && strings.HasPrefix(name, "took_") {
				fields[name] = "TIME"
			}
		}
		if request, ok := fields["request"].(map[string]any); ok {
			delete(request, "remote_port")
		}
		if header, ok := fields["resp_headers"].(map[string]any); ok {
			if header["Date"] != nil {
				header["Date"] = "DATE"
			}
			if values, ok := header["Content-Type"].([]any); ok && len(values) == 0 { // how load_balancer says that there is none
				delete(header, "Content-Type")
			}
		}
		text, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(text))
	}
	slices.Sort(lines)
	return lines
}
