//go:build trust

package integration

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	grpccodes "google.golang.org/grpc/codes"
)

var (
	// errLeft is the error of a request that its client has given up as planned.
	errLeft = errors.New("the client left")
	// errUnderway is the error of a request whose kept connection was closed under it: the client's transport sends it again in silence.
	errUnderway = errors.New("the connection was closed when the request was sent")
)

const limitedKind = "GET, limited"

// soakKind is a kind of requests. weight is how many of a hundred are of it.
type soakKind struct {
	name, pool string
	weight     int
	repeatable bool
	ask        func(s *soaking, a *soakAsked)
}

var soakKinds = []soakKind{
	{"GET", "web", 14, true, func(s *soaking, a *soakAsked) { s.get(a, "plain", "/web/small") }},
	{"GET, new connection", "web", 4, true, func(s *soaking, a *soakAsked) { s.get(a, "plain", "/web/new", "Connection", "close") }},
	{"GET, no express lane", "web", 8, true, func(s *soaking, a *soakAsked) { s.get(a, "off", "/web/small") }},
	{"GET, TLS h2", "web", 8, true, func(s *soaking, a *soakAsked) { s.get(a, "tls", "/web/small") }},
	{"GET, edited pool", "live", 10, true, func(s *soaking, a *soakAsked) { s.get(a, []string{"plain", "off", "tls"}[rand.IntN(3)], "/live/small") }},
	{"POST, edited pool", "live", 4, false, func(s *soaking, a *soakAsked) {
		s.send(a, http.MethodPost, "plain", "/live/small", strings.NewReader("body"))
	}},
	{"GET, only backend", "only", 5, true, func(s *soaking, a *soakAsked) { s.get(a, "plain", "/only/small") }},
	{"GET, session", "cart", 8, true, (*soaking).session},
	{"GET, 1 MB", "web", 3, true, func(s *soaking, a *soakAsked) {
		s.get(a, []string{"plain", "off", "tls"}[rand.IntN(3)], "/web/large?size=1000000")
	}},
	{"POST", "web", 6, false, func(s *soaking, a *soakAsked) { s.post(a, "plain", 1000, true) }},
	{"POST, no express lane", "web", 3, false, func(s *soaking, a *soakAsked) { s.post(a, "off", 1000, true) }},
	{"POST, TLS h2", "web", 3, false, func(s *soaking, a *soakAsked) { s.post(a, "tls", 100_000, true) }},
	{"POST, chunked", "web", 4, false, func(s *soaking, a *soakAsked) {
		s.post(a, []string{"plain", "off", "tls"}[rand.IntN(3)], 20_000, false)
	}},
	{"PUT", "web", 2, true, func(s *soaking, a *soakAsked) {
		s.send(a, http.MethodPut, "plain", "/web/put", strings.NewReader("body"))
	}},
	{limitedKind, "web", 8, true, (*soaking).limited},
	{"client leaves", "web", 4, true, (*soaking).leaves},
	{"broken upload", "web", 2, false, (*soaking).breaksUpload},
	{"WebSocket", "web", 2, false, (*soaking).webSocket},
	{"gRPC", "calls", 4, false, (*soaking).grpc},
}

// soakClients are the clients of a soak.
type soakClients struct {
	transports map[string][]*http.Transport // by site; each has an address of its own
	ltd        *http.Transport
	sessions   []*soakSession
	grpcs      []*grpc.ClientConn
	numbers    atomic.Int64
	text       []byte
}

// soakSession is a browser with a session.
type soakSession struct {
	mu      sync.Mutex
	jar     http.CookieJar
	backend string    // that answered last
	at      time.Time // when
}

// limitedClient is the address of the client that is limited.
const limitedClient = "127.0.0.99"

func soakTransport(from string) *http.Transport {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	return &http.Transport{
		DialContext: dialer.DialContext, MaxIdleConnsPerHost: 100, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}
}

func (c *soakClients) start(s *soaking) {
	c.transports = make(map[string][]*http.Transport)
	for _, site := range []string{"plain", "off", "tls"} {
		for i := range 6 {
			c.transports[site] = append(c.transports[site], soakTransport(fmt.Sprint("127.0.0.", 10+i)))
		}
	}
	c.ltd = soakTransport(limitedClient)
	for range 20 {
		jar, err := cookiejar.New(nil)
		if err != nil {
			s.t.Fatal(err)
		}
		c.sessions = append(c.sessions, &soakSession{jar: jar})
	}
	for _, site := range []string{"plain", "off"} {
		to := *s.caddy
		to.site = s.sites[site]
		c.grpcs = append(c.grpcs, to.grpcClient())
	}
	c.text = bytes.Repeat([]byte("0123456789abcdef"), 100_000/16)
}

// rest closes the connections that are kept.
func (c *soakClients) rest() {
	for _, all := range c.transports {
		for _, t := range all {
			t.CloseIdleConnections()
		}
	}
	c.ltd.CloseIdleConnections()
}

// load sends requests at the rate of the soak, until the returned function is called, which waits for all to end.
func (s *soaking) load() (end func()) {
	stop := make(chan struct{})
	var all sync.WaitGroup
	slots := make(chan struct{}, 2000)
	all.Go(func() {
		for start, i := time.Now(), 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Until(start.Add(time.Duration(i) * time.Second / time.Duration(soakRate)))):
			}
			select {
			case slots <- struct{}{}:
			default:
				s.mu.Lock()
				s.heldBack++
				s.mu.Unlock()
				continue
			}
			all.Go(func() {
				defer func() { <-slots }()
				k := soakKindOf(rand.IntN(100))
				a := &soakAsked{kind: k.name, pool: k.pool, repeatable: k.repeatable, from: time.Now()}
				k.ask(s, a)
				a.to = time.Now()
				s.judge(a)
			})
		}
	})
	return func() {
		close(stop)
		all.Wait()
		s.faults.forget(time.Now().Add(-2 * time.Minute))
	}
}

// soakKindOf is the kind of a request that has drawn n of a hundred; what is left has the first.
func soakKindOf(n int) *soakKind {
	for i := range soakKinds {
		if n -= soakKinds[i].weight; n < 0 {
			return &soakKinds[i]
		}
	}
	return &soakKinds[0]
}

func (s *soaking) get(a *soakAsked, site, path string, header ...string) {
	s.send(a, http.MethodGet, site, path, nil, header...)
}

// number adds the number of a request to its path.
func (s *soaking) number(path string) string {
	sign := "?"
	if strings.Contains(path, "?") {
		sign = "&"
	}
	return fmt.Sprint(path, sign, "n=", s.clients.numbers.Add(1))
}

// send sends a request, and notes what comes of it. It returns the answer's body.
func (s *soaking) send(a *soakAsked, method, site, path string, body io.Reader, header ...string) []byte {
	all := s.clients.transports[site]
	return s.sendBy(a, &http.Client{Transport: all[rand.IntN(len(all))]}, method, site, path, body, header...)
}

func (s *soaking) sendBy(a *soakAsked, by *http.Client, method, site, path string, body io.Reader, header ...string) []byte {
	a.path = s.number(path)
	scheme := "http://"
	if site == "tls" {
		scheme = "https://"
	}
	connections := 0
	ctx, cancel := context.WithTimeout(httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connections++ }}), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, scheme+s.sites[site]+a.path, body)
	if err != nil {
		a.err = err
		return nil
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	r.Close = r.Header.Get("Connection") == "close"
	res, err := by.Do(r)
	if err != nil {
		a.err = fmt.Errorf("%w: %w", errUnanswered, err)
		return nil
	}
	defer res.Body.Close()
	a.status = res.StatusCode
	got, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		a.err = fmt.Errorf("%w: %w", errBroken, err)
	case connections != 1:
		a.err = errUnderway
	case a.status == http.StatusOK:
		a.check(res, method, path, got)
	}
	return got
}

// check checks an answer.
func (a *soakAsked) check(res *http.Response, method, path string, got []byte) {
	path, query, _ := strings.Cut(path, "?")
	size, _ := url.ParseQuery(query)
	want := fmt.Sprintf("%s %s %s\n", res.Header.Get("X-Backend"), method, path)
	switch {
	case path == "/echo":
	case size.Has("size"):
		if fmt.Sprint(len(got)) != size.Get("size") {
			a.err = fmt.Errorf("%w: %d bytes", errWrongAnswer, len(got))
		}
	case string(got) != want:
		a.err = fmt.Errorf("%w: %q, want %q", errWrongAnswer, got, want)
	}
}

// post sends so many bytes to be echoed. Over HTTP/1 the backend waits for all of them. If its answer began earlier, Caddy's server might
// read the end of the request itself, and the answer would break off, as it does with reverse_proxy.
func (s *soaking) post(a *soakAsked, site string, n int, sized bool) {
	path := "/echo"
	if site != "tls" {
		path += "?whole=1"
	}
	text := s.clients.text[:n]
	var body io.Reader = bytes.NewReader(text)
	if !sized {
		body = struct{ io.Reader }{body}
	}
	if got := s.send(a, http.MethodPost, site, path, body); a.err == nil && a.status == http.StatusOK && !bytes.Equal(got, text) {
		a.err = fmt.Errorf("%w: %d bytes of %d come back", errWrongAnswer, len(got), n)
	}
}

// limited is a request of a client that asks for more than it may.
func (s *soaking) limited(a *soakAsked) {
	s.sendBy(a, &http.Client{Transport: s.clients.ltd}, http.MethodGet, []string{"plain", "off"}[rand.IntN(2)], "/limited/small", nil)
}

// session is a request of a browser, which stays at its backend.
func (s *soaking) session(a *soakAsked) {
	b := s.clients.sessions[rand.IntN(len(s.clients.sessions))]
	b.mu.Lock()
	defer b.mu.Unlock()
	a.from = time.Now()
	all := s.clients.transports["plain"]
	got := s.sendBy(a, &http.Client{Transport: all[rand.IntN(len(all))], Jar: b.jar}, http.MethodGet, "plain", "/cart/small", nil)
	if a.err != nil || a.status != http.StatusOK {
		return
	}
	backend, _, _ := strings.Cut(string(got), " ")
	const until = 20 * time.Second // its breaker may be open for as long after a fault
	if b.backend != "" && backend != b.backend && len(s.faults.during("cart", b.at.Add(-until), time.Now())) == 0 {
		a.err = fmt.Errorf("%w: from %s, in a session at %s", errWrongAnswer, backend, b.backend)
	}
	b.backend, b.at = backend, time.Now()
}

// leaves gives a request up.
func (s *soaking) leaves(a *soakAsked) {
	site := []string{"plain", "off", "tls"}[rand.IntN(3)]
	scheme := "http://"
	if site == "tls" {
		scheme = "https://"
	}
	ctx, cancel := context.WithTimeout(context.Background(), rand.N(200*time.Millisecond))
	defer cancel()
	a.err = errLeft
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+s.sites[site]+s.number("/web/slow?size=100000&slow=10x30ms"), nil)
	if err != nil {
		a.err = err
		return
	}
	all := s.clients.transports[site]
	res, err := all[rand.IntN(len(all))].RoundTrip(r)
	if err != nil {
		return
	}
	_, _ = discard(res.Body)
	res.Body.Close()
}

// breaksUpload leaves in the middle of a body.
func (s *soaking) breaksUpload(a *soakAsked) {
	a.err = errLeft
	conn, err := net.Dial("tcp", s.sites[[]string{"plain", "off"}[rand.IntN(2)]])
	if err != nil {
		a.err = err
		return
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: soak\r\nContent-Length: 10000\r\n\r\nbeginning", s.number("/echo"))
	takes(context.Background(), rand.N(200*time.Millisecond))
}

// webSocket opens a WebSocket, talks over it for a second, and closes it.
func (s *soaking) webSocket(a *soakAsked) {
	a.path = s.number("/ws")
	site := s.sites[[]string{"plain", "off"}[rand.IntN(2)]]
	conn, err := net.Dial("tcp", site)
	if err != nil {
		a.err = err
		return
	}
	defer conn.Close()
	w, err := upgradeSocket(conn, site, a.path)
	if errors.Is(err, errStatus) {
		_, err := fmt.Sscanf(err.Error(), errStatus.Error()+" %d", &a.status)
		a.err = err
		return
	}
	if err != nil {
		a.err = fmt.Errorf("%w: %w", errUnanswered, err)
		return
	}
	for i := range 5 {
		if err := w.echo(fmt.Sprint("text ", i)); err != nil {
			a.err = fmt.Errorf("%w: %w", errBroken, err)
			return
		}
		takes(context.Background(), 200*time.Millisecond)
	}
	a.status = http.StatusOK
}

// grpc makes a gRPC call.
func (s *soaking) grpc(a *soakAsked) {
	a.path = "/test.Echo/Call"
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	switch code := call(ctx, s.clients.grpcs[rand.IntN(len(s.clients.grpcs))]); code {
	case grpccodes.OK:
		a.status = http.StatusOK
	case grpccodes.Unavailable:
		a.status = http.StatusServiceUnavailable
	default:
		a.err = fmt.Errorf("gRPC status %v", code)
	}
}
