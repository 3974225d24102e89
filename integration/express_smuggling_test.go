package integration

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// desync is what one parser might take for one request and another for two.
type desync struct {
	name, text string
	blind      bool // the request is given up within its body, which is a matter of time for its backend
	early      bool // it is answered within its body, and what becomes of the connection is a matter of time
}

// lastRequest follows each form. Where a byte of it is taken for the end of what is before, it is a request still.
const lastRequest = "GET /x000000/end HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n"

// prefixes are what is sent before a form, in one piece with it.
var prefixes = []string{
	"GET /x000000/before HTTP/1.1\r\nHost: site.test\r\n\r\n",
	"POST /x000000/before HTTP/1.1\r\nHost: site.test\r\nContent-Length: 4\r\n\r\nbody",
	"PUT /x000000/before HTTP/1.1\r\nHost: site.test\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
}

// cuts are where the text of a form is cut, behind a prefix. For the express lane, where nothing is before it and it is not large, that is
// at the ends of all lines and at every 32nd byte (in a soak, at every one); else where the form begins and where it ends.
func (c desync) cuts(n, i int, before string) []int {
	from, to := len(before), len(before)+len(c.text)
	all := []int{0} // whole
	switch {
	case sides[i].name != "express":
		return append(all, (from+to)/2)
	case before != "":
		return append(all, from-2, from, from+1, to-1, to)
	case len(c.text) > 2000:
		return append(all, 1, (from+to)/2, to-1, to)
	}
	for cut := 1; cut < to+2; cut++ {
		if b := (c.text + lastRequest)[cut]; b == '\n' || b == '\r' || (cut+n)%32 == 0 || *soak {
			all = append(all, cut)
		}
	}
	return all
}

// desyncOutcome is what became of an exchange.
type desyncOutcome struct {
	requests []string // that the backend got
	answers  string   // that the client got
}

// worse says what is wrong with an outcome, compared with those of load_balancer without the lane, and of reverse_proxy.
func (c desync) worse(got, handler, stock desyncOutcome) string {
	show := func(o desyncOutcome) string {
		return strings.Join(o.requests, "\n----\n") + "\n---- answers: " + o.answers
	}
	if c.blind || c.early { // reverse_proxy goes on with the connection behind some of them
		for _, request := range got.requests {
			if !slices.Contains(stock.requests, request) && (c.blind || strings.Contains(request, "/smuggled")) {
				return "the backend got what reverse_proxy does not send:\n" + request
			}
		}
		if c.early || slices.Equal(got.requests, handler.requests) && got.answers == handler.answers {
			return ""
		}
		return "without the express lane it is (-):\n" + lineDiff(show(handler), show(got))
	}
	if slices.Equal(got.requests, stock.requests) && got.answers == stock.answers {
		return ""
	}
	return "with reverse_proxy it is (-):\n" + lineDiff(show(stock), show(got))
}

// TestExpressSmuggling: whatever is sent over a connection, and wherever it is cut, the express lane sends no other requests to backends
// than Caddy would.
func TestExpressSmuggling(t *testing.T) {
	var backends [len(sides)]*recorder
	for i := range sides {
		backends[i] = startRecorder(t)
	}
	o := startOnSides(t, "", func(i int, on side) string {
		settings := ""
		if i != right {
			settings = untried
		}
		return on.directive + " " + backends[i].address + " {\n" + settings + "\n}"
	})
	var sent atomic.Int64
	ask := func(i int, text string, cut int) (desyncOutcome, error) {
		m := marked{site: o.sites[i], id: fmt.Sprintf("x%06d", sent.Add(1)), text: text, cut: cut}
		answers, err := m.send()
		return desyncOutcome{backends[i].requests(m.id), answers}, err
	}
	try := func(n int, c desync, before string) error {
		text := before + c.text + lastRequest
		stock, err := ask(right, text, 0)
		if err != nil {
			return fmt.Errorf("%v: %w", sides[right], err)
		}
		var handler desyncOutcome
		for i, on := range sides[:right] {
			for _, cut := range c.cuts(n, i, before) {
				got, err := ask(i, text, cut)
				if err != nil {
					return fmt.Errorf("%v, cut at %d: %w", on, cut, err)
				}
				if i == 0 && cut == 0 {
					handler = got
				}
				if worse := c.worse(got, handler, stock); worse != "" {
					return fmt.Errorf("%v, cut at %d: %s", on, cut, worse)
				}
			}
		}
		return nil
	}
	cases := desyncs()
	var wait sync.WaitGroup
	room := make(chan struct{}, 8)
	for n, c := range cases {
		room <- struct{}{}
		wait.Go(func() {
			defer func() { <-room }()
			for _, before := range []string{"", prefixes[n%len(prefixes)]} {
				if err := try(n, c, before); err != nil {
					t.Errorf("%s, behind %q: %v", c.name, before, err)
				}
			}
		})
	}
	wait.Wait()
	served, left := o.laneServed()
	t.Logf("%d forms, %d exchanges; the express lane served %d requests, and left to Caddy %v", len(cases), sent.Load(), served, left)
	if served < 5000 {
		t.Error("that is too little to show anything")
	}
	o.caddy.stop()
	for i, on := range sides[:right] {
		b := backends[i]
		b.mu.Lock()
		for text := range b.strange {
			if !backends[right].strange[text] {
				t.Errorf("%v has sent, and reverse_proxy has not: %q", on, text)
			}
		}
		for _, all := range b.begun {
			for _, text := range all {
				if !strings.Contains(text, "/blind ") && !strings.Contains(text, "/early") {
					t.Errorf("%v has given up %q", on, text)
				}
			}
		}
		b.mu.Unlock()
	}
}
