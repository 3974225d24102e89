// Package openloop sends requests at a constant rate, independent of the answers. Latency is measured from the time at which a request was
// due, not from when it could be sent: a server that stalls for a second adds a second of latency to all requests that were due then, and
// not to a single one only (coordinated omission, a term of Gil Tene).
package openloop

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Options configure a run. Zero fields have their default.
type Options struct {
	URL    string
	Method string      // default GET
	Header http.Header // of each request

	// Make, if not nil, makes the request with that number, from 0 on, instead of URL, Method and Header.
	Make func(n int) (*http.Request, error)

	Rate     int           // requests per second, 1 to 100000. Default: 500
	Duration time.Duration // default 10 s
	Timeout  time.Duration // of a request. Default: 5 s

	// Connections bounds the requests in flight. A request that is due beyond the bound waits, which adds to its latency. Default: 1000.
	Connections int

	// Stop, when closed, ends the sending early; requests in flight complete. Default: never.
	Stop <-chan struct{}
}

// Summary is the result of a run.
type Summary struct {
	Sent     int
	Statuses map[int]int    // answers by status
	Errors   map[string]int // requests without an answer, by kind
	Backends map[string]int // answers by their header field X-Backend
	Requests []Request      // sorted by latency
}

// Request is a request and its outcome.
type Request struct {
	N       int           // its number, from 0 on
	Due     time.Duration // when it was due, relative to the first
	Latency time.Duration // from then until its end, with or without an answer
	Status  int           // of the answer; 0 if there was none
	Backend string        // the answer's header field X-Backend
}

// Failed returns the number of requests without an answer, or with a status of 500 or more.
func (s *Summary) Failed() int {
	failed := 0
	for status, n := range s.Statuses {
		if status >= 500 {
			failed += n
		}
	}
	for _, n := range s.Errors {
		failed += n
	}
	return failed
}

// Quantile returns the q-quantile of the latencies of all requests.
func (s *Summary) Quantile(q float64) time.Duration {
	if len(s.Requests) == 0 {
		return 0
	}
	return s.Requests[min(int(q*float64(len(s.Requests))), len(s.Requests)-1)].Latency
}

// Only returns the summary of the requests for which keep returns true, without the kinds of errors.
func (s *Summary) Only(keep func(Request) bool) *Summary {
	kept := &Summary{Statuses: make(map[int]int), Backends: make(map[string]int)}
	for _, r := range s.Requests {
		if keep(r) {
			kept.add(r)
		}
	}
	kept.Sent = len(kept.Requests)
	return kept
}

// add counts a request that has ended.
func (s *Summary) add(r Request) {
	s.Requests = append(s.Requests, r)
	if r.Status != 0 {
		s.Statuses[r.Status]++
	}
	if r.Backend != "" {
		s.Backends[r.Backend]++
	}
}

func (o *Options) setDefaults() error {
	if o.Method == "" {
		o.Method = http.MethodGet
	}
	if o.Rate == 0 {
		o.Rate = 500
	}
	if o.Rate < 1 || o.Rate > 100000 {
		return fmt.Errorf("rate %d: must be from 1 to 100000", o.Rate)
	}
	if o.Duration == 0 {
		o.Duration = 10 * time.Second
	}
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	if o.Connections == 0 {
		o.Connections = 1000
	}
	return nil
}

// Run sends Rate x Duration requests and waits for them to end. If ctx ends, it cancels the requests in flight and returns the results so
// far.
func Run(ctx context.Context, o Options) (*Summary, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	if o.Make == nil {
		if _, err := http.NewRequest(o.Method, o.URL, nil); err != nil {
			return nil, err
		}
		o.Make = o.same
	}
	transport := &http.Transport{MaxIdleConnsPerHost: o.Connections, DialContext: (&net.Dialer{}).DialContext}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}

	s := &Summary{Statuses: make(map[int]int), Errors: make(map[string]int), Backends: make(map[string]int)}
	var mu sync.Mutex // guards s
	var wg sync.WaitGroup
	slots := make(chan struct{}, o.Connections)
	start := time.Now()
	total := int(float64(o.Rate) * o.Duration.Seconds())
	for i := range total {
		due := start.Add(time.Duration(i) * time.Second / time.Duration(o.Rate))
		if wait := time.Until(due); wait > 0 {
			select {
			case <-ctx.Done():
			case <-o.Stop:
			case <-time.After(wait):
			}
		}
		select {
		case <-ctx.Done():
		case <-o.Stop:
		case slots <- struct{}{}:
		}
		if ctx.Err() != nil || o.stopped() {
			break
		}
		s.Sent++
		wg.Go(func() {
			defer func() { <-slots }()
			status, backend, err := send(ctx, client, &o, i)
			took := time.Since(due)
			mu.Lock()
			defer mu.Unlock()
			s.add(Request{i, due.Sub(start), took, status, backend})
			if err != nil {
				s.Errors[kind(err)]++
			}
		})
	}
	wg.Wait()
	slices.SortFunc(s.Requests, func(a, b Request) int { return cmp.Compare(a.Latency, b.Latency) })
	return s, nil
}

func (o *Options) stopped() bool {
	select {
	case <-o.Stop:
		return true
	default:
		return false
	}
}

// same makes a request from URL, Method and Header.
func (o *Options) same(int) (*http.Request, error) {
	r, err := http.NewRequest(o.Method, o.URL, nil)
	if err != nil {
		return nil, err
	}
	for field, values := range o.Header {
		r.Header[field] = values
	}
	return r, nil
}

// send sends the request with that number and reads its answer.
func send(ctx context.Context, client *http.Client, o *Options, n int) (status int, backend string, err error) {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	r, err := o.Make(n)
	if err != nil {
		return 0, "", err
	}
	res, err := client.Do(r.WithContext(ctx))
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return 0, "", fmt.Errorf("body: %w", err)
	}
	return res.StatusCode, res.Header.Get("X-Backend"), nil
}

// kind names an error, without the parts that differ from request to request.
func kind(err error) string {
	var dial *net.OpError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.As(err, &dial) && dial.Op == "dial":
		return "connect"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &dial):
		return "connection broken"
	default:
		return "other"
	}
}
