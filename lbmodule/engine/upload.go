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

// defaultAtOnce is how long the end of a small body is waited for. A body that is available takes less; one that is not may never end.
const defaultAtOnce = time.Millisecond

// errUploadClosed is returned by a read from a closed request body.
var errUploadClosed = errors.New("body of the request is closed")

// upload reads the body of a request in a goroutine of its own, because a read may block. It reads the announced length and one byte
// more, to see the end of the body.
//
// If the body ends at once, the upload and its goroutine are used again for another body. An upload that is streamed is not.
type upload struct {
	begin chan struct{} // receives when there is a body to read; closed when there will be none
	over  chan struct{} // receives when the body has been read, unless it is streamed
	timer *time.Timer
	begun atomic.Bool // its goroutine has started reading

	mu     sync.Mutex // guards the fields below while the body is read
	more   sync.Cond  // something was read, or the upload was closed
	from   io.ReadCloser
	room   int // maximum number of bytes to read
	read   []byte
	err    error
	ended  bool // the body has been read to its end
	handed bool // the body is streamed
	passed int  // number of bytes that Read has returned
	closed bool
}

func newUpload() *upload {
	u := &upload{begin: make(chan struct{}, 1), over: make(chan struct{}, 1), timer: time.NewTimer(time.Hour)}
	u.timer.Stop()
	u.more.L = &u.mu
	go u.serve()
	return u
}

// start starts reading a body of this length.
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
		if u.handed { // before the end, which was signalled with the lock held
			return
		}
		u.over <- struct{}{}
	}
}

// step reads once and reports whether that was the last time.
func (u *upload) step() bool {
	n, err := u.from.Read(u.read[len(u.read):u.room]) // no other goroutine uses this part
	u.mu.Lock()
	defer u.mu.Unlock()
	u.read, u.err = u.read[:len(u.read)+n], err
	u.ended = err != nil || len(u.read) == u.room
	u.more.Signal()
	return u.ended
}

// isThere waits for the end of the body, but no longer than the given time, and reports whether it was reached. If not, the caller must
// read the body from u.
func (u *upload) isThere(atOnce time.Duration) bool {
	for waiting := true; waiting; {
		u.timer.Reset(atOnce)
		select {
		case <-u.over:
			u.timer.Stop()
			return true
		case <-u.timer.C:
			waiting = !u.begun.Load() // the machine is busy
		}
	}
	u.mu.Lock()
	there := u.ended
	if !there {
		u.handed = true // once it has ended, its goroutine checks this without the lock
	}
	u.mu.Unlock()
	if there {
		<-u.over
	}
	return there
}

// whole returns the complete body.
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

// maxUploads bounds the number of kept uploads. Few are in use at a time, because a body takes little time.
const maxUploads = 32

// uploads holds unused uploads. The zero uploads is empty.
type uploads struct {
	mu     sync.Mutex // guards the fields below
	spare  []*upload
	closed bool
}

// take returns an unused upload or a new one.
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

// put keeps an upload whose body has ended.
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

// close ends all unused uploads, and from now on all that are put back.
func (s *uploads) close() {
	s.mu.Lock()
	spare := s.spare
	s.spare, s.closed = nil, true
	s.mu.Unlock()
	for _, u := range spare {
		close(u.begin)
	}
}
