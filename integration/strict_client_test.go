package integration

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// strictPatience is how long a request of a strictClient may take until it counts as lost.
const strictPatience = patience

// way is how requests are sent.
type way struct {
	name     string
	site     string // "plain" or "unix"; with TLS if it begins with "tls"
	protocol string // "h1" or "h2"
	kept     bool   // connections are used again
	shape    shape
	rate     int // requests per second
}

// shape is how a request is written. All but asWhole are for HTTP/1.1.
type shape int

const (
	asWhole     shape = iota
	asPipelined       // three at once
	asHalves          // a head in two parts
	asPieces          // a body in three parts
	asExpects         // a body after 100 Continue
	asDrips           // it is the answer that comes in parts
)

// strictClient sends every request once, at a constant rate whatever becomes of them, and counts how each ended. net/http's client
// is no help: a request that meets a closed connection it sends again by itself.
type strictClient struct {
	way
	address string
	size    int    // of the set of connections that are kept
	configs *epoch // nil if the answers do not tell which config they are of

	greeting string // what is sent first on each connection
	seen     string // as whom the server sees the client, in X-Client; "" if it does not tell

	mu       sync.Mutex
	idle     []*strictConn // the one that is idle for longest first
	open     int           // connections
	streams  []*http.ClientConn
	turn     int
	requests int
	failed   map[string]int // by kind
	samples  []string
	started  time.Time
	opened   atomic.Int64 // connections, in all
	told     atomic.Int64 // answers that said that the connection will be closed
}

// epoch tells which configs may answer: the one that the last reload brought, and those of reloads that have begun since. Configs
// have numbers, and say theirs in X-Config.
type epoch struct{ committed, begun atomic.Int64 }

// stage is how far a request had come when it failed.
type stage struct {
	name string
	err  error
}

func (s *stage) Error() string { return s.name + ": " + s.err.Error() }
func (s *stage) Unwrap() error { return s.err }

// failureKind names a failure: how far the request had come, and what happened.
func failureKind(err error) string {
	var at *stage
	name := "request"
	if errors.As(err, &at) {
		name, err = at.name, at.err
	}
	var timeout net.Error
	switch text := err.Error(); {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return name + ": refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), strings.Contains(text, "connection reset"):
		return name + ": reset"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return name + ": timeout"
	case strings.Contains(text, "GOAWAY"):
		return name + ": GOAWAY"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), strings.Contains(text, "EOF"):
		return name + ": EOF"
	default:
		return name + ": " + text
	}
}

func newStrictClient(w way, address string, configs *epoch) *strictClient {
	size := min(max(w.rate/12, 2), 16) // each is used about every 80 ms, or more often
	return &strictClient{way: w, address: address, size: size, configs: configs, failed: make(map[string]int), started: time.Now()}
}

// run sends requests until stop is closed, and waits for their ends.
func (c *strictClient) run(stop <-chan struct{}) {
	c.started = time.Now()
	// Enough for those that take long by their shape; a machine that cannot keep up is not to be buried.
	slots := make(chan struct{}, max(c.rate/3, 20))
	var wg sync.WaitGroup
	defer wg.Wait()
	each := 1
	if c.shape == asPipelined {
		each = 3
	}
	for i := 0; ; i++ {
		due := time.NewTimer(time.Until(c.started.Add(time.Duration(i*each) * time.Second / time.Duration(c.rate))))
		select {
		case <-stop:
			due.Stop()
			return
		case <-due.C:
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			c.send(i)
		})
	}
}

// send sends the request of that number, or three if they are pipelined, and counts it.
func (c *strictClient) send(i int) {
	n := 1
	var err error
	if c.protocol == "h2" {
		err = c.sendHTTP2()
	} else {
		n, err = c.sendHTTP1(i)
	}
	c.count(n, err)
}

// count counts n requests, and if err is not nil the last of them as failed.
func (c *strictClient) count(n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests += n
	if err == nil {
		return
	}
	c.failed[failureKind(err)]++
	if len(c.samples) < 5 {
		c.samples = append(c.samples, fmt.Sprintf("%s after %v: %v", c.name, time.Since(c.started).Round(time.Millisecond), err))
	}
}

// result is how many requests were sent, how many failed, and how.
func (c *strictClient) result() (requests, failed int, kinds string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.failed {
		failed += n
	}
	if failed > 0 {
		kinds = strings.TrimPrefix(fmt.Sprint(c.failed), "map")
	}
	return c.requests, failed, kinds
}

// close closes all connections.
func (c *strictClient) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.idle {
		conn.Close()
	}
	for _, conn := range c.streams {
		_ = conn.Close()
	}
	c.idle, c.streams, c.open = nil, nil, 0
}

// strictConn is a connection for HTTP/1.1.
type strictConn struct {
	net.Conn
	answers *bufio.Reader
	ended   bool // the server has said that it will close it
}

// dialStrict opens a connection to the client's site.
func (c *strictClient) dialStrict() (*strictConn, error) {
	network := "tcp"
	if c.site == "unix" {
		network = "unix"
	}
	conn, err := net.DialTimeout(network, c.address, strictPatience)
	if err != nil {
		return nil, &stage{"connect", err}
	}
	c.opened.Add(1)
	_ = conn.SetDeadline(time.Now().Add(strictPatience))
	_, _ = io.WriteString(conn, c.greeting)
	if strings.HasPrefix(c.site, "tls") {
		secured := tls.Client(conn, clientTLS("http/1.1"))
		if err := secured.Handshake(); err != nil {
			conn.Close()
			return nil, &stage{"handshake", err}
		}
		conn = secured
	}
	return &strictConn{Conn: conn, answers: bufio.NewReader(conn)}, nil
}

// take takes the connection that is idle for longest, once there are as many as are kept, or a new one.
func (c *strictClient) take() (*strictConn, error) {
	c.mu.Lock()
	if c.kept && c.open >= c.size && len(c.idle) > 0 {
		conn := c.idle[0]
		c.idle = c.idle[1:]
		c.mu.Unlock()
		_ = conn.SetDeadline(time.Now().Add(strictPatience))
		return conn, nil
	}
	c.open++
	c.mu.Unlock()
	conn, err := c.dialStrict()
	if err != nil {
		c.mu.Lock()
		c.open--
		c.mu.Unlock()
	}
	return conn, err
}

// put keeps a connection for the next request, or closes it.
func (c *strictClient) put(conn *strictConn, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept && err == nil && !conn.ended && len(c.idle) < c.size {
		c.idle = append(c.idle, conn)
		return
	}
	c.open--
	conn.Close()
}

// pause is what passes between the parts of the request of that number: up to 300 ms, differently for each.
func pause(i int) time.Duration { return time.Duration(i*37%300) * time.Millisecond }

const pieceSize = 1000

// sendHTTP1 returns how many requests it sent, of which the last has failed if there is an error.
func (c *strictClient) sendHTTP1(i int) (n int, err error) {
	conn, err := c.take()
	if err != nil {
		return 1, err
	}
	defer func() { c.put(conn, err) }()
	since := c.configs.now()
	const get = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
	post := fmt.Sprintf("POST /length HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n", 3*pieceSize)
	piece := strings.Repeat("x", pieceSize)
	// What fails in writing shows in reading.
	write := func(text string) { _, _ = io.WriteString(conn, text) }
	rest := func() { takes(context.Background(), pause(i)) }
	want := ""
	switch c.shape {
	case asWhole:
		write(get)
	case asPipelined:
		write(get + get + get)
		for n = 1; n < 3; n++ {
			if err := c.answer(conn, since, http.MethodGet, ""); err != nil {
				return n, err
			}
		}
	case asHalves:
		write(get[:len(get)/2])
		rest()
		write(get[len(get)/2:])
	case asPieces:
		want = strconv.Itoa(3 * pieceSize)
		write(post + "\r\n" + piece)
		rest()
		write(piece)
		rest()
		write(piece)
	case asExpects:
		want = strconv.Itoa(3 * pieceSize)
		write(post + "Expect: 100-continue\r\n\r\n")
		if err := conn.goOn(); err != nil {
			return 1, err
		}
		rest()
		write(piece + piece + piece)
	case asDrips:
		want = strings.Repeat(piece, 3)
		write(fmt.Sprintf("GET /drips?%d HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", pause(i).Milliseconds()))
	}
	return max(n, 1), c.answer(conn, since, http.MethodPost, want)
}

// goOn waits for 100 Continue.
func (conn *strictConn) goOn() error {
	if _, err := conn.answers.Peek(1); err != nil {
		return &stage{"no answer", err}
	}
	res, err := http.ReadResponse(conn.answers, nil)
	if err != nil {
		return &stage{"cut answer", err}
	}
	res.Body.Close()
	if res.StatusCode != http.StatusContinue {
		conn.ended = true
		return fmt.Errorf("%w %d instead of 100", errStatus, res.StatusCode)
	}
	return nil
}

// answer reads an answer. since is which config served when the request began, and want its body if that is known.
func (c *strictClient) answer(conn *strictConn, since int64, method, want string) error {
	if conn.ended {
		return &stage{"no answer", errors.New("closed after an earlier one")}
	}
	if _, err := conn.answers.Peek(1); err != nil {
		return &stage{"no answer", err}
	}
	res, err := http.ReadResponse(conn.answers, &http.Request{Method: method})
	for err == nil && res.StatusCode == http.StatusContinue {
		res, err = http.ReadResponse(conn.answers, &http.Request{Method: method})
	}
	if err != nil {
		return &stage{"cut answer", err}
	}
	if conn.ended = res.Close; conn.ended {
		c.told.Add(1)
	}
	return c.judge(res, since, want)
}

// judge reads the body of an answer and says what is wrong with it.
func (c *strictClient) judge(res *http.Response, since int64, want string) error {
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return &stage{"cut answer", err}
	case res.StatusCode != http.StatusOK:
		return fmt.Errorf("%w %d", errStatus, res.StatusCode)
	case want != "" && string(body) != want:
		return fmt.Errorf("wrong body of %d bytes", len(body))
	case res.Header.Get("X-Client") != c.seen:
		return fmt.Errorf("seen as %q", res.Header.Get("X-Client"))
	case c.configs == nil:
		return nil
	}
	got, err := strconv.ParseInt(res.Header.Get("X-Config"), 10, 64)
	switch newest := c.configs.begun.Load(); {
	case err != nil:
		return fmt.Errorf("no config named")
	case got < since:
		return &stage{"answer", errors.New("of an old config")}
	case got > newest:
		return &stage{"answer", errors.New("of a config that never served")}
	}
	return nil
}

// now is the oldest config that may answer a request that begins now.
func (e *epoch) now() int64 {
	if e == nil {
		return 0
	}
	return e.committed.Load()
}

// sendHTTP2 sends a request over HTTP/2. A connection that turns out to be ending before anything of the request was sent is replaced.
func (c *strictClient) sendHTTP2() error {
	err := c.tryHTTP2()
	for n := 0; err != nil && strings.Contains(err.Error(), "client conn not usable") && n < 3; n++ {
		err = c.tryHTTP2()
	}
	return err
}

func (c *strictClient) tryHTTP2() error {
	conn, err := c.takeHTTP2()
	if err != nil {
		return err
	}
	if !c.kept {
		defer conn.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), strictPatience)
	defer cancel()
	since := c.configs.now()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://127.0.0.1/", nil)
	if err != nil {
		return err
	}
	res, err := conn.RoundTrip(r)
	if err != nil {
		return &stage{"no answer", err}
	}
	if res.ProtoMajor != 2 {
		res.Body.Close()
		return fmt.Errorf("answered in %s", res.Proto)
	}
	return c.judge(res, since, "")
}

// takeHTTP2 returns a connection on which a stream has been reserved. Of those that are kept each has its turn; one whose server has
// said that it ends is left to end.
func (c *strictClient) takeHTTP2() (*http.ClientConn, error) {
	c.mu.Lock()
	for c.kept && len(c.streams) >= c.size {
		c.turn = (c.turn + 1) % len(c.streams)
		conn := c.streams[c.turn]
		if conn.Reserve() == nil {
			c.mu.Unlock()
			return conn, nil
		}
		c.streams = append(c.streams[:c.turn], c.streams[c.turn+1:]...)
	}
	c.mu.Unlock()
	transport := &http.Transport{TLSClientConfig: clientTLS("h2"), Protocols: new(http.Protocols)}
	transport.Protocols.SetHTTP2(true)
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			_, _ = io.WriteString(conn, c.greeting)
		}
		return conn, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), strictPatience)
	defer cancel()
	conn, err := transport.NewClientConn(ctx, "https", c.address)
	if err != nil {
		return nil, &stage{"connect", err}
	}
	c.opened.Add(1)
	if err := conn.Reserve(); err != nil {
		return nil, &stage{"connect", err}
	}
	if c.kept {
		c.mu.Lock()
		c.streams = append(c.streams, conn)
		c.mu.Unlock()
	}
	return conn, nil
}
