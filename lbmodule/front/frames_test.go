package front

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
)

// frame returns a WebSocket frame with a payload of that length.
func frame(operation byte, length int, masked bool) []byte {
	head := []byte{finalBit | operation, byte(length)}
	switch {
	case length > 0xffff:
		head = []byte{finalBit | operation, 127, 0, 0, 0, 0, byte(length >> 24), byte(length >> 16), byte(length >> 8), byte(length)}
	case length > 125:
		head = []byte{finalBit | operation, 126, byte(length >> 8), byte(length)}
	}
	if masked {
		head[1] |= maskBit
		head = append(head, 0xff, 0xff, 0xff, 0xff)
	}
	return append(head, bytes.Repeat([]byte{finalBit | closeFrame}, length)...)
}

// The ends of frames are found, whatever pieces they come in.
func TestFrames(t *testing.T) {
	var all []byte
	ends := map[int]bool{0: true}
	for _, length := range []int{0, 1, 125, 126, 127, 0xffff, 0x10000, 70000, 0} {
		for _, masked := range []bool{false, true} {
			all = append(all, frame(1, length, masked)...)
			ends[len(all)] = true
		}
	}
	for _, most := range []int{1, 2, 7, 1000, 1 << 20} {
		var f frames
		for at := 0; at < len(all); {
			if f.between() != ends[at] {
				t.Fatalf("pieces of %d, at %d: between frames is %v", most, at, f.between())
			}
			n := 1 + rand.IntN(min(most, len(all)-at))
			ahead := f
			if to := ahead.pass(all[at:at+n], true); to < n && !ends[at+to] {
				t.Fatalf("pieces of %d, at %d: a frame is said to end at %d", most, at, at+to)
			}
			if got := f.pass(all[at:at+n], false); got != n {
				t.Fatalf("%d of %d bytes", got, n)
			}
			at += n
		}
		if !f.between() || f.closing {
			t.Errorf("pieces of %d: between frames is %v, closing is %v at the end", most, f.between(), f.closing)
		}
	}
	var f frames
	if f.pass(frame(closeFrame, 2, true), false); !f.closing {
		t.Error("a close frame is not seen")
	}
}

func TestGoingAway(t *testing.T) {
	if got := goingAway(false); !bytes.Equal(got, []byte{0x88, 2, 0x03, 0xe9}) {
		t.Errorf("% x", got)
	}
	got := goingAway(true)
	if len(got) != 8 || got[0] != 0x88 || got[1] != 0x82 || got[6]^got[2] != 0x03 || got[7]^got[3] != 0xe9 {
		t.Errorf("% x", got)
	}
}

// An outlet ends between two frames, with one close frame.
func TestOutlet(t *testing.T) {
	const last = "last"
	text := frame(1, 10, false)
	broken := errors.New("broken")
	for name, test := range map[string]struct {
		before, after [][]byte
		want          string
		ends          bool
	}{
		"at once":          {nil, [][]byte{text}, last, true},
		"between frames":   {[][]byte{text}, [][]byte{text}, string(text) + last, true},
		"in a frame":       {[][]byte{text[:5]}, [][]byte{text[5:], text}, string(text) + last, true},
		"with the next":    {[][]byte{text[:5]}, [][]byte{append(bytes.Clone(text[5:]), text...)}, string(text) + last, true},
		"in a head":        {[][]byte{text[:1]}, [][]byte{text[1:3], text[3:]}, string(text) + last, true},
		"never":            {[][]byte{text[:5]}, [][]byte{text[5:7]}, string(text[:7]), false},
		"behind a closing": {[][]byte{frame(closeFrame, 2, false)}, [][]byte{text}, string(frame(closeFrame, 2, false)), true},
	} {
		var o outlet
		var to bytes.Buffer
		for _, p := range test.before {
			if n, err := o.write(p, to.Write); n != len(p) || err != nil {
				t.Fatalf("%s: %d, %v", name, n, err)
			}
		}
		ended := o.end([]byte(last), to.Write)
		var err error
		for _, p := range test.after {
			_, err = o.write(p, to.Write)
		}
		over := false
		select {
		case <-ended:
			over = true
		default:
		}
		if to.String() != test.want || over != test.ends || errors.Is(err, errEnded) != test.ends {
			t.Errorf("%s: %q, ended: %v, %v; want %q", name, to.String(), over, err, test.want)
		}
	}
	var o outlet
	if _, err := o.write(text, func([]byte) (int, error) { return 3, broken }); !errors.Is(err, broken) {
		t.Errorf("%v, want the error of writing", err)
	}
	select {
	case <-o.end([]byte(last), func([]byte) (int, error) { panic("writes after an error") }):
	default:
		t.Error("not ended after an error")
	}
}
