package listener

import (
	"errors"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// startSilent returns the connections that speak.
func startSilent(t *testing.T) (*silent, chan net.Conn) {
	t.Helper()
	spoke := make(chan net.Conn, 10)
	s, err := newSilent(func(c net.Conn) { spoke <- c })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.close() })
	return s, spoke
}

func receive(t *testing.T, spoke chan net.Conn) net.Conn {
	t.Helper()
	select {
	case c := <-spoke:
		return c
	case <-time.After(patience):
		t.Fatal("nothing was passed on")
		return nil
	}
}

// closed expects that the other end of c is closed.
func closed(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || isTimeout(err) {
		t.Errorf("read %d bytes, %v, want the end", n, err)
	}
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

func TestSilent(t *testing.T) {
	s, spoke := startSilent(t)
	clients, accepted := pairs(t, 3)
	for _, c := range accepted {
		s.add(c, 0)
	}
	if got := s.len(); got != 3 {
		t.Errorf("%d silent connections, want 3", got)
	}
	_, _ = io.WriteString(clients[1], "GET")
	c := receive(t, spoke)
	if c != accepted[1] {
		t.Errorf("%v was passed on, want %v", c.RemoteAddr(), accepted[1].RemoteAddr())
	}
	got := make([]byte, 3)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "GET" {
		t.Errorf("read %q, %v from the connection", got, err)
	}
	c.Close()
	// One whose client goes is passed on as well: it can be read that it has gone.
	clients[0].Close()
	if c := receive(t, spoke); c != accepted[0] {
		t.Errorf("%v was passed on, want %v", c.RemoteAddr(), accepted[0].RemoteAddr())
	}
	accepted[0].Close()
	s.close()
	closed(t, clients[2])
	if len(spoke) != 0 {
		t.Error("a connection was passed on when the rest were closed")
	}
}

// TestSpeaksAtOnce: a client that has sent something, or has gone, before its connection is looked at.
func TestSpeaksAtOnce(t *testing.T) {
	s, spoke := startSilent(t)
	clients, accepted := pairs(t, 2)
	_, _ = io.WriteString(clients[0], "x")
	clients[1].Close()
	for _, c := range accepted {
		waitReadable(t, c)
		s.add(c, 0)
	}
	if c := receive(t, spoke); c != accepted[0] {
		t.Errorf("%v was passed on, want %v", c.RemoteAddr(), accepted[0].RemoteAddr())
	}
	if err := accepted[1].SetDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v, want the connection whose client has gone to be closed", err)
	}
	if got := s.len(); got != 0 {
		t.Errorf("%d silent connections, want none", got)
	}
	accepted[0].Close()
}

// waitReadable waits until something, or the end, has arrived at c.
func waitReadable(t *testing.T, c net.Conn) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		events := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(events, int(patience.Milliseconds())); n != 1 {
			t.Errorf("nothing arrives: %v", err)
		}
	}); err != nil {
		t.Fatal(err)
	}
}

// TestSilentTimeout: a connection that says nothing is closed after its timeout, others are not.
func TestSilentTimeout(t *testing.T) {
	s, _ := startSilent(t)
	clients, accepted := pairs(t, 2)
	s.add(accepted[0], time.Minute)
	s.add(accepted[1], 10*time.Millisecond)
	start := time.Now()
	closed(t, clients[1])
	if took := time.Since(start); took < 10*time.Millisecond || took > 10*time.Millisecond+3*sweepInterval {
		t.Errorf("closed after %v", took)
	}
	if got := s.len(); got != 1 {
		t.Errorf("%d silent connections, want 1", got)
	}
	s.sweep(time.Now().Add(50 * time.Second))
	if got := s.len(); got != 1 {
		t.Error("closed before its timeout")
	}
	s.sweep(time.Now().Add(61 * time.Second))
	if got := s.len(); got != 0 {
		t.Error("open after its timeout")
	}
	closed(t, clients[0])
}

// TestSilentAfterClose: a connection that is accepted while the door closes is closed.
func TestSilentAfterClose(t *testing.T) {
	s, spoke := startSilent(t)
	clients, accepted := pairs(t, 1)
	s.close()
	s.add(accepted[0], 0)
	closed(t, clients[0])
	if len(spoke) != 0 {
		t.Error("it was passed on")
	}
}

// TestSilentCost: a silent connection costs no goroutine, and at most 1 KiB of the heap.
func TestSilentCost(t *testing.T) {
	const n = 500
	_, accepted := pairs(t, n)
	s, _ := startSilent(t)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.GC() // what has finalizers goes with the second
	runtime.ReadMemStats(&before)
	goroutines := runtime.NumGoroutine()
	for _, c := range accepted {
		s.add(c, time.Minute)
	}
	runtime.GC()
	runtime.GC() // what has finalizers goes with the second
	runtime.ReadMemStats(&after)
	if got := runtime.NumGoroutine(); got > goroutines {
		t.Errorf("%d goroutines, %d before", got, goroutines)
	}
	if got := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / n; got > 256 {
		t.Errorf("%d bytes of the heap for each connection beside the connection itself", got)
	} else {
		t.Logf("%d bytes of the heap for each connection beside the connection itself", got)
	}
	if got := s.len(); got != n {
		t.Errorf("%d silent connections, want %d", got, n)
	}
}
