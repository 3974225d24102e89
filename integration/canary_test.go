package integration

import (
	"bufio"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// canaries are secrets by the names under which a config refers to them. They are found wherever they turn up: they need no escaping.
type canaries map[string]string

func newCanaries(names ...string) canaries {
	c := make(canaries)
	for _, name := range names {
		c[name] = "canary" + hex.EncodeToString([]byte(rand.Text())[:8]) + strings.ToLower(strings.ReplaceAll(name, "_", ""))
	}
	return c
}

// search fails the test for each canary in the text.
func (c canaries) search(t *testing.T, where, text string) {
	t.Helper()
	for name, value := range c {
		if at := strings.Index(text, value); at >= 0 {
			t.Errorf("%s tells the secret %s: ...%s...", where, name, text[max(0, at-200):min(len(text), at+len(value)+60)])
		}
	}
}

// literally is the config with the secrets themselves in it.
func (c canaries) literally(config string) string {
	for name, value := range c {
		config = strings.NewReplacer("{env."+name+"}", value, "{file.FILES/"+name+"}", value).Replace(config)
	}
	return config
}

// canaryConfig has a secret at every place that takes one. Those in files are sent to backends in a field that no log knows for a secret.
const canaryConfig = `{
	admin ADMIN_ADDRESS
	persist_config off
	metrics
	debug
	servers {
		protocols h1 h2c
		SEAMLESS
	}
}
http://SITE_ADDRESS {
	log
	handle /dashboard/* {
		load_balancer_dashboard
	}
	handle /tls {
		load_balancer https://SECURE {
			name secure
			transport http {
				tls_trust_pool file CERTIFICATE
				tls_client_auth CLIENT_CERTIFICATE CLIENT_KEY
			}
		}
	}
	handle /echo {
		ip_rate_limit {
			zone echo
			rate 1000/s
			redis redis://:{env.REDIS_PASSWORD}@PARROT
		}
		respond ok
	}
	handle {
		ip_rate_limit {
			zone fleet
			rate 1000/s
			key {header.X-Api-Key}
			redis redis://:{env.REDIS_PASSWORD}@REDIS/0 {
				timeout 2s
				secret {env.REDIS_SECRET}
			}
		}
		load_balancer BACKENDS {
			name p
			lb_policy sticky {
				secret {env.STICKY_NEW} {file.FILES/STICKY_OLD}
			}
			header_up Authorization "Bearer {env.UPSTREAM_TOKEN}"
			header_up X-Token {file.FILES/UPSTREAM_FILE}
			header_up +X-Other "key {env.UPSTREAM_OTHER}"
			health_uri /health
			health_interval 100ms
			health_headers {
				X-Health-Token {env.HEALTH_TOKEN}
			}
			debug_header X-Balance 127.0.0.0/8
			fail_duration 1s
		}
	}
	handle_errors {
		respond "{err.status_code} {err.message} {http.load_balancer.error} {http.load_balancer.attempts} {http.ip_rate_limit.zone}"
	}
}
`

// TestSecretsStayInside has secrets at every place of a config that takes one, and looks for them at every place where something is told:
// once as placeholders, which must be told nowhere, and once literally, which must be told in what is Caddy's to tell only: its config.
func TestSecretsStayInside(t *testing.T) {
	for _, literal := range []bool{false, true} {
		t.Run(fmt.Sprintf("literal=%v", literal), func(t *testing.T) {
			t.Parallel()
			newCanaryCage(t, literal).run()
		})
	}
}

// canaryCage is a Caddy with secrets, and all that they are for.
type canaryCage struct {
	*caddy
	t        *testing.T
	secrets  canaries
	literal  bool
	config   string
	dir      string // of what Caddy keeps
	redis    *redisServer
	backends []*backend
	got      chan http.Header // of requests that backends have had
}

func newCanaryCage(t *testing.T, literal bool) *canaryCage {
	t.Helper()
	x := &canaryCage{t: t, literal: literal, dir: t.TempDir(), got: make(chan http.Header, 100)}
	x.secrets = newCanaries("REDIS_PASSWORD", "REDIS_SECRET", "STICKY_NEW", "STICKY_OLD", "UPSTREAM_TOKEN", "UPSTREAM_FILE", "UPSTREAM_OTHER", "HEALTH_TOKEN")
	files := t.TempDir()
	var environment []string
	for name, value := range x.secrets {
		environment = append(environment, name+"="+value)
		if err := os.WriteFile(filepath.Join(files, name), []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	x.redis = startRedis(t, "--requirepass", x.secrets["REDIS_PASSWORD"])
	var addresses string
	x.backends, addresses = startBackends(t, 3)
	for _, b := range x.backends {
		b.handle(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/health" || r.Header.Get("X-Health-Token") != x.secrets["HEALTH_TOKEN"] {
				x.got <- r.Header
			}
			switch r.URL.Path {
			case "/cut":
				w.Header().Set("Content-Length", "100")
				fmt.Fprint(w, "half")
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			case "/garbage":
				conn, _, err := http.NewResponseController(w).Hijack()
				if err == nil {
					fmt.Fprint(conn, "HTTP/1.1 2000000 no\r\nbroken\r\n\r\n")
					conn.Close()
				}
			case "/503":
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		})
	}
	secure := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	secure.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	secure.StartTLS()
	t.Cleanup(secure.Close)
	certificate, key := selfSigned(t)
	text, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	x.secrets["CLIENT_KEY"] = strings.Split(string(text), "\n")[1]
	x.config = strings.NewReplacer("SEAMLESS", seamless, "REDIS/", x.redis.addr+"/", "PARROT", startParrot(t), "BACKENDS", addresses, "FILES", files,
		"SECURE", secure.Listener.Addr().String(), "CLIENT_CERTIFICATE", certificate, "CLIENT_KEY", key, "tls_trust_pool file CERTIFICATE", "tls_insecure_skip_verify").Replace(canaryConfig)
	if literal {
		x.config = strings.Replace(x.config, "\tdebug\n", "", 1) // at which Caddy logs the config
		x.config = strings.ReplaceAll(x.config, files, "FILES")
		x.config = x.secrets.literally(x.config)
	}
	x.caddy = startCaddyConfig(t, x.config, append(environment, "XDG_DATA_HOME="+x.dir, "XDG_CONFIG_HOME="+x.dir)...)
	return x
}

func (x *canaryCage) run() {
	t := x.t
	waitFor(t, "redis to be asked", func() bool { return x.redisRuns() > 0 })
	x.ask("ordinary", "/", http.StatusOK)
	x.ask("TLS with a client certificate", "/tls", http.StatusOK)
	x.sent()
	x.stream()
	x.edits()
	x.failures()
	x.rejected()
	x.lookEverywhere()
	if n := x.logged(`"upstream roundtrip"`); n == 0 && !x.literal {
		t.Error("nothing was logged at level debug")
	}
}

// redisRuns is how often the script was run, of a Redis with a password.
func (x *canaryCage) redisRuns() int {
	text, err := x.redis.Do(x.t.Context(), "AUTH", x.secrets["REDIS_PASSWORD"]).Text()
	if err != nil || text != "OK" {
		x.t.Fatalf("%s: %v", text, err)
	}
	return x.redis.runs()
}

// ask sends a request and searches the answer. 0 stands for any status.
func (x *canaryCage) ask(what, path string, status int) {
	x.t.Helper()
	r := x.request(http.MethodGet, nil, "X-Api-Key", "k")
	r.URL.Path = path
	res, err := client.Do(r)
	if err != nil {
		x.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if status != 0 && (res.StatusCode != status || err != nil) {
		x.t.Errorf("%s: status %d, want %d: %v: %s", what, res.StatusCode, status, err, body)
	}
	x.secrets.search(x.t, "the answer: "+what, fmt.Sprint(res.StatusCode, res.Header, string(body), err))
}

// sent checks that backends get the secrets that are for them: otherwise the test would look for nothing.
func (x *canaryCage) sent() {
	x.t.Helper()
	h := <-x.got
	for field, name := range map[string]string{"Authorization": "UPSTREAM_TOKEN", "X-Token": "UPSTREAM_FILE", "X-Other": "UPSTREAM_OTHER"} {
		if !strings.Contains(h.Get(field), x.secrets[name]) {
			x.t.Errorf("a backend got %s: %q", field, h.Get(field))
		}
	}
}

// stream looks at what the streams of the API and of the dashboard tell while the rest goes on.
func (x *canaryCage) stream() {
	for _, url := range []string{"http://" + x.admin + "/load_balancer/events", x.url("/dashboard/stream")} {
		res, err := (&http.Client{Transport: &http.Transport{DisableCompression: true}}).Get(url)
		if err != nil {
			x.t.Fatal(err)
		}
		over := make(chan string, 1)
		go func() {
			defer res.Body.Close()
			text, _ := io.ReadAll(io.LimitReader(bufio.NewReader(res.Body), 16<<20))
			over <- string(text)
		}()
		x.t.Cleanup(func() { // Caddy stops first, and ends them
			select {
			case text := <-over:
				if len(text) < 100 {
					x.t.Errorf("%s has told nothing: %q", url, text)
				}
				x.secrets.search(x.t, url, text)
			case <-time.After(10 * time.Second):
				x.t.Errorf("%s does not end", url)
			}
		})
		x.t.Cleanup(x.stop)
	}
}

// edits has a state file be written.
func (x *canaryCage) edits() {
	x.edit("PATCH", x.backends[0].addr+"?sync=1", `{"weight": 5, "reason": "canary"}`).wants(x.t, http.StatusOK)
	x.edit("POST", "?sync=1", `{"address": "127.0.0.1:1"}`).wants(x.t, http.StatusCreated)
}

// failures has everything fail that can.
func (x *canaryCage) failures() {
	x.ask("garbage of the backend", "/garbage", 0)
	x.ask("503 of the backend", "/503", 0)
	x.ask("cut off by the backend", "/cut", 0)
	x.waitLogged("aborting with incomplete response")
	// The password of Redis is another one, then it is gone. Another one has never been a Redis.
	if err := x.redis.ConfigSet(x.t.Context(), "requirepass", "other").Err(); err != nil {
		x.t.Fatal(err)
	}
	x.redis.Do(x.t.Context(), "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no")
	x.untilUnavailable(1)
	x.redis.stop()
	x.ask("redis gone", "/", 0)
	x.ask("something else than redis", "/echo", http.StatusOK)
	x.waitLogged("unknown command, with args beginning with")
	for _, b := range x.backends {
		b.kill()
	}
	waitFor(x.t, "the backends to be down", func() bool { return x.poolOfSecrets().Usable == 0 })
	x.ask("all backends gone", "/", http.StatusServiceUnavailable)
}

// startParrot runs a server that says what it does not understand, as old and foreign ones do.
func startParrot(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	unprintable := regexp.MustCompile(`[^a-zA-Z0-9:@ ]+`)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				buf := make([]byte, 64<<10)
				for {
					n, err := conn.Read(buf)
					if err != nil {
						return
					}
					fmt.Fprintf(conn, "-ERR unknown command, with args beginning with: %s\r\n", unprintable.ReplaceAllString(string(buf[:n]), " "))
				}
			}()
		}
	}()
	return l.Addr().String()
}

func (x *canaryCage) poolOfSecrets() (p poolState) {
	x.api("GET", "/load_balancer/pools/p", &p)
	return p
}

func (x *canaryCage) untilUnavailable(n int) {
	waitFor(x.t, "the store to be unavailable", func() bool {
		x.ask("store unavailable", "/", 0)
		return x.logged("rate limit store is unavailable") >= n
	})
}

// rejected loads and validates configs that are wrong about their secrets, or beside them.
func (x *canaryCage) rejected() {
	replace := func(part, by string) string {
		if !strings.Contains(x.config, part) {
			x.t.Fatalf("the config has no %q", part)
		}
		return strings.Replace(x.config, part, by, 1)
	}
	redis := regexp.MustCompile(`redis redis://\S+/0`).FindString(x.config)
	sticky := regexp.MustCompile(`secret (\S+ \S+)\n`).FindStringSubmatch(x.config)[1]
	token := strings.TrimPrefix(strings.Split(sticky, " ")[0], "secret ")
	password := strings.SplitN(strings.TrimPrefix(redis, "redis redis://:"), "@", 2)[0]
	configs := map[string]string{
		"word after the URL":       replace(redis, redis+" more"),
		"secret after the URL":     replace(redis, redis+" "+password),
		"no database":              replace(redis, strings.TrimSuffix(redis, "/0")+"/x"),
		"slash in the password":    replace(redis, "redis redis://:1/"+password+"@"+x.redis.addr),
		"slash, as a database":     replace(redis, "redis redis://host:1/"+password),
		"password alone":           replace(redis, "redis "+password),
		"password as a database":   replace(redis, "redis redis://h/?db="+password),
		"control character":        replace(redis, "redis \"redis://:"+password+"@host\x01:1\""),
		"sentinel without a name":  replace(redis, "redis redis+sentinel://:"+password+"@h:1?sentinel_password="+password),
		"parameter of nothing":     replace(redis, redis+"?password="+password),
		"timeout too long":         replace("timeout 2s", "timeout 2h"),
		"three secrets":            replace(sticky, sticky+" "+token),
		"secret twice":             replace("secret "+sticky, "secret "+sticky+"\n secret "+token),
		"unknown word":             replace("secret "+sticky, "secrets "+sticky),
		"empty secret":             replace("secret "+sticky, `secret "" `+token),
		"same name, other secret":  replace("handle /dashboard/* {", "handle /x {\n load_balancer BACKEND {\n name p\n lb_policy sticky {\n secret "+token+"x\n }\n }\n}\nhandle /dashboard/* {"),
		"same zone, other store":   replace("handle /dashboard/* {", "handle /x {\n ip_rate_limit {\n zone fleet\n rate 1/s\n redis redis://:"+password+"x@other\n }\n}\nhandle /dashboard/* {"),
		"two secrets of the store": replace("timeout 2s", "secret "+token+" "+password),
		"no such key":              replace(`tls_client_auth `, "tls_client_auth /nonexistent"),
	}
	for name, config := range configs {
		err := x.reload(config)
		if err == nil {
			x.t.Errorf("%s: loaded", name)
			continue
		}
		x.secrets.search(x.t, "a refused reload, "+name, err.Error())
	}
	// As JSON: values of another type, fields that are not there.
	for name, text := range map[string]string{
		"secrets are no list":    `{"handler":"load_balancer","upstreams":[{"dial":"h:1"}],"load_balancing":{"selection_policy":{"policy":"lb_sticky","secrets":"SECRET"}}}`,
		"secrets are no texts":   `{"handler":"load_balancer","upstreams":[{"dial":"h:1"}],"load_balancing":{"selection_policy":{"policy":"lb_sticky","secrets":[["SECRET"]]}}}`,
		"secret":                 `{"handler":"load_balancer","upstreams":[{"dial":"h:1"}],"load_balancing":{"selection_policy":{"policy":"lb_sticky","secret":"SECRET"}}}`,
		"three secrets":          `{"handler":"load_balancer","upstreams":[{"dial":"h:1"}],"load_balancing":{"selection_policy":{"policy":"lb_sticky","secrets":["SECRET","SECRET","SECRET"]}}}`,
		"a secret, and no redis": `{"handler":"ip_rate_limit","rate":"1/s","redis":{"url":["SECRET"]}}`,
		"redis is a text":        `{"handler":"ip_rate_limit","rate":"1/s","redis":"redis://:SECRET@h"}`,
		"word of redis":          `{"handler":"ip_rate_limit","rate":"1/s","redis":{"url":"redis://:SECRET@h","password":"SECRET"}}`,
		"redis without a rate":   `{"handler":"ip_rate_limit","concurrency":1,"redis":{"url":"redis://:SECRET@h","secret":"SECRET"}}`,
		"on_error":               `{"handler":"ip_rate_limit","rate":"1/s","redis":{"url":"redis://:SECRET@h","on_error":"no"}}`,
		"other health headers":   `{"handler":"load_balancer","upstreams":[{"dial":"h:1"}],"health_checks":{"active":{"uri":"/","headers":{"X":"SECRET"}}}}`,
	} {
		text = strings.ReplaceAll(text, "SECRET", x.secrets["STICKY_NEW"])
		config := `{"admin":{"listen":"` + x.admin + `"},"apps":{"http":{"servers":{"s":{"listen":["` + x.site + `"],"routes":[{"handle":[` + text + `]}]}}}}}`
		status, answer := x.askAdminWith(http.MethodPost, "/load", "application/json", config)
		if status == http.StatusOK {
			x.t.Errorf("JSON, %s: loaded", name)
		}
		x.secrets.search(x.t, "a refused reload of JSON, "+name, string(answer))
	}
	for _, name := range []string{"slash, as a database", "three secrets", "same zone, other store"} {
		out, err := runCaddy(x.t, x.fill(configs[name]), "validate")
		if err == nil {
			x.t.Errorf("%s is valid: %s", name, out)
		}
		x.secrets.search(x.t, "caddy validate, "+name, out)
	}
	if err := x.reload(x.config); err != nil {
		x.t.Errorf("the config itself: %v", err)
	}
}

// lookEverywhere searches all that can be asked for, printed and read.
func (x *canaryCage) lookEverywhere() {
	t := x.t
	for _, path := range []string{
		"/load_balancer/pools", "/load_balancer/pools/p", "/load_balancer/pools/p/diff", "/load_balancer/pools/p/explain", "/load_balancer/pools/p/explain?key=x",
		"/load_balancer/pools/p/backends", "/load_balancer/pools/p/backends/" + x.backends[0].addr, "/load_balancer/pools/secure", "/load_balancer/express",
		"/load_balancer/rate_limits", "/load_balancer/rate_limits/fleet", "/load_balancer/rate_limits/fleet/k", "/reverse_proxy/upstreams", "/metrics",
	} {
		status, text := x.askAdmin(http.MethodGet, path)
		if status != http.StatusOK {
			t.Errorf("%s: status %d: %s", path, status, text)
		}
		x.secrets.search(t, path, string(text))
	}
	for _, path := range []string{"/load_balancer/pools/none", "/load_balancer/rate_limits/none", "/load_balancer/rate_limits/fleet/none"} {
		_, text := x.askAdmin(http.MethodGet, path)
		x.secrets.search(t, path, string(text))
	}
	for _, path := range []string{"/dashboard/", "/dashboard/state"} {
		x.ask(path, path, http.StatusOK)
	}
	_, config := x.askAdmin(http.MethodGet, "/config/")
	told := slices.ContainsFunc([]string{"STICKY_NEW", "REDIS_PASSWORD"}, func(name string) bool { return strings.Contains(string(config), x.secrets[name]) })
	if told != x.literal {
		t.Errorf("/config/ tells secrets: %v, want %v", told, x.literal)
	}
	for _, args := range [][]string{
		{"pools"}, {"pools", "--json"}, {"backends"}, {"backends", "--json"}, {"explain", "p"}, {"explain", "p", "--json"}, {"limits"}, {"limits", "--json"}, {"limits", "fleet"}, {"diff", "p"},
		{"top", "--once"}, {"drain", "p", "nobody"},
	} {
		stdout, stderr, code := x.lb(args...)
		if code != 0 && args[0] != "drain" {
			t.Errorf("caddy lb %v: exit code %d: %s", args, code, stderr)
		}
		x.secrets.search(t, "caddy lb "+strings.Join(args, " "), stdout+stderr)
	}
	written := false
	err := filepath.WalkDir(x.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		written = written || strings.Contains(string(text), "canary")
		x.secrets.search(t, "the file "+path, string(text))
		return err
	})
	if err != nil || !written {
		t.Errorf("the state file is there: %v, %v", written, err)
	}
	for line := range strings.Lines(x.log.String()) {
		if x.literal && strings.Contains(line, `"aborting with incomplete response"`) {
			continue // has all that was sent to the backend, as with reverse_proxy
		}
		x.secrets.search(t, "the log", line)
	}
}
