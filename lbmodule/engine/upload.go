package engine

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// MaxBody is the maximum size of a body of known length that is read before there is a connection, if it arrives at once.
const MaxBody = 16 << 10 // bytes

const (
	// defaultAtOnce is how long a header is held back to wait for the end of its body. A body that is available takes less; one that is
	// not may never end.
	defaultAtOnce = time.Millisecond

	// probeTime is the same for the first byte of a body that may turn out to be empty, as in net/http's transport.
	probeTime = 200 * time.Millisecond

	// maxWhole is the maximum size of a body of known length that is sent in one piece with its header, if it arrives at once.
	maxWhole = 64 << 10 // bytes

	// firstPiece is the maximum size of the part of any other body that is sent with the header.
	firstPiece = 32 << 10 // bytes
)

// upload reads the body of a request in a goroutine of its own, because a read may block while the backend answers. It reads the beginning
// of the body into a buffer behind the request's header; the caller sends both in one piece. If the body does not end there, the
// goroutine sends the rest.
//
// An upload and its goroutine are reused for other bodies.
type upload struct {
	home  *uploads
	work  chan *sending // receives nil if there is a beginning to read, otherwise what to do with the rest; closed in the end
	over  chan struct{} // receives when the beginning has been read, unless handed is set
	timer *time.Timer
	begun atomic.Bool // its goroutine has started reading
	head  []byte      // of the request

	from    io.ReadCloser
	length  int64 // of the body; negative if it is sent in chunks
	trailer http.Header
	probes  bool    // the body may turn out to be empty
	buf     *buffer // the header and what has been read; nil if there is none
	data    int     // where the body begins in buf
	room    int     // the maximum end of the beginning in buf
	size    int     // of the buffer for the next piece

	mu     sync.Mutex // guards the fields below while the beginning is read
	end    int        // the end in buf of what has been read
	err    error      // of the last read
	full   bool       // the beginning has been read
	handed bool       // the caller no longer waits for the beginning
}

func newUpload(home *uploads) *upload {
	u := &upload{home: home, work: make(chan *sending, 1), over: make(chan struct{}, 1), timer: time.NewTimer(time.Hour)}
	u.timer.Stop()
	go u.serve()
	return u
}

// prepare composes the header of a request with a body of this length, and makes room for the beginning of the body.
func (u *upload) prepare(k *Call, length int64, asksGzip bool) {
	r := k.Request
	u.head = k.appendHead(u.head[:0], length, asksGzip)
	u.from, u.length, u.trailer = r.Body, length, r.Trailer
	u.probes = length < 0 && len(r.TransferEncoding) == 0 && usuallyLacksBody(r.Method)
	u.data = len(u.head)
	most := firstPiece
	switch {
	case length < 0:
		u.data += beforeChunk
	case length <= maxWhole:
		most = int(length) + 1 // one byte more, to see the end
	}
	u.room = u.data + most
	u.buf = takeBuffer(u.room + afterChunk)
	copy(u.buf.bytes, u.head)
	u.size = bufferSizes[len(bufferSizes)-2]
	u.end, u.err, u.full, u.handed = u.data, nil, false, false
}

// start starts reading.
func (u *upload) start() {
	u.begun.Store(false)
	u.work <- nil
}

// drop abandons a body that may still be read at the moment. The goroutine closes it.
func (u *upload) drop() { u.work <- new(sending) }

// serve handles one body after the other.
func (u *upload) serve() {
	for s := range u.work {
		if s == nil {
			u.readBeginning()
			continue
		}
		if s.conn != nil {
			s.run(u)
		} else {
			u.from.Close()
		}
		u.home.put(u)
	}
}

// readBeginning reads until the beginning is complete or the caller no longer waits for it.
func (u *upload) readBeginning() {
	u.begun.Store(true)
	for {
		n, err := u.from.Read(u.buf.bytes[u.end:u.room]) // no other goroutine uses this part
		u.mu.Lock()
		u.end, u.err = u.end+n, err
		u.full = err != nil || u.end == u.room || u.probes && n > 0
		full, handed := u.full, u.handed
		u.mu.Unlock()
		switch {
		case handed:
			return
		case full:
			u.over <- struct{}{}
			return
		}
	}
}

// await waits until the beginning has been read, but no longer than the given time. It returns the end in the buffer of what has been read.
// ended says that the body has ended; otherwise its rest must be sent or dropped.
func (u *upload) await(atOnce time.Duration) (end int, ended bool) {
	for waiting := true; waiting; {
		u.timer.Reset(atOnce)
		select {
		case <-u.over:
			u.timer.Stop()
			return u.end, u.err != nil || u.isTooLong(u.end)
		case <-u.timer.C:
			waiting = !u.begun.Load() // a busy machine may not have run the goroutine yet
		}
	}
	u.mu.Lock()
	end, full := u.end, u.full
	u.handed = !full
	u.mu.Unlock()
	if !full {
		return end, false
	}
	<-u.over
	return end, u.err != nil || u.isTooLong(end)
}

// isTooLong reports whether more has been read than the announced length.
func (u *upload) isTooLong(end int) bool { return u.length >= 0 && int64(end-u.data) > u.length }

// check returns an error if the body has ended and is not what was announced.
func (u *upload) check() error { return bodyError(u.err, u.length, int64(u.end-u.data)) }

// bodyError returns the error for a body of this length, negative if unknown, that ended with err after that many bytes.
func bodyError(err error, length, read int64) error {
	switch {
	case length >= 0 && read > length:
		return fmt.Errorf("body of the request is longer than its %d bytes", length)
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("reading the request: %w", err)
	case read < length:
		return fmt.Errorf("reading the request: %w", io.ErrUnexpectedEOF)
	}
	return nil
}

// isNone reports whether the body has ended and turned out to be empty.
func (u *upload) isNone() bool { return u.probes && u.end == u.data && errors.Is(u.err, io.EOF) }

// whole returns the request with its complete body.
func (u *upload) whole() []byte {
	if u.length >= 0 {
		return u.buf.bytes[:u.end]
	}
	if u.end == u.data {
		return appendLastChunk(u.buf.bytes[:len(u.head)], u.trailer)
	}
	start, end := frame(u.buf.bytes, u.data, u.end)
	start -= len(u.head)
	copy(u.buf.bytes[start:], u.head) // moves it next to the body
	return appendLastChunk(u.buf.bytes[start:end], u.trailer)
}

// first returns the request's header and the beginning of its body, up to end.
func (u *upload) first(end int) []byte {
	if u.length >= 0 || end == u.data {
		return u.buf.bytes[:len(u.head)+end-u.data]
	}
	// The goroutine may be reading into the bytes after end, so copy.
	out := make([]byte, 0, len(u.head)+beforeChunk+end-u.data+afterChunk)
	out = append(out, u.head...)
	out = strconv.AppendInt(out, int64(end-u.data), 16)
	out = append(out, "\r\n"...)
	out = append(out, u.buf.bytes[u.data:end]...)
	return append(out, "\r\n"...)
}

// piece returns what is to be sent for the part of the body between these positions of the buffer; last says that it is the last one.
func (u *upload) piece(from, to int, last bool) []byte {
	switch {
	case u.length >= 0:
		return u.buf.bytes[from:to]
	case to > from:
		from, to = frame(u.buf.bytes, from, to)
	}
	piece := u.buf.bytes[from:to]
	if last {
		piece = appendLastChunk(piece, u.trailer)
	}
	return piece
}

// readOn reads the next piece of the body, and returns its bounds in the buffer.
func (u *upload) readOn() (from, to int, err error) {
	if len(u.buf.bytes) != u.size {
		u.buf.put()
		u.buf = takeBuffer(u.size)
	}
	from = beforeChunk
	room := u.buf.bytes[from : u.size-afterChunk]
	n, err := u.from.Read(room)
	if n == len(room) {
		u.size = bufferSizes[len(bufferSizes)-1]
	}
	return from, from + n, err
}

// readEnd reads the end of a body of which all announced bytes have been read. It returns the number of excess bytes that it found.
func (u *upload) readEnd() (more int, err error) {
	var one [1]byte
	for more == 0 && err == nil {
		more, err = u.from.Read(one[:])
	}
	return more, err
}

// The room in a buffer before the data of a chunk, for its size, and after it, for its end and the last chunk.
const (
	beforeChunk = len("ffffffff\r\n")
	afterChunk  = len("\r\n0\r\n\r\n")
)

// frame makes a chunk of the bytes between from and to, and returns its bounds.
func frame(buf []byte, from, to int) (start, end int) {
	var digits [beforeChunk]byte
	size := append(strconv.AppendInt(digits[:0], int64(to-from), 16), "\r\n"...)
	start = from - len(size)
	copy(buf[start:], size)
	return start, to + copy(buf[to:], "\r\n")
}

// appendLastChunk appends the end of a body in chunks.
func appendLastChunk(b []byte, trailer http.Header) []byte {
	b = append(b, "0\r\n"...)
	if len(trailer) > 0 {
		_ = trailer.Write((*appender)(&b)) // it never fails
	}
	return append(b, "\r\n"...)
}

// appender is an [io.Writer] that appends.
type appender []byte

func (a *appender) Write(p []byte) (int, error) {
	*a = append(*a, p...)
	return len(p), nil
}

// buffer is a buffer of one of a few sizes.
type buffer struct {
	bytes []byte
	pool  *sync.Pool // nil if it has none
}

// bufferSizes are the sizes of buffers: for a header and a body of up to 2, 4, 16, 32 and 64 KiB.
var bufferSizes = [...]int{4 << 10, 8 << 10, 24 << 10, 40 << 10, 72 << 10}

// buffers has a pool for each of bufferSizes.
var buffers [len(bufferSizes)]sync.Pool

// takeBuffer returns a buffer of at least this many bytes.
func takeBuffer(least int) *buffer {
	for i, size := range bufferSizes {
		if size < least {
			continue
		}
		if b, ok := buffers[i].Get().(*buffer); ok {
			return b
		}
		return &buffer{make([]byte, size), &buffers[i]}
	}
	return &buffer{bytes: make([]byte, least)}
}

func (b *buffer) put() {
	if b != nil && b.pool != nil {
		b.pool.Put(b)
	}
}

const (
	// maxUploads bounds the number of kept uploads. Few are in use at a time, because a body takes little time.
	maxUploads = 32

	// maxHead is the size of the header whose buffer an upload keeps.
	maxHead = 8 << 10
)

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
		return newUpload(s)
	}
	u := s.spare[last]
	s.spare = s.spare[:last]
	return u
}

// put keeps an upload that has no work.
func (s *uploads) put(u *upload) {
	u.buf.put()
	u.buf, u.from, u.trailer, u.err = nil, nil, nil, nil
	if cap(u.head) > maxHead {
		u.head = nil
	}
	s.mu.Lock()
	keep := !s.closed && len(s.spare) < maxUploads
	if keep {
		s.spare = append(s.spare, u)
	}
	s.mu.Unlock()
	if !keep {
		close(u.work)
	}
}

// close ends all unused uploads, and those that are put back later.
func (s *uploads) close() {
	s.mu.Lock()
	spare := s.spare
	s.spare, s.closed = nil, true
	s.mu.Unlock()
	for _, u := range spare {
		close(u.work)
	}
}
