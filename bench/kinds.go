package main

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
)

// kind is a proxy with a policy.
type kind struct {
	name    string
	command []string // starts it, followed by the path of its config
	config  func(setting) string
	ends    ends      // the protocols on both sides
	log     accessLog // emptied before each measurement; nil for none
	weights []int     // of the backends; nil for 1 each
	join    joiner    // adds backends while it runs; nil if that is not measured
}

// setting is the part of a config that does not depend on the kind of proxy.
type setting struct {
	address   string // the listen address
	upstreams []upstream
	ends
}

// ends are the protocols of a proxy for its clients and for its backends. The zero value is plain HTTP/1.1 on both sides.
type ends struct {
	tls        bool // TLS with its clients
	h2         bool // HTTP/2 with its clients; requires tls
	backendTLS bool // TLS with its backends
	certificate
}

// upstream is a backend in a proxy's config.
type upstream struct {
	address string
	weight  int
}

// upstreams returns the backends with their weights.
func (k *kind) upstreams(backends []string) []upstream {
	all := make([]upstream, len(backends))
	for i, b := range backends {
		all[i] = upstream{b, 1}
		if k.weights != nil {
			all[i].weight = k.weights[i]
		}
	}
	return all
}

// joiner adds backends to a running proxy. It returns when that is done or, if the proxy does not tell, has been requested.
type joiner func(ctx context.Context, c *contender, now, added []string) error

// caddyKind returns Caddy with one directive that has these lines in its block.
func caddyKind(name string, o options, directive string, lines ...string) kind {
	return caddyWithAdmin(name, o, "admin off", directive, lines...)
}

// caddyWithAdmin is caddyKind with these global options.
func caddyWithAdmin(name string, o options, global, directive string, lines ...string) kind {
	return caddyWithServers(name, o, global, nil, directive, lines...)
}

// caddyWithServers is caddyWithAdmin with these options of servers.
func caddyWithServers(name string, o options, global string, servers []string, directive string, lines ...string) kind {
	return kind{
		name:    name,
		command: []string{o.caddy, "run", "--adapter", "caddyfile", "--config"},
		config: func(s setting) string {
			plain, block := "", slices.Clone(lines)
			for _, u := range s.upstreams {
				if u.weight == 1 {
					plain += " " + u.address
				} else {
					block = append(block, "backend "+u.address+" {", fmt.Sprintf("weight %d", u.weight), "}")
				}
			}
			if s.backendTLS {
				block = append(block, "transport http {", "\ttls_trust_pool file "+s.certFile, "}")
			}
			global, servers, site := global, slices.Clone(servers), "http://"+s.address+" {\n\t"
			if s.tls {
				servers = append(servers, "protocols h1 h2") // otherwise every answer would advertise HTTP/3
				site = "https://" + s.address + " {\n\ttls " + s.certFile + " " + s.keyFile + "\n\t"
			}
			if len(servers) > 0 {
				global += "\n\tservers {\n\t\t" + strings.Join(servers, "\n\t\t") + "\n\t}"
			}
			return "{\n\t" + global + "\n\tpersist_config off\n\tauto_https off\n}\n" + site +
				directive + plain + " {\n\t\t" + strings.Join(block, "\n\t\t") + "\n\t}\n}\n"
		},
	}
}

// haproxyKind returns HAProxy with that algorithm.
func haproxyKind(name, balance string) kind { return haproxyWith(name, haproxyLines{}, balance) }

// haproxyLines are further lines in sections of HAProxy's config.
type haproxyLines struct{ global, frontend, backend string }

// haproxyWith is haproxyKind with these lines.
func haproxyWith(name string, lines haproxyLines, balance string) kind {
	return kind{
		name:    name,
		command: []string{"haproxy", "-db", "-f"},
		config: func(s setting) string {
			front, back := "", ""
			if s.tls {
				front = " ssl crt " + s.bothFile + " alpn h2,http/1.1"
			}
			if s.backendTLS {
				back = " ssl verify required ca-file " + s.certFile
			}
			config := "global\n nbthread 2\n maxconn 4096\n" + lines.global +
				"defaults\n mode http\n option http-keep-alive\n timeout client 30s\n timeout server 30s\n timeout connect 5s\nfrontend f\n bind " +
				s.address + front + "\n" + lines.frontend + " default_backend b\nbackend b\n balance " + balance + "\n" + lines.backend
			for i, u := range s.upstreams {
				config += fmt.Sprintf(" server s%d %s weight %d%s\n", i, u.address, u.weight, back)
			}
			return config
		},
	}
}

// nginxKind returns nginx with that method; "" is round robin.
func nginxKind(name, dir, method string) kind {
	return kind{
		name:    name,
		command: []string{"nginx", "-c"},
		config: func(s setting) string {
			block := "upstream b { " + method + " keepalive 64;"
			for _, u := range s.upstreams {
				block += fmt.Sprintf(" server %s weight=%d;", u.address, u.weight)
			}
			pass := "proxy_pass http://b;"
			if s.backendTLS {
				pass = "proxy_pass https://b; proxy_ssl_name localhost; proxy_ssl_protocols TLSv1.3; proxy_ssl_verify on; proxy_ssl_trusted_certificate " + s.certFile + ";"
			}
			protocols := ""
			if s.tls {
				protocols = " http2"
			}
			_, port, _ := net.SplitHostPort(s.address)
			return nginxConfig(filepath.Join(dir, "proxy"+port), 2, block+" }\nserver { "+nginxListen(s.address, protocols, s.tls, s.certificate)+
				" location / { "+pass+" proxy_http_version 1.1; proxy_set_header Connection ''; client_body_buffer_size 128k; } }")
		},
	}
}

// nginxListen returns the directives that make nginx listen on that address with these parameters.
func nginxListen(address, parameters string, tls bool, c certificate) string {
	if !tls {
		return "listen " + address + parameters + ";"
	}
	return "listen " + address + parameters + " ssl; ssl_protocols TLSv1.3; ssl_certificate " + c.certFile + "; ssl_certificate_key " + c.keyFile + ";"
}

// nginxConfig returns the config of an nginx in the foreground whose files all begin with prefix.
func nginxConfig(prefix string, workers int, http string) string {
	paths := ""
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		paths += kind + "_temp_path " + prefix + "." + kind + ";\n"
	}
	return fmt.Sprintf("daemon off; worker_processes %d; pid %s.pid; error_log %s.log;\nworker_rlimit_nofile 8192; events { worker_connections 4096; }\n"+
		"http { access_log off; keepalive_requests 1000000; sendfile on; tcp_nopush on;\n%s%s\n}\n", workers, prefix, prefix, paths, http)
}
