package integration

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSeamlessExitWaits: the exit waits for a download through an address that a reload has taken away.
func TestSeamlessExitWaits(t *testing.T) {
	b := startBackend(t)
	release := make(chan struct{})
	b.handle(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "first, ")
		_ = http.NewResponseController(w).Flush()
		<-release
		_, _ = io.WriteString(w, "last")
	})
	second := freeAddress(t)
	config := func(more string) string {
		return "{\n admin ADMIN_ADDRESS\n persist_config off\n grace_period 20s\n servers {\n " + seamless + "\n }\n}\nhttp://SITE_ADDRESS {\n respond ok\n}\n" + more
	}
	c := startCaddyConfig(t, config("http://"+second+" {\n load_balancer "+b.addr+"\n}\n"))
	res, err := client.Get("http://" + second)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if err := c.reload(config("")); err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "caddy to close the site", func() bool { return !canConnect(c.site) })
	select {
	case <-c.ended:
		t.Error("caddy has exited during a download")
	case <-time.After(1500 * time.Millisecond): // longer than connections without a request are waited for
	}
	close(release)
	if text, err := io.ReadAll(res.Body); err != nil || string(text) != "first, last" {
		t.Errorf("the download is %q, %v", text, err)
	}
	<-c.ended
	if code := c.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestSeamlessHTTP1Only: a plain server with h1 alone keeps its connections, and closes those that begin as HTTP/2's, with and without
// seamless.
func TestSeamlessHTTP1Only(t *testing.T) {
	without := freeAddress(t)
	config := func(answer string) string {
		return strings.NewReplacer("ANSWER", answer).Replace("{\n admin ADMIN_ADDRESS\n persist_config off\n servers :" + port(t, without) +
			" {\n protocols h1\n }\n servers {\n protocols h1\n " + seamless + "\n }\n}\nhttp://SITE_ADDRESS {\n respond ANSWER\n}\nhttp://" + without +
			" {\n respond ANSWER\n}\n")
	}
	c := startCaddyConfig(t, config("first"))
	kept := dialRaw(t, c.site)
	kept.ask(t, "first")
	if err := c.reload(config("second")); err != nil {
		t.Fatal(err)
	}
	kept.ask(t, "second")
	for _, site := range []string{c.site, without} {
		p := dialRaw(t, site)
		if _, err := io.WriteString(p.conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(p.r); len(text) > 0 || err != nil && !isDisconnect(err) {
			t.Errorf("%s answers %q, %v to HTTP/2", site, text, err)
		}
	}
}

// rawPeer is a connection to a site.
type rawPeer struct {
	conn net.Conn
	r    *bufio.Reader
}

func dialRaw(t *testing.T, address string) *rawPeer {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return &rawPeer{conn, bufio.NewReader(conn)}
}

// ask expects this answer.
func (p *rawPeer) ask(t *testing.T, want string) {
	t.Helper()
	if _, err := io.WriteString(p.conn, "GET / HTTP/1.1\r\nHost: "+p.conn.RemoteAddr().String()+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(p.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if text, err := io.ReadAll(res.Body); err != nil || string(text) != want {
		t.Errorf("got %q, %v, want %q", text, err, want)
	}
}
