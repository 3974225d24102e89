package lane

import (
	"crypto/tls"
	"testing"
	"time"
)

// parked returns the number of connections that wait without a goroutine.
func (s *served) parked() (n int) {
	h := s.watcher
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.watched {
		if c.watched.parked {
			n++
		}
	}
	return n
}

// awaitParked waits until so many connections do.
func (s *served) awaitParked(want int) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); s.parked() != want; {
		if time.Now().After(deadline) {
			s.t.Fatalf("%d connections are parked, want %d", s.parked(), want)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestParked: a connection that has been idle for a while is served as before, or ends as others do.
func TestParked(t *testing.T) {
	s := start(t, "", Options{Idle: time.Minute, ReadHeader: time.Minute}, paths)
	stays, leaves, posts := s.dial(), s.dial(), s.dial()
	for _, c := range []*client{stays, leaves} {
		c.send(get("/a"))
		c.expect("/a")
	}
	posts.send(post("/b", 2) + "xx")
	posts.expect("/b")
	s.awaitParked(3)
	stays.send(get("/c")[:9])
	s.awaitParked(2)
	stays.send(get("/c")[9:])
	stays.expect("/c")
	posts.send("\r\n" + get("/d")) // empty lines behind a POST are dropped, however long it takes
	posts.expect("/d")
	leaves.Close()
	<-s.ended
	s.awaitParked(2)
	stays.send(get("/e") + get("/f"))
	stays.expect("/e")
	stays.expect("/f")
	s.awaitParked(2)
	over := make(chan error, 1)
	go func() { over <- s.Shutdown(t.Context()) }()
	stays.expectEnd()
	posts.expectEnd()
	if err := <-over; err != nil {
		t.Error(err)
	}
	for range 2 {
		<-s.ended
	}
	s.awaitParked(0)
}

// TestParkedFor: a parked connection is closed when its idle timeout is over.
func TestParkedFor(t *testing.T) {
	const timeout = parkAfter + 500*time.Millisecond
	s := start(t, "", Options{Idle: timeout, ReadHeader: time.Minute}, paths)
	c := s.dial()
	c.send(get("/a"))
	c.expect("/a")
	begun := time.Now()
	s.awaitParked(1)
	c.expectEnd()
	if took := time.Since(begun); took < timeout-100*time.Millisecond || took > timeout+3*sweepEvery {
		t.Errorf("it took %v", took)
	}
	<-s.ended
}

// TestParkedTLS: what TLS has read of the next request is not lost.
func TestParkedTLS(t *testing.T) {
	s := start(t, "", Options{Idle: time.Minute, ReadHeader: time.Minute}, paths)
	s.tls.Store(&tls.Config{Certificates: []tls.Certificate{certificate(t)}})
	plain := s.dial()
	c := tls.Client(plain, &tls.Config{InsecureSkipVerify: true})
	for _, path := range []string{"/a", "/b"} {
		if _, err := c.Write([]byte(get(path))); err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, 1024)
		if n, err := c.Read(buffer); err != nil || n == 0 {
			t.Fatal(n, err)
		}
		s.awaitParked(1)
	}
	c.Close()
	<-s.ended
}

// TestFree: a lane that is given up keeps no descriptor.
func TestFree(t *testing.T) {
	s := start(t, "", Options{Idle: time.Minute, ReadHeader: time.Minute}, paths)
	c := s.dial()
	c.send(get("/a"))
	c.expect("/a")
	s.awaitParked(1) // for which there is an epoll
	c.Close()
	<-s.ended
	if err := s.watcher.raw.Control(func(uintptr) {}); err != nil {
		t.Errorf("the epoll is not there: %v", err)
	}
	s.Free()
	if err := s.watcher.raw.Control(func(uintptr) {}); err == nil {
		t.Error("the epoll is open still")
	}
}
