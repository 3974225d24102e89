package integration

import (
	"bufio"
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ballastlb/ballast/bench/openloop"
)

// startProcesses starts n example backends as processes of their own, which can be stopped, and returns them with their addresses.
func startProcesses(t *testing.T, n int) ([]*exec.Cmd, []string) {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "backend")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-C", "..", "-o", binary, "./examples/backend").CombinedOutput(); err != nil {
		t.Fatalf("building the backend: %v\n%s", err, out)
	}
	processes, addresses := make([]*exec.Cmd, n), make([]string, n)
	for i := range processes {
		cmd := exec.Command(binary, "-listen", "127.0.0.1:0")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Signal(syscall.SIGCONT)
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		line, err := bufio.NewReader(out).ReadString('\n')
		address, listening := strings.CutPrefix(strings.TrimSpace(line), "listening ")
		if !listening {
			t.Fatalf("the backend says %q, %v", line, err)
		}
		processes[i], addresses[i] = cmd, address
	}
	return processes, addresses
}

// suspend stops a process, and returns when none of its threads runs: until then it may answer.
func suspend(t *testing.T, p *os.Process) {
	t.Helper()
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the process to stop", func() bool {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.Pid))
		if err != nil || len(threads) == 0 {
			t.Fatalf("no threads of the process: %v", err)
		}
		for _, thread := range threads {
			stat, err := os.ReadFile(thread)
			if err != nil {
				return false
			}
			// The state follows the name, which is in parentheses.
			if state := stat[bytes.LastIndexByte(stat, ')')+1:]; !bytes.HasPrefix(state, []byte(" T")) {
				return false
			}
		}
		return true
	})
}

// TestStoppedBackendIsGivenNothing: a process that is stopped accepts connections and answers nothing, and no bound ends what it was
// given. It is given next to nothing while others answer; reverse_proxy goes on giving it its share.
func TestStoppedBackendIsGivenNothing(t *testing.T) {
	// A busy machine sends its requests in bursts, of which the backend has its share before anybody can know.
	rate, duration, most := 300, 3*time.Second, 10
	if *soak {
		rate, duration, most = 1000, 8*time.Second, 3
	}
	for _, directive := range []string{"reverse_proxy", "load_balancer"} {
		t.Run(directive, func(t *testing.T) {
			processes, addresses := startProcesses(t, 3)
			c := startCaddy(t, directive+" "+strings.Join(addresses, " "))
			load := openloop.Options{URL: c.url("/"), Rate: rate, Duration: 2 * patience, Timeout: patience, Connections: 4000}
			warm := load
			warm.Duration = time.Second
			if s, err := openloop.Run(t.Context(), warm); err != nil || s.Failed() > 0 {
				t.Fatalf("%v; of %d requests %d failed before anything happened", err, s.Sent, s.Failed())
			}
			suspend(t, processes[0].Process)
			sent := make(chan struct{})
			time.AfterFunc(duration, func() { close(sent) })
			load.Stop = sent
			var s *openloop.Summary
			var err error
			var wg sync.WaitGroup
			wg.Go(func() { s, err = openloop.Run(t.Context(), load) })
			<-sent
			held := c.heldBy(t, directive, addresses[0])
			if err := processes[0].Process.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			wg.Wait()
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s: the stopped backend held %d of %d requests; %d failed, p99 %v", directive, held, s.Sent, s.Failed(), s.Quantile(0.99))
			if directive == "load_balancer" && held > most {
				t.Errorf("the stopped backend held %d requests, want %d at most", held, most)
			}
		})
	}
}

// heldBy is how many requests are at that backend now.
func (c *caddy) heldBy(t *testing.T, directive, address string) int {
	t.Helper()
	if directive == "load_balancer" {
		return int(c.metrics(`caddy_load_balancer_in_flight{backend="([^"]+)"`)[address])
	}
	status, text := c.askAdminWith(http.MethodGet, "/reverse_proxy/upstreams", "", "")
	_, rest, found := strings.Cut(string(text), `"address":"`+address+`","num_requests":`)
	held := 0
	if _, err := fmt.Sscanf(rest, "%d", &held); !found || err != nil {
		t.Fatalf("status %d: %s", status, text)
	}
	return held
}
