package lbmodule

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// TestDiscovery: a config in JSON whose backends come from a file. Whoever looks sees what they are, and what is wrong with the list.
func TestDiscovery(t *testing.T) {
	c := newConfig(t)
	list := filepath.Join(newDir(t), "list.json")
	c.mustLoad(`{"dynamic_upstreams": {"source": "lb_file", "path": "` + list + `"}}`)
	pool := "file:" + list
	look := func() (p struct {
		Discovery []struct {
			Source, Error string
			OK            bool
			Since         time.Time
			Targets       int
		}
		Backends []struct {
			Name, Source, Zone string
			Weight             int
			MaxRequests        int `json:"max_requests"`
			Backup             bool
		}
	}) {
		t.Helper()
		for _, o := range c.app().Overview() {
			if o.Name != pool {
				continue
			}
			text, err := json.Marshal(o)
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(text, &p); err != nil {
				t.Fatal(err)
			}
		}
		return p
	}
	up := func() (up, targets float64) {
		t.Helper()
		got := c.gathered()
		return values(got["discovery_up"])[""], values(got["discovery_targets"])[""]
	}
	if d := look().Discovery; len(d) != 1 || d[0].Source != pool || d[0].OK || d[0].Error != "has not been asked yet" || d[0].Since.IsZero() {
		t.Errorf("before the start: %+v", d)
	}
	if up, targets := up(); up != 0 || targets != 0 {
		t.Errorf("before the start: up %v, %v targets", up, targets)
	}
	c.start()
	eventually(t, "the file to be missed", func() bool { return strings.Contains(look().Discovery[0].Error, "cannot be read: no such file") })
	if err := os.WriteFile(list, []byte(`[{"targets": ["a.test:1"], "labels": {"name": "a", "weight": "3", "zone": "eu", "max_requests": "7", "backup": "true"}}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the file to be read", func() bool { return look().Discovery[0].OK })
	p := look()
	if b := p.Backends; len(b) != 1 || b[0].Name != "a" || b[0].Source != "dynamic" || b[0].Zone != "eu" || b[0].Weight != 3 || b[0].MaxRequests != 7 || !b[0].Backup {
		t.Errorf("%+v", b)
	}
	if up, targets := up(); up != 1 || targets != 1 || p.Discovery[0].Error != "" || p.Discovery[0].Targets != 1 {
		t.Errorf("with a good list: up %v, %v targets; %+v", up, targets, p.Discovery)
	}
	if err := os.WriteFile(list, []byte(`[]`), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the file to be refused", func() bool { return look().Discovery[0].Error == "names no target: must name one at least" })
	if up, targets := up(); up != 0 || targets != 1 || len(look().Backends) != 1 {
		t.Errorf("with an empty list: up %v, %v targets, %d backends", up, targets, len(look().Backends))
	}
}

func TestBadDiscoveryIsRefused(t *testing.T) {
	for settings, want := range map[string]string{
		`{"source": "lb_file"}`:                                                    "path: missing",
		`{"source": "lb_file", "path": "a.txt"}`:                                   "path a.txt: must end in .json, .yml or .yaml",
		`{"source": "lb_file", "path": "a.json", "refresh": "1s"}`:                 `unknown field "refresh"`,
		`{"source": "lb_file", "path": "a.json", "path": "b.json"}`:                "path: given twice",
		`{"source": "lb_http", "url": "ftp://u:s3cret@a/"}`:                        "url ftp://a/: must be an http:// or https:// URL",
		`{"source": "lb_http", "url": "http://a/", "interval": "1ms"}`:             "interval 1ms: must be from 1s to 1h",
		`{"source": "multi", "sources": [{"source": "lb_file", "path": "a.txt"}]}`: "path a.txt",
	} {
		_, err := newConfig(t).load(`{"dynamic_upstreams": ` + settings + `}`)
		expectError(t, err, "dynamic_upstreams", want)
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", settings, err)
		}
	}
	_, err := newConfig(t).load(`{"dynamic_upstreams": {"source": "lb_file", "path": "a.json"},
		"load_balancing": {"selection_policy": {"policy": "weighted_round_robin", "weights": [1]}}}`)
	expectError(t, err, "weighted_round_robin: lists weights by position, which backends of file:a.json do not have")
}

// A plain reverse_proxy is served, too.
func TestDiscoveryForReverseProxy(t *testing.T) {
	list := filepath.Join(newDir(t), "list.yaml")
	if err := os.WriteFile(list, []byte("- targets: ['a.test:1', 'b.test:1']\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	loaded, err := newConfig(t).ctx.LoadModuleByID("http.reverse_proxy.upstreams.lb_file", json.RawMessage(`{"path": "`+list+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	all, err := loaded.(reverseproxy.UpstreamSource).GetUpstreams(httptest.NewRequest(http.MethodGet, "/", nil))
	if err != nil || len(all) != 2 || all[1].Dial != "b.test:1" {
		t.Errorf("%v, %v", all, err)
	}
}

// Zones that labels give are not missed before they are known.
func TestDiscoveryMayKnowZones(t *testing.T) {
	for source, warns := range map[string]bool{`{"source": "lb_file", "path": "a.json"}`: false, `{"source": "a", "name": "app.internal", "port": "80"}`: true} {
		c := newConfig(t)
		c.mustLoad(`{"prefer_zone": "eu", "dynamic_upstreams": ` + source + `}`)
		if got := strings.Contains(c.logged(), "no backend is in the preferred zone"); got != warns {
			t.Errorf("%s: warned: %v", source, got)
		}
	}
}
