package integration

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestExampleRun follows what the demo says is to be tried, line by line, and looks at whether it is as promised.
func TestExampleRun(t *testing.T) {
	dir := t.TempDir()
	demo, logs := filepath.Join(dir, "demo"), filepath.Join(dir, "log")
	build := exec.Command("go", "build", "-o", demo, "./examples/run")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	listen, admin, first := freeAddress(t), freeAddress(t), freePorts(t, 3)
	run := exec.Command(demo, "-listen", listen, "-admin", admin, "-backends", strconv.Itoa(first), "-log", logs)
	run.Dir = ".."
	out, err := run.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	run.Stderr = os.Stderr
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	said, steps := make(chan string), make(chan []string, 1)
	go func() {
		var commands []string
		lines := bufio.NewScanner(out)
		var last string
		for lines.Scan() {
			last = lines.Text()
			if command, is := strings.CutPrefix(last, "  "); is {
				commands = append(commands, command)
			}
			if strings.HasPrefix(last, "The dashboard is at http://"+listen+"/dashboard/: user operator, password ") {
				steps <- commands
				commands = nil
			}
		}
		ended <- run.Wait()
		said <- last
	}()
	t.Cleanup(func() { _ = run.Process.Signal(syscall.SIGTERM) })
	var commands []string
	select {
	case commands = <-steps:
	case err := <-ended:
		t.Fatalf("ended: %v", err)
	case <-time.After(3 * time.Minute):
		t.Fatal("not ready after 3 minutes")
	}

	// What goes on until it is stopped is left out.
	script := "exec 2>&1\n"
	for _, command := range commands {
		if strings.HasPrefix(command, "# These go on") {
			break
		}
		script += "echo '" + strings.ReplaceAll("$ "+command, "'", `'\''`) + "'\n" + command + "\n"
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	shell := exec.CommandContext(ctx, "bash", "-c", script)
	shell.Dir = ".."
	printed, err := shell.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, printed)
	}
	parts := strings.Split(string(printed), "\n$ # ")
	if len(parts) != 5 {
		t.Fatalf("%d parts in\n%s", len(parts), printed)
	}
	backend := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", first+i) }
	// answers are how many of the hundred each has answered, of every time that somebody asked.
	answers := func(part string) (all []map[string]int) {
		for i, text := range strings.Split(part, "ask\n")[1:] {
			all = append(all, make(map[string]int))
			for _, m := range regexp.MustCompile(`(?m)^ *(\d+) (\S+) GET /$`).FindAllStringSubmatch(text, -1) {
				n, err := strconv.Atoi(m[1])
				if err != nil {
					t.Fatal(err)
				}
				all[i][m[2]] = n
			}
		}
		return all
	}
	for name, check := range map[string]bool{
		"all three answer":               len(answers(parts[0])[0]) == 3 && strings.Contains(parts[0], "200 OK"),
		"the slow one gets less":         answers(parts[1])[0][backend(0)] < 25,
		"the wrong one is not seen":      answers(parts[2])[0][backend(0)]+answers(parts[2])[0][backend(2)] == 100,
		"its breaker is open":            regexp.MustCompile(`ready +up +open`).MatchString(parts[2]),
		"the down one gets nothing":      answers(parts[3])[0][backend(2)] == 0,
		"and something again":            answers(parts[3])[1][backend(2)] > 0,
		"what happened":                  strings.Contains(parts[4], "breaker_opened") && strings.Contains(parts[4], "backend_down"),
		"where the next one goes":        strings.Contains(parts[4], "pool web, policy peak_ewma: the next request goes"),
		"the pools, and that it is well": strings.Contains(parts[4], `"name":"web"`) && strings.Contains(parts[4], "200 OK"),
	} {
		if !check {
			t.Errorf("not as promised: %s", name)
		}
	}
	if t.Failed() {
		t.Logf("%s", printed)
	}

	if err := run.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if last := <-said; err != nil || !strings.Contains(last, "user operator, password ") {
			t.Errorf("ended with %v, and said last: %s", err, last)
		}
	case <-time.After(time.Minute):
		t.Error("goes on after Ctrl-C")
	}
	if text, err := os.ReadFile(logs); err != nil || !strings.Contains(string(text), "handled request") {
		t.Errorf("the log: %v, %d bytes", err, len(text))
	}
}
