package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// clients is the number of concurrent clients.
const clients = 32

// scenario is a kind of load.
type scenario struct {
	name     string
	requests []request // sent in turn
	h2       bool
}

// request is a request that clients make.
type request struct {
	method, url string
	body        []byte
	chunked     bool // the body has no Content-Length
	size        int  // of the answer's body
}

// scenarios returns the scenarios to profile. All take the same time, so that none dominates.
func scenarios(s *sites) []scenario {
	get := func(base, path string, size int) request {
		return request{method: http.MethodGet, url: base + path, size: size}
	}
	post := func(base string, size int, chunked bool) request {
		return request{method: http.MethodPost, url: base + "/post", body: bytes.Repeat([]byte("x"), size), chunked: chunked, size: 2}
	}
	plain, all, secure, inner, express := "http://"+s.plain, "http://"+s.all, "https://"+s.tls, "http://"+s.inner, "http://"+s.express
	mixed := func(base string) []request {
		return []request{
			get(base, "/1k", 1<<10), get(base, "/1k", 1<<10), get(base, "/100k", 100<<10), get(base, "/chunked", 64<<10),
			post(base, 4<<10, false), post(base, 64<<10, true),
		}
	}
	return []scenario{
		{name: "get1k", requests: []request{get(plain, "/1k", 1<<10)}},
		{name: "get100k", requests: []request{get(plain, "/100k", 100<<10)}},
		{name: "chunked", requests: []request{get(plain, "/chunked", 64<<10)}},
		{name: "post4k", requests: []request{post(plain, 4<<10, false)}},
		{name: "post64k", requests: []request{post(plain, 64<<10, false), post(plain, 64<<10, true)}},
		{name: "everything", requests: mixed(all)},
		{name: "express-get", requests: []request{get(express, "/1k", 1<<10), get(express, "/100k", 100<<10)}},
		{name: "express-mixed", requests: mixed(express)},
		{name: "https-h1", requests: mixed(secure)},
		{name: "https-h2", requests: mixed(secure), h2: true},
		{name: "https-backend", requests: mixed(inner)},
	}
}

// profile puts the load of the scenario on Caddy, and writes the CPU profile of that time to file.
func (s scenario) profile(ctx context.Context, admin, file string, seconds int) (requests int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second+time.Minute)
	defer cancel()
	var (
		all    sync.WaitGroup
		count  atomic.Int64
		ended  atomic.Bool // the profile has ended
		failed = make(chan error, clients)
	)
	for range clients {
		all.Go(func() {
			client := newClient(s.h2)
			defer client.CloseIdleConnections()
			for i := 0; !ended.Load(); i++ {
				if err := ask(ctx, client, s.requests[i%len(s.requests)]); err != nil {
					failed <- err
					cancel()
					return
				}
				count.Add(1)
			}
		})
	}
	err = download(ctx, "http://"+admin+"/debug/pprof/profile?seconds="+strconv.Itoa(seconds), file)
	ended.Store(true)
	all.Wait()
	close(failed)
	// The first failure has ended the other clients and the profile.
	if first, ok := <-failed; ok {
		return 0, first
	}
	return count.Load(), err
}

// newClient returns a client with connections of its own.
func newClient(h2 bool) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!h2)
	protocols.SetHTTP2(h2)
	return &http.Client{Transport: &http.Transport{
		Protocols:          protocols,
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true},
		DisableCompression: true,
	}}
}

// ask sends a request, and returns an error unless the answer is as expected.
func ask(ctx context.Context, client *http.Client, want request) error {
	var body io.Reader = http.NoBody
	if len(want.body) > 0 {
		body = bytes.NewReader(want.body)
	}
	if want.chunked {
		body = io.MultiReader(body) // hides its length
	}
	r, err := http.NewRequestWithContext(ctx, want.method, want.url, body)
	if err != nil {
		return err
	}
	// The fields that a browser sends with every request.
	r.Header.Set("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
	r.Header.Set("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
	r.Header.Set("Accept-Language", "en-US,en;q=0.5")
	r.Header.Set("Cookie", "session=3b1f0a6e6a0d4c1f8f4e5a7b")
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || n != int64(want.size) {
		return fmt.Errorf("%s %s: %s with %d bytes, want 200 with %d", want.method, want.url, resp.Status, n, want.size)
	}
	return nil
}

// backends are backend servers in this process.
type backends struct {
	servers    []*httptest.Server
	plain, tls []string // upstreams in the syntax of load_balancer
}

func startBackends() backends {
	var b backends
	for range 3 {
		plain, secure := httptest.NewServer(http.HandlerFunc(answer)), httptest.NewTLSServer(http.HandlerFunc(answer))
		b.servers = append(b.servers, plain, secure)
		b.plain = append(b.plain, strings.TrimPrefix(plain.URL, "http://"))
		b.tls = append(b.tls, secure.URL)
	}
	return b
}

func (b backends) stop() {
	for _, s := range b.servers {
		s.Close()
	}
}

var page = bytes.Repeat([]byte("x"), 100<<10)

// answer answers a request as a backend would.
func answer(w http.ResponseWriter, r *http.Request) {
	// The fields that a file server sends with every answer.
	h := w.Header()
	h.Set("Server", "nginx")
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Last-Modified", "Sat, 28 Nov 2026 12:00:00 GMT")
	h.Set("ETag", `"6748c0e0-400"`)
	h.Set("Accept-Ranges", "bytes")
	send := func(body []byte) {
		h.Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body)
	}
	switch r.URL.Path {
	case "/1k":
		send(page[:1<<10])
	case "/100k":
		send(page)
	case "/chunked":
		for range 16 {
			_, _ = w.Write(page[:4<<10])
		}
	case "/post":
		_, _ = io.Copy(io.Discard, r.Body)
		send([]byte("ok"))
	default:
		http.NotFound(w, r)
	}
}
