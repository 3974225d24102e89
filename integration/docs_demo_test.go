package integration

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestDocsDemo runs the demo and puts load on it, as README.md tells. The page of the dashboard tells of it, too.
func TestDocsDemo(t *testing.T) {
	site, admin := freeAddress(t), freeAddress(t)
	demo := exec.Command("make", "run", fmt.Sprintf("ARGS=-listen %s -admin %s -backends %d", site, admin, freePorts(t, 3)))
	demo.Dir = ".."
	demo.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	demo.Env = append(os.Environ(), "XDG_DATA_HOME="+t.TempDir(), "XDG_CONFIG_HOME="+t.TempDir())
	log := new(lockedBuffer)
	demo.Stdout, demo.Stderr = log, log
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = demo.Wait()
		close(ended)
	}()
	stop := func(s syscall.Signal) { _ = syscall.Kill(-demo.Process.Pid, s) }
	t.Cleanup(func() {
		stop(syscall.SIGKILL)
		<-ended
		if t.Failed() {
			t.Logf("the demo's output:\n%s", log)
		}
	})
	deadline := time.Now().Add(5 * time.Minute)          // it builds Caddy
	for !strings.Contains(log.String(), ", password ") { // what it prints last
		select {
		case <-ended:
			t.Fatal("the demo ended")
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatal("the demo is not ready after 5 minutes")
		}
	}
	out := inTree(t, "make", "load", "ARGS=-url http://"+site+"/ -rate 100 -duration 2s -max-failed 0")
	if got := strings.Count(out, "127.0.0.1:"); got < 4 { // the URL and three backends
		t.Errorf("the summary does not show three backends:\n%s", out)
	}
	login := regexp.MustCompile(`dashboard is at (\S+): user (\S+), password (\S+)`).FindStringSubmatch(log.String())
	if login == nil {
		t.Fatalf("the demo does not say where the dashboard is:\n%s", log)
	}
	if status := dashboardStatus(t, login[1], login[2], login[3]); status != 200 {
		t.Errorf("%s for user %s: status %d", login[1], login[2], status)
	}
	if status := dashboardStatus(t, login[1], login[2], "guessed"); status != 401 {
		t.Errorf("%s with a wrong password: status %d", login[1], status)
	}
	stop(syscall.SIGINT) // what Ctrl-C sends to all in the foreground
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("the demo did not stop after Ctrl-C")
	}
	if canConnect(site) || canConnect(admin) {
		t.Error("something still listens after the demo has ended")
	}
}

func dashboardStatus(t *testing.T, url, user, password string) int {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.SetBasicAuth(user, password)
	res, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	return res.StatusCode
}
