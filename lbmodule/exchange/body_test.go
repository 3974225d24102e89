package exchange

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"
)

type senderFunc func()

func (senderFunc) took(int) {}
func (f senderFunc) sent()  { f() }

// attemptOn gives a request of its own a view of the body.
func attemptOn(b *requestBody, source io.ReadCloser, length, limit int64, sent func()) *http.Request {
	r := &http.Request{Body: source, ContentLength: length}
	b.attach(r, limit, false, senderFunc(sent))
	return r
}

// Whatever attempts have read before, the next one that is allowed reads the whole body.
func TestReplay(t *testing.T) {
	seed := rand.Uint64()
	for n := range uint64(2000) {
		rnd := rand.New(rand.NewPCG(seed, n))
		want := make([]byte, rnd.IntN(300))
		for i := range want {
			want[i] = byte(rnd.Uint32())
		}
		length, limit := int64(len(want)), rnd.Int64N(300)
		if rnd.IntN(2) == 0 {
			length = -1
		}
		var b requestBody
		source := io.NopCloser(bytes.NewReader(want))
		read := 0 // at most, by any attempt
		for range rnd.IntN(4) {
			r := attemptOn(&b, source, length, limit, func() {})
			for range rnd.IntN(5) {
				buf := make([]byte, rnd.IntN(100))
				k, err := r.Body.Read(buf)
				if read += k; err != nil {
					break
				}
			}
			if rnd.IntN(2) == 0 {
				r.Body.Close()
			}
			b.detach()
			if k, err := r.Body.Read(make([]byte, 1)); k != 0 || !errors.Is(err, ErrBodyTaken) {
				t.Fatalf("seed %d, %d: a view read %d, %v after the body was taken from it", seed, n, k, err)
			}
			if !b.rewindable() {
				break
			}
		}
		if b.read.Load() > limit && b.rewindable() {
			t.Fatalf("seed %d, %d: %d bytes are read, %d were to be kept, and it says it can be read again", seed, n, b.read.Load(), limit)
		}
		if fits := int64(len(want)) <= limit; fits && !b.rewindable() || read == 0 && !b.rewindable() {
			t.Fatalf("seed %d, %d: cannot be read again: %d bytes, %d kept", seed, n, len(want), limit)
		}
		sent := false
		r := attemptOn(&b, source, length, limit, func() { sent = true })
		got, err := io.ReadAll(r.Body)
		if b.rewindable() && int64(len(want)) <= limit && (err != nil || !bytes.Equal(got, want) || !sent) {
			t.Fatalf("seed %d, %d: read %d bytes of %d, %v, told so: %v", seed, n, len(got), len(want), err, sent)
		}
		if err == nil && !bytes.Equal(got, want) {
			t.Fatalf("seed %d, %d: read %d bytes that are not the body, which has %d", seed, n, len(got), len(want))
		}
	}
}

// A transport that still reads when the next attempt begins takes nothing away from that.
func TestReplayWhileReading(t *testing.T) {
	pr, pw := io.Pipe()
	var b requestBody
	old := attemptOn(&b, pr, -1, 1<<10, func() {})
	began := make(chan struct{})
	go func() {
		close(began)
		_, _ = io.ReadAll(old.Body)
	}()
	<-began
	if _, err := pw.Write([]byte("begin")); err != nil {
		t.Fatal(err)
	}
	b.detach()
	got := make(chan string)
	go func() {
		all, err := io.ReadAll(attemptOn(&b, pr, -1, 1<<10, func() {}).Body)
		if err != nil {
			all = []byte(err.Error())
		}
		got <- string(all)
	}()
	for _, part := range []string{"ning", " and end"} {
		if _, err := pw.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	pw.Close()
	select {
	case all := <-got:
		if all != "beginning and end" {
			t.Errorf("read %q", all)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the next attempt waits for the one before")
	}
}

// What is read after the body was taken from a view belongs to the next one, even if it is more than may be kept. If the view has read so
// much before, the body cannot be taken from it.
func TestReplayOfFirstRead(t *testing.T) {
	const all = "more than may be kept, and the rest"
	for name, taken := range map[string]bool{"taken first": true, "read first": false} {
		t.Run(name, func(t *testing.T) {
			pr, pw := io.Pipe()
			var b requestBody
			old := attemptOn(&b, pr, int64(len(all)), 0, func() {}).Body
			write := func() {
				if _, err := io.WriteString(pw, all[:20]); err != nil {
					t.Error(err)
				}
			}
			read := make(chan string)
			go func() {
				p := make([]byte, 30)
				n, _ := old.Read(p)
				read <- string(p[:n])
			}()
			if taken {
				for b.mu.TryLock() { // until it reads
					b.mu.Unlock()
					time.Sleep(time.Millisecond)
				}
			} else {
				write()
				<-read
			}
			if got := b.rewind(); got != taken {
				t.Fatalf("the body was taken: %v", got)
			}
			if !taken {
				go func() {
					_, _ = io.WriteString(pw, all[20:])
					pw.Close()
				}()
				if rest, err := io.ReadAll(old); string(rest) != all[20:] || err != nil {
					t.Errorf("the view that keeps the body reads on: %q, %v", rest, err)
				}
				return
			}
			go func() {
				write()
				<-read
				_, _ = io.WriteString(pw, all[20:])
				pw.Close()
			}()
			if got, err := io.ReadAll(attemptOn(&b, pr, int64(len(all)), 0, func() {}).Body); string(got) != all || err != nil {
				t.Errorf("the next view reads %q, %v", got, err)
			}
			if b.rewindable() {
				t.Error("more than may be kept is kept after it was read again")
			}
		})
	}
}

// What the client breaks off is known as that.
func TestReplayBroken(t *testing.T) {
	pr, pw := io.Pipe()
	var b requestBody
	r := attemptOn(&b, pr, 100, 0, func() {})
	pw.CloseWithError(io.ErrUnexpectedEOF)
	if _, err := io.ReadAll(r.Body); !errors.Is(err, io.ErrUnexpectedEOF) || !b.failed() {
		t.Errorf("err = %v, failed %v", err, b.failed())
	}
}

// The kept bytes of a small body are dropped in the end, and their buffer is reused for another body.
func TestForget(t *testing.T) {
	for _, want := range []string{"hello", "other"} {
		var b requestBody
		r := attemptOn(&b, io.NopCloser(strings.NewReader(want)), 5, 5, func() {})
		if got, err := io.ReadAll(r.Body); string(got) != want || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		again := attemptOn(&b, nil, 5, 5, func() {})
		if got, err := io.ReadAll(again.Body); string(got) != want || err != nil {
			t.Errorf("again: %q, %v", got, err)
		}
		late := attemptOn(&b, nil, 5, 5, func() {})
		b.forget()
		if n, err := late.Body.Read(make([]byte, 5)); n != 0 || !errors.Is(err, ErrBodyTaken) || b.rewindable() {
			t.Errorf("afterwards: %d bytes, %v", n, err)
		}
	}
	// forget does not wait for a blocked read of the source.
	var b requestBody
	reader, writer := io.Pipe()
	r := attemptOn(&b, reader, 5, 5, func() {})
	read := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(r.Body, make([]byte, 5))
		read <- err
	}()
	if _, err := io.WriteString(writer, "he"); err != nil {
		t.Fatal(err)
	}
	b.forget()
	if _, err := io.WriteString(writer, "llo"); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil {
		t.Error(err)
	}
	var none *requestBody
	none.forget()
}

// TestBodyInWhole tries a body that the front has collected: it comes anew with each attempt.
func TestBodyInWhole(t *testing.T) {
	var b requestBody
	for range 3 {
		told := 0
		r := &http.Request{Body: io.NopCloser(strings.NewReader("hello")), ContentLength: 5}
		b.attach(r, 0, true, senderFunc(func() { told++ }))
		if got, err := io.ReadAll(r.Body); string(got) != "hello" || err != nil || told == 0 {
			t.Errorf("%q, %v, told %d times", got, err, told)
		}
		b.detach()
		if !b.rewindable() || b.failed() {
			t.Errorf("rewindable %v, failed %v", b.rewindable(), b.failed())
		}
	}
}
