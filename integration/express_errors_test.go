package integration

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// failing is a site of which requests end with errors, in each of the ways there are, and error routes that answer them.
func failing(wrappers, log string, backend, reset, silent, dead string) string {
	return "{\n admin ADMIN_ADDRESS\n persist_config off\n metrics\n log {\n level ERROR\n }\n servers {\n " + wrappers + "\n }\n}\nhttp://SITE_ADDRESS {\n" +
		"log {\n output file " + log + "\n format json\n}\n" + `
	handle /limited {
		ip_rate_limit {
			zone all
			rate 1000000/h
		}
		ip_rate_limit {
			zone few
			rate 1/h
			burst 1
		}
		load_balancer ` + backend + ` {
			name limited
		}
	}
	handle /none {
		header X-Set before
		header >X-Late after
		request_header X-Asked before
		load_balancer {
			name none
			backend ` + backend + ` {
				weight 0
			}
		}
	}
	handle_path /stripped/* {
		load_balancer ` + dead + ` {
			name dead
			header_up X-Up {upstream_hostport}
			header_down X-Down 1
			hold off
			breaker off
			retry {
				attempts 1
			}
		}
	}
	handle /reset {
		load_balancer ` + reset + ` {
			name reset
			breaker off
			retry {
				attempts 2
			}
		}
	}
	handle /silent {
		load_balancer ` + silent + ` {
			name silent
			breaker off
			retry {
				attempts 1
				try_timeout ` + errorTryTimeout.String() + `
			}
		}
	}
	handle {
		load_balancer ` + backend + ` {
			name fine
		}
	}
	handle_errors {
		log_append reason "{err.status_code} {http.load_balancer.backend} {http.request.orig_uri}"
		header X-Pool {http.load_balancer.pool}
		header X-Zone {http.ip_rate_limit.zone}
		@skipped header X-Skip *
		log_skip @skipped
		@fallback header X-Fallback *
		handle @fallback {
			load_balancer ` + backend + ` {
				name fallback
			}
		}
		@fails header X-Fail *
		handle @fails {
			error 418
		}
		handle {
			respond "{err.status_code} {err.status_text}, {http.reverse_proxy.retries} {http.reverse_proxy.status_code} {uri} {http.request.header.X-Asked}"
		}
	}
}
`
}

const errorTryTimeout = 300 * time.Millisecond

// failure is a request that fails, and the status with which it does.
type failure struct {
	name, method, path string
	length             int
	header             string
	status             int
	unread             bool // the client gets no further answer on its connection
}

// cutBody is the header of requests whose body ends too early, because their client ends its side of the connection.
const cutBody = "X-Cut: 1\r\n"

// failingRequests are requests that fail. More is sent behind each.
var failingRequests = []failure{
	{"allowed", "GET", "/limited", 0, "", 200, false},
	{"limited", "GET", "/limited", 0, "", 429, false},
	{"limited with a body", "POST", "/limited", 5, "", 429, false},
	{"limited with a large body", "POST", "/limited", 100 << 10, "", 429, false},
	{"limited, then another backend", "POST", "/limited", 100 << 10, "X-Fallback: 1\r\n", 200, false},
	{"nobody", "GET", "/none", 0, "", 503, false},
	{"nobody for a body", "PUT", "/none", 3000, "", 503, false},
	{"nobody, then another backend", "PUT", "/none", 3000, "X-Fallback: 1\r\n", 200, false},
	{"refused", "GET", "/stripped/a?b=c", 0, "", 502, false},
	{"refused HEAD", "HEAD", "/stripped/a", 0, "", 502, false},
	{"refused with a body", "POST", "/stripped/a", 5, "", 502, false},
	{"refused, then another backend", "POST", "/stripped/a", 5, "X-Fallback: 1\r\n", 200, false},
	{"refused with a large body, then another backend", "PUT", "/stripped/a", 200 << 10, "X-Fallback: 1\r\n", 200, false},
	{"reset", "GET", "/reset", 0, "", 502, false},
	{"reset with a body", "POST", "/reset", 5, "", 502, false},
	{"reset with a body that was kept", "PUT", "/reset", 20 << 10, "", 502, false},
	{"reset with a body that was kept, then another backend", "PUT", "/reset", 20 << 10, "X-Fallback: 1\r\n", 200, false},
	{"reset with a body that is gone", "POST", "/reset", 200 << 10, "", 502, false},
	{"silent", "GET", "/silent", 0, "", 504, false},
	{"silent with a body", "POST", "/silent", 5, "", 504, false},
	{"not logged", "GET", "/none", 0, "X-Skip: 1\r\n", 503, false},
	{"error routes that fail", "GET", "/none", 0, "X-Fail: 1\r\n", 503, false},
	{"a body that breaks off", "POST", "/broken", 5000, cutBody, 400, true},
	{"a body that breaks off, then another backend", "PUT", "/broken", 5000, cutBody + "X-Fallback: 1\r\n", 400, true},
	{"limited with a body that breaks off", "POST", "/limited", 5000, cutBody, 429, true},
	{"the last of its connection", "GET", "/none", 0, "Connection: close\r\n", 503, true},
}

// send sends the request and another one behind it, and returns both answers.
func (f *failure) send(t *testing.T, site string) string {
	t.Helper()
	conn, err := net.Dial("tcp", site)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	var length string
	if f.length > 0 {
		length = fmt.Sprintf("Content-Length: %d\r\n", f.length)
	}
	text := f.method + " " + f.path + " HTTP/1.1\r\nHost: " + site + "\r\n" + f.header + length + "\r\n" + filled(f.length) +
		"GET /after HTTP/1.1\r\nHost: " + site + "\r\nConnection: close\r\n\r\n"
	cut := strings.Contains(f.header, cutBody)
	if cut {
		text = text[:strings.Index(text, "\r\n\r\n")+100]
	}
	go func() {
		_, _ = io.WriteString(conn, text) // the server may close the connection
		if cut {
			_ = conn.(*net.TCPConn).CloseWrite()
		}
	}()
	var seen strings.Builder
	br := bufio.NewReader(conn)
	for i, method := range []string{f.method, http.MethodGet} {
		res, err := http.ReadResponse(br, &http.Request{Method: method})
		if err != nil {
			if i == 0 || !f.unread {
				t.Errorf("%s: answer %d: %v", f.name, i, err)
			}
			break
		}
		body, err := io.ReadAll(res.Body)
		if i == 0 && res.StatusCode != f.status {
			t.Errorf("%s: status %d, want %d", f.name, res.StatusCode, f.status)
		}
		for _, name := range []string{"Date", "Ratelimit", "Retry-After"} {
			if res.Header.Get(name) != "" {
				res.Header.Set(name, "THERE")
			}
		}
		fmt.Fprintln(&seen, res.StatusCode, res.ContentLength, res.TransferEncoding, res.Close, res.Header, string(body), err)
	}
	return seen.String()
}

// TestErrorRoutesOfTheLane: what error routes say of requests that fail on the express lane, and what is logged and counted of them, is as
// without it.
func TestErrorRoutesOfTheLane(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	b.handle(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprintln(w, r.Method, r.URL, n, err)
	})
	reset := startRaw(t, func(conn *net.TCPConn) {
		br := bufio.NewReader(conn)
		head, err := readMessageHead(br)
		if err != nil {
			return
		}
		length := 0
		if values := fieldValues(head, "Content-Length"); len(values) > 0 {
			length, _ = strconv.Atoi(values[0])
		}
		_, _ = io.CopyN(io.Discard, br, int64(length))
		_ = conn.SetLinger(0)
	})
	silent := startRaw(t, func(conn *net.TCPConn) { _, _ = io.Copy(io.Discard, conn) })
	dead := freeAddress(t)
	var answers [2][]string
	var lines [2][]errorLine
	var counts [2]string
	for i, wrappers := range []string{expressOn, expressOff} {
		path := filepath.Join(t.TempDir(), "log")
		c := startCaddyConfig(t, failing(wrappers, path, b.addr, reset, silent, dead))
		wanted, unlogged := 0, 0
		for _, f := range failingRequests {
			answers[i] = append(answers[i], f.send(t, c.site))
			if wanted += 2; f.unread {
				wanted--
			}
			if strings.Contains(f.header, "X-Skip") {
				wanted--
				unlogged++
			}
			// A client gets an answer before its line is written, and the lines of two connections in any order.
			waitFor(t, "all lines in the log", func() bool {
				lines[i] = errorLines(t, path)
				return len(lines[i]) >= wanted
			})
		}
		if len(lines[i]) != wanted {
			t.Errorf("%d lines, want %d", len(lines[i]), wanted)
		}
		counts[i] = c.counts()
		if i == 0 {
			if got := c.lane(); got.Served != uint64(wanted+unlogged) { // those behind the failing ones among them
				t.Errorf("the lane has served %d requests, want all of %d: %+v", got.Served, wanted+unlogged, got)
			}
		}
		slow := 0
		for _, line := range lines[i] {
			if line.Status == http.StatusGatewayTimeout {
				if slow++; line.Duration < errorTryTimeout.Seconds() {
					t.Errorf("%s: a timeout is logged to have taken %v s", wrappers, line.Duration)
				}
			}
		}
		if took := c.metrics(`caddy_http_request_duration_seconds_sum{code="504",handler="subroute",method="(GET)"`)["GET"]; slow != 2 || took < errorTryTimeout.Seconds() {
			t.Errorf("%s: %d timeouts, which took %v s", wrappers, slow, took)
		}
	}
	for i, f := range failingRequests {
		if answers[0][i] != answers[1][i] {
			t.Errorf("%s: - without, + with the lane\n%s", f.name, lineDiff(answers[1][i], answers[0][i]))
		}
	}
	for i := range min(len(lines[0]), len(lines[1])) {
		if lines[0][i].text != lines[1][i].text {
			t.Errorf("log: - without, + with the lane\n%s", lineDiff(lines[1][i].text, lines[0][i].text))
		}
	}
	if counts[0] != counts[1] {
		t.Errorf("metrics: - without, + with the lane\n%s", lineDiff(counts[1], counts[0]))
	}
}

// errorLine is a line of the access log.
type errorLine struct {
	Status   int
	Duration float64
	text     string // without what differs from one run to the next
}

var (
	ofTimes  = regexp.MustCompile(`"(ts|duration|ms|queue_ms)":[-+.e0-9]+`)
	ofPorts  = regexp.MustCompile(`127\.0\.0\.1:\d+|"remote_port":"\d+"`)
	ofErrors = regexp.MustCompile(`"error":"[^"]*"`)
	ofFields = regexp.MustCompile(`"(Retry-After|Ratelimit|Date)":\["[^]]*\]`)
)

// listsOf are the beginnings of lists.
var listsOf = regexp.MustCompile(`\[\s+`)

// errorLines returns the lines of the log.
func errorLines(t *testing.T, path string) (lines []errorLine) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	for text := range strings.Lines(string(text)) {
		var line errorLine
		if json.Unmarshal([]byte(text), &line) != nil {
			continue // it is being written
		}
		var fields map[string]any
		if json.Unmarshal([]byte(text), &fields) != nil {
			t.Fatalf("a line is no object: %s", text)
		}
		ordered, err := json.MarshalIndent(fields, "", " ") // headers are in no order
		if err != nil {
			t.Fatal(err)
		}
		line.text = strings.ReplaceAll(string(ordered), "\": ", "\":")
		line.text = listsOf.ReplaceAllString(line.text, "[")
		for _, differs := range []*regexp.Regexp{ofTimes, ofPorts, ofErrors, ofFields} {
			line.text = differs.ReplaceAllString(line.text, "DIFFERS")
		}
		lines = append(lines, line)
	}
	return lines
}

var (
	counted  = regexp.MustCompile(`(?m)^caddy_(http_request\w*_total|http_\w+_count|http_\w+_bytes_sum|http_requests_in_flight|load_balancer_\w+_total|ip_rate_limit_\w+_total).*$`)
	unstable = regexp.MustCompile(`load_balancer_express|connections`)
)

// counts are the metrics that count requests.
func (c *caddy) counts() string {
	c.t.Helper()
	_, text := c.askAdmin(http.MethodGet, "/metrics")
	var lines []string
	for _, line := range counted.FindAllString(string(text), -1) {
		if !unstable.MatchString(line) {
			lines = append(lines, strings.ReplaceAll(line, c.site, "SITE"))
		}
	}
	slices.Sort(lines)
	if len(lines) == 0 {
		c.t.Error("no metrics")
	}
	return strings.Join(lines, "\n")
}
