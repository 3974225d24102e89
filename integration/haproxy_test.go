package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// startHAProxy runs HAProxy in front of these backends, to compare with, and returns the address where it listens; "" if it is not
// installed.
func startHAProxy(t *testing.T, backends ...string) string {
	t.Helper()
	program, err := exec.LookPath("haproxy")
	if err != nil {
		t.Log("no haproxy here to compare with")
		return ""
	}
	address := freeAddress(t)
	config := "global\n maxconn 5000\ndefaults\n mode http\n timeout connect 2s\n timeout client 1m\n timeout server 1m\n" +
		" retries 3\n option redispatch\nlisten site\n bind " + address + "\n balance roundrobin\n"
	for i, backend := range backends {
		config += fmt.Sprintf(" server s%d %s\n", i, backend)
	}
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-db", "-f", file)
	newLogFile(t).start(t, cmd)
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	waitFor(t, "HAProxy to listen", func() bool { return canConnect(address) })
	return address
}
