package lbmodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/caddyserver/caddy/v2"

	"github.com/ballastlb/ballast/lbmodule/manage"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/status"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// gathered are the metrics of a config as they are served, by name.
func (c *harness) gathered() map[string]*dto.MetricFamily {
	c.t.Helper()
	families, err := c.ctx.GetMetricsRegistry().Gather()
	if err != nil {
		c.t.Fatalf("gathering metrics: %v", err)
	}
	byName := make(map[string]*dto.MetricFamily)
	for _, f := range families {
		// What is written must be read as what it was.
		var text strings.Builder
		if _, err := expfmt.MetricFamilyToText(&text, f); err != nil {
			c.t.Errorf("%s: %v", f.GetName(), err)
		}
		parser := expfmt.NewTextParser(model.UTF8Validation)
		if read, err := parser.TextToMetricFamilies(strings.NewReader(text.String())); err != nil || len(read) != 1 {
			c.t.Errorf("%s cannot be read: %v\n%s", f.GetName(), err, text.String())
		}
		byName[strings.TrimPrefix(f.GetName(), "caddy_load_balancer_")] = f
	}
	return byName
}

// values are the values of a family by their labels but for the pool's, in order of the labels' names.
func values(f *dto.MetricFamily) map[string]float64 {
	all := make(map[string]float64)
	for _, m := range f.GetMetric() {
		var labels []string
		for _, l := range m.Label {
			if l.GetName() != "pool" {
				labels = append(labels, l.GetValue())
			}
		}
		all[strings.Join(labels, " ")] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
	}
	return all
}

// TestMetricsFromTheStart: every family is there before the first request, with zeros.
func TestMetricsFromTheStart(t *testing.T) {
	c := newConfig(t)
	c.mustLoad(`{"name": "start", "upstreams": [{"dial": "start.test:1"}]}`)
	ok, failed := manage.Writes() // they are the process's, and other tests may have run
	got := c.gathered()
	for name, want := range map[string]map[string]float64{
		"requests_total":           {"200": 0, "499": 0, "502": 0, "503": 0, "504": 0},
		"attempts_total":           {"start.test:1 success": 0, "start.test:1 failure": 0, "start.test:1 ignored": 0},
		"refused_total":            {"no_backend": 0, "limit": 0, "queue_full": 0, "queue_timeout": 0, "session": 0, "drained": 0, "shutdown": 0, "source": 0},
		"retries_total":            {"connect": 0, "reset": 0, "timeout": 0, "status": 0, "hedge": 0},
		"retry_budget_remaining":   {"": 100},
		"sessions_rebound_total":   {"": 0},
		"subset_size":              {"": 1},
		"subset_of":                {"": 1},
		"subset_further":           {"": 0},
		"mirrored_total":           {"success": 0, "server_error": 0, "failure": 0, "timeout": 0, "dropped": 0},
		"mirror_in_flight":         {"": 0},
		"shadow_decisions_total":   {"agreed": 0, "differed": 0, "full": 0, "dropped": 0},
		"shadow_fairness_ratio":    {"": 1},
		"shadow_requests_total":    {"_other policy": 0, "_other shadow": 0},
		"shadow_in_flight":         {"_other": 0},
		"shadow_duration_seconds":  {"policy": 0, "shadow": 0},
		"canary_share":             {"": 0},
		"canary_rollbacks_total":   {"": 0},
		"canary_requests_total":    {"success canary": 0, "failure canary": 0, "success others": 0, "failure others": 0},
		"hedges_sent_total":        {"": 0},
		"hedges_won_total":         {"": 0},
		"in_flight":                {"start.test:1": 0},
		"limit":                    {"start.test:1": 0},
		"queue_length":             {"": 0},
		"held_requests":            {"": 0},
		"queue_seconds":            {"": 0},
		"mirror_duration_seconds":  {"": 0},
		"attempt_duration_seconds": {"start.test:1 connect": 0, "start.test:1 first_byte": 0, "start.test:1 total": 0},
		"responses_total":          {"start.test:1 1xx": 0, "start.test:1 2xx": 0, "start.test:1 3xx": 0, "start.test:1 4xx": 0, "start.test:1 5xx": 0, "start.test:1 other": 0},
		"grpc_responses_total": {
			"start.test:1 ok": 0, "start.test:1 unknown": 0, "start.test:1 deadline_exceeded": 0, "start.test:1 resource_exhausted": 0,
			"start.test:1 internal": 0, "start.test:1 unavailable": 0, "start.test:1 data_loss": 0,
		},
		"attempts_repeated_total":      {"start.test:1": 0},
		"avoided_total":                {"start.test:1": 0},
		"trials_total":                 {"start.test:1": 0},
		"backend_healthy":              {"start.test:1": 1},
		"last_check_ok":                {"start.test:1": 0},
		"last_check_timestamp_seconds": {"start.test:1": 0},
		"last_check_duration_seconds":  {"start.test:1": 0},
		"breaker_state":                {"start.test:1 closed": 1, "start.test:1 open": 0, "start.test:1 half_open": 0},
		"breaker_transitions_total":    {"start.test:1 closed": 0, "start.test:1 open": 0, "start.test:1 half_open": 0},
		"ejections_total":              {"start.test:1 detected": 0, "start.test:1 enforced": 0},
		"weight":                       {"start.test:1": 1},
		"slow_start_ratio":             {"start.test:1": 1},
		"draining":                     {"start.test:1": 0},
		"discovery_up":                 {"": 1},
		"discovery_targets":            {"": 0},
		"backends":                     {"": 1},
		"usable_backends":              {"": 1},
		"panic":                        {"": 0},
		"fairness_ratio":               {"": 1},
		"utilization_ratio":            {"": 0},
		"error_ratio":                  {"1m": 0, "5m": 0, "15m": 0},
		"nodes":                        {"alive": 1, "gone": 0},
		"state_writes_total":           {"ok": float64(ok), "failed": float64(failed)},
	} {
		if have := values(got[name]); fmt.Sprint(have) != fmt.Sprint(want) {
			t.Errorf("%s: %v, want %v", name, have, want)
		}
	}
	descs := make(chan *prometheus.Desc, 100)
	status.Metrics{}.Describe(descs)
	if n := len(descs); n != 55 {
		t.Errorf("there are %d families, and this test knows 55", n)
	}
}

// TestMetricsOfOddNames: whatever the config says, the exposition stays whole.
func TestMetricsOfOddNames(t *testing.T) {
	t.Setenv("ODD", "broken \xff byte")
	c := newConfig(t)
	c.mustLoad(`{"name": "odd", "upstreams": [
		{"dial": "{http.vars.\"quote}:1"}, {"dial": "{http.vars.new\nline}:1"}, {"dial": "{http.vars.back\\slash}:1"},
		{"dial": "{http.vars.münchen}:1"}, {"dial": "unix//tmp/with space"}],
		"backends": [{"address": "other.test:1", "name": "_other"}]}`)
	names := values(c.gathered()["in_flight"])
	for _, want := range []string{`{http.vars."quote}:1`, "{http.vars.new\nline}:1", `{http.vars.back\slash}:1`, "{http.vars.münchen}:1", "unix//tmp/with space", "_other"} {
		if _, ok := names[want]; !ok {
			t.Errorf("no series of %q among %v", want, names)
		}
	}
	if len(names) != 6 {
		t.Errorf("%d series, want 6", len(names))
	}
	_, err := newConfig(t).load(`{"upstreams": [{"dial": "unix//tmp/{env.ODD}"}]}`)
	expectError(t, err, "upstream unix//tmp/broken", "must be UTF-8")
	for _, config := range []string{`{"name": "quo\"te"`, `{"name": "new\nline"`, `{"name": "münchen"`, `{"backends": [{"address": "a:1", "name": "sp ace"}]`} {
		_, err := newConfig(t).load(config + `, "upstreams": [{"dial": "x.test:1"}]}`)
		expectError(t, err, "must consist of letters, digits and")
	}
}

// TestMetricsOfManyBackends: a thousand are told apart, the rest is one; those that are removed are gone.
func TestMetricsOfManyBackends(t *testing.T) {
	upstreams := func(n int) string {
		list := make([]map[string]string, n)
		for i := range list {
			list[i] = map[string]string{"dial": fmt.Sprintf("many%04d.test:1", i)}
		}
		text, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	before := newConfig(t)
	h := before.mustLoad(`{"name": "many", "upstreams": ` + upstreams(1010) + `}`)
	h.plan.Pool.Others().Ended(pool.Success, 200, time.Millisecond)
	h.plan.Pool.Members()[900].Traffic().Answered(time.Second, time.Now())
	h.plan.Pool.Members()[5].Traffic().Ended(pool.Success, 200, time.Millisecond)
	start := time.Now()
	gathered := before.gathered()
	got := values(gathered["attempts_total"])
	t.Logf("gathered and read in %v", time.Since(start))
	durations := values(gathered["attempt_duration_seconds"])
	if len(durations) != 201*3 || durations["_other first_byte"] != 1 || durations["_other total"] != 1 {
		t.Errorf("%d histograms, the others' of %v; want 603, of 1", len(durations), durations["_other first_byte"])
	}
	if len(got) != 1001*3 || got["_other success"] != 1 || got["many0005.test:1 success"] != 1 {
		t.Errorf("%d series, others %v; want 3003, 1", len(got), got["_other success"])
	}
	after := newConfig(t)
	after.mustLoad(`{"name": "many", "upstreams": ` + upstreams(10) + `}`)
	before.cancel()
	got = values(after.gathered()["attempts_total"])
	delete(got, "_other success")
	delete(got, "_other failure")
	delete(got, "_other ignored")
	if len(got) != 30 || got["many0005.test:1 success"] != 1 {
		t.Errorf("%d series after most backends were removed, want 30; %v of one that stayed, want 1", len(got), got["many0005.test:1 success"])
	}
}

// TestHistogramMetric: both kinds of buckets count the same.
func TestHistogramMetric(t *testing.T) {
	c := newConfig(t)
	h := c.mustLoad(`{"name": "both", "upstreams": [{"dial": "both.test:1"}]}`)
	durations := []time.Duration{3 * time.Millisecond, 250 * time.Millisecond, 251 * time.Millisecond, time.Minute}
	for _, d := range durations {
		h.plan.Pool.Queued.Add(d)
	}
	m := c.gathered()["queue_seconds"].GetMetric()[0].GetHistogram()
	for _, b := range m.Bucket {
		n := 0
		for _, d := range durations {
			if d.Seconds() <= b.GetUpperBound() {
				n++
			}
		}
		if int(b.GetCumulativeCount()) != n {
			t.Errorf("%d up to %v s, want %d", b.GetCumulativeCount(), b.GetUpperBound(), n)
		}
	}
	if len(m.Bucket) != 14 || m.GetSampleCount() != 4 || math.Abs(m.GetSampleSum()-60.504) > 1e-9 || m.GetSchema() != pool.BucketSchema || m.CreatedTimestamp != nil {
		t.Errorf("%d buckets, count %d, sum %v, schema %d", len(m.Bucket), m.GetSampleCount(), m.GetSampleSum(), m.GetSchema())
	}
	var native []int
	index, count := 0, int64(0)
	deltas := m.PositiveDelta
	for _, span := range m.PositiveSpan {
		index += int(span.GetOffset())
		for range span.GetLength() {
			if count += deltas[0]; count > 0 {
				native = append(native, index)
			}
			deltas = deltas[1:]
			index++
		}
	}
	if want := []int{-67, -16, -15, 48}; !slices.Equal(native, want) {
		t.Errorf("native buckets %v, want %v", native, want)
	}
}

// TestStatusThatCounts: what a request is counted as is what its client is answered.
func TestStatusThatCounts(t *testing.T) {
	answers := func(status int) func(*http.Request) (*http.Response, error) {
		return func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: status, Header: make(http.Header), Body: http.NoBody}, nil
		}
	}
	for want, test := range map[string]struct {
		settings string
		back     func(*http.Request) (*http.Response, error)
		leaves   bool
	}{
		"404": {`"retry": {}`, answers(404), false},
		"502": {`"retry": {"attempts": 1}`, func(*http.Request) (*http.Response, error) { return nil, errors.New("broken") }, false},
		"410": {`"handle_response": [{"status_code": "410"}]`, answers(200), false},
		"418": {`"handle_response": [{"routes": [{"handle": [{"handler": "error", "status_code": "418"}]}]}]`, answers(200), false},
		"499": {`"retry": {}`, func(r *http.Request) (*http.Response, error) { return nil, r.Context().Err() }, true},
	} {
		c := newConfig(t)
		h := c.mustLoad(`{"name": "status-` + want + `", "upstreams": [{"dial": "a:1"}], ` + test.settings + `}`)
		h.stock.Transport = stock.NewTransport(scripted{"a:1": test.back})
		r := newRequest(t)
		ctx, cancel := context.WithCancel(r.Context())
		if test.leaves {
			cancel()
		}
		err := h.ServeHTTP(httptest.NewRecorder(), r.WithContext(ctx), nil)
		cancel()
		for status, n := range values(c.gathered()["requests_total"]) {
			if (n == 1) != (status == want) {
				t.Errorf("%v counts %v times as %s, want once as %s", err, n, status, want)
			}
		}
		if values(c.gathered()["requests_total"])[want] != 1 {
			t.Errorf("%v is not counted as %s", err, want)
		}
	}
}

func TestStateWritesAreCounted(t *testing.T) {
	dir := newDir(t)
	c := newConfigIn(t, dir)
	c.serve(withB)
	before := values(c.gathered()["state_writes_total"])
	asks(t, "PATCH", webPath+"/backends/b:1?sync", `{"weight": 5}`).wants(t, http.StatusOK, `"persisted":true`)
	if err := os.WriteFile(storageFiles(t, dir)[0], []byte(`{"schema": 99, "format": "ballast pool state", "pool": "web"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	asks(t, "PATCH", webPath+"/backends/b:1?sync", `{"weight": 6}`).wants(t, http.StatusOK, `"persisted":false`)
	after := values(c.gathered()["state_writes_total"])
	if after["ok"]-before["ok"] != 1 || after["failed"]-before["failed"] < 1 {
		t.Errorf("from %v to %v, want one ok and some failed", before, after)
	}
}

// TestRefusedIsCounted: a request is counted although no backend was asked.
func TestRefusedIsCounted(t *testing.T) {
	c := newConfig(t)
	h := c.mustLoad(`{"name": "refused", "backends": [{"address": "refused.test:1", "weight": 0}]}`)
	r := newRequest(t)
	err := h.ServeHTTP(httptest.NewRecorder(), r, nil)
	expectError(t, err, "503", "no backend is usable")
	if got := values(c.gathered()["requests_total"]); got["503"] != 1 {
		t.Errorf("requests %v, want one 503", got)
	}
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	for name, want := range map[string]string{
		"pool": "refused", "backend": "", "policy": "lb_peak_ewma", "queue_ms": "0", "attempts": "[]", "retries": "0", "error": "no backend is usable",
	} {
		if got, ok := repl.Get("http.load_balancer." + name); !ok || fmt.Sprint(got) != want {
			t.Errorf("{http.load_balancer.%s} is %v, want %q", name, got, want)
		}
	}
	if _, ok := repl.Get("http.load_balancer.unknown"); ok {
		t.Error("a placeholder that is none is known")
	}
}
