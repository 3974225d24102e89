package httputil

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"time"
)

// flushInterval finds out by an answer of which one byte has come whether it is passed on at once, which is -1. If it is not, the
// interval is taken to be the one that is set.
func (p *ReverseProxy) flushInterval(res *http.Response) time.Duration {
	over := make(chan struct{})
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for name, values := range res.Header {
			w.Header()[name] = values
		}
		if res.ContentLength >= 0 {
			w.Header().Set("Content-Length", "2")
		}
		fmt.Fprint(w, "a")
		_ = http.NewResponseController(w).Flush()
		<-over
		fmt.Fprint(w, "b")
	}))
	defer backend.Close()
	target, _ := url.Parse(backend.URL)
	proxy := NewSingleHostReverseProxy(target)
	if p.FlushInterval > 0 {
		proxy.FlushInterval = time.Hour
	}
	front := newServer(proxy)
	defer front.Close()
	came := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		res, err := front.Client().Get(front.URL)
		check(err)
		defer res.Body.Close()
		_, err = res.Body.Read(make([]byte, 1))
		check(err)
		close(came)
	}()
	defer func() { <-ended }()
	defer close(over)
	select {
	case <-came:
		return -1
	case <-time.After(time.Second):
		return p.FlushInterval
	}
}
