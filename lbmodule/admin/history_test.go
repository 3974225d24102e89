package admin

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.yaml.in/yaml/v3"

	"github.com/ballastlb/ballast/lbmodule/dashboard"
	"github.com/ballastlb/ballast/lbmodule/history"
)

// askHistory asks the API for the history of a pool.
func askHistory(t *testing.T, target, accept string) (status int, kind, body string) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, poolsPath+target, nil)
	r.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	if err, failed := errors.AsType[caddy.APIError](adminAPI{}.serve(w, r)); failed {
		return err.HTTPStatus, "", err.Err.Error()
	}
	return w.Code, w.Header().Get("Content-Type"), w.Body.String()
}

// TestHistory asks the API and the dashboard for what is remembered: they answer the same, as openapi.yaml describes it.
func TestHistory(t *testing.T) {
	_, of, _ := startDashboard(t, "history", `{}`)
	t.Cleanup(func() { _ = of.Stop() })
	deadline := time.Now().Add(10 * time.Second)
	for _, body := "", ""; !strings.Contains(body, `"time":[1`); time.Sleep(10 * time.Millisecond) {
		if _, _, body = askHistory(t, "/history/history?backend=10.0.0.2:80", ""); time.Now().After(deadline) {
			t.Fatalf("nothing is remembered: %.300s", body)
		}
	}
	source := liveState{of}
	document := readOpenAPI(t)
	schema := document["components"].(map[string]any)["schemas"].(map[string]any)["History"].(map[string]any)
	for target, p := range map[string]dashboard.Past{
		"":                               {},
		"?range=5m&format=json":          {Range: "5m"},
		"?range=1h":                      {Range: "1h"},
		"?range=24h&backend=10.0.0.1:80": {Range: "24h", Backend: "10.0.0.1:80"},
	} {
		p.Pool = "history"
		status, kind, body := askHistory(t, "/history/history"+target, "")
		if status != http.StatusOK || kind != "application/json" {
			t.Fatalf("%s: %d %s %.200s", target, status, kind, body)
		}
		same, err := source.History(p)
		if err != nil {
			t.Fatal(err)
		}
		var api, page history.Answer
		if err := errors.Join(json.Unmarshal([]byte(body), &api), json.Unmarshal(same, &page)); err != nil {
			t.Fatal(err)
		}
		if len(api.Time) != history.Points || len(page.Time) != history.Points || api.Range != page.Range || api.Backend != p.Backend || (api.Heat != nil) != (p.Backend == "") {
			t.Errorf("%s: %+v and %+v", target, api, page)
		}
		var told map[string]any
		if err := yaml.Unmarshal([]byte(body), &told); err != nil {
			t.Fatal(err)
		}
		fits(t, document, target, schema, told)
	}
	for _, tt := range []struct {
		target, accept string
		status         int
		want           string
	}{
		{"/history/history?range=2h", "", 400, "range 2h: must be one of 5m, 1h, 24h"},
		{"/history/history?format=xml", "", 400, "format xml: must be one of json, csv"},
		{"/nobody/history", "", 404, "pool nobody: not found"},
		{"/history/history?backend=nobody", "", 404, "backend nobody: not found in pool history"},
		{"/history/history?format=csv", "", 200, "time,1xx,2xx"},
		{"/history/history?backend=10.0.0.1:80", "text/csv", 200, "time,1xx,2xx"},
	} {
		status, kind, body := askHistory(t, tt.target, tt.accept)
		if status != tt.status || !strings.HasPrefix(body, tt.want) {
			t.Errorf("%s: %d %.200s, want %d %s", tt.target, status, body, tt.status, tt.want)
		}
		if status != http.StatusOK {
			continue
		}
		if rows, err := csv.NewReader(strings.NewReader(body)).ReadAll(); err != nil || len(rows) != history.Points+1 || kind != "text/csv; charset=utf-8" {
			t.Errorf("%s: %d rows of %s, %v", tt.target, len(rows), kind, err)
		}
	}
	for want, p := range map[string]dashboard.Past{"pool nobody": {Pool: "nobody"}, "range 2h": {Pool: "history", Range: "2h"}, "backend nobody": {Pool: "history", Backend: "nobody"}} {
		if _, err := source.History(p); !errors.As(err, new(dashboard.Refusal)) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// TestExplainBackend asks why a backend may be chosen.
func TestExplainBackend(t *testing.T) {
	_, of, _ := startDashboard(t, "explain-backend", `{}`)
	t.Cleanup(func() { _ = of.Stop() })
	source := liveState{of}
	text, err := source.Explain("explain-backend", "10.0.0.1:80")
	var x backendExplanation
	if err != nil || json.Unmarshal(text, &x) != nil || !x.In || x.Backend != "10.0.0.1:80" || x.Others != 1 || x.Weight != 1 || x.Policy == "" {
		t.Errorf("%s, %v", text, err)
	}
	for _, names := range [][2]string{{"nobody", "10.0.0.1:80"}, {"explain-backend", "nobody"}} {
		if _, err := source.Explain(names[0], names[1]); !errors.As(err, new(dashboard.Refusal)) || !strings.Contains(err.Error(), "not found") {
			t.Errorf("%v: %v", names, err)
		}
	}
}
