package haproxy

import (
	"strconv"
	"strings"
	"time"

	"github.com/ballastlb/ballast/command/convert/draft"
)

// writePool writes the load_balancer of a backend. A pool without backends answers 503, as HAProxy does.
func (b *backend) writePool(w *draft.Writer) {
	servers := b.ofOneScheme()
	var named, dynamic []*server
	seen := map[string]bool{}
	for _, s := range servers {
		switch {
		case s.template > 0:
			dynamic = append(dynamic, s)
		case seen[s.address]:
			s.d.line.Leave("the address is there already")
		default:
			seen[s.address] = true
			named = append(named, s)
		}
	}
	if len(named) == 0 && len(dynamic) == 0 {
		w.Comment("no backend is left that could serve")
		w.Line("respond", "503")
		return
	}
	w.Open("load_balancer")
	w.Line("name", draft.Name(b.section.name))
	names, level := map[string]bool{}, 0
	for _, s := range named {
		w.Open("backend", b.scheme(s)+s.address)
		if name := draft.Name(s.name); name == s.name && !names[name] && !seen[name] {
			names[name] = true
			w.Line("name", name)
		}
		if s.weight >= 0 && s.weight != 1 {
			w.Line("weight", strconv.Itoa(s.weight))
		}
		if s.most > 0 {
			w.Line("max_requests", strconv.Itoa(s.most))
		}
		if s.backup {
			// HAProxy uses the first backup, and the next only if that is down, unless option allbackups is set.
			if !b.fullBack {
				level = min(level+1, 9)
			}
			if level > 1 {
				w.Line("backup", strconv.Itoa(level))
			} else {
				w.Line("backup")
			}
		}
		w.Close()
	}
	for i, s := range dynamic {
		b.writeDynamic(w, s, i)
	}
	b.writePolicy(w)
	b.writeCheck(w)
	b.writeRetry(w, servers)
	if v, ok := b.seconds("slowstart", time.Millisecond, 24*time.Hour); ok {
		w.Line("slow_start", v)
	}
	for _, s := range servers {
		if s.most > 0 {
			wait, line := b.timeouts["queue"], "of timeout queue"
			if wait == 0 {
				wait, line = b.timeouts["connect"], "of timeout connect, as there is no timeout queue"
			}
			if wait > 0 {
				w.Comment("the time is that " + line + "; HAProxy's queue has no bound")
				w.Line("queue", "10000", written(draft.Between(wait, time.Millisecond, time.Hour)))
			}
			break
		}
	}
	b.rules.writeHeaderDown(w)
	b.writeTransport(w, servers)
	w.Close()
}

func (b *backend) scheme(s *server) string {
	if s.tls && !strings.HasPrefix(s.address, "unix/") {
		return "https://"
	}
	return ""
}

// ofOneScheme returns the servers that use TLS or not like the first one: a pool cannot mix them.
func (b *backend) ofOneScheme() []*server {
	var found []*server
	for _, s := range b.servers {
		if s.tls != b.servers[0].tls {
			s.d.line.Leave("a pool has backends with TLS or without, not both; make two pools")
			continue
		}
		found = append(found, s)
	}
	return found
}

func (b *backend) writeDynamic(w *draft.Writer, s *server, i int) {
	if i > 0 {
		s.d.line.Leave("a pool has one source of backends here; see dynamic multi")
		return
	}
	var words []string
	if strings.HasPrefix(s.address, "_") {
		words = []string{"dynamic", "srv", s.address}
		s.d.line.Near("all backends of the answer are used, not %d at most", s.template)
	} else {
		host, port, ok := cutPort(s.address)
		if !ok {
			s.d.line.Leave("the address has no name and port")
			return
		}
		words = []string{"dynamic", "a", host, port}
		s.d.line.Near("all addresses of the answer are used, not %d at most", s.template)
	}
	if s.most > 0 || s.weight >= 0 || s.backup {
		s.d.line.Leave("weight, maxconn and backup of backends that DNS names")
	}
	if servers := b.c.resolvers[b.resolver]; b.resolver != "" && len(servers) > 0 {
		w.Open(words...)
		w.Line(append([]string{"resolvers"}, servers...)...)
		w.Close()
	} else {
		w.Line(words...)
	}
}

func cutPort(address string) (host, port string, ok bool) {
	i := strings.LastIndexByte(address, ':')
	if i < 1 || strings.HasPrefix(address, "unix/") || draft.HasEnv(address[i:]) {
		return "", "", false
	}
	return address[:i], address[i+1:], true
}

func (b *backend) writePolicy(w *draft.Writer) {
	policy := b.policy
	if len(policy) == 0 {
		policy = []string{"round_robin"} // HAProxy's default
	}
	if c := b.cookie; c != nil {
		mode := strings.Join(c.after(2), " ")
		if contains(c.words, "rewrite") || contains(c.words, "prefix") || !contains(c.words, "insert") || !headerName.MatchString(c.word(1)) {
			c.line.Leave("only cookies that the load balancer inserts are converted; for the application's own see sticky { learn_cookie }")
		} else {
			w.Open("lb_policy", "cookie", c.word(1))
			if policy[0] != "hash" {
				w.Line(append([]string{"fallback"}, policy...)...)
			}
			for i, word := range c.words {
				switch word {
				case "maxlife":
					if d, ok := duration(unitSeconds(c.word(i + 1))); ok {
						w.Line("max_age", written(d))
					}
				case "domain", "attr", "maxidle", "dynamic", "preserve":
					c.line.Leave("%s", word)
				}
			}
			w.Close()
			c.line.Near("running sessions may move to another backend once; %s: Caddy's cookie names a backend by a hash", mode)
			return
		}
	}
	if policy[0] == "hash" {
		if len(b.inHash) > 0 || strings.Contains(policy[1], ".") {
			w.Open(append([]string{"lb_policy"}, policy...)...)
			for _, line := range b.inHash {
				w.Line(line...)
			}
			if strings.Contains(policy[1], ".") {
				w.Line("fallback", "round_robin")
			}
			w.Close()
			return
		}
	}
	w.Line(append([]string{"lb_policy"}, policy...)...)
}

// unitSeconds adds the unit s to a time without a unit, as cookies have it.
func unitSeconds(text string) string {
	if _, ok := whole(text, 0, 1<<30); ok {
		return text + "s"
	}
	return text
}

func (b *backend) writeRetry(w *draft.Writer, _ []*server) {
	if b.retries < 0 && b.retryOn == nil {
		return
	}
	if b.retries == 0 {
		w.Line("retry", "off")
		b.retryLine.Near("while no backend can be reached, requests wait for hold (2s) in any case")
		return
	}
	w.Open("retry")
	if b.retries > 0 {
		w.Line("attempts", strconv.Itoa(min(b.retries+1, 100)))
	} else {
		w.Line("attempts", "4") // HAProxy's default for retries is 3
	}
	on := b.retryOn
	if on == nil {
		on = []string{"connect"}
	}
	var unique []string
	for _, word := range on {
		if !contains(unique, word) {
			unique = append(unique, word)
		}
	}
	if len(unique) > 0 {
		w.Line(append([]string{"on"}, unique...)...)
	}
	w.Close()
	b.retryLine.Near("retries go to another backend first, without HAProxy's second between them, and only GET and other requests that may be repeated are sent again after they reached a backend")
}

func (b *backend) writeTransport(w *draft.Writer, servers []*server) {
	t := new(draft.Writer)
	if d, ok := b.timeouts["connect"]; ok {
		t.Line("dial_timeout", written(d))
	}
	if d, ok := b.timeouts["server"]; ok {
		t.Line("response_header_timeout", written(d))
	}
	if ips := b.c.resolvers[b.resolver]; b.resolver != "" && len(ips) > 0 {
		t.Line(append([]string{"resolvers"}, ips...)...)
	}
	for _, key := range []string{"send-proxy", "send-proxy-v2"} {
		if _, ok := b.shared[key]; ok {
			t.Line("proxy_protocol", map[string]string{"send-proxy": "v1", "send-proxy-v2": "v2"}[key])
			for _, s := range servers {
				if _, has := s.words[key]; !has {
					s.d.line.Leave("it has no %s; the setting is the same for all backends of a pool", key)
				}
			}
			break
		}
	}
	tls := len(servers) > 0 && servers[0].tls
	if tls {
		b.writeTLS(t, servers)
	} else if b.shared["proto"] == "h2" || b.shared["alpn"] == "h2" {
		t.Line("versions", "h2c")
	}
	for _, key := range []string{"send-proxy-v2-ssl", "send-proxy-v2-ssl-cn", "check-send-proxy", "check-sni", "ssl-min-ver", "no-tlsv12"} {
		if v, ok := b.shared[key]; ok {
			for _, s := range servers {
				if got, has := s.words[key]; has && got == v {
					s.d.line.Leave("%s", strings.TrimSpace(key+" "+v))
				}
			}
		}
	}
	if t.Len() > 0 {
		w.Open("transport", "http")
		w.Add(t.String())
		w.Close()
	}
}

// writeTLS writes the TLS settings for backends.
func (b *backend) writeTLS(t *draft.Writer, servers []*server) {
	line := servers[0].d.line
	verify, given := b.shared["verify"]
	ca := b.shared["ca-file"]
	switch {
	case given && verify == "none" || !given && ca == "" && b.c.insecure:
		t.Line("tls_insecure_skip_verify")
		line.Near("certificates of backends are not verified; set ca-file to verify them")
	case ca != "" && ca != "@system-ca":
		if file, ok := b.c.file(ca, b.c.caBase); ok {
			t.Line("tls_trust_pool", "file", file)
		} else {
			line.Leave("ca-file %s", ca)
		}
	}
	sni := b.shared["sni"]
	host := b.shared["verifyhost"]
	if m := sampleOf.FindStringSubmatch(sni); m != nil && m[1] == "str" {
		host = strings.Trim(m[2], `"'`)
	} else if sni == "req.hdr(host)" || sni == "hdr(host)" || sni == "ssl_fc_sni" {
		host = "{host}"
	} else if sni != "" {
		line.Leave("sni %s", sni)
	}
	switch {
	case host == "{host}" || hostName.MatchString(host):
		t.Line("tls_server_name", host)
	case host != "":
		line.Leave("the name %s", host)
	}
	if crt := b.shared["crt"]; crt != "" {
		if file, ok := b.c.file(crt, b.c.crtBase); ok {
			t.Line("tls_client_auth", file, file)
		} else {
			line.Leave("crt %s", crt)
		}
	}
	switch alpn := b.shared["alpn"]; {
	case alpn == "h2" || b.shared["proto"] == "h2":
		t.Line("versions", "2")
	case alpn == "http/1.1":
		t.Line("versions", "1.1")
	}
}
