package integration

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// snippets returns the code blocks of README.md in that language.
func snippets(t *testing.T, language string) []string {
	t.Helper()
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, match := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(string(readme), -1) {
		found = append(found, match[1])
	}
	if len(found) == 0 {
		t.Fatalf("README.md has no code in %s", language)
	}
	return found
}

func TestReadmeCaddyfiles(t *testing.T) {
	t.Setenv("STICKY_SECRET", "s3cret") // one of them refuses to sign with nothing
	for i, snippet := range snippets(t, "caddyfile") {
		t.Run(strconv.Itoa(i+1), func(t *testing.T) {
			if out, err := runCaddy(t, snippet, "validate"); err != nil {
				t.Errorf("%v\n%s\n%s", err, snippet, out)
			}
			out, err := runCaddy(t, snippet, "adapt")
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			if strings.Contains(out, `"level":"warn"`) {
				t.Errorf("adapt warns: %s", out)
			}
		})
	}
}

// TestReadmeCommands runs what README.md tells to run. What would run this very test, or takes minutes, is run by
// .ci/run instead, and checked to be there.
func TestReadmeCommands(t *testing.T) {
	scripts := read(t, "../.ci/run")
	for _, block := range snippets(t, "sh") {
		for line := range strings.Lines(block) {
			command, _, _ := strings.Cut(line, "#")
			command = strings.TrimSpace(command)
			switch command {
			case "":
			case "make run", "make load":
				// TestReadmeDemo
			case "make test", "make check", "./xcaddy.sh":
				if !strings.Contains(scripts, "\n"+command+"\n") {
					t.Errorf("%s: not in .ci/run", command)
				}
			case "make bench", "make fuzz", "make soak":
				inTree(t, "make", "--dry-run", strings.TrimPrefix(command, "make "))
			case "make help", "make build", "bin/caddy list-modules",
				"bin/caddy validate --config Caddyfile.example --adapter caddyfile":
				words := strings.Fields(command)
				out := inTree(t, words[0], words[1:]...)
				if command == "bin/caddy list-modules" {
					for _, module := range []string{"http.handlers.load_balancer", "http.handlers.ip_rate_limit", "lb_round_robin", "lb_weighted_round_robin", "lb_least_conn", "lb_peak_ewma", "lb_random", "lb_p2c", "lb_hash", "lb_sticky", "lb_first"} {
						if !strings.Contains(out, module) {
							t.Errorf("%s does not show %s", command, module)
						}
					}
				}
			default:
				t.Errorf("%s: this test does not know the command", command)
			}
		}
	}
}

// TestReadmeDemo runs the demo and puts load on it, as README.md tells.
func TestReadmeDemo(t *testing.T) {
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
	deadline := time.Now().Add(5 * time.Minute) // it builds Caddy
	for !strings.Contains(log.String(), "ready. Ctrl-C stops everything") {
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
	login := regexp.MustCompile(`dashboard is at (\S+), user (\S+), password (\S+)`).FindStringSubmatch(log.String())
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

func TestReadmeNamesEveryTarget(t *testing.T) {
	readme, makefile := read(t, "../README.md"), read(t, "../Makefile")
	targets := regexp.MustCompile(`(?m)^([a-z]+):.*##`).FindAllStringSubmatch(makefile, -1)
	var known []string
	for _, target := range targets {
		known = append(known, target[1])
	}
	for _, match := range regexp.MustCompile("make ([a-z]+)").FindAllStringSubmatch(readme, -1) {
		if !slices.Contains(known, match[1]) {
			t.Errorf("make %s: there is no such target", match[1])
		}
	}
	for _, match := range regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(readme, -1) {
		if strings.Contains(match[1], "://") {
			continue
		}
		if _, err := os.Stat(filepath.Join("..", match[1])); err != nil {
			t.Errorf("link to %s: %v", match[1], err)
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// inTree runs a command at the root of the tree and returns what it printed.
func inTree(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+t.TempDir(), "XDG_CONFIG_HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}
