package caddyfile_test

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/ballastlb/ballast/caddyfile"
	"github.com/ballastlb/ballast/lbmodule"
	_ "github.com/ballastlb/ballast/listener"
)

// TestStockFixtures takes every Caddyfile of Caddy's own tests that has a reverse_proxy, changes the one word, and
// expects the same JSON, but for the name of the handler and of the policies that we serve ourselves.
func TestStockFixtures(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/caddyserver/caddy/v2").Output()
	if err != nil {
		t.Fatalf("finding Caddy's source: %v", err)
	}
	dir := filepath.Join(strings.TrimSpace(string(out)), "caddytest", "integration", "caddyfile_adapt")
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	directive := regexp.MustCompile(`(?m)^(\s*)reverse_proxy\b`)
	tried := 0
	for _, f := range files {
		fixture, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		stock, _, _ := strings.Cut(string(fixture), "\n----------")
		ours := directive.ReplaceAllString(stock, "${1}load_balancer")
		if ours == stock || strings.Contains(string(fixture), `"Reverse_proxy"`) {
			continue // two fixtures use the word as the name of a header
		}
		tried++
		t.Run(f.Name(), func(t *testing.T) {
			want, wantErr := adapt(stock)
			got, gotErr := adapt(ours)
			if wantErr != nil || gotErr != nil {
				if wantErr == nil || gotErr == nil || gotErr.Error() != strings.ReplaceAll(wantErr.Error(), "'reverse_proxy'", "'load_balancer'") {
					t.Fatalf("error = %v, want as with reverse_proxy: %v", gotErr, wantErr)
				}
				return
			}
			if !strings.Contains(string(got), `"load_balancer"`) {
				t.Errorf("no load_balancer in %s", got)
			}
			decodeHandlers(t, decode(t, got))
			got = regexp.MustCompile(`"handler":\s*"load_balancer"`).ReplaceAll(got, []byte(`"handler":"reverse_proxy"`))
			got = regexp.MustCompile(`"policy":\s*"lb_`).ReplaceAll(got, []byte(`"policy":"`))
			if !reflect.DeepEqual(decode(t, got), decode(t, want)) {
				t.Errorf("adapts to\n%s\nwith reverse_proxy to\n%s", got, want)
			}
		})
	}
	// Caddy 2.11.9 has 36 of them; far fewer would mean that they are looked for in the wrong place.
	if tried < 30 {
		t.Errorf("found %d fixtures only", tried)
	}
}

func adapt(caddyfile string) ([]byte, error) {
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), map[string]any{"filename": "Testfile"})
	return adapted, err
}

// decodeHandlers expects that what was adapted can be read.
func decodeHandlers(t *testing.T, config any) {
	t.Helper()
	switch v := config.(type) {
	case map[string]any:
		if v["handler"] == "load_balancer" {
			settings := maps.Clone(v)
			delete(settings, "handler")
			text, err := json.Marshal(settings)
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(text, new(lbmodule.Handler)); err != nil {
				t.Errorf("%v in %s", err, text)
			}
		}
		for _, inner := range v {
			decodeHandlers(t, inner)
		}
	case []any:
		for _, inner := range v {
			decodeHandlers(t, inner)
		}
	}
}

func decode(t *testing.T, text []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}
