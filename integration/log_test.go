package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// logFile is what processes print. It is a file and no pipe: what a process has printed before it answers is there when the answer is.
type logFile struct{ path string }

func newLogFile(t *testing.T) *logFile {
	t.Helper()
	return &logFile{filepath.Join(t.TempDir(), "log")}
}

// start starts a command that prints there.
func (l *logFile) start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	file, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close() // the process has its own
	cmd.Stdout, cmd.Stderr = file, file
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

func (l *logFile) String() string {
	text, err := os.ReadFile(l.path)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// logged counts the lines of Caddy's log that have all the parts.
func (c *caddy) logged(parts ...string) int {
	n := 0
	for line := range strings.Lines(c.log.String()) {
		if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(line, p) }) {
			n++
		}
	}
	return n
}

func (c *caddy) waitLogged(parts ...string) {
	c.t.Helper()
	waitFor(c.t, fmt.Sprintf("a log line with %q", parts), func() bool { return c.logged(parts...) > 0 })
}

// lockedBuffer is a bytes.Buffer for two goroutines.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
