//go:build trust && linux

package integration

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// memberVariable has the address where a process of this binary is to be a backend, and nothing else.
const memberVariable = "BALLAST_FAULT_MEMBER"

// memberHost is where they listen: an address that nobody else uses, so that what is sent there can be counted.
const memberHost = "127.0.9.1"

// idHeader has the number of a request.
const idHeader = "X-Id"

func init() {
	if address := os.Getenv(memberVariable); address != "" {
		if err := serveMember(address); err != nil {
			fmt.Fprintln(os.Stderr, "member:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// memberModes are what a member may do with a request, whose body it has read.
var memberModes = map[string]func(address string) http.HandlerFunc{
	"ok": func(address string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Backend", address)
			fmt.Fprint(w, "ok")
		}
	},
	"503": func(address string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Backend", address)
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	},
	"slow": func(address string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			takes(r.Context(), 500*time.Millisecond)
			w.Header().Set("X-Backend", address)
			fmt.Fprint(w, "ok")
		}
	},
	"hang": func(string) http.HandlerFunc {
		return func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	},
	"reset":   func(string) http.HandlerFunc { return writes() },
	"garbage": func(string) http.HandlerFunc { return writes("\x00\x16\x03garbage\r\n\r\n") },
	"header":  func(string) http.HandlerFunc { return writes(largeHeader...) },
	"half": func(string) http.HandlerFunc {
		return writes("HTTP/1.1 200 OK\r\nX-Backend: broken\r\nContent-Length: 1000\r\n\r\nbeginning")
	},
	// A length and chunks, and an unrequested answer behind them.
	"both": func(address string) http.HandlerFunc {
		return writes("HTTP/1.1 200 OK\r\nX-Backend: " + address + "\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n" +
			"HTTP/1.1 200 OK\r\nX-Backend: evil\r\nContent-Length: 4\r\n\r\nevil")
	},
	// A good answer, after which the connection is closed without a word of it.
	"closes": func(address string) http.HandlerFunc {
		return writes("HTTP/1.1 200 OK\r\nX-Backend: " + address + "\r\nContent-Length: 2\r\n\r\nok")
	},
}

// serveMember is the process of a member: it reads modes from its input, and "away" followed by a duration, and prints the number of
// each request when it has received it. What it has printed outlives it.
func serveMember(address string) error {
	var handler atomic.Pointer[http.HandlerFunc]
	var l net.Listener
	var server *http.Server
	serve := func() (err error) {
		if l, err = net.Listen("tcp", address); err != nil {
			return err
		}
		address = l.Addr().String()
		server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = discard(r.Body)
			fmt.Print(r.Header.Get(idHeader) + "\n") // in one write
			(*handler.Load())(w, r)
		})}
		go func(l net.Listener, server *http.Server) { _ = server.Serve(l) }(l, server)
		return nil
	}
	set := func(mode string) {
		h := memberModes[mode](address)
		handler.Store(&h)
	}
	if err := serve(); err != nil {
		return err
	}
	set("ok")
	fmt.Println("listening", address)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if for_, found := strings.CutPrefix(lines.Text(), "away "); found {
			d, err := time.ParseDuration(for_)
			if err != nil {
				return err
			}
			server.Close()
			time.Sleep(d)
			if err := serve(); err != nil {
				return err
			}
			continue
		}
		if memberModes[lines.Text()] == nil {
			return fmt.Errorf("no mode %q", lines.Text())
		}
		set(lines.Text())
	}
	return lines.Err()
}

// member is a backend in a process of its own.
type member struct {
	t    *testing.T
	addr string
	cmd  *exec.Cmd
	in   io.WriteCloser
	read chan struct{} // closed when all that the process has printed is read

	mu       sync.Mutex
	received []reception // in the order in which they came
}

// reception is a request that a member has received.
type reception struct {
	id int
	at time.Time
}

func startMember(t *testing.T) *member {
	t.Helper()
	m := &member{t: t, addr: memberHost + ":0"}
	m.start()
	t.Cleanup(m.kill)
	return m
}

// start starts the process, at the address that it had if it ran before.
func (m *member) start() {
	m.t.Helper()
	program, err := os.Executable()
	if err != nil {
		m.t.Fatal(err)
	}
	m.cmd = exec.Command(program)
	m.cmd.Env = append(os.Environ(), memberVariable+"="+m.addr)
	m.cmd.Stderr = os.Stderr
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	if m.in, err = m.cmd.StdinPipe(); err != nil {
		m.t.Fatal(err)
	}
	if err := m.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	address, listening := strings.CutPrefix(strings.TrimSpace(line), "listening ")
	if !listening {
		m.t.Fatalf("the member says %q, %v", line, err)
	}
	m.addr, m.read = address, make(chan struct{})
	go m.takeDown(lines, m.read)
}

// takeDown takes down what the process receives, until it has ended.
func (m *member) takeDown(lines *bufio.Reader, read chan<- struct{}) {
	defer close(read)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		id, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			continue // not a request of the load
		}
		m.mu.Lock()
		m.received = append(m.received, reception{id, time.Now()})
		m.mu.Unlock()
	}
}

// kill ends the process with SIGKILL.
func (m *member) kill() {
	_ = m.cmd.Process.Signal(syscall.SIGCONT)
	_ = m.cmd.Process.Kill()
	<-m.read // Wait closes the pipe
	_ = m.cmd.Wait()
}

func (m *member) signal(s syscall.Signal) {
	m.t.Helper()
	if err := m.cmd.Process.Signal(s); err != nil {
		m.t.Fatal(err)
	}
}

// tell has it do that from now on.
func (m *member) tell(mode string) {
	m.t.Helper()
	if _, err := io.WriteString(m.in, mode+"\n"); err != nil {
		m.t.Fatal(err)
	}
}

// between is how many requests it received in that time.
func (m *member) between(from, to time.Time) (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.received {
		if !r.at.Before(from) && r.at.Before(to) {
			n++
		}
	}
	return n
}

// copies is how often each request was received by any of these members.
func copies(members []*member) map[int]int { return copiesBetween(members, time.Time{}, time.Now()) }

func copiesBetween(members []*member, from, to time.Time) map[int]int {
	n := make(map[int]int)
	for _, m := range members {
		m.mu.Lock()
		for _, r := range m.received {
			if !r.at.Before(from) && r.at.Before(to) {
				n[r.id]++
			}
		}
		m.mu.Unlock()
	}
	return n
}

// dials counts the connections that are tried to these members until ctx ends, whether or not anybody listens there. It returns nil
// if the machine does not allow that.
func dials(ctx context.Context, members []*member) *atomic.Int64 {
	conn, err := net.ListenIP("ip4:tcp", &net.IPAddr{IP: net.ParseIP(memberHost)})
	if err != nil {
		return nil
	}
	ports := make(map[int]bool)
	for _, m := range members {
		_, port, _ := net.SplitHostPort(m.addr)
		n, _ := strconv.Atoi(port)
		ports[n] = true
	}
	var n atomic.Int64
	context.AfterFunc(ctx, func() { conn.Close() })
	go func() {
		segment := make([]byte, 1<<16)
		for {
			size, _, err := conn.ReadFromIP(segment)
			if err != nil {
				return
			}
			const syn, ack = 2, 16
			if size >= 20 && ports[int(segment[2])<<8|int(segment[3])] && segment[13]&(syn|ack) == syn {
				n.Add(1)
			}
		}
	}()
	return &n
}
