package front

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
)

// errEnded is the error of writing to a WebSocket that has been closed with a close frame.
var errEnded = errors.New("the stream has been ended")

// frames tracks the frames of one direction of a WebSocket (RFC 6455, 5.2), to know when one ends. The zero frames is before the first
// frame.
type frames struct {
	head    [14]byte
	have    int    // bytes of the current frame's head
	payload uint64 // bytes of its payload that have not passed yet
	closing bool   // a close frame has begun
}

// between reports whether the last frame has ended and no other has begun.
func (f *frames) between() bool { return f.have == 0 && f.payload == 0 }

// pass tracks the frames in p up to its end, or, if toEnd is set, up to the first end of a frame. It returns the number of bytes.
func (f *frames) pass(p []byte, toEnd bool) (n int) {
	for n < len(p) {
		if f.payload > 0 {
			some := min(uint64(len(p)-n), f.payload)
			f.payload -= some
			n += int(some)
		} else {
			f.head[f.have] = p[n]
			f.have++
			n++
			if f.have < f.headLength() {
				continue
			}
			f.begin()
		}
		if toEnd && f.between() {
			break
		}
	}
	return n
}

// headLength returns the length of the current frame's head, as far as it is known.
func (f *frames) headLength() int {
	if f.have < 2 {
		return 2
	}
	n := 2
	switch f.head[1] & 0x7f {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	if f.head[1]&maskBit != 0 {
		n += 4
	}
	return n
}

// begin is called when the head of a frame is complete.
func (f *frames) begin() {
	switch length := f.head[1] & 0x7f; length {
	case 126:
		f.payload = uint64(binary.BigEndian.Uint16(f.head[2:]))
	case 127:
		f.payload = binary.BigEndian.Uint64(f.head[2:])
	default:
		f.payload = uint64(length)
	}
	f.closing = f.closing || f.head[0]&0x0f == closeFrame
	f.have = 0
}

const (
	closeFrame = 0x8
	finalBit   = 0x80
	maskBit    = 0x80
)

// goingAway returns a close frame with the status 1001 (RFC 6455, 7.4.1). Frames to a backend are masked.
func goingAway(masked bool) []byte {
	status := [2]byte{1001 >> 8, 1001 & 0xff}
	if !masked {
		return []byte{finalBit | closeFrame, 2, status[0], status[1]}
	}
	frame := []byte{finalBit | closeFrame, maskBit | 2, 0, 0, 0, 0, 0, 0}
	binary.BigEndian.PutUint32(frame[2:], rand.Uint32())
	frame[6], frame[7] = status[0]^frame[2], status[1]^frame[3]
	return frame
}

// outlet is one direction of a WebSocket. It can be ended with a close frame between two frames, while another goroutine writes. The zero
// outlet is open.
type outlet struct {
	mu     sync.Mutex // guards the fields below, and writing
	frames frames
	last   []byte        // the close frame to end with; nil while the outlet is open
	ended  chan struct{} // closed when the outlet has ended; nil while it is open
	over   bool          // nothing more may be written
	sent   bool          // the close frame has been written
}

// write writes p. If the outlet is ending, it writes only the rest of the current frame and then the close frame.
func (o *outlet) write(p []byte, write func([]byte) (int, error)) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over {
		return 0, errEnded
	}
	n, err := write(p[:o.peek(p)])
	o.frames.pass(p[:max(n, 0)], false)
	switch {
	case err != nil:
		o.finish(nil)
	case o.last != nil && o.frames.between():
		o.finish(write)
		err = errEnded
	case n < len(p):
		err = io.ErrShortWrite
	}
	return n, err
}

// peek returns how much of p may be written.
func (o *outlet) peek(p []byte) int {
	if o.last == nil {
		return len(p)
	}
	ahead := o.frames
	return ahead.pass(p, true)
}

// end makes the outlet end with this close frame: at once if it is between two frames, otherwise after the current frame. The channel is
// closed when the outlet has ended.
func (o *outlet) end(last []byte, write func([]byte) (int, error)) (ended <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended == nil {
		o.last, o.ended = last, make(chan struct{})
		if o.over {
			close(o.ended)
		} else if o.frames.between() {
			o.finish(write)
		}
	}
	return o.ended
}

// finish ends the outlet, with a close frame if write is not nil and none has been written before. The caller holds o.mu.
func (o *outlet) finish(write func([]byte) (int, error)) {
	o.over = true
	if write != nil && !o.frames.closing {
		_, err := write(o.last)
		o.sent = err == nil
	}
	if o.ended != nil {
		close(o.ended)
	}
}
