package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// contender is a running proxy.
type contender struct {
	kind
	address string
	pid     int    // of the main process; workers are its children
	file    string // of its config
}

// startAll starts the backends and all contenders of a scenario.
func startAll(ctx context.Context, started *processes, dir string, s scenario, o options) ([]contender, error) {
	backends, err := startBackends(started, dir, s.ends)
	if err != nil {
		return nil, err
	}
	for _, b := range backends {
		if err := s.checkAnswer(ctx, b, s.backendTLS, false); err != nil {
			return nil, fmt.Errorf("backend: %w", err)
		}
	}
	kinds, err := s.kinds(started, dir, o)
	if err != nil {
		return nil, err
	}
	for i := range kinds {
		kinds[i].ends = s.ends
	}
	return startKinds(started, dir, kinds, backends)
}

// startKinds starts the kinds that are installed.
func startKinds(started *processes, dir string, kinds []kind, backends []string) ([]contender, error) {
	var contenders []contender
	for _, k := range installed(kinds) {
		c, err := startKind(started, dir, k, backends)
		if err != nil {
			return nil, err
		}
		contenders = append(contenders, c)
	}
	return contenders, nil
}

func installed(kinds []kind) []kind {
	return slices.DeleteFunc(slices.Clone(kinds), func(k kind) bool {
		_, err := exec.LookPath(k.command[0])
		return err != nil
	})
}

// startKind starts a proxy for these backends.
func startKind(started *processes, dir string, k kind, backends []string) (contender, error) {
	address, err := freeAddress()
	if err != nil {
		return contender{}, err
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return contender{}, err
	}
	c := contender{kind: k, address: address, file: filepath.Join(dir, "contender"+port+".conf")}
	if err := c.configure(backends); err != nil {
		return contender{}, err
	}
	c.pid, err = started.start(k.name, address, append(slices.Clip(k.command), c.file)...)
	return c, err
}

// configuration returns the config of c for these backends.
func (c *contender) configuration(backends []string) string {
	return c.config(setting{c.address, c.upstreams(backends), c.ends})
}

// configure writes the config of c to its file.
func (c *contender) configure(backends []string) error {
	return os.WriteFile(c.file, []byte(c.configuration(backends)), 0o644)
}

// startBackends starts nginx on three ports.
func startBackends(started *processes, dir string, e ends) ([]string, error) {
	for name, size := range map[string]int{"1k": 1 << 10, "16k": 16 << 10, "100k": 100 << 10} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Repeat("x", size)), 0o644); err != nil {
			return nil, err
		}
	}
	// With SSI, nginx does not know the length of what it sends, and sends each buffer as a chunk. The files contain no SSI commands.
	locations := "location /post { client_max_body_size 1m; client_body_buffer_size 128k; return 200 'ok'; } " +
		"location /chunked { alias " + filepath.Join(dir, "16k") + "; ssi on; ssi_types *; sendfile off; output_buffers 4 4k; }"
	var addresses []string
	servers := ""
	for range 3 {
		address, err := freeAddress()
		if err != nil {
			return nil, err
		}
		addresses = append(addresses, address)
		servers += "server { " + nginxListen(address, " backlog=4096", e.backendTLS, e.certificate) + " root " + dir + "; " + locations + " }\n"
	}
	file := filepath.Join(dir, "backends.conf")
	if err := os.WriteFile(file, []byte(nginxConfig(filepath.Join(dir, "backends"), 1, servers)), 0o644); err != nil {
		return nil, err
	}
	_, err := started.start("backends", addresses[2], "nginx", "-c", file)
	return addresses, err
}

// startRedis starts a Redis, if it is installed.
func startRedis(started *processes) (string, error) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		fmt.Println("redis-server is not installed and is left out; on Debian: apt-get install redis-server")
		return "", nil
	}
	address, err := freeAddress()
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	_, err = started.start("redis", address, "redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")
	return address, err
}
