package integration

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/fcgi"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// The ends of an exchange that speak HTTP/2 or FastCGI: what they record is what a library has read.

// showFields are the fields of a header in order.
func showFields(header http.Header) string {
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(header)) {
		for _, value := range header[name] {
			fmt.Fprintf(&text, "%s: %s\n", name, value)
		}
	}
	return text.String()
}

// ask makes the exchange as a client that speaks HTTP/2.
func (r *run) ask() string {
	request, err := http.ReadRequest(bufio.NewReader(strings.NewReader(r.text(cmp.Or(r.x.request, get("/"))))))
	if err != nil {
		return "[request] " + err.Error()
	}
	request.RequestURI = ""
	request.URL.Scheme, request.URL.Host = "http", r.address
	if r.x.echoes {
		request.Body, request.ContentLength = io.NopCloser(r.echoing()), -1
	}
	transport := &http.Transport{
		Protocols:          new(http.Protocols),
		DisableCompression: true,
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true, ServerName: r.host},
	}
	defer transport.CloseIdleConnections()
	if r.site.tls {
		request.URL.Scheme = "https"
		transport.Protocols.SetHTTP2(true)
	} else {
		transport.Protocols.SetUnencryptedHTTP2(true)
	}
	var log strings.Builder
	ctx, cancel := context.WithTimeout(context.Background(), differentialPatience)
	defer cancel()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			fmt.Fprintf(&log, "%d\n%s", code, showFields(http.Header(header)))
			return nil
		},
	})
	res, err := transport.RoundTrip(request.WithContext(ctx))
	if err != nil {
		return log.String() + "[no answer] " + strings.ReplaceAll(err.Error(), r.address, "SERVER")
	}
	defer res.Body.Close()
	fmt.Fprintf(&log, "%s %d, length %d\n%s", res.Proto, res.StatusCode, res.ContentLength, showFields(res.Header))
	body, err := readSome(res.Body, r.downloaded.add)
	fmt.Fprintf(&log, "[body] %s\n", showBody(body))
	if err != nil {
		fmt.Fprintf(&log, "[in the body] %v\n", err)
	}
	if len(res.Trailer) > 0 {
		fmt.Fprintf(&log, "[trailers]\n%s", showFields(res.Trailer))
	}
	return log.String()
}

// httpFar is a backend that is a server of HTTP/2, or of FastCGI.
type httpFar struct {
	kind farKind
	l    net.Listener

	mu   sync.Mutex
	run  *run
	seen strings.Builder
	busy int        // requests that are being answered
	idle *sync.Cond // busy has become 0; uses mu
}

func startHTTPFar(t *testing.T, kind farKind) *httpFar {
	t.Helper()
	l, err := net.Listen("tcp", freeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	f := &httpFar{kind: kind, l: l}
	f.idle = sync.NewCond(&f.mu)
	if kind == overFCGI {
		go func() { _ = fcgi.Serve(l, f) }()
		t.Cleanup(func() { l.Close() })
		return f
	}
	server := &http.Server{Handler: f, Protocols: new(http.Protocols), ReadTimeout: time.Minute}
	server.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
	return f
}

func (f *httpFar) address() string { return f.l.Addr().String() }

func (f *httpFar) begin(r *run) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.run = r
	f.seen.Reset()
}

func (f *httpFar) finish() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.busy > 0 { // bound: an answer has a deadline
		f.idle.Wait()
	}
	f.run = nil
	return f.seen.String()
}

func (f *httpFar) turn(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.busy += n; f.busy == 0 {
		f.idle.Broadcast()
	}
}

// ServeHTTP implements [http.Handler].
func (f *httpFar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.turn(1)
	defer f.turn(-1)
	f.mu.Lock()
	x := exchange{}
	if f.run != nil {
		x = f.run.x
	}
	f.mu.Unlock()
	back := io.Discard
	if x.echoes {
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(http.StatusOK)
		back = flushed{w}
		_ = http.NewResponseController(w).Flush()
	}
	var body bytes.Buffer
	_, err := io.Copy(io.MultiWriter(&body, back), struct{ io.Reader }{r.Body}) // read only: net/http/fcgi shares one empty body
	f.mu.Lock()
	fmt.Fprintf(&f.seen, "%s %s %s, host %s, length %d\n%s[body] %s, %v\n", r.Method, r.RequestURI, r.Proto, r.Host, r.ContentLength, showFields(r.Header), showBody(body.Bytes()), err)
	if len(r.Trailer) > 0 {
		fmt.Fprintf(&f.seen, "[trailers]\n%s", showFields(r.Trailer))
	}
	if f.kind == overFCGI {
		variables := fcgi.ProcessEnv(r)
		for _, name := range slices.Sorted(maps.Keys(variables)) {
			if name != "REMOTE_PORT" && name != "SERVER_PORT" {
				fmt.Fprintf(&f.seen, "%s=%s\n", name, variables[name])
			}
		}
	}
	f.mu.Unlock()
	if x.echoes {
		return
	}
	answer := x.answer
	if answer == "" {
		answer = ok200
	}
	res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(answer)), r)
	if err != nil {
		panic(err)
	}
	maps.Copy(w.Header(), res.Header)
	if res.ContentLength >= 0 {
		w.Header().Set("Content-Length", fmt.Sprint(res.ContentLength))
	}
	for name := range res.Trailer {
		w.Header().Add("Trailer", name)
	}
	w.WriteHeader(res.StatusCode)
	_, _ = io.Copy(w, res.Body)
	maps.Copy(w.Header(), res.Trailer)
}

// flushed sends what is written at once.
type flushed struct{ w http.ResponseWriter }

// Write implements [io.Writer].
func (f flushed) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err == nil {
		err = http.NewResponseController(f.w).Flush()
	}
	return n, err
}
