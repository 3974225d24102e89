package dashboard

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// viewer is a browser with a stream.
type viewer struct {
	header http.Header
	leave  context.CancelFunc

	mu     sync.Mutex // guards the fields below
	text   bytes.Buffer
	status int
	ended  bool
	stuck  chan struct{} // if not nil, Write waits until it is closed, or fails at the deadline
	until  time.Time
}

func (v *viewer) Header() http.Header { return v.header }

func (v *viewer) WriteHeader(status int) { v.status = status }

func (v *viewer) FlushError() error { return nil }

func (v *viewer) SetWriteDeadline(until time.Time) error {
	v.until = until
	return nil
}

func (v *viewer) Write(p []byte) (int, error) {
	if v.stuck != nil {
		select {
		case <-v.stuck:
		case <-time.After(time.Until(v.until)):
			return 0, errors.New("deadline")
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.text.Write(p)
}

// got returns what the viewer has received so far.
func (v *viewer) got() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.text.String()
}

func (v *viewer) done() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.ended
}

// watch opens a stream.
func watch(t *testing.T, d *Dashboard, header ...string) *viewer {
	t.Helper()
	return watchWith(t, d, &viewer{header: make(http.Header)}, header...)
}

func watchWith(t *testing.T, d *Dashboard, v *viewer, header ...string) *viewer {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	v.leave = cancel
	r := httptest.NewRequestWithContext(ctx, "GET", "/stream", nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	go func() {
		d.Serve(v, r, Visit{File: "stream", Path: "/stream", User: "ann"})
		v.mu.Lock()
		defer v.mu.Unlock()
		v.ended = true
	}()
	return v
}

func TestStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource()
		s.happen("one", "two")
		d := New(s)
		defer d.Close()
		v := watch(t, d)
		synctest.Wait()
		got := v.got()
		for _, want := range []string{"event: hello\ndata: {", `"actions":false`, `"user":"ann"`, "event: state\ndata: {\"pools\":[]}\n\n", "id: " + boot + "-1\nevent: event\n", `"name":"two"`} {
			if !strings.Contains(got, want) {
				t.Errorf("the stream begins with\n%s\nwant %q in it", got, want)
			}
		}
		s.happen("three")
		time.Sleep(period)
		synctest.Wait()
		news := strings.TrimPrefix(v.got(), got)
		if strings.Count(news, "event: state\n") != 1 || !strings.Contains(news, `"name":"three"`) || strings.Contains(news, `"name":"two"`) {
			t.Errorf("news after a period:\n%s", news)
		}
		back := watch(t, d, "Last-Event-ID", boot+"-2")
		synctest.Wait()
		if got := back.got(); strings.Contains(got, `"name":"two"`) || !strings.Contains(got, `"name":"three"`) || !strings.Contains(got, "event: state\n") {
			t.Errorf("a viewer that reconnects after event 2 gets\n%s", got)
		}
		stranger := watch(t, d, "Last-Event-ID", "other-7")
		synctest.Wait()
		if got := stranger.got(); !strings.Contains(got, `"name":"one"`) {
			t.Errorf("a viewer that reconnects from another process gets\n%s", got)
		}
		s.fail("away")
		time.Sleep(period)
		synctest.Wait()
		if got := v.got(); !strings.HasSuffix(got, "event: trouble\ndata: {\"error\":\"away\"}\n\n") {
			t.Errorf("when the source fails, the stream is\n%s", got)
		}
	})
}

// TestOneSnapshotForAll checks that all viewers share one snapshot per period, and that none is made without viewers.
func TestOneSnapshotForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource()
		d := New(s)
		defer d.Close()
		time.Sleep(10 * period)
		if s.count() != 0 {
			t.Errorf("%d snapshots without viewers", s.count())
		}
		viewers := make([]*viewer, 20)
		for i := range viewers {
			viewers[i] = watch(t, d)
		}
		time.Sleep(9*period + period/2)
		synctest.Wait()
		if s.count() != 10 {
			t.Errorf("%d snapshots for 20 viewers in 9.5 periods, want 10", s.count())
		}
		for _, v := range viewers {
			if got := strings.Count(v.got(), "event: state\n"); got < 9 {
				t.Errorf("a viewer got %d states, want 9 or 10", got)
			}
			v.leave()
		}
		time.Sleep(2 * period)
		before := s.count()
		time.Sleep(10 * period)
		if s.count() != before || before > 12 {
			t.Errorf("%d, then %d snapshots after all viewers have left", before, s.count())
		}
		again := watch(t, d)
		synctest.Wait()
		if s.count() != before+1 || !strings.Contains(again.got(), "event: state\n") {
			t.Errorf("a later viewer did not get a state at once")
		}
	})
}

// TestSlowReader checks that a viewer that does not read is dropped, and that the others miss nothing.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource()
		d := New(s)
		defer d.Close()
		slow := watchWith(t, d, &viewer{header: make(http.Header), stuck: make(chan struct{})})
		quick := watch(t, d)
		synctest.Wait()
		time.Sleep(8*period + period/2)
		synctest.Wait()
		if got := strings.Count(quick.got(), "event: state\n"); got < 8 {
			t.Errorf("beside a slow reader a viewer got %d states in 8 periods", got)
		}
		if slow.done() {
			t.Error("the slow reader was dropped within 8 s")
		}
		time.Sleep(writeTimeout)
		synctest.Wait()
		if !slow.done() || quick.done() {
			t.Errorf("the slow reader was dropped: %v; the other: %v", slow.done(), quick.done())
		}
	})
}

// TestSlowReaderMissesStates checks that a viewer that reads late gets the latest state, not those it missed, and all events.
func TestSlowReaderMissesStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource()
		d := New(s)
		defer d.Close()
		slow := watchWith(t, d, &viewer{header: make(http.Header), stuck: make(chan struct{})})
		time.Sleep(period / 2) // between two frames
		for range 5 {
			s.happen("something")
			time.Sleep(period)
		}
		close(slow.stuck)
		synctest.Wait()
		if got := slow.got(); strings.Count(got, "event: state\n") != 1 || strings.Count(got, "event: event\n") != 5 {
			t.Errorf("after 5 s a slow reader gets\n%s", got)
		}
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource()
		d := New(s)
		viewers := []*viewer{watch(t, d), watch(t, d)}
		synctest.Wait()
		d.Close()
		d.Close()
		synctest.Wait()
		for _, v := range viewers {
			if !v.done() {
				t.Error("a stream goes on after Close")
			}
		}
		late := watch(t, d)
		synctest.Wait()
		if !late.done() || late.status != http.StatusServiceUnavailable {
			t.Errorf("a stream after Close: status %d", late.status)
		}
	})
}

func TestCrowd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(newSource())
		defer d.Close()
		first := watch(t, d)
		for range mostViewers - 1 {
			watch(t, d)
		}
		synctest.Wait()
		refused := watch(t, d)
		synctest.Wait()
		if refused.status != http.StatusServiceUnavailable || refused.header.Get("Retry-After") == "" {
			t.Errorf("one too many: status %d, header %v", refused.status, refused.header)
		}
		first.leave()
		synctest.Wait()
		taken := watch(t, d)
		synctest.Wait()
		if taken.status != 0 || taken.done() {
			t.Errorf("in the place of a viewer that left: status %d", taken.status)
		}
	})
}

// TestBoundedEvents makes more events than are kept for new viewers.
func TestBoundedEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource()
		d := New(s)
		defer d.Close()
		first := watch(t, d)
		for range 100 {
			s.happen("a", "b", "c", "d", "e", "f", "g", "h", "i", "j")
			time.Sleep(period)
		}
		synctest.Wait()
		if got := strings.Count(first.got(), "event: event\n"); got != 1000 {
			t.Errorf("the first viewer got %d events, want 1000", got)
		}
		late := watch(t, d)
		synctest.Wait()
		if got := strings.Count(late.got(), "event: event\n"); got != mostEvents {
			t.Errorf("a new viewer got %d events, want %d", got, mostEvents)
		}
	})
}

// TestCountBeginsAnew checks that no event is skipped when the source numbers its events from 1 again.
func TestCountBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource()
		s.happen("new")
		d := New(s)
		defer d.Close()
		v := watch(t, d, "Last-Event-ID", boot+"-900")
		synctest.Wait()
		if !strings.Contains(v.got(), `"name":"new"`) {
			t.Errorf("got\n%s", v.got())
		}
	})
}

// TestPacked checks that the compressed parts, each made once for all viewers, join to a stream that a browser can read.
func TestPacked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource()
		s.state = `{"pools":[` + strings.Repeat(`{"name":"web"},`, 500) + `{}]}`
		d := New(s)
		defer d.Close()
		plain := watch(t, d)
		packed := watch(t, d, "Accept-Encoding", "br, gzip;q=0.5")
		other := watch(t, d, "Accept-Encoding", "deflate, gzip;q=0")
		for range 3 {
			s.happen("again")
			time.Sleep(period)
		}
		synctest.Wait()
		if packed.header.Get("Content-Encoding") != "gzip" || other.header.Get("Content-Encoding") != "" {
			t.Errorf("encodings %q and %q", packed.header.Get("Content-Encoding"), other.header.Get("Content-Encoding"))
		}
		unpacker, err := gzip.NewReader(strings.NewReader(packed.got()))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(unpacker)
		if !errors.Is(err, io.ErrUnexpectedEOF) { // the stream has no trailer
			t.Errorf("unpacking: %v", err)
		}
		if string(got) != plain.got() || string(got) != other.got() {
			t.Errorf("unpacked, the stream has %d bytes; plain ones have %d and %d", len(got), len(plain.got()), len(other.got()))
		}
		if len(packed.got()) > len(got)/10 {
			t.Errorf("%d bytes of %d", len(packed.got()), len(got))
		}
	})
}
