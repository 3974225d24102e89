package socket

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// pair returns both ends of a connection.
func pair(t *testing.T) (*Conn, *net.TCPConn, *net.TCPConn) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Fatal("there is no Conn on this platform: the tests need Linux")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	near, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		near.Close()
		far.Close()
	})
	return New(near), near.(*net.TCPConn), far.(*net.TCPConn)
}

// arrived waits until there is something to read, or the end.
func arrived(t *testing.T, c *net.TCPConn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Read(func(fd uintptr) bool { return !quiet(fd) }); err != nil {
		t.Fatal(err)
	}
}

// patience is how long the tests wait for what is certain to come.
const patience = 10 * time.Second

func TestReadAndWrite(t *testing.T) {
	c, near, far := pair(t)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // more than fits into the sockets
	got := make(chan []byte)
	go func() {
		all, _ := io.ReadAll(far)
		got <- all
	}()
	if n, err := c.Write(sent); n != len(sent) || err != nil {
		t.Fatal(n, err)
	}
	_ = near.CloseWrite()
	if !bytes.Equal(<-got, sent) {
		t.Error("the other end got something else")
	}
	go func() {
		_, _ = far.Write(sent)
		far.Close()
	}()
	if all, err := io.ReadAll(c); err != nil || !bytes.Equal(all, sent) {
		t.Errorf("read %d bytes, %v", len(all), err)
	}
	if n, err := c.Read(nil); n != 0 || err != nil {
		t.Error("a read of nothing:", n, err)
	}
}

func TestErrors(t *testing.T) {
	c, near, far := pair(t)
	_ = near.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("late:", err)
	}
	if _, _, err := c.Ask([]byte("x"), make([]byte, 1), true); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("late:", err)
	}
	_ = near.SetReadDeadline(time.Time{})
	_ = far.SetLinger(0)
	far.Close()
	_, err := c.Read(make([]byte, 1))
	operation, ok := errors.AsType[*net.OpError](err)
	if !ok || !errors.Is(err, syscall.ECONNRESET) || operation.Op != "read" || operation.Addr.String() != near.RemoteAddr().String() {
		t.Errorf("reset: %v", err)
	}
	if _, err = c.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("writing after a reset: %v", err)
	}
	near.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// Whatever Ask is told by the connection, it sends nothing where something has arrived, and loses no wake-up.
func TestAsk(t *testing.T) {
	c, near, far := pair(t)
	in := make([]byte, 64)
	answers := func(text string) {
		question := make([]byte, 64)
		n, err := far.Read(question)
		if err != nil || string(question[:n]) != "question" {
			t.Errorf("the other end got %q, %v", question[:n], err)
		}
		_, _ = io.WriteString(far, text)
	}
	for range 1000 {
		done := make(chan struct{})
		go func() {
			answers("answer")
			close(done)
		}()
		said, n, err := c.Ask([]byte("question"), in, true)
		if said != len("question") || string(in[:n]) != "answer" || err != nil {
			t.Fatal(said, string(in[:n]), err)
		}
		<-done
	}
	raw, err := near.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	told := false
	if err := raw.Read(func(uintptr) bool {
		if told {
			return true // the poller has told that it has arrived, and will not do so again
		}
		told = true
		_, _ = io.WriteString(far, "unasked")
		return false
	}); err != nil {
		t.Fatal(err)
	}
	if said, _, err := c.Ask([]byte("question"), in, true); said != 0 || !errors.Is(err, ErrUnquiet) {
		t.Error("what was unasked is not noticed:", said, err)
	}
	said, n, err := c.Ask([]byte("question"), in, false)
	if said != len("question") || string(in[:n]) != "unasked" || err != nil {
		t.Error(said, string(in[:n]), err)
	}
}

func TestAskAtTheEnd(t *testing.T) {
	c, near, far := pair(t)
	go func() {
		_, _ = far.Read(make([]byte, 64))
		_ = far.CloseWrite()
	}()
	if said, n, err := c.Ask([]byte("question"), make([]byte, 1), true); said != len("question") || n != 0 || !errors.Is(err, io.EOF) {
		t.Error("no answer:", said, n, err)
	}
	arrived(t, near)
	if said, _, err := c.Ask([]byte("question"), make([]byte, 1), true); said != 0 || !errors.Is(err, ErrUnquiet) {
		t.Error("behind the end:", said, err)
	}
}

// A question for which there is no room in the socket is left to the caller.
func TestAskTooMuch(t *testing.T) {
	c, near, _ := pair(t)
	_ = near.SetWriteBuffer(4 << 10)
	said, n, err := c.Ask(make([]byte, 64<<20), make([]byte, 1), true)
	if said <= 0 || said >= 64<<20 || n != 0 || err != nil {
		t.Error(said, n, err)
	}
}

func TestOthers(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	if New(near) != nil {
		t.Error("a pipe is no TCP connection")
	}
}
