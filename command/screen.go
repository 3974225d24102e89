package command

import (
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

// screen is a terminal in raw mode with its alternate screen.
type screen struct {
	in, out *os.File
	before  *term.State // state of in before
	restore func()      // restores out
	painter top.Painter
}

const (
	enterScreen = "\x1b[?1049h\x1b[?25l\x1b[?7l" + mouseOn // alternate screen, no cursor, no wrapping of long lines
	leaveScreen = mouseOff + "\x1b[?7h\x1b[0m\x1b[?25h\x1b[?1049l"
	mouseOn     = "\x1b[?1000h\x1b[?1006h" // report buttons, in SGR mode
	mouseOff    = "\x1b[?1006l\x1b[?1000l"
)

// openScreen takes over the terminal until close is called.
func (c *console) openScreen() (*screen, error) {
	in, isFile := c.in.(*os.File)
	out, isFileToo := c.out.(*os.File)
	if !isFile || !isFileToo || !isTerminal(in) || !isTerminal(out) {
		return nil, usageErrorf("top needs a terminal; --once prints one frame anywhere")
	}
	if os.Getenv("TERM") == "dumb" {
		return nil, usageErrorf("top needs a terminal that can move its cursor, and TERM is dumb; --once prints one frame anywhere")
	}
	before, err := term.GetState(int(in.Fd()))
	if err != nil {
		return nil, fmt.Errorf("preparing the terminal: %w", err)
	}
	s := &screen{in: in, out: out, before: before, painter: top.Painter{Color: c.color}}
	if s.restore, err = obeySequences(out); err != nil {
		return nil, fmt.Errorf("preparing the terminal: %w", err)
	}
	return s, s.enter()
}

// enter sets up the terminal, the first time or after the shell has had it.
func (s *screen) enter() error {
	s.painter.Forget()
	_, err := term.MakeRaw(int(s.in.Fd()))
	if err == nil {
		_, err = io.WriteString(s.out, enterScreen)
	}
	if err != nil {
		return fmt.Errorf("preparing the terminal: %w", err)
	}
	return nil
}

func (s *screen) leave() {
	_, _ = io.WriteString(s.out, leaveScreen) // fails only if the terminal has gone
	_ = term.Restore(int(s.in.Fd()), s.before)
}

func (s *screen) close() {
	s.leave()
	s.restore()
}

// suspend stops the process and leaves the terminal to the shell. It returns when the shell continues the process.
func (s *screen) suspend() error {
	s.leave()
	stopProcess()
	return s.enter()
}

// draw shows a frame. It sends the changes in a single write, which avoids flicker.
func (s *screen) draw(m *top.Model) error {
	width, height, err := term.GetSize(int(s.out.Fd()))
	if err != nil {
		return fmt.Errorf("getting the terminal's size: %w", err)
	}
	if changed := s.painter.Paint(m.Frame(width, height), width); len(changed) > 0 {
		_, err = s.out.Write(changed)
	}
	return err
}

// looked is the result of a refresh.
type looked struct {
	sample top.Sample
	err    error
}

// live shows the view until the user quits, or a signal ends the process. It always restores the terminal, even after a panic in one of
// its goroutines.
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
	resumed := make(chan os.Signal, 1)
	if len(resumeSignals) > 0 {
		signal.Notify(resumed, resumeSignals...)
		defer signal.Stop(resumed)
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
	keys, looks, said := make(chan []top.Input), make(chan looked), make(chan string)
	start(func() { readKeys(ctx, s.in, keys) })
	var details atomic.Pointer[subject] // the open backend, for the goroutine that refreshes
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
			s.painter.Forget()
		case <-resumed: // the shell may have changed the terminal
			if err := s.enter(); err != nil {
				return err
			}
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
				action := m.Take(k)
				details.Store(nil)
				if pool, backend, is := m.Open(); is {
					details.Store(&subject{pool, backend})
				}
				if action.Quit {
					return nil
				}
				if action.Redraw {
					s.painter.Forget()
				}
				if action.Suspend {
					if err := s.suspend(); err != nil {
						return err
					}
				}
				if c := action.Change; c != nil {
					start(func() { send(ctx, said, t.apply(ctx, c)) })
				}
			}
		}
	}
}

// send sends v, or gives up when ctx ends.
func send[T any](ctx context.Context, to chan<- T, v T) {
	select {
	case to <- v:
	case <-ctx.Done():
	}
}

// readKeys sends the pressed keys until ctx ends or the terminal has gone.
func readKeys(ctx context.Context, in io.Reader, to chan<- []top.Input) {
	defer close(to)
	buffer, kept := make([]byte, 256), 0
	for ctx.Err() == nil {
		n, err := in.Read(buffer[kept:])
		if err != nil {
			return
		}
		keys, rest := top.Read(buffer[:kept+n])
		kept = copy(buffer, rest)
		send(ctx, to, keys)
	}
}

// lookAgain takes a sample at each interval.
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
