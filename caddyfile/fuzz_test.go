package caddyfile_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	_ "github.com/ballastlb/ballast/listener"
)

// frames are where a fuzzed text may stand in a Caddyfile; %s stands for it.
var frames = []string{
	"%s",
	":8080\nload_balancer a:1 {\n%s\n}\n",
	":8080\nip_rate_limit {\n%s\n}\n",
	"{\nservers {\nlistener_wrappers {\nseamless {\n%s\n}\n}\n}\n}\n:8080\nload_balancer a:1\n",
	"{\n%s\n}\n:8080\nload_balancer a:1\n",
	":8080\nload_balancer_dashboard /lb* {\n%s\n}\n",
}

// FuzzCaddyfile adapts Caddyfiles. None panics; and what can be adapted gives the same config each time, which our modules can read, which
// they take for valid, and in which nothing is lost when it is written again.
func FuzzCaddyfile(f *testing.F) {
	addFixtures(f)
	for frame, texts := range [][]string{
		1: {"lb_policy hash {header.X} {\nbounded_load 125%\nfallback p2c\n}", "backend b:1 {\nweight 0\nbackup 2\n}\nretry {\nattempts 3\n}", "health_check {\nhttp /up\n}"},
		2: {"rate 10/s\nburst 3\nexempt 10.0.0.0/8 ::1", "concurrency 3\ndry_run", "rate 1/m\nredis redis://:{env.P}@h:1/0 {\ntimeout 10ms\n}", "zone a\nrate 0.5/h\nkey {client_ip}{path}"},
		3: {"", "express off", "express off\nexpress off"},
		4: {"servers {\ntrusted_proxies static 10.0.0.0/8\nlistener_wrappers {\nseamless\n}\n}", "admin off\ngrace_period 5s"},
		5: {"", "actions on"},
	} {
		for _, text := range texts {
			f.Add(text, uint8(frame))
		}
	}
	f.Fuzz(func(t *testing.T, text string, frame uint8) {
		// What reads files depends on more than the text, and Caddy keeps an order of directives for all Caddyfiles after it.
		if len(text) > 4096 || strings.Contains(text, "import") || strings.Contains(text, "{file.") || strings.Contains(text, "order") {
			return
		}
		input := strings.Replace(frames[int(frame)%len(frames)], "%s", text, 1)
		got, err := adapt(input)
		again, errAgain := adapt(input)
		if !bytes.Equal(got, again) || (err == nil) != (errAgain == nil) || err != nil && err.Error() != errAgain.Error() {
			t.Fatalf("%q adapts to\n%s, %v\nand then to\n%s, %v", input, got, err, again, errAgain)
		}
		if err != nil {
			return
		}
		if err := caddy.StrictUnmarshalJSON(got, new(caddy.Config)); err != nil {
			t.Fatalf("%q adapts to a config that Caddy cannot read: %v\n%s", input, err, got)
		}
		checkModules(t, decode(t, got))
	})
}

// addFixtures adds the Caddyfiles of the fixtures, as they are.
func addFixtures(f *testing.F) {
	f.Helper()
	files, err := filepath.Glob("testdata/*.caddyfiletest")
	if err != nil || len(files) == 0 {
		f.Fatalf("no fixtures: %v", err)
	}
	for _, file := range files {
		fixture, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		input, _, _ := strings.Cut(string(fixture), fixtureSeparator)
		f.Add(input, uint8(0))
	}
}

// ourModules are the modules of ours that a Caddyfile makes, by the key that names them, and that name.
var ourModules = []struct{ key, name, id string }{
	{"handler", "load_balancer", "http.handlers.load_balancer"},
	{"handler", "load_balancer_ready", "http.handlers.load_balancer_ready"},
	{"handler", "load_balancer_dashboard", "http.handlers.load_balancer_dashboard"},
	{"handler", "ip_rate_limit", "http.handlers.ip_rate_limit"},
	{"wrapper", "seamless", "caddy.listeners.seamless"},
}

// checkModules has all modules of ours in a config read their settings as Caddy has them read, check them, and write them again.
func checkModules(t *testing.T, config any) {
	t.Helper()
	switch v := config.(type) {
	case map[string]any:
		for _, m := range ourModules {
			if v[m.key] == m.name {
				settings := maps.Clone(v)
				delete(settings, m.key)
				checkModule(t, m.id, settings)
			}
		}
		for _, key := range slices.Sorted(maps.Keys(v)) {
			checkModules(t, v[key])
		}
	case []any:
		for _, inner := range v {
			checkModules(t, inner)
		}
	}
}

func checkModule(t *testing.T, id string, settings map[string]any) {
	t.Helper()
	info, err := caddy.GetModule(id)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	m := info.New()
	if err := caddy.StrictUnmarshalJSON(text, m); err != nil {
		t.Fatalf("%s cannot read %s: %v", id, text, err)
	}
	if checked, ok := m.(interface{ CheckWhole() error }); ok {
		err = checked.CheckWhole()
	} else if checked, ok := m.(interface{ Check() error }); ok {
		err = checked.Check()
	}
	if err != nil {
		t.Fatalf("%s refuses %s: %v", id, text, err)
	}
	written, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(decode(t, written), decode(t, text)) {
		t.Fatalf("%s reads\n%s\nand writes\n%s", id, text, written)
	}
}
