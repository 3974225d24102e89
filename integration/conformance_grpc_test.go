//go:build trust

package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// gRPC's interoperability tests, as grpc-go has them: its client, a program, and its server, with Caddy between them.

// interopTimes is how often a case must pass.
const interopTimes = 20

// interopCase is a case of the client.
type interopCase struct {
	name string

	// What the client sets at a server with one call, it looks for with another: there must be only one server.
	alone bool

	// The server has one at a time, and the client waits for its turn.
	waits bool
}

// interopCases are all that need no credentials of a cloud.
var interopCases = []interopCase{
	{name: "empty_unary"},
	{name: "large_unary"},
	{name: "client_streaming"},
	{name: "server_streaming"},
	{name: "ping_pong"},
	{name: "empty_stream"},
	{name: "timeout_on_sleeping_server"},
	{name: "cancel_after_begin"},
	{name: "cancel_after_first_response"},
	{name: "status_code_and_message"},
	{name: "special_status_message"},
	{name: "custom_metadata"},
	{name: "unimplemented_method"},
	{name: "unimplemented_service"},
	{name: "pick_first_unary", alone: true},
	{name: "rpc_soak"},
	{name: "channel_soak"},
	{name: "orca_per_rpc"},
	{name: "orca_oob", alone: true, waits: true},
}

// interopSite is a Caddy between grpc-go's client and its servers.
type interopSite struct {
	name  string
	all   string   // the address with all servers behind it
	alone string   // the one with a single server
	flags []string // of the client
	most  int      // failures of a case that do not count: the control is not on trial, and some cases are of timeouts
}

// runInterop runs each case over TLS and h2c.
func runInterop(t *testing.T) (ours, stock results) {
	client, server := buildInterop(t)
	servers := startInteropServers(t, server, 3)
	run := func(directive, wrappers string, most int) results {
		found := results{}
		var mu sync.Mutex // guards found
		var wg sync.WaitGroup
		for _, secure := range []bool{false, true} {
			s := startInteropSite(t, directive, wrappers, secure, servers, startInteropServers(t, server, 1)[0])
			s.most = most
			run := func(test interopCase, workers int) {
				wrong := s.often(t, client, test, workers)
				mu.Lock()
				defer mu.Unlock()
				found[test.name+" over "+s.name] = wrong
			}
			for _, test := range interopCases {
				if test.waits {
					wg.Go(func() { run(test, 4) })
				}
			}
			wg.Go(func() {
				for _, test := range interopCases {
					if !test.waits {
						run(test, 2)
					}
				}
			})
		}
		wg.Wait()
		return found
	}
	return run("load_balancer", seamless, 0), run("reverse_proxy", "", interopTimes/4)
}

// buildInterop builds grpc-go's two programs. The server would listen at all addresses of the machine: in the copy that is compiled it
// does not.
func buildInterop(t *testing.T) (client, server string) {
	t.Helper()
	const module, path = "google.golang.org/grpc", "google.golang.org/grpc/interop/"
	goTool := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), "go", args...)
		cmd.Dir = ".."
		text, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, text)
		}
		return strings.TrimSpace(string(text))
	}
	goTool("mod", "download", "-modfile=tools/go.mod", module)
	copied, out := t.TempDir(), t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(goTool("list", "-modfile=tools/go.mod", "-m", "-f", "{{.Dir}}", module))); err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(copied, "interop", "server", "server.go")
	const everywhere, here = `net.Listen("tcp", ":"+p)`, `net.Listen("tcp", "127.0.0.1:"+p)`
	text := read(t, source)
	if strings.Count(text, everywhere) != 1 {
		t.Fatal("grpc-go's server listens in another way")
	}
	modules := filepath.Join(out, "go.mod")
	for file, text := range map[string]string{
		source:                       strings.Replace(text, everywhere, here, 1),
		modules:                      read(t, "../tools/go.mod") + "\nreplace " + module + " => " + strconv.Quote(copied) + "\n",
		filepath.Join(out, "go.sum"): read(t, "../tools/go.sum"),
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// Without paths in them, the packages are in the build cache the next time.
	goTool("build", "-trimpath", "-modfile="+modules, "-o", out, path+"client", path+"server")
	return filepath.Join(out, "client"), filepath.Join(out, "server")
}

// startInteropServers starts n of the servers and returns their addresses.
func startInteropServers(t *testing.T, program string, n int) (addresses []string) {
	t.Helper()
	for range n {
		address := freeAddress(t)
		cmd := exec.Command(program, "-port="+port(t, address))
		newLogFile(t).start(t, cmd)
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		waitFor(t, "grpc-go's server to listen", func() bool { return canConnect(address) })
		addresses = append(addresses, "h2c://"+address)
	}
	return addresses
}

// startInteropSite starts the Caddy.
func startInteropSite(t *testing.T, directive, wrappers string, secure bool, servers []string, one string) *interopSite {
	t.Helper()
	s := &interopSite{name: "h2c", alone: freeAddress(t)}
	scheme, protocols, certificates := "http", "h1 h2c", ""
	if secure {
		certificate, key := selfSigned(t)
		scheme, protocols, certificates = "https", "h1 h2", "tls "+certificate+" "+key
		s.name, s.flags = "TLS", []string{"-use_tls", "-use_test_ca", "-ca_file=" + certificate}
	}
	site := fmt.Sprintf("%s://%%s {\n %s\n %s %%s\n}\n", scheme, certificates, directive)
	c := startCaddyConfig(t, fmt.Sprintf("{\n admin ADMIN_ADDRESS\n persist_config off\n auto_https off\n servers {\n protocols %s\n %s\n }\n}\n", protocols, wrappers)+
		fmt.Sprintf(site, "SITE_ADDRESS", strings.Join(servers, " "))+fmt.Sprintf(site, s.alone, one))
	s.all = c.site
	return s
}

// often runs a case as often as it must pass, with so many clients at a time.
func (s *interopSite) often(t *testing.T, client string, test interopCase, workers int) string {
	t.Helper()
	address := s.all
	if test.alone {
		address = s.alone
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Error(err)
	}
	args := append([]string{
		"-test_case=" + test.name, "-server_host=" + host, "-server_port=" + port,
		"-soak_overall_timeout_seconds=60", "-soak_per_iteration_max_acceptable_latency_ms=30000",
	}, s.flags...)
	if strings.HasPrefix(test.name, "orca_") {
		// The policy by which the client gets at the reports.
		args = append(args, `-service_config_json={"loadBalancingConfig":[{"test_backend_metrics_load_balancer":{}}]}`)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex // guards failures
	var failures []string
	next := make(chan struct{}, interopTimes)
	for range interopTimes {
		next <- struct{}{}
	}
	close(next)
	for range workers {
		wg.Go(func() {
			for range next {
				if wrong := interopClient(t.Context(), client, args); wrong != "" {
					mu.Lock()
					failures = append(failures, wrong)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if len(failures) <= s.most {
		return ""
	}
	return fmt.Sprintf("%d of %d fail: %s", len(failures), interopTimes, failures[0])
}

// interopClient runs the client once and returns what it says of a failure.
func interopClient(ctx context.Context, client string, args []string) string {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	text, err := exec.CommandContext(ctx, client, args...).CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return err.Error()
	}
	if err == nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}
