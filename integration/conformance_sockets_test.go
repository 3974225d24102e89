//go:build trust

package integration

import (
	"bufio"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// frameSeed makes the random frames those of an earlier run.
var frameSeed = flag.Uint64("frames", 0, "the seed of the frames that WebSockets are tested with; 0 for a new one")

// The first byte of a frame: what it is, and that it is the last of its message.
const (
	continuedFrame = 0
	binaryFrame    = 2
	pingFrame      = 9
	pongFrame      = 10
	lastFrame      = 0x80
)

// wireFrame is a frame as it is sent: its first byte, and what it carries.
type wireFrame struct {
	head    byte
	payload []byte
}

// write writes the frame; with a mask if it is a client's.
func (f wireFrame) write(w io.Writer, mask *[4]byte) error {
	wire := []byte{f.head, 0}
	switch n := len(f.payload); {
	case n < 126:
		wire[1] = byte(n)
	case n < 1<<16:
		wire[1] = 126
		wire = binary.BigEndian.AppendUint16(wire, uint16(n))
	default:
		wire[1] = 127
		wire = binary.BigEndian.AppendUint64(wire, uint64(n))
	}
	if mask == nil {
		wire = append(wire, f.payload...)
	} else {
		wire[1] |= 0x80
		wire = append(wire, mask[:]...)
		for i, b := range f.payload {
			wire = append(wire, b^mask[i%4])
		}
	}
	_, err := w.Write(wire)
	return err
}

// readWire reads a frame of up to 1 MiB, and reports whether it is masked.
func readWire(r io.Reader) (f wireFrame, masked bool, err error) {
	head := make([]byte, 2, 14)
	if _, err := io.ReadFull(r, head); err != nil {
		return f, false, err
	}
	masked = head[1]&0x80 != 0
	n, more := uint64(head[1]&0x7f), 0
	switch n {
	case 126:
		more = 2
	case 127:
		more = 8
	}
	mask := make([]byte, 4)
	length := make([]byte, 8)
	if _, err := io.ReadFull(r, length[8-more:]); err != nil {
		return f, masked, err
	}
	if more > 0 {
		n = binary.BigEndian.Uint64(length)
	}
	if n > 1<<20 {
		return f, masked, fmt.Errorf("a frame of %d bytes", n)
	}
	if masked {
		if _, err := io.ReadFull(r, mask); err != nil {
			return f, masked, err
		}
	}
	f = wireFrame{head[0], make([]byte, n)}
	if _, err := io.ReadFull(r, f.payload); err != nil {
		return f, masked, err
	}
	for i := range f.payload {
		f.payload[i] ^= mask[i%4]
	}
	return f, masked, nil
}

// answered is the frame that a server which echoes answers with.
func (f wireFrame) answered() wireFrame {
	if f.head == lastFrame|pingFrame {
		f.head = lastFrame | pongFrame
	}
	return f
}

// answersFrames is the backend: it sends back each frame as it comes, and leaves after a close frame.
func answersFrames(w http.ResponseWriter, _ *http.Request) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"); err != nil {
		return
	}
	for {
		f, masked, err := readWire(buffered)
		if err != nil || !masked || f.answered().write(conn, nil) != nil || f.head == lastFrame|closeFrame {
			return
		}
	}
}

// randomFrames makes messages in frames. In pieces each has several, between which there are pings if there are to be any.
func randomFrames(random *rand.Rand, messages int, pieces, pings bool) (all []wireFrame) {
	some := func(limit int) []byte {
		payload := make([]byte, random.IntN(limit+1))
		for i := 0; i < len(payload); i += 8 {
			var eight [8]byte
			binary.LittleEndian.PutUint64(eight[:], random.Uint64())
			copy(payload[i:], eight[:])
		}
		return payload
	}
	for range messages {
		kind, limit := []byte{textFrame, binaryFrame}[random.IntN(2)], []int{0, 125, 127, 1000, 65535, 65537, 1 << 20}[random.IntN(7)]
		frames := 1
		if pieces {
			frames += random.IntN(6)
		}
		for i := range frames {
			f := wireFrame{kind, some(limit / frames)}
			if kind == textFrame || pieces { // text is ASCII; where it is cut must not matter then
				for i := range f.payload {
					f.payload[i] &= 0x7f
				}
			}
			if i > 0 {
				f.head = continuedFrame
			}
			if i == frames-1 {
				f.head |= lastFrame
			}
			if all = append(all, f); pings && random.IntN(2) == 0 {
				all = append(all, wireFrame{lastFrame | pingFrame, some(125)})
			}
		}
	}
	return all
}

// echoes opens WebSockets and compares what is sent with what comes back.
func echoes(seamless bool) func(t *testing.T) (ours, stock results) {
	return func(t *testing.T) (ours, stock results) {
		seed := *frameSeed
		if seed == 0 {
			seed = rand.Uint64()
		}
		t.Logf("frames are those of -frames %d", seed)
		return both(t, "", seamless, answersFrames, func(t *testing.T, s *subject) results {
			all := results{}
			plain := *s.caddy
			plain.site, plain.secure = s.plain, false
			for _, over := range []string{"h1", "tls", "h2", "h2c"} {
				c := s.caddy
				if over == "h1" || over == "h2c" {
					c = &plain
				}
				open := func(path string) (*socket, error) { return openSocket(c, path) }
				if strings.HasPrefix(over, "h2") {
					open = func(path string) (*socket, error) { return openSocketOverHTTP2(t, c, path), nil }
				}
				for _, x := range echoCases {
					path := fmt.Sprintf("/%s-%d/", over, len(all))
					var wg sync.WaitGroup
					var mu sync.Mutex
					var wrong []string
					for i := range x.sockets {
						socket, err := open(path)
						if err != nil {
							wrong = append(wrong, err.Error())
							break
						}
						random := rand.New(rand.NewPCG(seed, uint64(i)))
						wg.Go(func() {
							if err := x.run(socket, random); err != nil {
								mu.Lock()
								wrong = append(wrong, err.Error())
								mu.Unlock()
							}
						})
					}
					wg.Wait()
					if disagree := s.agree(path, x.sockets, 0, func(status int) bool { return status == 101 || status == 200 }); disagree != "" {
						wrong = append(wrong, disagree)
					}
					all[x.name+", "+over] = brief(strings.Join(wrong, "; "))
				}
			}
			return all
		})
	}
}

// echoCase is what is said over WebSockets.
type echoCase struct {
	name     string
	sockets  int // at the same time
	messages int
	pieces   bool
	pings    bool
	status   int // that it is closed with; 0 for none
}

var echoCases = []echoCase{
	{name: "whole messages", sockets: 1, messages: 40, status: 1000},
	{name: "in pieces", sockets: 1, messages: 40, pieces: true, status: 1000},
	{name: "pings between messages", sockets: 1, messages: 40, pings: true, status: 1000},
	{name: "pings between pieces", sockets: 1, messages: 40, pieces: true, pings: true, status: 1000},
	{name: "eight at the same time", sockets: 8, messages: 15, pieces: true, pings: true, status: 1000},
	{name: "nothing, closed without status", sockets: 1},
	{name: "closed with 1001", sockets: 1, messages: 3, status: 1001},
	{name: "closed with 1011", sockets: 1, messages: 3, status: 1011},
	{name: "closed with 3000", sockets: 1, messages: 3, status: 3000},
	{name: "closed with 4999", sockets: 1, messages: 3, pings: true, status: 4999},
}

// run sends the frames of the case, and reads what comes back at the same time.
func (x echoCase) run(s *socket, random *rand.Rand) error {
	defer s.Close()
	frames := randomFrames(random, x.messages, x.pieces, x.pings)
	closing := wireFrame{head: lastFrame | closeFrame}
	if x.status != 0 {
		closing.payload = append(binary.BigEndian.AppendUint16(nil, uint16(x.status)), "that is all"...)
	}
	frames = append(frames, closing)
	sent := make(chan error, 1)
	go func() {
		for i, f := range frames {
			mask := [4]byte{byte(i), byte(i >> 8), byte(random.Uint32()), byte(random.Uint32())}
			if err := f.write(s, &mask); err != nil {
				sent <- fmt.Errorf("sending frame %d: %w", i, err)
				return
			}
		}
		sent <- nil
	}()
	read := make(chan error, 1)
	go func() { read <- readEchoes(s.from, frames) }()
	select {
	case err := <-read:
		return err
	case <-time.After(patience):
		s.Close() // what reads and writes ends by it
		return errors.Join(errors.New("the echo did not come"), <-read, <-sent)
	}
}

// readEchoes reads the answers to frames, of which the last is a close frame.
func readEchoes(from *bufio.Reader, frames []wireFrame) error {
	for i, f := range frames {
		want := f.answered()
		got, masked, err := readWire(from)
		switch {
		case err != nil:
			return fmt.Errorf("frame %d of %d: %w", i, len(frames), err)
		case masked:
			return fmt.Errorf("frame %d is masked", i)
		case got.head != want.head || string(got.payload) != string(want.payload):
			return fmt.Errorf("frame %d is %#x with %d bytes, want %#x with %d", i, got.head, len(got.payload), want.head, len(want.payload))
		}
	}
	if rest, err := io.ReadAll(from); err != nil || len(rest) > 0 {
		return fmt.Errorf("%d bytes behind the close frame, %w", len(rest), err)
	}
	return nil
}
