package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// hostileTimeouts are those of servers whose clients are slow: bounds of what takes long in one piece, and bounds of the whole.
var hostileTimeouts = []struct {
	name, options string
	served        bool // by the lane
}{
	{"idle", "timeouts {\n read_header 1s\n read_body_idle 1s\n write_idle 1s\n}", true},
	{"whole", "timeouts {\n read_header 1s\n read_body 3s\n write 3s\n}", true},
}

// hostileBackend is a backend. What it does about a request is in its path.
type hostileBackend struct {
	address string
	reached chan string // paths of requests but /ok, when the head has come, and some of a body whose length is known
}

func startHostileBackend(t *testing.T) *hostileBackend {
	t.Helper()
	b := &hostileBackend{reached: make(chan string, 10000)}
	b.address = startRaw(t, func(conn *net.TCPConn) {
		br := bufio.NewReader(conn)
		for {
			head := readHead(br)
			if head == "" {
				return
			}
			_, path, _ := strings.Cut(head, " ")
			path, _, _ = strings.Cut(path, " ")
			if len(fieldValues(head, "Content-Length")) > 0 {
				if _, err := br.Peek(1); err != nil {
					return
				}
			}
			if path != "/ok" {
				b.reached <- path
			}
			switch path {
			case "/wait": // for ever
				_, _ = io.Copy(io.Discard, br)
				return
			case "/some": // of the answer
				_, _ = io.WriteString(conn, chunkedAnswer("200 OK", chunk("some")))
				_, _ = io.Copy(io.Discard, br)
				return
			case "/large":
				_, _ = io.WriteString(conn, answerHead("200 OK", typed, "Content-Length: 1000000000"))
				_, _ = io.CopyN(conn, zeros{}, 1e9)
				return
			}
			if _, err := readMessageBody(br, head, false, showBody, func(int) {}); err != nil {
				return
			}
			if _, err := io.WriteString(conn, ok200); err != nil {
				return
			}
		}
	})
	return b
}

// reaches waits for n requests of that path.
func (b *hostileBackend) reaches(t *testing.T, path string, n int) {
	t.Helper()
	for i := range n {
		select {
		case got := <-b.reached:
			if got != path {
				t.Fatalf("the backend got %s, want %s", got, path)
			}
		case <-time.After(patience):
			t.Fatalf("the backend did not get %s; got %d of %d", path, i, n)
		}
	}
}

// hostile is a server that has to do with such clients, with the express lane or without it.
type hostile struct {
	*onSides
	t       *testing.T
	backend *hostileBackend
	on      side
	site    string
	served  bool // by the express lane
	before  cost
	opened  int // connections of the attack
}

// underAttack runs a test for each of our sides: what is attacked serves ordinary requests afterwards, and holds no more than before.
func underAttack(t *testing.T, options string, served bool, attack func(t *testing.T, h *hostile)) {
	t.Helper()
	backend := startHostileBackend(t)
	o := startOnSides(t, options, func(i int, on side) string {
		if i == right {
			return "respond ok"
		}
		return "load_balancer " + backend.address + " {\n name " + on.name + "\n" + untried + "\n}"
	})
	for i, on := range sides[:right] {
		t.Run(on.name, func(t *testing.T) {
			h := &hostile{onSides: o, t: t, backend: backend, on: on, site: o.sites[i], served: served && on.name == "express"}
			h.serves()
			h.before = o.costNow()
			attack(t, h)
			h.serves()
			h.idle()
			// The engine keeps some goroutines for uploads, and tables of connections keep their size.
			o.settles(t, "after the attack", cost{h.before.goroutines + 60, h.before.descriptors + 20, h.before.heap + 4<<20 + h.opened<<10})
		})
	}
}

// serves makes ordinary requests. They are those that the express lane serves, where it is on.
func (h *hostile) serves() {
	h.t.Helper()
	conn := dialRaw(h.t, h.site)
	before, _ := h.laneServed()
	want := uint64(0)
	if h.served {
		want = 5
	}
	for range 5 {
		if _, err := io.WriteString(conn.conn, "GET /ok HTTP/1.1\r\nHost: site.test\r\n\r\n"); err != nil {
			h.t.Fatal(err)
		}
		res, err := http.ReadResponse(conn.r, nil)
		if err != nil {
			h.t.Fatal(err)
		}
		if text, err := io.ReadAll(res.Body); err != nil || string(text) != "ok" {
			h.t.Fatalf("%d %q, %v", res.StatusCode, text, err)
		}
	}
	conn.conn.Close()
	var served uint64
	waitFor(h.t, "the express lane to count them", func() bool {
		served, _ = h.laneServed()
		return served >= before+want
	})
	if served != before+want {
		h.t.Errorf("the express lane served %d requests, want %d", served-before, want)
	}
}

// idle waits until the pool has no request in flight.
func (h *hostile) idle() {
	h.t.Helper()
	h.inFlightIs(0)
}

func (h *hostile) inFlightIs(n int64) {
	h.t.Helper()
	waitFor(h.t, fmt.Sprint(n, " requests in flight"), func() bool {
		all := h.inFlight(h.on.name)
		return len(all) == 1 && all[h.backend.address] == n
	})
}

// open opens n connections.
func (h *hostile) open(n int) []*net.TCPConn {
	h.t.Helper()
	all := make([]*net.TCPConn, n)
	for i := range all {
		all[i] = dialRaw(h.t, h.site).conn.(*net.TCPConn)
	}
	h.opened += n
	return all
}

// trickle sends the text over all connections, a byte of it at each tick, until the server has closed them. It returns what was answered,
// and how long that took.
func trickle(conns []*net.TCPConn, text string) (answers []string, took []time.Duration) {
	answers, took = make([]string, len(conns)), make([]time.Duration, len(conns))
	var wait sync.WaitGroup
	for i, conn := range conns {
		began, closed := time.Now(), make(chan struct{})
		wait.Go(func() {
			defer close(closed)
			text, _ := io.ReadAll(conn)
			answers[i], took[i] = string(text), time.Since(began)
		})
		wait.Go(func() {
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			for _, b := range []byte(text) {
				select {
				case <-tick.C:
					_, _ = conn.Write([]byte{b})
				case <-closed:
					return
				}
			}
		})
	}
	wait.Wait()
	return answers, took
}

// closedInTime judges what trickle returned.
func closedInTime(t *testing.T, answers []string, took []time.Duration, least time.Duration) {
	t.Helper()
	longest := time.Duration(0)
	for i := range took {
		longest = max(longest, took[i])
		if strings.HasPrefix(answers[i], "HTTP/1.1 2") || took[i] < least || took[i] > 30*time.Second {
			t.Errorf("connection %d was answered %q and closed after %v", i, answers[i], took[i])
		}
	}
	t.Logf("%d connections, closed after %v at most", len(took), longest)
}

// TestHostileSlowHeads: heads that come a byte at a time are given up when the time for a head is over.
func TestHostileSlowHeads(t *testing.T) {
	underAttack(t, hostileTimeouts[0].options, hostileTimeouts[0].served, func(t *testing.T, h *hostile) {
		n := 1000
		if *soak {
			n = 10000
		}
		conns := h.open(n)
		for _, conn := range conns {
			_, _ = io.WriteString(conn, "GET /ok HTTP/1.1\r\nHost: site.test\r\nX-Slow: ")
		}
		held := h.costNow()
		answers, took := trickle(conns, filled(1000)[:600])
		closedInTime(t, answers, took, 500*time.Millisecond)
		t.Logf("before %+v, meanwhile %+v", h.before, held)
		if held.heap > h.before.heap+n*24<<10 {
			t.Errorf("%d slow heads hold %d bytes", n, held.heap-h.before.heap)
		}
	})
}

// TestHostileSlowBodies: bodies that stop, or come a byte at a time, are given up when the time for that is over, and their backend is told.
func TestHostileSlowBodies(t *testing.T) {
	for _, timeouts := range hostileTimeouts {
		t.Run(timeouts.name, func(t *testing.T) {
			underAttack(t, timeouts.options, timeouts.served, func(t *testing.T, h *hostile) {
				const n = 200
				conns := h.open(n)
				for i, conn := range conns {
					framing, begin := "Content-Length: 1000", "x"
					if i%2 == 1 {
						framing, begin = inChunksField, "3e8\r\nx"
					}
					_, _ = io.WriteString(conn, "POST /upload HTTP/1.1\r\nHost: site.test\r\n"+framing+"\r\n\r\n"+begin)
				}
				h.backend.reaches(t, "/upload", n)
				more := strings.Repeat("x", 600)
				if timeouts.name == "idle" {
					more = ""
				}
				answers, took := trickle(conns, more)
				closedInTime(t, answers, took, 0)
			})
		})
	}
}

// TestHostileSlowReaders: clients that do not read their answers are given up when the time for that is over, and hold little until then.
func TestHostileSlowReaders(t *testing.T) {
	for _, timeouts := range hostileTimeouts {
		t.Run(timeouts.name, func(t *testing.T) {
			underAttack(t, timeouts.options, timeouts.served, func(t *testing.T, h *hostile) {
				const n = 50
				conns := h.open(n)
				for _, conn := range conns {
					_ = conn.SetReadBuffer(4 << 10)
					_, _ = io.WriteString(conn, "GET /large HTTP/1.1\r\nHost: site.test\r\n\r\n")
				}
				h.backend.reaches(t, "/large", n)
				h.inFlightIs(n)
				held := h.costNow()
				h.idle()
				t.Logf("before %+v, meanwhile %+v", h.before, held)
				if held.heap > h.before.heap+n*256<<10 {
					t.Errorf("%d slow readers hold %d bytes", n, held.heap-h.before.heap)
				}
			})
		})
	}
}

// clientStage is how far a client has come when it leaves.
type clientStage struct {
	name, says string
	reaches    string // the path that its backend has got by then
	hears      int    // bytes of answers that have come by then
}

var clientStages = []clientStage{
	{name: "nothing said"},
	{name: "in the first line", says: "GET /wa"},
	{name: "in a field", says: "GET /wait HTTP/1.1\r\nHost: si"},
	{name: "between fields", says: "GET /wait HTTP/1.1\r\nHost: site.test\r\n"},
	{name: "in a body", says: "POST /wait HTTP/1.1\r\nHost: site.test\r\nContent-Length: 10\r\n\r\nabc", reaches: "/wait"},
	{name: "in a chunk", says: "POST /wait HTTP/1.1\r\nHost: site.test\r\nTransfer-Encoding: chunked\r\n\r\na\r\nabc", reaches: "/wait"},
	{name: "between chunks", says: "POST /wait HTTP/1.1\r\nHost: site.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", reaches: "/wait"},
	{name: "waiting for an answer", says: "GET /wait HTTP/1.1\r\nHost: site.test\r\n\r\n", reaches: "/wait"},
	{name: "waiting for an answer to a body", says: "POST /wait HTTP/1.1\r\nHost: site.test\r\nContent-Length: 3\r\n\r\nabc", reaches: "/wait"},
	{name: "waiting for an answer of Caddy's", says: "POST /wait HTTP/1.1\r\nHost: site.test\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc", reaches: "/wait"},
	{name: "in an answer", says: "GET /some HTTP/1.1\r\nHost: site.test\r\n\r\n", reaches: "/some", hears: 1},
	{name: "in a large answer", says: "GET /large HTTP/1.1\r\nHost: site.test\r\n\r\n", reaches: "/large", hears: 1},
	{name: "behind an answer", says: "GET /ok HTTP/1.1\r\nHost: site.test\r\n\r\n", hears: 1},
	{name: "in the next head", says: "GET /ok HTTP/1.1\r\nHost: site.test\r\n\r\nGET /wait HT", hears: 1},
	{name: "waiting for the next answer", says: "GET /ok HTTP/1.1\r\nHost: site.test\r\n\r\nGET /wait HTTP/1.1\r\nHost: site.test\r\n\r\n", reaches: "/wait", hears: 1},
	{name: "waiting, with more to come", says: "GET /wait HTTP/1.1\r\nHost: site.test\r\n\r\nGET /ok HTTP/1.1\r\nHost: site.test\r\n\r\n", reaches: "/wait"},
}

// TestHostileLeaving: clients that leave, whenever that is and however they do, free what is held for them.
func TestHostileLeaving(t *testing.T) {
	const n = 20
	for name, leave := range map[string]func(conn *net.TCPConn) error{
		"half-closed": func(conn *net.TCPConn) error { return conn.CloseWrite() },
		"closed":      func(conn *net.TCPConn) error { return conn.Close() },
		"reset": func(conn *net.TCPConn) error {
			_ = conn.SetLinger(0)
			return conn.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			underAttack(t, "", true, func(t *testing.T, h *hostile) {
				for _, s := range clientStages {
					conns := h.open(n)
					for _, conn := range conns {
						if _, err := io.WriteString(conn, s.says); err != nil {
							t.Fatal(err)
						}
					}
					for _, conn := range conns {
						if _, err := io.CopyN(io.Discard, conn, int64(s.hears)); err != nil {
							t.Fatalf("%s: %v", s.name, err)
						}
					}
					if s.reaches != "" {
						h.backend.reaches(t, s.reaches, n)
						h.inFlightIs(n)
					}
					for _, conn := range conns {
						if err := leave(conn); err != nil {
							t.Fatal(err)
						}
					}
					if name == "half-closed" {
						for _, conn := range conns {
							_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
							if _, err := io.Copy(io.Discard, conn); err != nil && broken(err) == timedOut {
								t.Errorf("%s: the server has not closed the connection", s.name)
								break
							}
						}
					}
					h.idle()
				}
			})
		})
	}
}

// TestHostileLargeHeads: what is too large in a head, or behind a body, is refused before it is kept.
func TestHostileLargeHeads(t *testing.T) {
	const count = 1_000_000
	lines := func(yield func(part string) bool) {
		part := strings.Repeat("X-Many: y\r\n", 1000)
		for range count / 1000 {
			if !yield(part) {
				return
			}
		}
	}
	line := func(yield func(part string) bool) {
		part := filled(16 << 10)[:63]
		part = strings.Repeat(part, 200)
		for range 16 << 20 / len(part) {
			if !yield(part) {
				return
			}
		}
	}
	for _, a := range []struct {
		name, begin string
		then        func(yield func(part string) bool)
		want        string // its answer, if it gets one
	}{
		{"fields", "GET /ok HTTP/1.1\r\nHost: site.test\r\n", lines, "431"},
		{"a field", "GET /ok HTTP/1.1\r\nHost: site.test\r\nX-Long: ", line, "431"},
		{"a first line", "GET /ok?", line, "431"},
		{"fields of a second request", "GET /ok HTTP/1.1\r\nHost: site.test\r\n\r\nGET /ok HTTP/1.1\r\nHost: site.test\r\n", lines, "431"},
		{"trailers", "POST /upload HTTP/1.1\r\nHost: site.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", lines, "400"},
		{"a trailer", "POST /upload HTTP/1.1\r\nHost: site.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Long: ", line, "400"},
		{"the extension of a chunk", "POST /upload HTTP/1.1\r\nHost: site.test\r\nTransfer-Encoding: chunked\r\n\r\n3;", line, "400"},
	} {
		t.Run(a.name, func(t *testing.T) {
			underAttack(t, "", true, func(t *testing.T, h *hostile) {
				h.forgetPeak()
				before := h.peak()
				const n = 4
				conns := h.open(n)
				var wait sync.WaitGroup
				for _, conn := range conns {
					wait.Go(func() {
						_, _ = io.WriteString(conn, a.begin)
						for part := range a.then {
							if _, err := io.WriteString(conn, part); err != nil {
								return
							}
						}
					})
					wait.Go(func() {
						answer, err := io.ReadAll(conn)
						text := strings.TrimPrefix(string(answer), "HTTP/1.1 200 OK\r\n") // to the first one
						if err != nil && broken(err) == timedOut {
							t.Errorf("not closed; answered %q", answer)
						} else if found := statusLine.FindStringSubmatch(text); found == nil && err == nil || found != nil && found[1] != a.want {
							t.Errorf("answered %q, %v, want %s", answer, err, a.want)
						}
					})
				}
				wait.Wait()
				grown := h.peak() - before
				t.Logf("grown by %d KiB at most", grown>>10)
				if grown > n*8<<20+32<<20 {
					t.Errorf("%d large ones make the process grow by %d MiB", n, grown>>20)
				}
			})
		})
	}
}

var statusLine = regexp.MustCompile(`HTTP/1\.1 (\d{3}) `)

// forgetPeak has [caddy.peak] begin anew.
func (c *caddy) forgetPeak() {
	c.t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", c.cmd.Process.Pid), []byte("5"), 0); err != nil {
		c.t.Fatal(err)
	}
}

// peak is how many bytes of memory the process has had resident at most.
func (c *caddy) peak() int {
	c.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		c.t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "\nVmHWM:")
	fields := strings.Fields(after)
	n, err := strconv.Atoi(fields[0])
	if err != nil {
		c.t.Fatal(err)
	}
	return n << 10
}
