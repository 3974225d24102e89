package command

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync/atomic"
	"time"

	"golang.org/x/term"

	"github.com/ballastlb/ballast/command/top"
)

// screen is a terminal in raw mode that shows its alternate screen.
type screen struct {
	in, out *os.File
	before  *term.State
	color   bool
}

const (
	enterScreen = "\x1b[?1049h\x1b[?25l" // the alternate screen, without a cursor
	leaveScreen = "\x1b[0m\x1b[?25h\x1b[?1049l"
)

// openScreen takes over the terminal until close is called.
func (c *console) openScreen() (*screen, error) {
	in, isFile := c.in.(*os.File)
	out, isFileToo := c.out.(*os.File)
	if !isFile || !isFileToo || !isTerminal(in) || !isTerminal(out) {
		return nil, usageErrorf("top needs a terminal; --once prints one frame anywhere")
	}
	before, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return nil, fmt.Errorf("preparing the terminal: %w", err)
	}
	s := &screen{in: in, out: out, before: before, color: c.color}
	_, err = io.WriteString(out, enterScreen)
	return s, err
}

func (s *screen) close() {
	_, _ = io.WriteString(s.out, leaveScreen) // if this fails, the terminal has gone
	_ = term.Restore(int(s.in.Fd()), s.before)
}

// draw shows a frame in a single write over the last one, which avoids flicker.
func (s *screen) draw(m *top.Model) error {
	width, height, err := term.GetSize(int(s.out.Fd()))
	if err != nil {
		return fmt.Errorf("getting the terminal's size: %w", err)
	}
	var b bytes.Buffer
	b.WriteString("\x1b[H")
	for i, line := range m.Frame(width, height) {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(line.ANSI(s.color))
		b.WriteString("\x1b[K")
	}
	b.WriteString("\x1b[J")
	_, err = s.out.Write(b.Bytes())
	return err
}

// looked is the result of a refresh.
type looked struct {
	sample top.Sample
	err    error
}

// live shows the view until the user quits, or a signal ends the process. It restores the terminal in any case, even after a panic in one
// of the goroutines.
func (t *tool) live(ctx context.Context, m *top.Model, interval time.Duration) error {
	ctx, cancel := signal.NotifyContext(ctx, endSignals...)
	defer cancel()
	s, err := t.openScreen()
	if s != nil {
		defer s.close()
	}
	if err != nil {
		return err
	}
	resized := make(chan os.Signal, 1)
	if len(resizeSignals) > 0 { // Notify without signals would subscribe to all
		signal.Notify(resized, resizeSignals...)
		defer signal.Stop(resized)
	}

	panicked := make(chan any, 1)
	start := func(f func()) {
		go func() {
			defer func() {
				if p := recover(); p != nil {
					panicked <- p
				}
			}()
			f()
		}()
	}
	keys, looks, said := make(chan []top.Key), make(chan looked), make(chan string)
	start(func() { readKeys(ctx, s.in, keys) })
	var details atomic.Pointer[subject] // set by this goroutine for the one that refreshes
	start(func() { t.lookAgain(ctx, interval, &details, looks) })
	for {
		if err := s.draw(m); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case p := <-panicked:
			panic(p)
		case <-resized:
		case l := <-looks:
			if l.err != nil {
				m.Fail(l.err)
			} else {
				m.Update(l.sample)
			}
		case message := <-said:
			m.Say(message)
		case pressed, open := <-keys:
			if !open {
				return nil // the terminal has gone
			}
			for _, k := range pressed {
				action := m.Press(k)
				details.Store(nil)
				if pool, backend, is := m.Open(); is {
					details.Store(&subject{pool, backend})
				}
				if action.Quit {
					return nil
				}
				if c := action.Change; c != nil {
					start(func() { send(ctx, said, t.apply(ctx, c)) })
				}
			}
		}
	}
}

// send sends v, unless the view has ended.
func send[T any](ctx context.Context, to chan<- T, v T) {
	select {
	case to <- v:
	case <-ctx.Done():
	}
}

// readKeys sends the keys that are pressed, until the terminal has gone.
func readKeys(ctx context.Context, in io.Reader, to chan<- []top.Key) {
	defer close(to)
	buffer, kept := make([]byte, 256), 0
	for ctx.Err() == nil {
		n, err := in.Read(buffer[kept:])
		if err != nil {
			return
		}
		keys, rest := top.ReadKeys(buffer[:kept+n])
		kept = copy(buffer, rest)
		send(ctx, to, keys)
	}
}

// lookAgain refreshes the pools at each interval.
func (t *tool) lookAgain(ctx context.Context, interval time.Duration, details *atomic.Pointer[subject], to chan<- looked) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		sample, err := t.sample(ctx, details.Load())
		send(ctx, to, looked{sample, err})
	}
}
