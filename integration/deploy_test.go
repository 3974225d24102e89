package integration

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the table of metrics into docs/signals.md")

// startExample starts Caddyfile.example, which is what the demo runs, in front of three backends.
func startExample(t *testing.T) *caddy {
	t.Helper()
	backends, _ := startBackends(t, 3)
	return startCaddyConfig(t, read(t, "../Caddyfile.example"), "BALLAST_LISTEN=SITE_ADDRESS", "BALLAST_ADMIN=ADMIN_ADDRESS",
		"BACKEND_1="+backends[0].addr, "BACKEND_2="+backends[1].addr, "BACKEND_3="+backends[2].addr)
}

// metricName matches the names of metrics of ours, of Caddy and of its process.
var metricName = regexp.MustCompile(`\b(caddy|go|process)_[a-z_]+`)

// TestDeployedNames: what the alerts, the board and the pages ask for is what the demo has.
func TestDeployedNames(t *testing.T) {
	c := startExample(t)
	c.get("/")
	text := c.scrape()
	promtool(t, text, "check", "metrics")
	expressions := map[string][]string{
		"alerts.yml": regexp.MustCompile(`(?m)expr:(.*(?:\n {10}.*)*)`).FindAllString(read(t, "../deploy/prometheus/alerts.yml"), -1),
	}
	all, _ := snippets(t)
	for _, s := range all {
		if s.language == "promql" {
			expressions["the pages"] = append(expressions["the pages"], s.code)
		}
	}
	var board struct {
		Panels []struct {
			Type, Title, Description string
			Targets                  []struct{ Expr, LegendFormat string }
		}
		Templating  struct{ List []struct{ Query any } }
		Annotations struct{ List []struct{ Expr string } }
	}
	if err := json.Unmarshal([]byte(read(t, "../deploy/grafana/ballast.json")), &board); err != nil {
		t.Fatal(err)
	}
	variables := strings.NewReplacer("$__rate_interval", "1m", "$pool", ".*", "$instance", ".*", "$top", "10")
	rules := "groups:\n- name: board\n  rules:\n"
	ask := func(expression string) {
		expressions["ballast.json"] = append(expressions["ballast.json"], expression)
		rules += fmt.Sprintf("  - {record: %q, expr: %q}\n", fmt.Sprint("board:", len(expressions["ballast.json"])), variables.Replace(expression))
	}
	for _, p := range board.Panels {
		if p.Description == "" && p.Type != "row" && !strings.HasPrefix(p.Targets[0].LegendFormat, "{{instance}}") {
			t.Errorf("ballast.json: %s has no description", p.Title)
		}
		for _, target := range p.Targets {
			ask(target.Expr)
			if strings.Contains(target.LegendFormat, "{{backend}}") && !strings.Contains(target.LegendFormat, "{{pool}}") {
				t.Errorf("ballast.json: %s does not say of which pool its backends are", p.Title)
			}
		}
	}
	for _, a := range board.Annotations.List {
		ask(a.Expr)
	}
	file := filepath.Join(t.TempDir(), "board.yml")
	if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "", "check", "rules", file)
	for _, v := range board.Templating.List {
		expressions["ballast.json"] = append(expressions["ballast.json"], fmt.Sprint(v.Query))
	}
	for file, all := range expressions {
		found := 0
		for _, expression := range all {
			for _, name := range metricName.FindAllString(expression, -1) {
				if found++; !strings.Contains(text, "\n"+name+"{") && !strings.Contains(text, "\n"+name+" ") {
					t.Errorf("%s asks for %s, which the demo does not have", file, name)
				}
			}
		}
		if found < 3 {
			t.Errorf("%s asks for %d metrics; this test does not see them", file, found)
		}
	}
}

// TestAlerts has Prometheus's own tool try the alerts and its config.
func TestAlerts(t *testing.T) {
	promtool(t, "", "check", "rules", "../deploy/prometheus/alerts.yml")
	promtool(t, "", "test", "rules", "../deploy/prometheus/alerts_test.yml")
	promtool(t, "", "check", "config", "../deploy/prometheus/prometheus.yml")
	tests := read(t, "../deploy/prometheus/alerts_test.yml")
	for _, alert := range regexp.MustCompile(`alert: (\w+)`).FindAllStringSubmatch(read(t, "../deploy/prometheus/alerts.yml"), -1) {
		if n := strings.Count(tests, "alertname: "+alert[1]); n < 2 {
			t.Errorf("%s is tried %d times, want that it rings and that it does not", alert[1], n)
		}
	}
}

// TestComposeNamesFiles: what compose.yaml mounts and builds is there.
func TestComposeNamesFiles(t *testing.T) {
	mounts := regexp.MustCompile(`"?(\.\.?/[^:"\s]+):/`).FindAllStringSubmatch(read(t, "../deploy/compose.yaml"), -1)
	if len(mounts) < 4 {
		t.Errorf("%d mounts of files; this test does not see them", len(mounts))
	}
	for _, mount := range mounts {
		if _, err := os.Stat(filepath.Join("../deploy", mount[1])); err != nil {
			t.Error(err)
		}
	}
}

// TestDocsMetrics compares docs/signals.md with what a Caddy tells of its metrics; with -update it writes the table. Other pages name
// no metric that is not in it.
func TestDocsMetrics(t *testing.T) {
	c := startExample(t)
	r, err := http.NewRequest(http.MethodGet, "http://"+c.admin+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, f := range decodeMetrics(t, r) {
		name := f.GetName()
		if !strings.HasPrefix(name, "caddy_load_balancer_") && !strings.HasPrefix(name, "caddy_ip_rate_limit_") {
			continue
		}
		var labels []string
		for _, l := range f.GetMetric()[0].Label {
			labels = append(labels, "`"+l.GetName()+"`")
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s | %s | %s |\n", name, strings.ToLower(f.GetType().String()), strings.Join(labels, " "), f.GetHelp()))
	}
	slices.Sort(rows)
	table := "| metric | type | labels | meaning |\n|---|---|---|---|\n" + strings.Join(rows, "")
	const begin, end = "<!-- metrics: written by go test -C integration -run TestDocsMetrics -update -->\n", "<!-- end of metrics -->"
	page := regexp.MustCompile("<!-- metrics: .*\n").ReplaceAllLiteralString(read(t, "../docs/signals.md"), begin)
	before, rest, ok := strings.Cut(page, begin)
	have, after, complete := strings.Cut(rest, end)
	if !ok || !complete {
		t.Fatal("docs/signals.md has no place for the table of metrics")
	}
	for page, text := range pages(t) {
		for _, name := range regexp.MustCompile(`caddy_(load_balancer|ip_rate_limit)_[a-z_]+`).FindAllString(text, -1) {
			if !strings.Contains(table, "`"+strings.TrimSuffix(name, "_bucket")+"`") {
				t.Errorf("%s names %s: there is no such metric", page, name)
			}
		}
	}
	if have == table {
		return
	}
	if !*update {
		t.Fatalf("docs/signals.md tells of other metrics; run this test with -update. It should have\n%s", table)
	}
	if err := os.WriteFile("../docs/signals.md", []byte(before+begin+table+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
