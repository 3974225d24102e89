package haproxy

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/ballastlb/ballast/command/convert/draft"
)

// server is a backend of a pool.
type server struct {
	d             *directive
	name, address string
	weight        int // -1 if not given
	most          int
	backup        bool
	tls           bool
	check         bool
	template      int // maximum number of servers of a server-template
	words         map[string]string
}

var (
	hostPort = regexp.MustCompile(`^([A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?|` + "\uE000[A-Za-z0-9_.:-]+\uE001" + `):([0-9]+|` + "\uE000[A-Za-z0-9_.:-]+\uE001" + `)$`)
	// wholeVariable matches a text that is only an environment variable.
	wholeVariable = regexp.MustCompile("^\uE000[A-Za-z0-9_]+\uE001$")
	anyPort       = regexp.MustCompile(`:[0-9]+$`)
)

// addressOf reads the address of a server.
func addressOf(text string) (string, bool) {
	text = expand(text)
	for _, prefix := range []string{"ipv4@", "ipv6@", "tcp@", "tcp4@", "tcp6@"} {
		text = strings.TrimPrefix(text, prefix)
	}
	if path, ok := strings.CutPrefix(text, "unix@"); ok || strings.HasPrefix(text, "/") {
		if !strings.HasPrefix(path, "/") {
			path = text
		}
		if !strings.HasPrefix(path, "/") || strings.HasSuffix(path, "/") || strings.ContainsAny(path, "{} \t*?\"`\\|") {
			return "", false
		}
		return "unix/" + path, true
	}
	if a, err := netip.ParseAddrPort(text); err == nil {
		return a.String(), a.Port() > 0 && !a.Addr().IsUnspecified()
	}
	// An IPv6 address may have no brackets.
	if i := strings.LastIndexByte(text, ':'); i > 0 && strings.Count(text, ":") > 1 {
		if a, err := netip.ParseAddr(text[:i]); err == nil {
			return addressOf("[" + a.String() + "]" + text[i:])
		}
	}
	if wholeVariable.MatchString(text) {
		return text, true
	}
	host, _, _ := strings.Cut(text, ":")
	if !hostPort.MatchString(text) || strings.Trim(host, "0123456789.") == "" { // not a valid address
		return "", false
	}
	if m := anyPort.FindString(text); m != "" {
		if port, err := strconv.Atoi(m[1:]); err != nil || port < 1 || port > 65535 {
			return "", false
		}
	}
	return text, true
}

// Words of servers with and without an argument.
var (
	withArgument = strings.Fields("addr agent-addr agent-inter agent-port agent-send alpn ca-file check-alpn check-proto check-sni check-via-socks4 ciphers ciphersuites cookie crl-file crt error-limit fall fastinter downinter id init-addr init-state inter log-proto max-reuse maxconn maxqueue minconn namespace npn observe on-error on-marked-down on-marked-up pool-low-conn pool-max-conn pool-purge-delay port proto redir resolve-net resolve-opts resolve-prefer resolvers rise set-proxy-v2-tlv-fmt shard slowstart sni socks4 source ssl-max-ver ssl-min-ver tcp-ut track verify verifyhost weight ws proxy-v2-options")
	single       = strings.Fields("agent-check allow-0rtt backup check check-send-proxy check-ssl disabled enabled force-sslv3 force-tlsv10 force-tlsv11 force-tlsv12 force-tlsv13 no-agent-check no-backup no-check no-check-ssl no-send-proxy no-send-proxy-v2 no-send-proxy-v2-ssl no-ssl no-ssl-reuse no-sslv3 no-tls-tickets no-tlsv10 no-tlsv11 no-tlsv12 no-tlsv13 no-verifyhost non-stick send-proxy send-proxy-v2 send-proxy-v2-ssl send-proxy-v2-ssl-cn ssl ssl-reuse stick tfo tls-tickets")
)

// serverWords reads the words after the address of a server. It notes unknown words at the line.
func serverWords(words []string, line *draft.Line) map[string]string {
	found := map[string]string{}
	for i := 0; i < len(words); i++ {
		word := words[i]
		switch {
		case contains(withArgument, word):
			if i+1 >= len(words) {
				line.Leave("%s has no value", word)
				continue
			}
			i++
			found[word] = words[i]
		case contains(single, word):
			found[word] = ""
			if rest, ok := strings.CutPrefix(word, "no-"); ok {
				delete(found, rest)
			}
		default:
			line.Leave("word %s", word)
		}
	}
	return found
}

func contains(list []string, word string) bool {
	for _, w := range list {
		if w == word {
			return true
		}
	}
	return false
}

// take adds a server or server-template line.
func (b *backend) take(d *directive) {
	s := &server{d: d, weight: -1, name: d.word(1)}
	address := d.word(2)
	rest := d.after(3)
	if d.word(0) == "server-template" {
		count := d.word(2)
		if _, last, ok := strings.Cut(count, "-"); ok {
			count = last
		}
		n, ok := whole(count, 1, 100000)
		if !ok {
			d.line.Leave("the number of backends is not known")
			return
		}
		s.template, address, rest = n, d.word(3), d.after(4)
	}
	if strings.HasPrefix(address, "_") && s.template > 0 {
		if !srvName.MatchString(address) {
			d.line.Leave("the name of the service is not understood")
			return
		}
		s.address = address
	} else {
		var ok bool
		if s.address, ok = addressOf(address); !ok {
			d.line.Leave("the address has no host, or no port; HAProxy takes those of the client's connection, Caddy needs its own")
			return
		}
	}
	if wholeVariable.MatchString(s.address) {
		d.line.Near("the variable must have a host and a port")
	}
	s.words = map[string]string{}
	for _, standard := range b.standards {
		for k, v := range serverWords(standard.after(1), standard.line) {
			s.words[k] = v
		}
		standard.line.Done()
	}
	for k, v := range serverWords(rest, d.line) {
		if off, ok := strings.CutPrefix(k, "no-"); ok {
			delete(s.words, off)
		}
		s.words[k] = v
	}
	if _, off := s.words["disabled"]; off && s.words["enabled"] == "" {
		if _, on := s.words["enabled"]; !on {
			d.line.Leave("it is disabled; write it as a backend when it is to serve, or add it by: caddy lb add")
			return
		}
	}
	if _, tls := s.words["ssl"]; tls && strings.HasSuffix(s.address, ":80") {
		d.line.Leave("Caddy has no TLS at port 80")
		return
	}
	d.line.Done()
	s.apply(b)
	b.servers = append(b.servers, s)
}

var srvName = regexp.MustCompile(`^_[A-Za-z0-9_-]+\._(tcp|udp)\.[A-Za-z0-9_.-]+$`)

// idleWords are words that need no conversion.
var idleWords = strings.Fields("init-addr init-state resolve-prefer resolve-opts id stick enabled ssl-reuse tls-tickets check-ssl pool-low-conn no-check no-ssl no-backup no-verifyhost no-tls-tickets no-sslv3 no-tlsv10 no-tlsv11 no-ssl-reuse tfo allow-0rtt tcp-ut pool-max-conn pool-purge-delay max-reuse resolvers cookie ws npn")

// apply applies the words that are about one backend, and passes those about the pool to share.
func (s *server) apply(b *backend) {
	line := s.d.line
	for _, key := range draft.Sorted(s.words) {
		v := s.words[key]
		switch key {
		case "weight":
			n, ok := whole(v, 0, 65535)
			if !ok {
				line.Leave("weight %s", v)
				continue
			}
			s.weight = n
		case "maxconn":
			n, ok := whole(v, 0, 10000000)
			if !ok {
				line.Leave("maxconn %s", v)
				continue
			}
			s.most = n
		case "backup":
			s.backup = true
		case "check":
			s.check = true
		case "ssl":
			s.tls = true
		case "cookie":
			s.d.line.Near("the cookie gets other values than %s: sessions may move to another backend once", v)
		case "maxqueue", "minconn":
			line.Leave("%s is not converted: the queue is bounded for the pool", key)
		case "inter", "fastinter", "downinter", "rise", "fall", "port", "addr", "slowstart", "ca-file", "verify", "verifyhost", "sni", "check-sni", "crt", "alpn", "proto",
			"send-proxy", "send-proxy-v2", "send-proxy-v2-ssl", "send-proxy-v2-ssl-cn", "check-send-proxy", "ssl-min-ver", "no-tlsv12":
			b.share(s, key, v)
		case "observe", "error-limit", "on-error":
			line.Near("%s is not converted: the circuit breaker watches requests", key)
		case "on-marked-down":
			if v != "shutdown-sessions" {
				line.Leave("on-marked-down %s", v)
				continue
			}
			line.Near("on-marked-down shutdown-sessions: requests that wait for a backend which is down are sent elsewhere; streams stay open")
		case "disabled":
		default:
			if !contains(idleWords, key) {
				line.Leave("%s is not converted", strings.TrimSpace(key+" "+v))
			}
		}
	}
	if s.words["resolvers"] != "" {
		b.resolver = s.words["resolvers"]
	}
}

// share sets a word of a server that is a setting of the whole pool here. The first server decides.
func (b *backend) share(s *server, key, v string) {
	if b.shared == nil {
		b.shared = map[string]string{}
	}
	first, had := b.shared[key]
	if !had && len(b.servers) == 0 {
		b.shared[key] = v
		return
	}
	if had && first == v {
		return
	}
	if !had && (key == "slowstart" || key == "inter" || key == "fastinter" || key == "rise" || key == "fall") {
		b.shared[key] = v
		s.d.line.Near("%s is that of all backends of the pool", key)
		return
	}
	s.d.line.Leave("%s %s differs from the backend before it; the setting is the same for all backends of a pool", key, v)
}

// seconds returns a shared duration, moved into the range of a setting.
func (b *backend) seconds(key string, least, most time.Duration) (string, bool) {
	v, ok := b.shared[key]
	if !ok {
		return "", false
	}
	d, ok := duration(v)
	if !ok {
		b.complain(key, v)
		return "", false
	}
	return written(draft.Between(d, least, most)), true
}

// complain notes at the servers that a value is not understood.
func (b *backend) complain(key, v string) {
	for _, s := range b.servers {
		if s.words[key] == v {
			s.d.line.Leave("%s %s", key, v)
		}
	}
}
