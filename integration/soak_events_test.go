//go:build trust

package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// soakEvent is something that happens in a soak. begin returns how long it goes on, and what ends it; both nil and 0 for what is over
// at once. weight is how often it happens, in comparison.
type soakEvent struct {
	name   string
	weight int
	begin  func(s *soaking) (lasts time.Duration, end func())
}

var soakEvents = []soakEvent{
	{"backend killed", 4, func(s *soaking) (time.Duration, func()) { return s.ends(syscall.SIGKILL, s.one(soakProcesses-1)...) }},
	{"backend restarted", 4, func(s *soaking) (time.Duration, func()) { return s.ends(syscall.SIGTERM, s.one(soakProcesses-1)...) }},
	{"all of a pool killed", 1, func(s *soaking) (time.Duration, func()) {
		return s.ends(syscall.SIGKILL, soakPools[[]string{"web", "cart", "only"}[s.rnd.IntN(3)]]...)
	}},
	{"backend stopped", 3, func(s *soaking) (time.Duration, func()) {
		return s.harms(delays, s.one(soakProcesses-1), func(b *soakBackend) { _ = b.cmd.Process.Signal(syscall.SIGSTOP) }, func(b *soakBackend) { _ = b.cmd.Process.Signal(syscall.SIGCONT) })
	}},
	{"backend answers 503", 3, func(s *soaking) (time.Duration, func()) { return s.told(refuses, `{"status": 503, "health": 503}`) }},
	{"backend answers a third with 503", 2, func(s *soaking) (time.Duration, func()) { return s.told(refuses, `{"fail_ratio": 0.33}`) }},
	{"backend breaks connections", 3, func(s *soaking) (time.Duration, func()) { return s.told(breaks, `{"abort": "header"}`) }},
	{"backend answers halves", 3, func(s *soaking) (time.Duration, func()) { return s.told(breaks, `{"abort": "body"}`) }},
	{"backend is slow", 2, func(s *soaking) (time.Duration, func()) { return s.told(delays, `{"delay": "300ms"}`) }},
	{"gRPC server unavailable", 2, func(s *soaking) (time.Duration, func()) {
		return s.harms(refuses, []int{soakPools["calls"][s.rnd.IntN(2)]}, func(b *soakBackend) { b.unavailable(true) }, func(b *soakBackend) { b.unavailable(false) })
	}},
	{"reload", 5, (*soaking).reloads},
	{"edit", 6, (*soaking).edits},
	{"backend added and removed", 2, (*soaking).adds},
	{"flood of slow heads", 1, (*soaking).floodHeads},
	{"flood of new addresses", 1, (*soaking).floodAddresses},
	{"dashboards and streams", 2, (*soaking).watchers},
}

// timeline lets things happen until that time, and ends when all of them are over.
func (s *soaking) timeline(until time.Time) {
	s.t.Helper()
	var deck []*soakEvent
	for i := range soakEvents {
		deck = append(deck, slices.Repeat([]*soakEvent{&soakEvents[i]}, soakEvents[i].weight)...)
	}
	var going sync.WaitGroup
	defer going.Wait()
	last := until.Add(-6 * time.Second) // what begins then is over in time
	for time.Now().Before(last) {
		e := deck[s.rnd.IntN(len(deck))]
		if lasts, end := e.begin(s); end != nil {
			going.Go(func() {
				time.Sleep(lasts)
				end()
			})
		}
		s.mu.Lock()
		s.events[e.name]++
		s.mu.Unlock()
		s.sample(false)
		time.Sleep(time.Duration(300+s.rnd.IntN(1700)) * time.Millisecond)
	}
}

// one is the place of one of the first n backends.
func (s *soaking) one(n int) []int { return []int{s.rnd.IntN(n)} }

// free keeps those backends with which nothing is wrong, and takes them: what ends the event gives them back.
func (s *soaking) free(places []int) (all []*soakBackend) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range places {
		if b := s.backends[n]; !b.busy {
			b.busy = true
			all = append(all, b)
		}
	}
	return all
}

func (s *soaking) giveBack(b *soakBackend) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b.busy = false
}

// harms does something to the backends at these places, and undoes it some time later.
func (s *soaking) harms(h harm, places []int, do, undo func(b *soakBackend)) (time.Duration, func()) {
	var ends []func()
	for _, b := range s.free(places) {
		over := s.faults.begin(trouble{backend: b.n, harm: h})
		do(b)
		ends = append(ends, func() {
			undo(b)
			over()
			s.giveBack(b)
		})
	}
	return time.Duration(300+s.rnd.IntN(2700)) * time.Millisecond, func() {
		for _, end := range ends {
			end()
		}
	}
}

func (s *soaking) ends(signal syscall.Signal, places ...int) (time.Duration, func()) {
	return s.harms(cuts, places, func(b *soakBackend) { b.kill(signal) }, (*soakBackend).restart)
}

func (s *soaking) told(h harm, settings string) (time.Duration, func()) {
	return s.harms(h, s.one(soakProcesses-1), func(b *soakBackend) { b.tell(settings) }, func(b *soakBackend) {
		b.tell(`{"status": 200, "health": 200, "fail_ratio": 0, "abort": "", "delay": "0s"}`)
	})
}

func (s *soaking) reloads() (time.Duration, func()) {
	s.asking.Lock()
	defer s.asking.Unlock()
	if err := s.reload(s.config(s.rnd.IntN(len(soakVariants)))); err != nil {
		s.t.Error(err)
	}
	return 0, nil
}

// change asks the API for something about a backend of the pool live.
func (s *soaking) change(method, backend, body string) int {
	path := "/load_balancer/pools/live/backends"
	if backend != "" {
		path += "/" + backend
	}
	s.asking.Lock()
	defer s.asking.Unlock()
	status, _ := s.askAdminWith(method, path, "application/json", body)
	return status
}

func (s *soaking) edits() (time.Duration, func()) {
	b := s.backends[soakPools["live"][s.rnd.IntN(3)]]
	name := url.PathEscape(b.address)
	edit, undo, h := `{"weight": 3}`, `{"weight": null}`, delays
	switch s.rnd.IntN(4) {
	case 0:
		edit, undo, h = `{"state": "drain"}`, `{"state": null}`, away
	case 1:
		edit, undo, h = `{"state": "maintenance", "reason": "soak"}`, `{"state": null}`, away
	case 2:
		if status := s.change(http.MethodPost, name+"/reset", ""); status >= 300 {
			s.t.Errorf("status %d of a reset", status)
		}
		return 0, nil
	}
	over := s.faults.begin(trouble{backend: b.n, pool: "live", harm: h})
	if status := s.change(http.MethodPatch, name, edit); status != http.StatusOK {
		s.t.Errorf("status %d for %s", status, edit)
	}
	return time.Duration(300+s.rnd.IntN(2700)) * time.Millisecond, func() {
		if status := s.change(http.MethodPatch, name, undo); status != http.StatusOK {
			s.t.Errorf("status %d for %s", status, undo)
		}
		over()
	}
}

// adds adds a backend to the pool live and takes it away later.
func (s *soaking) adds() (time.Duration, func()) {
	guest := s.free([]int{soakGuest})
	if len(guest) == 0 {
		return 0, nil
	}
	b := guest[0]
	if status := s.change(http.MethodPost, "", fmt.Sprintf(`{"address": %q, "weight": 2}`, b.address)); status != http.StatusCreated {
		s.t.Errorf("status %d for a new backend", status)
	}
	return time.Duration(500+s.rnd.IntN(2500)) * time.Millisecond, func() {
		defer s.giveBack(b)
		name := url.PathEscape(b.address)
		if status := s.change(http.MethodDelete, name, ""); status >= 300 {
			s.t.Errorf("status %d of a removal", status)
		}
		for end := time.Now().Add(patience); s.change(http.MethodGet, name, "") != http.StatusNotFound; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				s.t.Error("the backend is not gone")
				return
			}
		}
	}
}

// floodHeads has clients send their heads a byte at a time, and give up.
func (s *soaking) floodHeads() (time.Duration, func()) {
	var conns []net.Conn
	for i := range 300 {
		conn, err := net.Dial("tcp", s.sites[[]string{"plain", "off", "tls"}[i%3]])
		if err != nil {
			s.t.Error(err)
			break
		}
		conns = append(conns, conn)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		text := "GET /web/slow HTTP/1.1\r\nHost: soak\r\nX-Slow: " + strings.Repeat("x", 1000)
		for i := range len(text) {
			for n, conn := range conns {
				if n%3 != 2 {
					_, _ = io.WriteString(conn, text[i:i+1])
				}
			}
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	return 3 * time.Second, func() {
		close(stop)
		<-stopped
		for _, conn := range conns {
			conn.Close()
		}
	}
}

// floodAddresses has requests come from more addresses than a limit may remember.
func (s *soaking) floodAddresses() (time.Duration, func()) {
	done := make(chan error, 1)
	go func() {
		c := *s.caddy
		c.site = s.sites["flood"]
		done <- new(flood).run(&c, 8000, 2*time.Second)
	}()
	return 2 * time.Second, func() {
		if err := <-done; err != nil {
			s.t.Errorf("flood: %v", err)
		}
	}
}

// watchers opens dashboards and streams of events, and leaves them. Reloads end those of the admin endpoint.
func (s *soaking) watchers() (time.Duration, func()) {
	// There are 16 streams of events at most. Half of them may be those of the watchers before, which are about to end.
	if !s.watching.TryLock() {
		return 0, nil
	}
	var open []*http.Response
	for i := range 16 {
		url := "http://" + s.admin + "/load_balancer/events"
		if i%2 == 0 {
			url = "http://" + s.sites["off"] + "/board/stream"
		}
		r, err := http.NewRequest(http.MethodGet, url, nil)
		if err != nil {
			s.t.Error(err)
			break
		}
		r.Close = true
		res, err := (&http.Client{Timeout: patience}).Do(r)
		if err != nil {
			continue // the admin endpoint is being replaced
		}
		open = append(open, res)
		if res.StatusCode != http.StatusOK {
			s.t.Errorf("%s: status %d", url, res.StatusCode)
			continue
		}
		if i%2 == 0 {
			if _, err := bufio.NewReader(res.Body).ReadString('\n'); err != nil {
				s.t.Errorf("%s: %v", url, err)
			}
		}
	}
	return time.Second, func() {
		for _, res := range open {
			res.Body.Close()
		}
		s.watching.Unlock()
	}
}
