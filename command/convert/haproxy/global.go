package haproxy

import "strings"

// processWords are lines of global that are about HAProxy's own process.
var processWords = map[string]string{
	"daemon": "a service manager runs Caddy", "user": "a service manager runs Caddy", "group": "a service manager runs Caddy", "uid": "a service manager runs Caddy",
	"gid": "a service manager runs Caddy", "chroot": "a service manager confines Caddy", "pidfile": "a service manager runs Caddy", "master-worker": "Caddy reloads by itself",
	"nbproc": "Caddy is one process", "nbthread": "Caddy uses all processors", "cpu-map": "Caddy uses all processors", "thread-groups": "Caddy uses all processors",
	"ulimit-n": "a service manager sets the limits", "description": "it is a description", "node": "it is a description", "hard-stop-after": "see grace_period",
	"stats": "caddy lb and the admin endpoint take its place", "expose-fd": "Caddy reloads by itself", "set-dumpable": "it is about HAProxy's process",
	"log-send-hostname": "Caddy logs by itself", "log-tag": "Caddy logs by itself", "log": "Caddy logs to standard error", "localpeer": "it is about HAProxy's process",
	"presetenv": "set environment variables where Caddy is started", "setenv": "set environment variables where Caddy is started",
	"unsetenv": "set environment variables where Caddy is started", "resetenv": "set environment variables where Caddy is started",
	"external-check": "there are no external checks", "insecure-fork-wanted": "there are no external checks", "zero-warning": "it is about HAProxy's process",
	"spread-checks": "checks are spread by a tenth by themselves", "max-spread-checks": "checks are spread by themselves", "quiet": "it is about HAProxy's process",
	"debug": "it is about HAProxy's process", "noepoll": "it is about HAProxy's process", "nosplice": "it is about HAProxy's process", "maxcompcpuusage": "it is about HAProxy's process",
	"maxzlibmem": "it is about HAProxy's process", "busy-polling": "it is about HAProxy's process", "numa-cpu-mapping": "Caddy uses all processors",
	"unix-bind": "it is about HAProxy's process", "server-state-base": "state always survives reloads", "server-state-file": "state always survives reloads",
	"h1-case-adjust": "header names keep HTTP's form", "default-path": "give whole paths", "crt-base": "paths are written whole", "ca-base": "paths are written whole",
	"ssl-load-extra-files": "name certificates and keys in tls", "ssl-load-extra-del-ext": "name certificates and keys in tls", "issuers-chain-path": "put the whole chain into the certificate",
}

// global reads the section global.
func (c *converter) global(s *section) {
	for _, d := range s.own {
		word := d.word(0)
		switch {
		case word == "ca-base":
			c.caBase = d.word(1)
		case word == "crt-base":
			c.crtBase = d.word(1)
		case word == "ssl-server-verify":
			c.insecure = d.word(1) == "none"
			d.line.Done()
			continue
		case word == "maxconn":
			d.line.Leave("Caddy does not bound connections; set the limit of open files, and see concurrency of ip_rate_limit")
			continue
		case strings.HasPrefix(word, "tune."):
			d.line.Idle("it tunes HAProxy")
			continue
		case word == "lua-load", word == "lua-load-per-thread", word == "lua-prepend-path":
			d.line.Leave("Caddy runs no Lua")
			continue
		case strings.HasPrefix(word, "ssl-default-server-"):
			d.line.Near("Caddy has its own ciphers and versions of TLS towards backends")
			continue
		case strings.HasPrefix(word, "ssl-default-bind-"), word == "ssl-dh-param-file", word == "ssl-dh-param":
			d.line.Near("Caddy serves TLS 1.2 and newer with ciphers of its own; see protocols and ciphers in tls")
			continue
		}
		if why, ok := processWords[word]; ok {
			d.line.Idle("%s", why)
		}
	}
}

// optionWords are options that Caddy has by default, or has no use for, with the reason.
var optionWords = map[string]string{
	"forwardfor": "", "httplog": "", "http-server-close": "connections to clients and to backends are both kept", "httpclose": "connections are kept",
	"forceclose": "connections are kept", "http-keep-alive": "connections are kept", "http-pretend-keepalive": "connections are kept", "dontlognull": "Caddy logs requests only",
	"abortonclose": "a request ends when its client leaves", "tcpka": "Caddy uses TCP keep-alive", "clitcpka": "Caddy uses TCP keep-alive", "srvtcpka": "Caddy uses TCP keep-alive",
	"tcp-smart-accept": "it tunes HAProxy", "tcp-smart-connect": "it tunes HAProxy", "prefer-last-server": "kept connections are used in any case", "log-health-checks": "changes of health are logged",
	"socket-stats": "there are metrics for all of it", "contstats": "metrics are up to date at any time", "splice-auto": "it tunes HAProxy", "splice-request": "it tunes HAProxy",
	"splice-response": "it tunes HAProxy", "nolinger": "it tunes HAProxy", "http-no-delay": "answers are passed on as they come", "http-use-htx": "it is internal to HAProxy",
	"independent-streams": "it tunes HAProxy", "idle-close-on-response": "it tunes HAProxy", "log-separate-errors": "the log has a level for each line", "logasap": "Caddy logs when a request has ended",
	"dontlog-normal": "", "tcplog": "Caddy logs requests", "http-use-proxy-header": "that header is old", "originalto": "", "http-ignore-probes": "Caddy answers no empty connections", "h1-case-adjust-bogus-client": "header names keep HTTP's form",
	"transparent": "", "checkcache": "", "http-buffer-request": "", "accept-invalid-http-request": "", "accept-invalid-http-response": "",
	"http_proxy": "", "use-server": "", "http-restrict-req-hdr-names": "", "disable-h2-upgrade": "", "accept-unsafe-violations-in-http-request": "", "accept-unsafe-violations-in-http-response": "",
}

// common reads lines that mean the same in all sections.
func (c *converter) common(d *directive) {
	switch d.word(0) {
	case "mode", "acl", "description":
		d.line.Done()
	case "no":
		if d.word(1) == "option" || d.word(1) == "log" {
			d.line.Idle("it is off in any case, or Caddy does it by itself")
		}
	case "enabled":
		d.line.Done()
	case "disabled":
		d.line.Leave("the section is switched off in HAProxy; it is on here")
	case "guid", "id":
		d.line.Idle("it names HAProxy's figures")
	case "load-server-state-from-file":
		d.line.Idle("state always survives reloads")
	case "http-reuse", "max-keep-alive-queue", "max-session-srv-conns":
		d.line.Idle("connections to backends are shared by all requests")
	case "filter":
		if d.word(1) != "compression" {
			d.line.Guards = true
			d.line.Leave("filters have no equivalent here")
		}
	case "use-fcgi-app", "email-alert", "force-persist", "ignore-persist", "tcp-response", "use-server", "source", "declare", "external-check", "tcp-check":
		d.line.Leave("it has no equivalent here")
	case "tcp-request":
		d.line.Guards = true // until the rules include it
	case "bind-process":
		d.line.Idle("Caddy is one process")
	case "backlog":
		d.line.Idle("the kernel's limit applies")
	case "option":
		c.commonOption(d)
	}
}

func (c *converter) commonOption(d *directive) {
	name := d.word(1)
	why, known := optionWords[name]
	switch {
	case name == "forwardfor":
		d.line.Done()
		if except := d.after(2); len(except) > 0 {
			d.line.Near("X-Forwarded-For is always set, for all clients: %s is not converted; name proxies that may set it in trusted_proxies", strings.Join(except, " "))
		}
	case name == "httplog":
		d.line.Near("Caddy's access log is JSON, where log stands in the site")
	case name == "dontlog-normal":
		d.line.Leave("the log has all requests")
	case known && why != "":
		d.line.Idle("%s", why)
	case known:
		d.line.Leave("it has no equivalent here")
	}
}
