package listener

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/ballastlb/ballast/caddyfile"
	_ "github.com/ballastlb/ballast/lbmodule"
)

// twins are two servers of one Caddy, with the same site: one has the express lane, the other one has not. Each has a backend of its own.
type twins [2]*twin

type twin struct {
	name    string
	address string
	backend *recording
}

func startTwins(tb testing.TB) twins {
	tb.Helper()
	var all twins
	var servers, sites strings.Builder
	for i, name := range []string{"handler", "lane"} {
		all[i] = &twin{name: name, address: freeAddress(tb), backend: startRecording(tb)}
		wrapper := "seamless"
		if name == "handler" {
			wrapper = "seamless {\n express off\n }"
		}
		fmt.Fprintf(&servers, "servers %s {\n name %s\n protocols h1\n listener_wrappers {\n %s\n }\n }\n", all[i].address, name, wrapper)
		_, port, _ := net.SplitHostPort(all[i].address)
		fmt.Fprintf(&sites, "http://:%s {\n bind 127.0.0.1\n handle /own {\n respond own\n }\n handle {\n load_balancer %s {\n name %s\n retry off\n breaker off\n hold off\n }\n }\n }\n", port, all[i].backend.address, name)
	}
	text := fmt.Sprintf("{\n admin off\n persist_config off\n auto_https off\n storage file_system %s\n log {\n output discard\n }\n %s}\n%s", tb.TempDir(), &servers, &sites)
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		tb.Fatal(err)
	}
	var config caddy.Config
	if err := json.Unmarshal(adapted, &config); err != nil {
		tb.Fatal(err)
	}
	if err := caddy.Run(&config); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			tb.Error(err)
		}
	})
	return all
}

// freeAddress is one at which nothing listens.
func freeAddress(tb testing.TB) string {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// recording is a backend that keeps what it gets.
type recording struct {
	address string

	mu    sync.Mutex
	input *input // the current one
	conns map[net.Conn]struct{}
}

// input is what is to be seen of one exchange by the backend, and what the backend has seen.
type input struct {
	answer []string // in these pieces, after which the connection is closed; nil for an ordinary answer to each request

	mu   sync.Mutex
	seen []string // requests, the last of which may be incomplete
	busy atomic.Int64
}

func startRecording(tb testing.TB) *recording {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	b := &recording{address: ln.Addr().String(), conns: make(map[net.Conn]struct{})}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.conns[c] = struct{}{}
			b.mu.Unlock()
			serving.Go(func() {
				b.serve(c)
				b.mu.Lock()
				delete(b.conns, c)
				b.mu.Unlock()
				c.Close()
			})
		}
	})
	tb.Cleanup(func() {
		ln.Close()
		b.mu.Lock()
		for c := range b.conns {
			c.Close()
		}
		b.mu.Unlock()
		serving.Wait()
	})
	return b
}

// begin has what comes from now on belong to in.
func (b *recording) begin(in *input) {
	b.mu.Lock()
	b.input = in
	b.mu.Unlock()
}

func (b *recording) serve(c net.Conn) {
	br := bufio.NewReader(c)
	q, err := openQueue()
	if err != nil {
		return
	}
	defer q.close()
	for {
		if _, err := br.Peek(1); err != nil {
			return
		}
		b.mu.Lock()
		in := b.input
		b.mu.Unlock()
		if !in.serve(c, br, q) {
			return
		}
	}
}

// serve reads a request and answers it. It reports whether the connection is kept.
func (in *input) serve(c net.Conn, br *bufio.Reader, q *queue) (keep bool) {
	in.busy.Add(1)
	defer in.busy.Add(-1)
	_ = c.SetReadDeadline(time.Now().Add(exchangePatience))
	at, text, complete := 0, "", false
	in.mu.Lock()
	at = len(in.seen)
	in.seen = append(in.seen, "")
	in.mu.Unlock()
	defer func() {
		in.mu.Lock()
		if !complete {
			text += incomplete
		}
		in.seen[at] = text
		in.mu.Unlock()
	}()
	head, err := readHeadText(br)
	text = sortFields(head)
	if err != nil {
		return false
	}
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(head)))
	if err != nil {
		text += fmt.Sprintf("[strange: %v]", err)
		return false
	}
	body, err := readBodyText(br, r.TransferEncoding, r.ContentLength)
	text += body
	complete = err == nil
	in.mu.Lock()
	in.seen[at] = text
	in.mu.Unlock()
	if !complete {
		return false
	}
	_ = c.SetReadDeadline(time.Time{})
	if in.answer != nil {
		_ = c.SetWriteDeadline(time.Now().Add(exchangePatience))
		if sent, err := sendPieces(c, q, in.answer); err == nil {
			_ = q.readBy(c, sent)
		}
		return false
	}
	answer := fmt.Sprintf("request %d", at)
	_, err = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: %d\r\nX-Len: %d\r\n\r\n", len(answer), len(body))
	if err == nil && r.Method != http.MethodHead {
		_, err = io.WriteString(c, answer)
	}
	return err == nil
}

// incomplete marks the end of an incomplete message.
const incomplete = "[...]"

// endOfChunks is between a body and its trailers.
const endOfChunks = "[end of chunks]"

// readHeadText reads a head of which each line ends as it should.
func readHeadText(br *bufio.Reader) (string, error) {
	var head strings.Builder
	for {
		line, err := br.ReadString('\n')
		head.WriteString(line)
		if err != nil || line == "\r\n" {
			return head.String(), err
		}
	}
}

// readBodyText reads a body. length is -1 if it ends with the connection.
func readBodyText(br *bufio.Reader, encoding []string, length int64) (string, error) {
	if len(encoding) == 0 {
		from := io.Reader(br)
		if length >= 0 {
			from = io.LimitReader(br, length)
		}
		body, err := io.ReadAll(from)
		if err == nil && length > int64(len(body)) {
			err = io.ErrUnexpectedEOF
		}
		return string(body), err
	}
	body, err := io.ReadAll(httputil.NewChunkedReader(br))
	if err != nil {
		return string(body), err
	}
	trailers, err := readHeadText(br)
	return string(body) + endOfChunks + sortFields("\r\n"+trailers), err
}

// announced is what a head announces as trailers. Caddy does that in the random order of a map.
var announced = regexp.MustCompile(`(?m)^Trailer: (.*)\r`)

func sortAnnounced(head string) string {
	return announced.ReplaceAllStringFunc(head, func(line string) string {
		names := strings.Split(announced.FindStringSubmatch(line)[1], ", ")
		slices.Sort(names)
		return "Trailer: " + strings.Join(names, ", ") + "\r"
	})
}

// sortFields sorts the fields of a head by their names. Values of one field keep their order.
func sortFields(head string) string {
	all := strings.SplitAfter(head, "\r\n")
	end := len(all)
	for end > 1 && (all[end-1] == "" || all[end-1] == "\r\n") {
		end--
	}
	slices.SortStableFunc(all[1:end], func(a, b string) int {
		nameOfA, _, _ := strings.Cut(a, ":")
		nameOfB, _, _ := strings.Cut(b, ":")
		return strings.Compare(nameOfA, nameOfB)
	})
	return strings.Join(all, "")
}

// sendPieces sends pieces, each when what was sent before has been read. It returns how many bytes it has sent.
func sendPieces(c net.Conn, q *queue, pieces []string) (int, error) {
	sent := 0
	for i, piece := range pieces {
		if i > 0 {
			if err := q.readBy(c, sent); err != nil {
				return sent, err
			}
		}
		n, err := io.WriteString(c, piece)
		if sent += n; err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// cut cuts text into pieces of these lengths, less one.
func cut(text string, lengths []byte) (pieces []string) {
	const most = 12
	for _, b := range lengths[:min(len(lengths), most)] {
		n := int(b) + 1
		if n >= len(text) {
			break
		}
		pieces, text = append(pieces, text[:n]), text[n:]
	}
	return append(pieces, text)
}

// exchangePatience is how long an exchange may take. The fuzzer takes a test that takes ten seconds for one that hangs.
const exchangePatience = 1500 * time.Millisecond

// outcome is what became of an exchange.
type outcome struct {
	requests []string // that the backend got
	answers  []string // that the client got
	open     bool     // the connection was not closed in time
}

// talk sends a client's bytes in pieces. When nothing happens for the time of quiet, the client sends no more.
func (s *twin) talk(pieces []string, answer []string, methods []string, quiet time.Duration) (outcome, error) {
	in := &input{answer: answer}
	s.backend.begin(in)
	dialed, err := net.Dial("tcp", s.address)
	if err != nil {
		return outcome{}, err
	}
	c := dialed.(*net.TCPConn)
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(exchangePatience))
	got, over := new(bytes.Buffer), make(chan struct{})
	var came atomic.Int64
	var readErr error
	go func() {
		defer close(over)
		buffer := make([]byte, 32<<10)
		for {
			n, err := c.Read(buffer)
			got.Write(buffer[:n])
			came.Add(1)
			if err != nil {
				readErr = err
				return
			}
		}
	}()
	q, err := openQueue()
	if err != nil {
		return outcome{}, err
	}
	defer q.close()
	if sent, err := sendPieces(c, q, pieces); err == nil {
		_ = q.readBy(c, sent)
	}
	awaitQuiet(over, quiet, func() int64 { return came.Load() + in.busy.Load()<<32 })
	_ = c.CloseWrite()
	<-over
	waitUntil(func() bool { return in.busy.Load() == 0 })
	var o outcome
	o.open = errors.Is(readErr, os.ErrDeadlineExceeded)
	in.mu.Lock()
	o.requests = slices.Clone(in.seen)
	in.mu.Unlock()
	o.answers = readAnswers(got.String(), methods)
	return o, nil
}

// awaitQuiet waits until over is closed, or until state has not changed for that time and no request is in progress.
func awaitQuiet(over <-chan struct{}, quiet time.Duration, state func() int64) {
	const every = time.Millisecond
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	last, since := state(), time.Now()
	for end := time.Now().Add(exchangePatience); time.Now().Before(end); {
		select {
		case <-over:
			return
		case <-ticker.C:
		}
		if now := state(); now != last || now>>32 > 0 {
			last, since = now, time.Now()
		} else if time.Since(since) >= quiet {
			return
		}
	}
}

// waitUntil waits until done reports true, but not for ever.
func waitUntil(done func() bool) {
	ticker := time.NewTicker(200 * time.Microsecond)
	defer ticker.Stop()
	for end := time.Now().Add(exchangePatience); !done() && time.Now().Before(end); {
		<-ticker.C
	}
}

// dated is a date that the servers have made.
var dated = regexp.MustCompile(`(?m)^Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r`)

// noBody is the field of an empty body.
var noBody = regexp.MustCompile(`(?m)^(Content-Length: 0|Transfer-Encoding: chunked)\r\n`)

// readAnswers takes apart what a client got for requests of these methods. All after those is of the last one.
func readAnswers(text string, methods []string) (all []string) {
	br := bufio.NewReader(strings.NewReader(text))
	for n := 0; ; {
		if _, err := br.Peek(1); err != nil {
			return all
		}
		head, err := readHeadText(br)
		shown := sortAnnounced(dated.ReplaceAllString(head, "Date: NOW\r"))
		if err != nil {
			return append(all, shown+incomplete)
		}
		method := http.MethodGet
		if len(methods) > 0 {
			method = methods[min(n, len(methods)-1)]
		}
		res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(head)), &http.Request{Method: method})
		if err != nil {
			return append(all, shown+fmt.Sprintf("[strange: %v]", err))
		}
		if res.StatusCode >= 200 {
			n++
			var body string
			if method != http.MethodHead && res.StatusCode != http.StatusNoContent && res.StatusCode != http.StatusNotModified {
				body, err = readBodyText(br, res.TransferEncoding, res.ContentLength)
			}
			if err == nil && method != http.MethodHead && (body == "" || body == endOfChunks+"\r\n\r\n") {
				// The timer that flushes the head of an answer of unknown length competes with the end of one that is empty.
				shown, body = noBody.ReplaceAllString(shown, ""), "[empty]"
			}
			if shown += body; err != nil {
				return append(all, shown+incomplete)
			}
		}
		all = append(all, shown)
	}
}

// agree reports whether two outcomes are the same. What is broken off may be so earlier or later.
func (o outcome) agree(other outcome) bool {
	return o.open == other.open && agreeAll(o.requests, other.requests) && agreeAll(o.answers, other.answers)
}

func agreeAll(a, b []string) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	if len(b)-len(a) > 1 || len(a) < len(b) && !strings.HasSuffix(b[len(b)-1], incomplete) {
		return false
	}
	for i := range a {
		x, xBroken := strings.CutSuffix(a[i], incomplete)
		y, yBroken := strings.CutSuffix(b[i], incomplete)
		begins := strings.HasPrefix(x, y) || strings.HasPrefix(y, x)
		if a[i] != b[i] && (!xBroken || !yBroken || !begins) {
			return false
		}
	}
	return true
}

func (o outcome) String() string {
	show := func(all []string) string {
		var b strings.Builder
		for _, text := range all {
			fmt.Fprintf(&b, "\t%.2000q\n", text)
		}
		return b.String()
	}
	return fmt.Sprintf("the backend got\n%sthe client got\n%sopen: %v\n", show(o.requests), show(o.answers), o.open)
}

// compare makes the exchange with both, and again with more time if they do not agree.
func (all twins) compare(t *testing.T, pieces, answer, methods []string) {
	t.Helper()
	var seen [2]outcome
	for _, quiet := range []time.Duration{6 * time.Millisecond, 50 * time.Millisecond, 300 * time.Millisecond} {
		for i, s := range all {
			var err error
			if seen[i], err = s.talk(pieces, answer, methods, quiet); err != nil {
				t.Fatal(err)
			}
		}
		if seen[0].agree(seen[1]) {
			return
		}
	}
	t.Errorf("client: %.2000q\nbackend: %.2000q\nwithout the lane %vwith the lane %v", pieces, answer, seen[0], seen[1])
}

// queue asks the kernel about what the other end of a connection has not read.
type queue struct {
	fd  int
	buf [1024]byte
}

func openQueue() (*queue, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, err
	}
	return &queue{fd: fd}, nil
}

func (q *queue) close() { unix.Close(q.fd) }

// unread is how many of the bytes that were sent over conn its other end has not read yet; 0 if it is closed.
func (q *queue) unread(conn net.Conn, sent int) (int, error) {
	// struct nlmsghdr and struct inet_diag_req_v2, for one socket: that at the other end.
	const header, request, answer, ask, info = 16, 56, 72, 20, 2
	here, there := addrPort(conn.LocalAddr()), addrPort(conn.RemoteAddr())
	m := make([]byte, header+request)
	ne := binary.NativeEndian
	ne.PutUint32(m, uint32(len(m)))
	ne.PutUint16(m[4:], ask)
	ne.PutUint16(m[6:], unix.NLM_F_REQUEST)
	r := m[header:]
	r[0], r[1], r[2] = unix.AF_INET, unix.IPPROTO_TCP, 1<<(info-1)
	ne.PutUint32(r[4:], ^uint32(0)) // in any state
	binary.BigEndian.PutUint16(r[8:], there.Port())
	binary.BigEndian.PutUint16(r[10:], here.Port())
	copy(r[12:], there.Addr().AsSlice())
	copy(r[28:], here.Addr().AsSlice())
	ne.PutUint64(r[48:], ^uint64(0)) // no cookie
	if err := unix.Sendto(q.fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, err
	}
	n, _, err := unix.Recvfrom(q.fd, q.buf[:], 0)
	if err != nil {
		return 0, err
	}
	if b := q.buf[:n]; n >= header+answer && ne.Uint16(b[4:]) == ask {
		queued := int(ne.Uint32(b[header+56:]))
		for b = b[header+answer:]; len(b) >= 4; {
			length := int(ne.Uint16(b))
			if ne.Uint16(b[2:]) == info && length >= 4+136 {
				return queued + sent - int(ne.Uint64(b[4+128:])), nil // tcpi_bytes_received
			}
			b = b[min(len(b), (length+3)&^3):]
		}
	}
	return 0, nil
}

func addrPort(a net.Addr) netip.AddrPort {
	at := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

// readBy waits until the other end has read what was sent over conn. A server that answers first, or waits, may not read all.
func (q *queue) readBy(conn net.Conn, sent int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	ticker := time.NewTicker(50 * time.Microsecond)
	defer ticker.Stop()
	for {
		if n, err := q.unread(conn, sent); err != nil || n <= 0 {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}
