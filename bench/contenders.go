package main

import (
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
	pid     int    // of its first process; workers are its children
	file    string // of its config
}

// startAll starts the backends and all contenders.
func startAll(started *processes, dir string, o options) ([]contender, error) {
	backends, err := startBackends(started, dir)
	if err != nil {
		return nil, err
	}
	policy := "lb_policy " + o.policy
	kinds := []kind{
		caddyKind("reverse_proxy", o, "reverse_proxy", policy),
		caddyKind("load_balancer", o, "load_balancer", policy),
		caddyKind("load_balancer, default policy", o, "load_balancer"),
		haproxyKind("haproxy", "roundrobin"),
		nginxKind("nginx", dir, ""),
	}
	if o.limits {
		// Nobody is refused: what is measured is what the decision costs.
		limited := func(name, options string) kind {
			return caddyKind(name, o, "ip_rate_limit {\n\t\trate 1000000/s\n"+options+"\t}\n\tload_balancer", policy)
		}
		kinds = []kind{
			caddyKind("load_balancer", o, "load_balancer", policy),
			limited("with ip_rate_limit", ""),
			limited("with concurrency, too", "concurrency 100000\n"),
		}
		redis, err := startRedis(started)
		if err != nil {
			return nil, err
		}
		if redis != "" {
			kinds = append(kinds, limited("in redis", "redis redis://"+redis+"\n"))
		}
	}
	return startKinds(started, dir, kinds, backends)
}

// startKinds starts those that are installed.
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

// startKind starts a proxy over these backends.
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

// configuration is the config of c over these backends.
func (c *contender) configuration(backends []string) string {
	return c.config(c.address, c.upstreams(backends))
}

// configure writes it.
func (c *contender) configure(backends []string) error {
	return os.WriteFile(c.file, []byte(c.configuration(backends)), 0o644)
}

// startBackends starts nginx on three ports.
func startBackends(started *processes, dir string) ([]string, error) {
	for name, size := range map[string]int{"1k": 1 << 10, "100k": 100 << 10} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.Repeat("x", size)), 0o644); err != nil {
			return nil, err
		}
	}
	var addresses []string
	servers := ""
	for range 3 {
		address, err := freeAddress()
		if err != nil {
			return nil, err
		}
		addresses = append(addresses, address)
		servers += "server { listen " + address + " backlog=4096; root " + dir + "; location /post { client_max_body_size 1m; return 200 'ok'; } }\n"
	}
	file := filepath.Join(dir, "backends.conf")
	if err := os.WriteFile(file, []byte(nginxConfig(filepath.Join(dir, "backends"), 1, servers)), 0o644); err != nil {
		return nil, err
	}
	_, err := started.start("backends", addresses[2], "nginx", "-c", file)
	return addresses, err
}

// startRedis starts a Redis, if there is one.
func startRedis(started *processes) (string, error) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		fmt.Println("redis-server is not installed and left out; on Debian: apt-get install redis-server")
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
