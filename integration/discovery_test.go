package integration

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// target is a group of a list that has one target.
type target struct {
	Targets []string          `json:"targets"`
	Labels  map[string]string `json:"labels,omitempty"`
}

// listOf is a list of these targets: an address, or an address and labels, as in "127.0.0.1:80 weight=3 zone=a".
func listOf(targets ...string) string {
	list := []target{}
	for _, words := range targets {
		fields := strings.Fields(words)
		labels := make(map[string]string)
		for _, label := range fields[1:] {
			name, value, _ := strings.Cut(label, "=")
			labels[name] = value
		}
		list = append(list, target{fields[:1], labels})
	}
	text, err := json.Marshal(list)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// put changes a file as tools should: by renaming another one to it.
func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// TestDiscoveryFileUnderLoad changes the list under load in all sorts of ways. No request is lost, whoever is named is used within two
// seconds, and whoever is not is left alone.
func TestDiscoveryFileUnderLoad(t *testing.T) {
	t.Parallel()
	backends, _ := startBackends(t, 4)
	path := filepath.Join(t.TempDir(), "web.json")
	put(t, path, listOf(backends[0].addr, backends[1].addr))
	c := startCaddy(t, "load_balancer {\n name p\n dynamic file "+path+"\n lb_policy weighted_round_robin\n slow_start off\n}")
	var stop atomic.Bool
	var lost, all atomic.Int64
	var wg sync.WaitGroup
	t.Cleanup(func() { // before Caddy is stopped
		stop.Store(true)
		wg.Wait()
	})
	for range 4 {
		wg.Go(func() {
			for !stop.Load() {
				status, _, body := c.get("/")
				if all.Add(1); status != http.StatusOK {
					lost.Add(1)
					t.Errorf("status %d: %s", status, body)
				}
			}
		})
	}
	// shares waits until the requests are spread like that, and says how long that took.
	shares := func(what string, want ...int64) {
		t.Helper()
		start := time.Now()
		waitFor(t, what, func() bool {
			before, begun := counts(backends), all.Load()
			waitFor(t, "200 requests", func() bool { return all.Load() >= begun+200 })
			total, whole := int64(0), int64(0)
			after := counts(backends)
			for i, n := range want {
				whole += n
				total += after[i] - before[i]
			}
			for i, n := range want {
				if share, due := float64(after[i]-before[i])/float64(total), float64(n)/float64(whole); share < due-0.05 || share > due+0.05 || n == 0 && after[i] != before[i] {
					return false
				}
			}
			return true
		})
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("%s took %v", what, took)
		}
	}
	shares("two backends", 1, 1, 0, 0)
	put(t, path, listOf(backends[0].addr+" weight=3", backends[1].addr))
	shares("another weight", 3, 1, 0, 0)
	put(t, path, listOf(backends[2].addr, backends[3].addr, backends[0].addr+" backup=true"))
	shares("other backends", 0, 0, 1, 1)
	if err := os.WriteFile(path, []byte(listOf(backends[1].addr)), 0o644); err != nil {
		t.Fatal(err)
	}
	shares("a file that is written in place", 0, 1, 0, 0)
	for name, bad := range map[string]string{
		"half of it": listOf(backends[0].addr)[:20], "an empty list": "[]", "nothing": "", "a bad label": listOf(backends[0].addr + " weight=heavy"),
		"a bad target": listOf("http://" + backends[0].addr), "no JSON": "<html>",
	} {
		put(t, path, bad)
		waitFor(t, name+" to be noticed", func() bool { d := c.poolNamed("p").Discovery; return len(d) == 1 && !d[0].OK })
		shares(name, 0, 1, 0, 0)
		put(t, path, listOf(backends[1].addr))
		waitFor(t, name+" to be over", func() bool { return c.poolNamed("p").Discovery[0].OK })
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the file to be missed", func() bool { return c.metric("caddy_load_balancer_discovery_up", `pool="p"`) == 0 })
	// A config that is loaded meanwhile goes on with the last good list, and so do edits.
	if err := c.reload(siteConfig("load_balancer {\n name p\n dynamic file " + path + "\n lb_policy round_robin\n slow_start off\n}")); err != nil {
		t.Fatal(err)
	}
	shares("a reload without a file", 0, 1, 0, 0)
	c.edit("POST", "", `{"address": "`+backends[2].addr+`"}`).wants(t, http.StatusCreated)
	shares("a backend of the API", 0, 1, 1, 0)
	put(t, path, listOf(backends[3].addr))
	shares("the file again", 0, 0, 1, 1)
	stop.Store(true)
	wg.Wait()
	t.Logf("%d requests, %d lost", all.Load(), lost.Load())
}

// TestDiscoveryFileFromTheStart: Caddy starts without a list, refuses with 503, and serves as soon as there is one.
func TestDiscoveryFileFromTheStart(t *testing.T) {
	t.Parallel()
	b, own := startBackend(t), startBackend(t)
	path := filepath.Join(t.TempDir(), "web.yaml")
	c := startCaddyConfig(t, siteConfig("handle /with {\n load_balancer "+own.addr+" {\n name with\n dynamic file "+path+"\n}\n}\n"+
		"handle {\n load_balancer {\n name p\n dynamic file {env.LISTS}/web.yaml\n}\n}"), "LISTS="+filepath.Dir(path))
	for range 3 {
		if status, header, _ := c.get("/"); status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" {
			t.Errorf("status %d, Retry-After %q", status, header.Get("Retry-After"))
		}
	}
	if _, _, body := c.get("/with"); body != own.addr {
		t.Errorf("answer from %s, want the backend of the config to stand in", body)
	}
	c.waitLogged("dynamic source has no good list", `"pool":"p"`, "no such file")
	if d := c.poolNamed("p").Discovery; len(d) != 1 || d[0].OK || d[0].Targets != 0 || !strings.Contains(d[0].Error, "no such file") || d[0].Source != "file:{env.LISTS}/web.yaml" {
		t.Errorf("%+v", d)
	}
	put(t, path, "- targets: ['"+b.addr+"']\n  labels: {name: one}\n")
	start := time.Now()
	waitFor(t, "the list", func() bool { return c.answers(1) == b.addr })
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("used after %v", took)
	}
	waitFor(t, "the list where another stands in", func() bool { _, _, body := c.get("/with"); return body == b.addr })
	if m := c.edit("GET", "one", ""); m.Address != b.addr || m.Source != "dynamic" {
		t.Errorf("%+v", m)
	}
	for range 5 {
		put(t, path, "- targets: []\n")
		waitFor(t, "an empty list to be noticed", func() bool { return !c.poolNamed("p").Discovery[0].OK })
		put(t, path, "- targets: ['"+b.addr+"']\n  labels: {name: one}\n")
		waitFor(t, "the list again", func() bool { return c.poolNamed("p").Discovery[0].OK })
	}
	if n := c.logged("dynamic source has no good list", `"pool":"p"`); n != 6 {
		t.Errorf("logged %d times that something is wrong, want once for each of six times", n)
	}
}

// TestDiscoveryHTTP: a server that breaks in many ways takes nobody away. What is secret is told nobody.
func TestDiscoveryHTTP(t *testing.T) {
	t.Parallel()
	b, next := startBackend(t), startBackend(t)
	address := freeAddress(t)
	var answer atomic.Pointer[http.HandlerFunc]
	start := func() *http.Server {
		t.Helper()
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if user, password, _ := r.BasicAuth(); r.Header.Get("X-Token") != "s3cret-token" || user != "user" || password != "s3cret-password" {
				http.Error(w, "who are you?", http.StatusUnauthorized)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			(*answer.Load())(w, r)
		})}
		go func() { _ = server.Serve(l) }()
		t.Cleanup(func() { server.Close() })
		return server
	}
	says := func(status int, text string) {
		answer.Store(new(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			fmt.Fprint(w, text)
		})))
	}
	says(http.StatusOK, listOf(b.addr+" name=one"))
	// The pool has no name of its own, so that it has that of the URL.
	c := startCaddyConfig(t, siteConfig("load_balancer {\n dynamic http http://user:s3cret-password@"+address+"/web?key=s3cret-key 1s {\n header X-Token {env.TOKEN}\n }\n}"),
		"TOKEN=s3cret-token")
	if status, header, _ := c.get("/"); status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" {
		t.Errorf("without a server: status %d", status)
	}
	server := start()
	waitFor(t, "the first list", func() bool { return c.answers(1) == b.addr })
	if p := c.pool(); p.Name != "http://"+address+"/web" {
		t.Errorf("the pool is %s", p.Name)
	}
	for name, bad := range map[string]func(){
		"status 500": func() { says(http.StatusInternalServerError, listOf(next.addr)) },
		"garbage":    func() { says(http.StatusOK, "<html>") },
		"empty":      func() { says(http.StatusOK, "[]") },
		"bad label":  func() { says(http.StatusOK, listOf(next.addr+" backup=perhaps")) },
		"silence": func() {
			answer.Store(new(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })))
		},
		"no server": func() { server.Close() },
	} {
		bad()
		waitFor(t, name+" to be noticed", func() bool { return !c.pool().Discovery[0].OK })
		if d := c.pool().Discovery[0]; d.Error == "" || d.Targets != 1 || c.answers(10) != b.addr {
			t.Errorf("%s: %+v, answers from %s", name, d, c.answers(10))
		}
		says(http.StatusOK, listOf(b.addr+" name=one"))
		if name == "no server" {
			server = start()
		}
		waitFor(t, name+" to be over", func() bool { return c.pool().Discovery[0].OK })
	}
	says(http.StatusOK, listOf(next.addr))
	waitFor(t, "another list", func() bool { return c.answers(1) == next.addr })
	_, told := c.askAdmin("GET", "/load_balancer/pools")
	_, metrics := c.askAdmin("GET", "/metrics")
	for where, text := range map[string]string{"log": c.log.String(), "API": string(told), "metrics": string(metrics)} {
		if strings.Contains(text, "s3cret") {
			t.Errorf("the %s tells a secret", where)
		}
	}
}

// TestDiscoveryTogether: several sources make one pool, and a plain reverse_proxy takes the same file.
func TestDiscoveryTogether(t *testing.T) {
	t.Parallel()
	names := startNameServer(t)
	backends, _ := startBackends(t, 3)
	names.set(false, []string{"127.0.0.1"}, nil)
	dir := t.TempDir()
	one, two := filepath.Join(dir, "one.json"), filepath.Join(dir, "two.yml")
	put(t, one, listOf(backends[1].addr+" weight=2"))
	c := startCaddy(t, "handle /plain {\n reverse_proxy {\n dynamic lb_file "+one+"\n}\n}\nhandle {\n load_balancer {\n name p\n lb_policy weighted_round_robin\n slow_start off\n dynamic multi {\n"+
		names.dynamicSources(port(t, backends[0].addr))["a"][len("dynamic "):]+"file "+one+"\n file "+two+"\n}\n}\n}")
	waitFor(t, "two of three sources", func() bool { d := c.poolNamed("p").Discovery; return len(d) == 3 && d[0].OK && d[1].OK && !d[2].OK })
	if got, want := c.answers(12), backends[0].addr+" "+backends[1].addr; !sameWords(got, want) {
		t.Errorf("answers from %s, want %s", got, want)
	}
	if up, targets := c.metric("caddy_load_balancer_discovery_up", `pool="p"`), c.metric("caddy_load_balancer_discovery_targets", `pool="p"`); up != 0 || targets != 2 {
		t.Errorf("up %v, %v targets", up, targets)
	}
	put(t, two, "- targets: ['"+backends[2].addr+"']\n")
	waitFor(t, "all three", func() bool { return c.metric("caddy_load_balancer_discovery_up", `pool="p"`) == 1 })
	if got, want := c.answers(12), backends[0].addr+" "+backends[1].addr+" "+backends[2].addr; !sameWords(got, want) {
		t.Errorf("answers from %s, want %s", got, want)
	}
	if status, _, body := c.get("/plain"); status != http.StatusOK || body != backends[1].addr {
		t.Errorf("reverse_proxy: status %d from %s", status, body)
	}
}

// sameWords reports whether both have the same words, in any order.
func sameWords(a, b string) bool {
	count := make(map[string]int)
	for _, word := range strings.Fields(a) {
		count[word]++
	}
	for _, word := range strings.Fields(b) {
		count[word]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}
