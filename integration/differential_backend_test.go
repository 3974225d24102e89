package integration

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// far is a backend, or what plays it. It has one exchange at a time.
type far interface {
	address() string
	begin(r *run)
	finish() string // what it saw
}

// farKind is what a backend is.
type farKind string

const (
	rawTCP   farKind = ""
	rawUnix  farKind = "unix"
	rawTLS   farKind = "tls"
	nobody   farKind = "nobody" // refuses connections
	overH2C  farKind = "h2c"
	overFCGI farKind = "fastcgi"
)

func (k farKind) start(t *testing.T) far {
	t.Helper()
	switch k {
	case rawUnix:
		return startRawFar(t, "unix", socketPath(t), nil)
	case rawTLS:
		certificate, key := selfSigned(t)
		pair, err := tls.LoadX509KeyPair(certificate, key)
		if err != nil {
			t.Fatal(err)
		}
		return startRawFar(t, "tcp", freeAddress(t), &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}})
	case nobody:
		return absent(freeAddress(t))
	case overH2C, overFCGI:
		return startHTTPFar(t, k)
	}
	return startRawFar(t, "tcp", freeAddress(t), nil)
}

// socketPath is a path for a socket, which has to be short.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ballast")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir + "/s"
}

// absent is the address of a backend that is not there.
type absent string

func (a absent) address() string { return string(a) }
func (a absent) begin(*run)      {}
func (a absent) finish() string  { return "" }

// rawFar is a backend that reads and writes bytes.
type rawFar struct {
	network string
	l       net.Listener
	tls     *tls.Config
	wait    sync.WaitGroup

	mu    sync.Mutex
	run   *run
	conns map[*farEnd]struct{}
	seen  []*farEnd // connections with requests of this exchange, in order
}

// farEnd is a connection of a backend.
type farEnd struct {
	*run
	far      *rawFar
	plain    net.Conn
	conn     net.Conn
	br       *bufio.Reader
	log      strings.Builder
	finished chan struct{}
	idle     bool // it waits for a request; far.mu guards it, and the next
	ending   bool // it is to wait no longer
}

func startRawFar(t *testing.T, network, address string, config *tls.Config) *rawFar {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	f := &rawFar{network: network, l: l, tls: config, conns: map[*farEnd]struct{}{}}
	f.wait.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			f.wait.Go(func() { f.serve(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		f.finish()
		f.wait.Wait()
	})
	return f
}

func (f *rawFar) address() string {
	if f.network == "unix" {
		return "unix/" + f.l.Addr().String()
	}
	return f.l.Addr().String()
}

func (f *rawFar) begin(r *run) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.run, f.seen = r, nil
}

// finish ends the exchange, with all connections: the next one begins anew. A connection is closed when the proxy's kernel has been told,
// so that it is not taken for one that can be used.
func (f *rawFar) finish() string {
	f.mu.Lock()
	var open []*farEnd
	for end := range f.conns {
		open = append(open, end)
	}
	f.mu.Unlock()
	for _, end := range open {
		for !end.isOver() && !f.isIdle(end) { // bound: its deadline
			time.Sleep(100 * time.Microsecond)
		}
		end.close()
		<-end.finished
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var text strings.Builder
	for i, end := range f.seen {
		if i > 0 {
			text.WriteString("[another connection]\n")
		}
		text.WriteString(end.log.String())
	}
	f.run, f.seen = nil, nil
	return text.String()
}

func (f *rawFar) isIdle(e *farEnd) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return e.idle
}

func (e *farEnd) isOver() bool {
	select {
	case <-e.finished:
		return true
	default:
		return false
	}
}

// close ends an idle connection from this side.
func (e *farEnd) close() {
	if e.isOver() {
		return
	}
	if half, ok := e.plain.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		if raw, ok := e.plain.(*net.TCPConn); ok {
			untilToldOf(raw)
		}
	}
	e.far.mu.Lock()
	defer e.far.mu.Unlock()
	if e.idle {
		e.ending = true
		_ = e.plain.SetReadDeadline(time.Now())
	}
}

// untilToldOf waits until the other side's kernel knows that the connection was closed.
func untilToldOf(conn *net.TCPConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	const finWait1 = 4 // not acknowledged yet
	for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(100 * time.Microsecond) {
		told := true
		_ = raw.Control(func(fd uintptr) {
			info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
			told = err != nil || info.State != finWait1
		})
		if told {
			return
		}
	}
}

func (f *rawFar) serve(plain net.Conn) {
	e := &farEnd{far: f, plain: plain, conn: plain, finished: make(chan struct{})}
	f.mu.Lock()
	f.conns[e] = struct{}{}
	f.mu.Unlock()
	defer func() {
		e.conn.Close()
		f.mu.Lock()
		delete(f.conns, e)
		f.mu.Unlock()
		close(e.finished)
	}()
	_ = plain.SetDeadline(time.Now().Add(differentialPatience))
	if f.tls != nil {
		secure := tls.Server(plain, f.tls)
		if secure.Handshake() != nil {
			return
		}
		e.conn = secure
	}
	e.br = bufio.NewReader(e.conn)
	for {
		f.mu.Lock()
		e.idle = true
		f.mu.Unlock()
		if _, err := e.br.Peek(1); err != nil {
			return
		}
		if !e.take() {
			return
		}
		if e.x.far != nil {
			e.x.far(e)
			return
		}
		if !e.standard() {
			return
		}
	}
}

// take has the connection belong to the exchange that is being made.
func (e *farEnd) take() bool {
	e.far.mu.Lock()
	defer e.far.mu.Unlock()
	if e.idle = false; e.ending { // a request has come all the same
		_ = e.plain.SetReadDeadline(time.Now().Add(differentialPatience))
	}
	if e.far.run == nil {
		return false
	}
	if e.run == nil {
		e.run = e.far.run
		e.far.seen = append(e.far.seen, e)
		if e.tls() != "" {
			fmt.Fprintf(&e.log, "[TLS] %s\n", e.tls())
		}
	}
	return e.run == e.far.run
}

// forget takes the connection out of what was seen.
func (e *farEnd) forget() {
	e.far.mu.Lock()
	defer e.far.mu.Unlock()
	e.far.seen = slices.DeleteFunc(e.far.seen, func(other *farEnd) bool { return other == e })
}

// tls is the server name that was asked for, of a connection with TLS.
func (e *farEnd) tls() string {
	if secure, ok := e.conn.(*tls.Conn); ok {
		return "server name " + secure.ConnectionState().ServerName
	}
	return ""
}

// standard reads a request and answers it, and reports whether the connection goes on.
func (e *farEnd) standard() bool {
	if first, _ := e.br.Peek(1); string(first) == "\r" {
		if !e.proxyProtocol() {
			return false
		}
	}
	head, err := readMessageHead(e.br)
	if !e.x.blind && strings.Contains(head, " /blind ") { // of an exchange that is over
		e.forget()
		return false
	}
	e.log.WriteString(head)
	if err != nil {
		e.log.WriteString("[in the head] " + broken(err) + "\n")
		return false
	}
	if !e.x.early {
		if e.x.continues {
			_, _ = io.WriteString(e.conn, "HTTP/1.1 100 Continue\r\n\r\n")
		}
		if !e.body(head) {
			return false
		}
	}
	tell(e.events.of("request read"))
	if e.x.leaves != beforeAnswer {
		if !e.reply(method(head)) {
			return false
		}
	}
	if e.x.received > 0 && !e.downloaded.await(e.x.received) {
		e.log.WriteString(timedOut + " before the end\n")
	}
	then := e.x.then
	if e.x.leaves != stays {
		then = listens
	}
	switch then {
	case hangsUp:
		return false
	case resetsIt:
		e.reset()
		return false
	case listens:
		_, err := io.Copy(io.Discard, e.br)
		if err == nil {
			err = io.EOF
		}
		how := broken(err)
		if how == "[reset]" { // which of both depends on what was under way
			how = "[closed]"
		}
		e.log.WriteString("[then] " + how + "\n")
		return false
	}
	return true
}

// proxyProtocol reads the header of PROXY protocol 2. The ports in it belong to the exchange.
func (e *farEnd) proxyProtocol() bool {
	header := make([]byte, 16)
	if _, err := io.ReadFull(e.br, header); err != nil {
		return false
	}
	rest := make([]byte, binary.BigEndian.Uint16(header[14:]))
	if _, err := io.ReadFull(e.br, rest); err != nil {
		return false
	}
	if len(rest) >= 12 {
		clear(rest[8:12])
	}
	fmt.Fprintf(&e.log, "[PROXY protocol] %x %x\n", header, rest)
	return true
}

// body reads the body of a request.
func (e *farEnd) body(head string) bool {
	body, err := readMessageBody(e.br, head, false, showBody, e.uploaded.add)
	e.log.WriteString(body)
	return err == nil
}

// reply writes the answer to a request of that method, and its pieces. What answers HEAD has a body, if the proxy made it another request.
func (e *farEnd) reply(asked string) bool {
	answer := e.x.answer
	if n := int(e.replies.Add(1)); n <= len(e.x.answers) {
		answer = e.x.answers[n-1]
	}
	if answer == "" {
		answer = ok200
	}
	if answer == none {
		return true
	}
	if length := fieldValues(answer, "Content-Length"); len(length) > 0 && strings.HasPrefix(e.x.request, "HEAD ") && asked != "HEAD" {
		n, _ := strconv.Atoi(length[0])
		answer += filled(n)
	}
	if _, err := io.WriteString(e.conn, answer); err != nil {
		return false
	}
	sent := 0
	if _, after, ok := strings.Cut(answer, "\r\n\r\n"); ok {
		sent = bodyBytes(after)
	}
	for _, piece := range e.x.pieces {
		if !e.downloaded.await(sent) {
			e.log.WriteString(timedOut + " before the piece " + strconv.Quote(piece) + "\n")
			return false
		}
		if _, err := io.WriteString(e.conn, piece); err != nil {
			return false
		}
		sent += bodyBytes(piece)
	}
	return true
}

// bodyBytes is how many bytes of a body there are in a piece, which may be a chunk.
func bodyBytes(piece string) int {
	if size, rest, ok := strings.Cut(piece, "\r\n"); ok && strings.HasSuffix(rest, "\r\n") {
		if n, err := strconv.ParseInt(size, 16, 32); err == nil {
			return int(n)
		}
	}
	return len(piece)
}

// reset closes the connection in a way that the other side is told of as a reset.
func (e *farEnd) reset() {
	if conn, ok := e.plain.(*net.TCPConn); ok {
		_ = conn.SetLinger(0)
	}
	e.plain.Close()
}
