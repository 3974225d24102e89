package engine

import (
	"cmp"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
)

// sending is the part of a request's body that is sent while the answer is awaited.
//
// As in net/http's transport, the connection of an answer that comes early may be used again only if the rest is sent soon after the
// answer's end. Otherwise it is closed, which ends the sending.
type sending struct {
	conn    *conn     // nil if nothing is to be sent
	upload  *upload   // nil once it has been told to send
	from    int       // where the unsent part begins in the upload's buffer
	chunked bool      // the body may end with trailers
	permit  chan bool // receives whether the body is to be sent; nil if that is certain
	over    chan struct{}
	broken  error // sending the beginning failed

	mu       sync.Mutex // guards the fields below
	err      error      // the body was not sent to its end
	fromBody bool       // err is the fault of the body
	answered bool       // the header of the answer has been read
}

// maxSendWait is how long the end of the request is waited for after the end of its answer, as in net/http's transport.
const maxSendWait = 50 * time.Millisecond

// errNotSent is the error of a body that the backend did not ask for.
var errNotSent = errors.New("backend did not ask for the body of the request")

// newSending returns the sending of u's body over c, from that position of u's buffer on. waits says that the backend must ask for the body.
func newSending(c *conn, u *upload, from int, waits bool) *sending {
	s := &sending{conn: c, upload: u, from: from, chunked: u.length < 0, over: make(chan struct{})}
	if waits {
		s.permit = make(chan bool, 1)
	}
	return s
}

// begin starts the sending. err is the error of sending the beginning.
func (s *sending) begin(err error) {
	if s == nil {
		return
	}
	s.broken = err
	u := s.upload
	s.upload = nil
	u.work <- s
}

// run sends the rest of the body that u has, and closes it.
func (s *sending) run(u *upload) {
	fromBody, err := false, s.broken
	if err == nil {
		fromBody, err = s.send(u)
	}
	u.from.Close()
	s.mu.Lock()
	s.err, s.fromBody = err, fromBody
	if timeout := s.conn.client.ResponseHeaderTimeout; err == nil && timeout > 0 && !s.answered {
		_ = s.conn.net.SetReadDeadline(time.Now().Add(timeout)) // fails only if the connection is closed
	}
	s.mu.Unlock()
	close(s.over)
	// What the backend sent before it stopped reading can still be read.
	if fromBody || err != nil && !isReset(err) && !errors.Is(err, errNotSent) {
		s.conn.close()
	}
}

// send sends the rest of the body. If that fails, fromBody says that it is the fault of the body.
func (s *sending) send(u *upload) (fromBody bool, err error) {
	if s.permit != nil && !s.isPermitted() {
		return false, errNotSent
	}
	from, to, end := s.from, u.end, u.err
	for read := int64(to - u.data); ; read += int64(to - from) {
		if end == nil && read == u.length {
			// The backend must not get the last byte of a body that turns out to be too long.
			var more int
			more, end = u.readEnd()
			read += int64(more)
		}
		if end != nil || u.length >= 0 && read > u.length {
			if err := bodyError(end, u.length, read); err != nil {
				return true, err
			}
		}
		if piece := u.piece(from, to, errors.Is(end, io.EOF)); len(piece) > 0 {
			if _, err := s.conn.net.Write(piece); err != nil {
				return false, err
			}
		}
		if end != nil {
			return false, nil
		}
		from, to, end = u.readOn()
	}
}

// isPermitted waits until the backend wants the body, and reports whether it does.
func (s *sending) isPermitted() bool {
	timer := time.NewTimer(s.conn.client.ExpectContinueTimeout)
	defer timer.Stop()
	select {
	case wanted := <-s.permit:
		return wanted
	case <-timer.C:
		return true
	}
}

// allow decides whether the body is sent, if that was undecided.
func (s *sending) allow(wanted bool) {
	if s == nil || s.permit == nil {
		return
	}
	select {
	case s.permit <- wanted:
	default: // decided before
	}
}

// continued is called when the backend asks for the body.
func (s *sending) continued() { s.allow(true) }

// answer is called when the header of the answer has been read. It clears the read deadline. last says that the connection will be closed,
// so a body that the backend has not asked for is not sent.
func (s *sending) answer(last bool) error {
	s.allow(!last)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answered = true
	if s.conn.client.ResponseHeaderTimeout <= 0 {
		return nil
	}
	return s.conn.net.SetReadDeadline(time.Time{})
}

// failure returns why the body was not sent to its end; nil if it was, or may still be.
func (s *sending) failure() (fromBody bool, err error) {
	if s == nil {
		return false, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fromBody, s.err
}

// stop is called when the request has failed and its connection is closed. If the body is the cause, stop returns its error. gone says that
// the context of the request has ended: a server ends it when a body breaks off, just before the read of the body returns the error, so
// stop waits a little for that read.
func (s *sending) stop(gone bool) error {
	if s == nil {
		return nil
	}
	s.allow(false)
	if s.chunked {
		<-s.over // the end of the body may bring trailers, which change the request
	} else if gone {
		s.isSent()
	}
	if fromBody, err := s.failure(); fromBody {
		return err
	}
	return nil
}

// isSent reports whether the body has been sent to its end. It waits a little for that.
func (s *sending) isSent() bool {
	if s == nil {
		return true
	}
	select {
	case <-s.over:
		return s.err == nil
	default:
	}
	timer := time.NewTimer(cmp.Or(s.conn.client.sendWait, maxSendWait))
	defer timer.Stop()
	select {
	case <-s.over:
		return s.err == nil
	case <-timer.C:
		return false
	}
}

// expectsContinue reports whether a request has the header field "Expect: 100-continue".
func expectsContinue(h http.Header) bool {
	expect := h["Expect"]
	return len(expect) > 0 && httpguts.HeaderValuesContainsToken(expect[:1], "100-continue")
}

// isPrompt reports whether the header of a request must be sent before its body is read. A client that waits for 100 must not be asked for
// its body before a backend has the header, and incremental messages must be forwarded as they arrive.
func isPrompt(h http.Header) bool { return h["Incremental"] != nil || expectsContinue(h) }
