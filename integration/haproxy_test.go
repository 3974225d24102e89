package integration

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startHAProxy runs HAProxy in front of these backends, to compare with, and returns the address where it listens; "" if it is not
// installed.
func startHAProxy(t *testing.T, backends ...string) string {
	t.Helper()
	if _, err := exec.LookPath("haproxy"); err != nil {
		t.Log("no haproxy here to compare with")
		return ""
	}
	address, _ := startHAProxyWith(t, haproxyWords{}, backends...)
	return address
}

// haproxyWords are further words of the configuration.
type haproxyWords struct{ bind, site, server string }

// startHAProxyWith runs HAProxy, which must be installed, with these words.
func startHAProxyWith(t *testing.T, words haproxyWords, backends ...string) (address string, cmd *exec.Cmd) {
	t.Helper()
	address = freeAddress(t)
	config := "global\n maxconn 5000\ndefaults\n mode http\n timeout connect 2s\n timeout client 1m\n timeout server 1m\n" +
		" retries 3\n option redispatch\nlisten site\n bind " + address + " " + words.bind + "\n balance roundrobin\n" + words.site + "\n"
	for i, backend := range backends {
		config += fmt.Sprintf(" server s%d %s %s\n", i, backend, words.server)
	}
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command("haproxy", "-db", "-f", file)
	startProgram(t, address, cmd)
	return address, cmd
}

// startReloadedHAProxy runs HAProxy as a master with workers that pass their sockets on, on plain HTTP, TLS and a unix socket; nil if
// it is not installed.
func startReloadedHAProxy(t *testing.T) *reloaded {
	t.Helper()
	program, err := exec.LookPath("haproxy")
	if err != nil {
		t.Log("no haproxy here to compare with")
		return nil
	}
	backends := lossBackends(t)
	certificate, key := selfSigned(t)
	plain, secure, dir := freeAddress(t), freeAddress(t), t.TempDir()
	socket, file := filepath.Join(dir, "site.sock"), filepath.Join(dir, "haproxy.cfg")
	pair := inFile(t, "pair.pem", read(t, certificate)+read(t, key))
	// The same backends and policies as the others have.
	members, policies := []string{"B0 B1", "B0 B1 B2", "B1 B2", "B2 B1", "B1"}, []string{"roundrobin", "roundrobin", "random", "leastconn", "first"}
	write := func(n int64) {
		config := "global\n maxconn 5000\n stats socket " + filepath.Join(dir, "stats.sock") + " level admin expose-fd listeners\n" +
			"defaults\n mode http\n timeout connect 2s\n timeout client 1m\n timeout server 1m\n retries 3\n option redispatch\n" +
			"listen site\n bind " + plain + "\n bind " + secure + " ssl crt " + pair + " alpn h2,http/1.1\n bind unix@" + socket + " mode 666\n" +
			" balance " + policies[n%int64(len(policies))] + "\n" + fmt.Sprintf(" http-response set-header X-Config %d\n", n)
		for i, b := range strings.Fields(fillBackends(members[n%int64(len(members))], backends)) {
			config += fmt.Sprintf(" server s%d %s\n", i, b)
		}
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(0)
	cmd := exec.Command(program, "-W", "-S", filepath.Join(dir, "master.sock"), "-f", file)
	startProgram(t, plain, cmd)
	p := &reloaded{name: "HAProxy", sites: map[string]string{"plain": plain, "tls": secure, "unix": socket}}
	// Its old workers serve what they have; that is no loss.
	p.prepare = func(c *strictClient) { c.configs = nil }
	p.reload = func(n int64) error {
		write(n)
		// Its reload is over when new connections are served by the new workers. A master that has just reloaded may sleep on a signal
		// until the next.
		asked := time.Time{}
		waitFor(t, "HAProxy to reload", func() bool {
			if time.Since(asked) > 500*time.Millisecond {
				asked = time.Now()
				_ = cmd.Process.Signal(syscall.SIGUSR2)
			}
			return namedConfig(plain) == n
		})
		return nil
	}
	return p
}

// namedConfig is which config a site names on a new connection; -1 for none.
func namedConfig(address string) int64 {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{}).DialContext}
	res, err := (&http.Client{Transport: transport, Timeout: strictPatience}).Get("http://" + address + "/")
	if err != nil {
		return -1
	}
	defer res.Body.Close()
	n, err := strconv.ParseInt(res.Header.Get("X-Config"), 10, 64)
	if err != nil {
		return -1
	}
	return n
}
