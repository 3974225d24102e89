package command

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/ballastlb/ballast/caddyfile"
	"github.com/ballastlb/ballast/lbmodule/simulate"
)

const twoPools = `a.example.com {
	load_balancer 10.0.0.1:80 10.0.0.2:80 {
		name web
	}
}
b.example.com {
	load_balancer 10.0.1.1:80 {
		name api
		health_check {
			http /healthz
		}
	}
}
`

func TestSimulate(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	file := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	two := file("two.caddyfile", twoPools)
	short := file("short.json", `{"duration": "2s", "arrivals": {"rate": 100}, "backends": [{"set": {"delay": "10ms"}}]}`)
	wrong := file("wrong.json", `{"arrivals": {"rate": 100}, "backends": [{"set": {"dealy": "10ms"}}]}`)
	plainJSON := file("config.json", `{"apps": {"http": {"servers": {"s": {"routes": [{"handle": [{"handler": "load_balancer", "upstreams": [{"dial": "a:1"}]}]}]}}}}}`)
	tests := []struct {
		args []string
		in   string
		code int
		out  string // in what is printed
		err  string
	}{
		{[]string{"--backends", "3", "--duration", "1s"}, "", 0, "peak_ewma", ""},
		{[]string{short, "--config", two, "--pool", "web"}, "", 0, "10.0.0.2:80", ""},
		{[]string{short, "--config", two, "--pool", "api"}, "", 0, "10.0.1.1:80", "Warning: pool api: not simulated: health_check"},
		{[]string{short, "--config", plainJSON}, "", 0, "a:1", ""},
		{[]string{"-", "--backends", "2"}, `{"duration": "1s", "arrivals": {"rate": 10}, "backends": [{"set": {"status": 500}}]}`, 0, "failed: status 500:", ""},
		{[]string{short, "--backends", "30", "--rows", "2"}, "", 0, "and 28 more; --rows shows them", ""},
		{[]string{short, "--backends", "3", "--policy", "least_conn", "--policy", "hash {client_ip}", "--policy", "weighted_round_robin 1 2 3"}, "", 0, "weighted_round_robin", ""},

		{[]string{short}, "", exitFailed, "", "count: missing; the pool has no backends"},
		{[]string{short, "--pool", "web"}, "", exitFailed, "", "pool web: there is no config"},
		{[]string{short, "--config", two}, "", exitFailed, "", "config has several pools; select one with --pool: web, api"},
		{[]string{short, "--config", two, "--pool", "x"}, "", exitNotFound, "", "pool x: not found; must be one of web, api"},
		{[]string{short, "--config", file("none.json", `{}`)}, "", exitFailed, "", "has no load_balancer"},
		{[]string{short, "--config", file("bad.caddyfile", ":80 {\nload_balancer a:1 {\nsubset 0\n}\n}")}, "", exitFailed, "", "bad.caddyfile:3"},
		{[]string{short, "--config", two, "--adapter", "nginx"}, "", exitFailed, "", "adapter nginx: not found in this build"},
		{[]string{"missing.json"}, "", exitFailed, "", "scenario: open missing.json"},
		{[]string{wrong, "--backends", "1"}, "", exitFailed, "", `backends: entry 1: set: json: unknown field "dealy"`},
		{[]string{short, "--backends", "1", "--policy", "leastconn"}, "", exitFailed, "", "least_conn"},
		{[]string{short, "--backends", "1", "--policy", "first\n}"}, "", exitFailed, "", "must be one line"},
		{[]string{short, "--backends", "1", "--svg", filepath.Join(dir, "no", "where.svg")}, "", exitFailed, "", "svg: open"},
		{[]string{short, "--backends", "1", "--rate", "-1"}, "", exitFailed, "", "rate -1: must be above 0"},
	}
	for _, test := range tests {
		got := runCommand(t, console{in: strings.NewReader(test.in)}, append([]string{"simulate"}, test.args...)...)
		if got.code != test.code || !strings.Contains(got.out, test.out) || !strings.Contains(got.err, test.err) || test.err == "" && got.err != "" {
			t.Errorf("simulate %v: code %d, want %d; printed\n%s%s\nwant %q, %q", test.args, got.code, test.code, got.out, got.err, test.out, test.err)
		}
	}
	// A Caddyfile in the directory is used.
	file("Caddyfile", ":80 {\nload_balancer c:1 d:1\n}\n")
	if got := runCommand(t, console{}, "simulate", short); got.code != 0 || !strings.Contains(got.out, "d:1") {
		t.Errorf("with a Caddyfile in the directory: %+v", got)
	}
}

func TestSimulateOutput(t *testing.T) {
	t.Chdir(t.TempDir())
	args := []string{"simulate", "--backends", "12", "--duration", "3s", "--policy", "peak_ewma", "--policy", "round_robin"}
	got := runCommand(t, console{}, append(args, "--json", "--svg", "out.svg")...)
	var answer struct{ Results []*simulate.Result }
	if err := json.Unmarshal([]byte(got.out), &answer); err != nil || len(answer.Results) != 2 {
		t.Fatalf("%v: %s%s", err, got.out, got.err)
	}
	if r := answer.Results[1]; r.Policy != "round_robin" || r.Requests == 0 || len(r.Backends) != 12 || len(r.Timeline) == 0 || r.Latency.P50 != 10 {
		t.Errorf("%+v", r)
	}
	if again := runCommand(t, console{}, append(args, "--json")...); again.out != got.out {
		t.Error("the same seed prints something else")
	}
	picture, err := os.ReadFile("out.svg")
	if err != nil {
		t.Fatal(err)
	}
	d := xml.NewDecoder(strings.NewReader(string(picture)))
	polylines := 0
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("picture: %v", err)
		}
		if start, ok := token.(xml.StartElement); ok && start.Name.Local == "polyline" {
			polylines++
		}
	}
	// Two of latency and one of failures for each policy, and for each the least, median and greatest share.
	if want := 2*3 + 2*3; polylines != want || strings.Contains(string(picture), "NaN") {
		t.Errorf("the picture has %d lines, want %d", polylines, want)
	}
}
