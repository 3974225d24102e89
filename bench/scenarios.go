package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// scenario is a kind of request with its connections.
type scenario struct {
	name, title string
	path        string
	answer      int  // bytes of the answer's body
	post        int  // bytes of the request's body; 0 for GET
	closing     bool // the client asks to close the connection after each request
	connections int  // 0 for the value of -connections
	ends
	kinds func(started *processes, dir string, o options) ([]kind, error) // may start further processes
	pairs []pair                                                          // the pairs that are judged
}

// pair is two contenders, of which one is judged against the other.
type pair struct {
	judged, reference string
	bar               float64 // largest CPU time per request of the judged one, relative to the reference; 0 for no bound
	cpuOnly           bool    // p99 and memory are not judged
}

// ourBar judges load_balancer against reverse_proxy.
func ourBar(cpu float64) []pair { return []pair{{judged: ours, reference: theirs, bar: cpu}} }

// plain are the basic scenarios.
var plain = []scenario{
	{name: "get1k", title: "GET, answer of 1 KiB", path: "/1k", answer: 1 << 10, kinds: withDefault, pairs: ourBar(0.40)},
	{name: "get100k", title: "GET, answer of 100 KiB", path: "/100k", answer: 100 << 10, kinds: withDefault, pairs: ourBar(0.55)},
	{name: "post4k", title: "POST of 4 KiB, small answer", path: "/post", answer: 2, post: 4 << 10, kinds: withDefault, pairs: ourBar(0.40)},
}

// scenarios are all scenarios. By default, load_balancer must not cost more than reverse_proxy.
var scenarios = slices.Concat(plain, []scenario{
	{name: "https", title: "GET over HTTPS with HTTP/1.1, answer of 1 KiB", path: "/1k", answer: 1 << 10,
		ends: ends{tls: true}, kinds: usualKinds, pairs: ourBar(0.55)},
	{name: "h2", title: "GET over HTTPS with HTTP/2, answer of 1 KiB", path: "/1k", answer: 1 << 10,
		ends: ends{tls: true, h2: true}, kinds: usualKinds, pairs: ourBar(0.55)},
	{name: "connect", title: "GET, answer of 1 KiB, a new connection for each", path: "/1k", answer: 1 << 10, closing: true,
		kinds: usualKinds, pairs: ourBar(1)},
	{name: "chunked", title: "GET, answer of 16 KiB in four chunks", path: "/chunked", answer: 16 << 10, kinds: usualKinds, pairs: ourBar(1)},
	{name: "post64k", title: "POST of 64 KiB, small answer", path: "/post", answer: 2, post: 64 << 10, kinds: usualKinds, pairs: ourBar(1)},
	{name: "conns1000", title: "GET, answer of 1 KiB, 1,000 connections", path: "/1k", answer: 1 << 10, connections: 1000,
		kinds: usualKinds, pairs: ourBar(1)},
	{name: "backendtls", title: "GET, answer of 1 KiB, HTTPS to the backends", path: "/1k", answer: 1 << 10,
		ends: ends{backendTLS: true}, kinds: usualKinds, pairs: ourBar(1)},
	{name: "everything", title: "GET, answer of 1 KiB; breaker, retries, health checks, metrics, access log, limiter", path: "/1k", answer: 1 << 10,
		kinds: everythingKinds, pairs: []pair{
			{judged: allOn, reference: allOff, bar: 1.05, cpuOnly: true},
			{judged: ownOn, reference: allOff},
			{judged: theirsAllOn, reference: theirs},
			{judged: allOn, reference: theirsAllOn, bar: 1},
		}},
	{name: "mirror", title: "GET, answer of 1 KiB; copies of requests for a mirror", path: "/1k", answer: 1 << 10,
		kinds: mirrorKinds, pairs: []pair{
			{judged: mirrorNone, reference: ours},
			{judged: mirrorFew, reference: ours},
			{judged: mirrorAll, reference: ours},
		}},
})

// compare measures all contenders, prints the results, and judges them.
func (s scenario) compare(ctx context.Context, dir string, o options) (results, error) {
	contenders, rounds, err := s.measure(ctx, dir, o)
	if err != nil {
		return results{}, err
	}
	verdicts := s.judge(contenders, rounds)
	fmt.Print(report(s, contenders, rounds, verdicts))
	return results{verdicts: verdicts}, nil
}

// measure measures every contender in each round. Every other round is in reverse order, so that changing conditions affect all contenders
// alike.
func (s scenario) measure(ctx context.Context, dir string, o options) ([]contender, [][]sample, error) {
	var started processes
	defer started.stop()
	var err error
	if s.certificate, err = writeCertificate(dir); err != nil {
		return nil, nil, err
	}
	if s.connections == 0 {
		s.connections = o.connections
	}
	contenders, err := startAll(ctx, &started, dir, s, o)
	if err != nil {
		return nil, nil, err
	}
	load, err := s.generator(dir)
	if err != nil {
		return nil, nil, err
	}
	for _, c := range contenders {
		if err := s.checkAnswer(ctx, c.address, s.tls, s.h2); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", c.name, err)
		}
		if _, err := measure(ctx, c, load, time.Second); err != nil {
			return nil, nil, err
		}
	}
	rounds := make([][]sample, o.rounds)
	for r := range rounds {
		rounds[r] = make([]sample, len(contenders))
		for k := range contenders {
			i := turned(k, r, len(contenders))
			if rounds[r][i], err = measure(ctx, contenders[i], load, o.duration); err != nil {
				return nil, nil, err
			}
		}
		fmt.Printf("%s: round %d of %d\n", s.name, r+1, o.rounds)
	}
	return contenders, rounds, nil
}

// turned returns the contender that is measured k-th in round r: every other round is in reverse order.
func turned(k, r, contenders int) int {
	if r%2 == 1 {
		return contenders - 1 - k
	}
	return k
}

// checkAnswer sends one request and returns an error unless the answer is as the scenario expects.
func (s scenario) checkAnswer(ctx context.Context, address string, tls, h2 bool) error {
	client, err := s.client(tls, h2)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	method, url := http.MethodGet, "http://"
	if s.post > 0 {
		method = http.MethodPost
	}
	if tls {
		url = "https://"
	}
	r, err := http.NewRequestWithContext(ctx, method, url+address+s.path, strings.NewReader(strings.Repeat("x", s.post)))
	if err != nil {
		return err
	}
	res, err := client.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return fmt.Errorf("reading answer: %w", err)
	}
	major := 1
	if h2 {
		major = 2
	}
	if res.StatusCode != http.StatusOK || len(body) != s.answer || res.ProtoMajor != major {
		return fmt.Errorf("%s %s: %s %s with %d bytes; want HTTP/%d 200 with %d", method, s.path, res.Proto, res.Status, len(body), major, s.answer)
	}
	if s.path == "/chunked" && !slices.Equal(res.TransferEncoding, []string{"chunked"}) {
		return errors.New("answer is not chunked")
	}
	return nil
}

// client returns a client with the scenario's protocol, which trusts only its certificate.
func (s scenario) client(secure, h2 bool) (*http.Client, error) {
	t := &http.Transport{DisableCompression: true, Protocols: new(http.Protocols)}
	t.Protocols.SetHTTP1(!h2)
	t.Protocols.SetHTTP2(h2)
	if secure {
		pool, err := s.pool()
		if err != nil {
			return nil, err
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	return &http.Client{Transport: t}, nil
}
