package engine

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// defaultAtOnce is for how long the end of a small body is waited for. One that is there is read in less; what has not come by then may
// never come.
const defaultAtOnce = time.Millisecond

// errUploadClosed is the error of reading from a request's body that was closed.
var errUploadClosed = errors.New("body of the request is closed")

// upload is the body of a request, read by a goroutine that the upload has for that: nobody can tell beforehand whether reading will have
// to wait. It reads up to the length that was announced, and a byte more: that it does not come is how a body ends.
//
// An upload whose end comes at once is used for another body then, with its goroutine. One that is passed on as it comes is not.
type upload struct {
	begin chan struct{} // has an element when there is a body to read; closed when there will be none
	over  chan struct{} // has an element when the body has been read, unless it is passed on
	timer *time.Timer
	begun atomic.Bool // its goroutine has had its turn

	mu     sync.Mutex // guards what follows while the body is read
	more   sync.Cond  // something was read, or the upload was closed
	from   io.ReadCloser
	room   int // how many bytes are read at most
	read   []byte
	err    error
	ended  bool // there is no more to read
	handed bool // to somebody who reads it as it comes
	passed int  // how much Read has returned
	closed bool
}

func newUpload() *upload {
	u := &upload{begin: make(chan struct{}, 1), over: make(chan struct{}, 1), timer: time.NewTimer(time.Hour)}
	u.timer.Stop()
	u.more.L = &u.mu
	go u.serve()
	return u
}

// start has a body of that length be read.
func (u *upload) start(from io.ReadCloser, length int) {
	u.from, u.room, u.read, u.err, u.ended = from, length+1, slices.Grow(u.read[:0], length+1), nil, false
	u.begun.Store(false)
	u.begin <- struct{}{}
}

// serve reads one body after the other.
func (u *upload) serve() {
	for range u.begin {
		u.begun.Store(true)
		for !u.step() {
		}
		if u.handed { // before the end, which was told with the lock held
			return
		}
		u.over <- struct{}{}
	}
}

// step reads once and tells whether that was the last time.
func (u *upload) step() bool {
	n, err := u.from.Read(u.read[len(u.read):u.room]) // nobody else looks there
	u.mu.Lock()
	defer u.mu.Unlock()
	u.read, u.err = u.read[:len(u.read)+n], err
	u.ended = err != nil || len(u.read) == u.room
	u.more.Signal()
	return u.ended
}

// isThere waits for the end of the body, but not for longer than that, and tells whether it has come. Otherwise the body is to be read
// from u.
func (u *upload) isThere(atOnce time.Duration) bool {
	for waiting := true; waiting; {
		u.timer.Reset(atOnce)
		select {
		case <-u.over:
			u.timer.Stop()
			return true
		case <-u.timer.C:
			waiting = !u.begun.Load() // on a busy machine
		}
	}
	u.mu.Lock()
	there := u.ended
	if !there {
		u.handed = true // once it has ended, its goroutine looks there without the lock
	}
	u.mu.Unlock()
	if there {
		<-u.over
	}
	return there
}

// whole returns the body, which is there.
func (u *upload) whole() ([]byte, error) {
	switch length := u.room - 1; {
	case len(u.read) > length:
		return nil, fmt.Errorf("body of the request is longer than its %d bytes", length)
	case !errors.Is(u.err, io.EOF):
		return nil, fmt.Errorf("reading the request: %w", u.err)
	case len(u.read) < length:
		return nil, fmt.Errorf("reading the request: %w", io.ErrUnexpectedEOF)
	}
	return u.read, nil
}

// Read implements [io.Reader].
func (u *upload) Read(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for u.passed == len(u.read) && !u.ended && !u.closed {
		u.more.Wait()
	}
	switch {
	case u.closed:
		return 0, errUploadClosed
	case u.passed < len(u.read):
		n := copy(p, u.read[u.passed:])
		u.passed += n
		return n, nil
	}
	return 0, u.err
}

// Close implements [io.Closer].
func (u *upload) Close() error {
	u.mu.Lock()
	u.closed = true
	u.more.Signal()
	u.mu.Unlock()
	return u.from.Close()
}

// maxUploads is how many uploads are kept for other bodies. Those that are in use at a time are few: it does not take long.
const maxUploads = 32

// uploads keeps uploads that nobody uses. The zero uploads is empty.
type uploads struct {
	mu     sync.Mutex // guards what follows
	spare  []*upload
	closed bool
}

// take returns one that is spare, or a new one.
func (s *uploads) take() *upload {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := len(s.spare) - 1
	if last < 0 {
		return newUpload()
	}
	u := s.spare[last]
	s.spare = s.spare[:last]
	return u
}

// put keeps one whose body has come to its end.
func (s *uploads) put(u *upload) {
	u.from = nil
	s.mu.Lock()
	keep := !s.closed && len(s.spare) < maxUploads
	if keep {
		s.spare = append(s.spare, u)
	}
	s.mu.Unlock()
	if !keep {
		close(u.begin)
	}
}

// close gives up all, and from now on whatever comes back.
func (s *uploads) close() {
	s.mu.Lock()
	spare := s.spare
	s.spare, s.closed = nil, true
	s.mu.Unlock()
	for _, u := range spare {
		close(u.begin)
	}
}
