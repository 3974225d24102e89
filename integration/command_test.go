package integration

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// lb runs `caddy lb` against c and returns what it printed to stdout and stderr, and its exit code.
func (c *caddy) lb(args ...string) (stdout, stderr string, code int) {
	c.t.Helper()
	return runLB(c.t, nil, append(args, "--address", c.admin)...)
}

func runLB(t *testing.T, environment []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), caddyBinary, append([]string{"lb"}, args...)...)
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+t.TempDir(), "XDG_CONFIG_HOME="+t.TempDir(), "USER=eve")
	cmd.Env = append(cmd.Env, environment...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if _, ok := errors.AsType[*exec.ExitError](err); !ok {
			t.Fatal(err)
		}
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// words returns the lines of text with single spaces between their words.
func words(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(strings.Join(strings.Fields(line), " ") + "\n")
	}
	return b.String()
}

func TestCommandLine(t *testing.T) {
	backends, _ := startBackends(t, 2)
	c := startCaddy(t, fmt.Sprintf(`
	ip_rate_limit {
		zone login
		rate 100/m
		burst 50
		key {query.user}
	}
	load_balancer {
		name a/b
		backend %s {
			name [::1]:80
			weight 3
		}
		backend %s {
			max_requests 9
		}
	}`, backends[0].addr, backends[1].addr))
	for range 4 {
		if status, _, _ := c.get("/?user=eve"); status != http.StatusOK {
			t.Fatalf("status %d", status)
		}
	}
	// The lease of a request ends behind its answer.
	waitFor(t, "the requests to end", func() bool {
		p := c.pool()
		return p.Backends[0].InFlight+p.Backends[1].InFlight == 0
	})
	for _, test := range []struct {
		command string
		code    int
		want    []string // words of a line
	}{
		{"pools", 0, []string{"a/b peak_ewma ok 2/2 0"}},
		{"pools a/b", 0, []string{"a/b peak_ewma ok 2/2 0"}},
		{"backends", 0, []string{"a/b [::1]:80 " + backends[0].addr, "a/b " + backends[1].addr + " " + backends[1].addr}},
		{"limits", 0, []string{"login 100/m 50 - 1/262144 4 0 0 - enforced"}},
		{"limits login eve", 0, []string{"eve "}},
		{"limits login eve --forget", 0, []string{"login eve: forgotten"}},
		{"limits login --forget --yes", 0, []string{"login: forgotten"}},
		{"top --once --interval 100ms", 0, []string{"Ballast at " + c.admin, "a/b ok 2/2 usable", "[::1]:80 up 3 0", backends[1].addr + " up 1 0/9"}},
		{"pools none", 4, []string{"Error: pool none: not found"}},
		{"limits login nobody", 4, []string{"Error: key nobody: not found; it has all its tokens"}},
		{"limits login --forget", 1, []string{"Error: give all keys of zone login their tokens back: needs confirmation, but there is no terminal; use --yes"}},
		{"top", 1, []string{"Error: top needs a terminal; --once prints one frame anywhere"}},
		{"nothing", 1, []string{"Error: unknown command nothing; see 'caddy lb --help'"}},
	} {
		stdout, stderr, code := c.lb(strings.Fields(test.command)...)
		if code != test.code || (code == 0) != (stderr == "") || (code != 0) != (stdout == "") {
			t.Errorf("%s: exit code %d, want %d:\n%s%s", test.command, code, test.code, stdout, stderr)
		}
		text := "\n" + words(stdout+stderr)
		for _, want := range test.want {
			if !strings.Contains(text, "\n"+want) {
				t.Errorf("%s has no line %q:\n%s", test.command, want, text)
			}
		}
	}
	if stdout, stderr, code := runLB(t, []string{"CADDY_ADMIN=" + c.admin}, "pools", "--json"); code != 0 || !strings.Contains(stdout, `"name":"a/b"`) {
		t.Errorf("by CADDY_ADMIN: exit code %d:\n%s%s", code, stdout, stderr)
	}
	if _, stderr, code := runLB(t, nil, "pools", "--address", freeAddress(t)); code != 7 || !strings.Contains(stderr, "cannot reach") {
		t.Errorf("where nobody listens: exit code %d:\n%s", code, stderr)
	}
}

// terminal is a pseudo terminal with a command on it.
type terminal struct {
	t             *testing.T
	master, slave *os.File
	shown         *lockedBuffer
	cmd           *exec.Cmd
	ended         chan struct{}
	before        unix.Termios
}

// openTerminal runs `caddy lb` on a new terminal.
func (c *caddy) openTerminal(columns, rows int, args ...string) *terminal {
	t := c.t
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	x := &terminal{t: t, master: master, slave: slave, shown: new(lockedBuffer), ended: make(chan struct{})}
	x.resize(columns, rows)
	x.before = x.state()
	x.cmd = exec.Command(caddyBinary, append([]string{"lb", "--address", c.admin}, args...)...)
	x.cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+t.TempDir(), "XDG_CONFIG_HOME="+t.TempDir(), "TERM=xterm")
	x.cmd.Stdin, x.cmd.Stdout, x.cmd.Stderr = slave, slave, slave
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := x.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = x.cmd.Wait()
		close(x.ended)
	}()
	t.Cleanup(func() {
		_ = x.cmd.Process.Kill()
		<-x.ended
	})
	go func() { _, _ = x.shown.readFrom(master) }()
	return x
}

func (x *terminal) state() unix.Termios {
	x.t.Helper()
	s, err := unix.IoctlGetTermios(int(x.slave.Fd()), unix.TCGETS)
	if err != nil {
		x.t.Fatal(err)
	}
	return *s
}

func (x *terminal) resize(columns, rows int) {
	x.t.Helper()
	if err := unix.IoctlSetWinsize(int(x.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: uint16(columns), Row: uint16(rows)}); err != nil {
		x.t.Fatal(err)
	}
}

func (x *terminal) press(keys string) {
	x.t.Helper()
	if _, err := x.master.WriteString(keys); err != nil {
		x.t.Fatal(err)
	}
}

// sequence is an escape sequence with its parameters and what it does.
var sequence = regexp.MustCompile(`^\x1b\[([0-9;?]*)([A-Za-z])`)

// click presses the mouse on the line that shows a text, and lets it go.
func (x *terminal) click(on string) {
	x.t.Helper()
	line := slices.IndexFunc(strings.Split(x.frame(), "\n"), func(l string) bool { return strings.Contains(l, on) })
	if line < 0 {
		x.t.Fatalf("%q is not shown:\n%s", on, x.frame())
	}
	x.press(fmt.Sprintf("\x1b[<0;5;%dM\x1b[<0;5;%dm", line+1, line+1))
}

// frame is what the terminal shows, as far as it was sent, in lines that end where the text does.
func (x *terminal) frame() string {
	sent := x.shown.String()
	if enter := strings.LastIndex(sent, "\x1b[2J"); enter >= 0 {
		sent = sent[enter:] // a frame is sent whole
	}
	var lines [][]byte
	line, at := 0, 0
	for len(sent) > 0 {
		found := sequence.FindStringSubmatch(sent)
		if found == nil {
			for len(lines) <= line {
				lines = append(lines, nil)
			}
			for len(lines[line]) <= at {
				lines[line] = append(lines[line], ' ')
			}
			lines[line][at] = sent[0]
			at, sent = at+1, sent[1:]
			continue
		}
		sent = sent[len(found[0]):]
		switch found[2] {
		case "H":
			_, _ = fmt.Sscanf(found[1], "%d;%d", &line, &at)
			line, at = line-1, at-1
		case "K":
			if line < len(lines) {
				lines[line] = lines[line][:min(at, len(lines[line]))]
			}
		}
	}
	shown := make([]string, len(lines))
	for i, l := range lines {
		shown[i] = strings.TrimRight(string(l), " ")
	}
	return strings.Join(shown, "\n")
}

// waitForFrame waits until the last frame has all these texts.
func (x *terminal) waitForFrame(texts ...string) {
	x.t.Helper()
	defer func() {
		if x.t.Failed() {
			x.t.Logf("the terminal was sent %q", x.frame())
		}
	}()
	waitFor(x.t, fmt.Sprintf("a frame with %q", texts), func() bool {
		frame := x.frame()
		for _, text := range texts {
			if !strings.Contains(frame, text) {
				return false
			}
		}
		return true
	})
}

// checkRestored waits until the command has ended and checks that the terminal is as it was found.
func (x *terminal) checkRestored() {
	x.t.Helper()
	waitFor(x.t, "the command to end", func() bool {
		select {
		case <-x.ended:
			return true
		default:
			return false
		}
	})
	if code := x.cmd.ProcessState.ExitCode(); code != 0 {
		x.t.Errorf("exit code %d", code)
	}
	if after := x.state(); after != x.before {
		x.t.Errorf("the terminal is %+v, and was %+v", after, x.before)
	}
	waitFor(x.t, "the first screen, and the cursor", func() bool { return strings.HasSuffix(x.shown.String(), "\x1b[0m\x1b[?25h\x1b[?1049l") })
}

func (b *lockedBuffer) readFrom(f *os.File) (int64, error) {
	n, chunk := int64(0), make([]byte, 4096)
	for {
		k, err := f.Read(chunk)
		_, _ = b.Write(chunk[:k])
		if n += int64(k); err != nil {
			return n, err
		}
	}
}

func TestCommandTop(t *testing.T) {
	backends, addresses := startBackends(t, 2)
	c := startCaddy(t, "load_balancer "+addresses+" {\n\tname web\n}")
	slices.SortFunc(backends, func(a, b *backend) int { return strings.Compare(a.addr, b.addr) }) // as they are shown
	for _, test := range []struct {
		name string
		end  func(x *terminal)
	}{
		{"q", func(x *terminal) { x.press("q") }},
		{"ctrl-c", func(x *terminal) { x.press("\x03") }},
		{"SIGTERM", func(x *terminal) { _ = x.cmd.Process.Signal(syscall.SIGTERM) }},
		{"SIGHUP", func(x *terminal) { _ = x.cmd.Process.Signal(syscall.SIGHUP) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := *c
			c.t = t
			x := c.openTerminal(100, 20, "top", "--interval", "100ms")
			x.waitForFrame("> "+backends[0].addr, backends[1].addr, "q quit", "REQ/S")
			x.press("\x1b[B")
			x.waitForFrame("> " + backends[1].addr)
			x.press("d")
			x.waitForFrame("read-only")
			x.resize(60, 10)
			waitFor(t, "a frame of ten lines", func() bool { return strings.Count(x.frame(), "\n") == 9 })
			x.press("\x0c")
			x.waitForFrame("q quit", backends[0].addr, "REQ/S")
			x.press("/" + backends[0].addr)
			x.waitForFrame("filter: " + backends[0].addr)
			x.press("\x1b")
			x.waitForFrame("q quit", backends[1].addr)
			x.click(backends[0].addr)
			x.waitForFrame("> " + backends[0].addr)
			x.click(backends[0].addr)
			x.waitForFrame(backends[0].addr+"  in pool web", "esc back")
			x.press("\x1b")
			x.waitForFrame("> "+backends[0].addr, backends[1].addr)
			x.press("\x1b[<65;1;1M")
			x.waitForFrame("> " + backends[1].addr)
			x.press("/" + backends[0].addr + "\r")
			waitFor(t, "one backend to be shown", func() bool { return !strings.Contains(x.frame(), backends[1].addr) })
			test.end(x)
			x.checkRestored()
		})
	}
	t.Run("ctrl-z", func(t *testing.T) {
		c := *c
		c.t = t
		x := c.openTerminal(100, 20, "top", "--interval", "100ms")
		x.waitForFrame("q quit")
		x.press("\x1a")
		waitFor(t, "the first screen", func() bool { return strings.Contains(x.shown.String(), "\x1b[?1049l") })
		// Nobody could let it go on, so the system lets it do so at once; a signal does as well.
		waitFor(t, "the other screen again", func() bool { return strings.Count(x.shown.String(), "\x1b[?1049h") == 2 })
		x.waitForFrame("q quit", backends[0].addr)
		_ = x.cmd.Process.Signal(syscall.SIGCONT)
		waitFor(t, "it once more", func() bool { return strings.Count(x.shown.String(), "\x1b[?1049h") == 3 })
		x.waitForFrame("q quit", backends[0].addr)
		x.press("q")
		x.checkRestored()
	})
	t.Run("caddy goes", func(t *testing.T) {
		c := *c
		c.t = t
		x := c.openTerminal(200, 20, "top", "--interval", "100ms")
		x.waitForFrame("q quit")
		_ = c.cmd.Process.Signal(syscall.SIGTERM)
		<-c.ended
		x.waitForFrame("cannot reach", backends[0].addr)
		x.press("q")
		x.checkRestored()
	})
}
