package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// contender is a running proxy.
type contender struct {
	name    string
	address string
	pid     int // of its first process; workers are its children
}

// startAll starts the backends and all contenders.
func startAll(started *processes, dir string, o options) ([]contender, error) {
	backends, err := startBackends(started, dir)
	if err != nil {
		return nil, err
	}
	caddyfile := func(directive, options string) func(string) (string, []string) {
		return caddyKind(o, directive, backends, options)
	}
	policy := " {\n\t\tlb_policy " + o.policy + "\n\t}"
	kinds := []kind{
		{"reverse_proxy", caddyfile("reverse_proxy", policy)},
		{"load_balancer", caddyfile("load_balancer", policy)},
		{"load_balancer, default policy", caddyfile("load_balancer", "")},
		{"haproxy", haproxyKind(backends, "roundrobin")},
		{"nginx", nginxKind(dir, backends, "")},
	}
	if o.limits {
		// Nobody is refused: what is measured is what the decision costs.
		const limit = "ip_rate_limit {\n\t\trate 1000000/s\n"
		limited := func(options string) func(string) (string, []string) {
			return caddyfile(limit+options+"\t}\n\tload_balancer", policy)
		}
		kinds = []kind{
			{"load_balancer", caddyfile("load_balancer", policy)},
			{"with ip_rate_limit", limited("")},
			{"with concurrency, too", limited("concurrency 100000\n")},
		}
		redis, err := startRedis(started)
		if err != nil {
			return nil, err
		}
		if redis != "" {
			kinds = append(kinds, kind{"in redis", limited("redis redis://" + redis + "\n")})
		}
	}
	return startKinds(started, dir, kinds)
}

// kind is a proxy with a config.
type kind struct {
	name   string
	config func(address string) (string, []string) // for it to listen on address, and the command that is followed by the config's file
}

// caddyKind is Caddy with one directive.
func caddyKind(o options, directive string, backends []string, options string) func(string) (string, []string) {
	return func(address string) (string, []string) {
		config := "{\n\tadmin off\n\tpersist_config off\n\tauto_https off\n}\nhttp://" + address + " {\n\t" +
			directive + " " + strings.Join(backends, " ") + options + "\n}\n"
		return config, []string{o.caddy, "run", "--adapter", "caddyfile", "--config"}
	}
}

// haproxyKind is HAProxy with that algorithm.
func haproxyKind(backends []string, balance string) func(string) (string, []string) {
	return func(address string) (string, []string) {
		config := "global\n nbthread 2\n maxconn 4096\ndefaults\n mode http\n option http-keep-alive\n timeout client 30s\n timeout server 30s\n timeout connect 5s\nfrontend f\n bind " +
			address + "\n default_backend b\nbackend b\n balance " + balance + "\n"
		for i, b := range backends {
			config += fmt.Sprintf(" server s%d %s\n", i, b)
		}
		return config, []string{"haproxy", "-db", "-f"}
	}
}

// nginxKind is nginx with that method, which is round robin if it is empty.
func nginxKind(dir string, backends []string, method string) func(string) (string, []string) {
	return func(address string) (string, []string) {
		upstream := "upstream b { " + method + " keepalive 64;"
		for _, b := range backends {
			upstream += " server " + b + ";"
		}
		_, port, _ := net.SplitHostPort(address)
		return nginxConfig(filepath.Join(dir, "proxy"+port), 2, upstream+" }\nserver { listen "+address+
			"; location / { proxy_pass http://b; proxy_http_version 1.1; proxy_set_header Connection ''; } }"), []string{"nginx", "-c"}
	}
}

// startKinds starts those that are installed.
func startKinds(started *processes, dir string, kinds []kind) ([]contender, error) {
	var contenders []contender
	for i, k := range kinds {
		address, err := freeAddress()
		if err != nil {
			return nil, err
		}
		config, command := k.config(address)
		if _, err := exec.LookPath(command[0]); err != nil {
			continue
		}
		file := filepath.Join(dir, fmt.Sprintf("contender%d.conf", i))
		if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
			return nil, err
		}
		pid, err := started.start(k.name, address, append(command, file)...)
		if err != nil {
			return nil, err
		}
		contenders = append(contenders, contender{k.name, address, pid})
	}
	return contenders, nil
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

// nginxConfig is the config of an nginx in the foreground whose files all begin with prefix.
func nginxConfig(prefix string, workers int, http string) string {
	paths := ""
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		paths += kind + "_temp_path " + prefix + "." + kind + ";\n"
	}
	return fmt.Sprintf("daemon off; worker_processes %d; pid %s.pid; error_log %s.log;\nevents { worker_connections 4096; }\n"+
		"http { access_log off; keepalive_requests 1000000; sendfile on; tcp_nopush on;\n%s%s\n}\n", workers, prefix, prefix, paths, http)
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// waitListening polls until somebody listens on address.
func waitListening(address string) error {
	deadline := time.Now().Add(15 * time.Second)
	for {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("nobody listens on %s: %w", address, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
