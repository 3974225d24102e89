package status

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"

	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/manage"
	"github.com/ballastlb/ballast/lbmodule/overlay"
	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/service"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// owner is a config.
type owner struct{ storage certmagic.Storage }

func (o *owner) Storage() certmagic.Storage { return o.storage }

func (*owner) Tell(manage.Notice) {}

// open opens a load balancer with these backends, in the pool of that name.
func open(t *testing.T, name string, backends ...*config.Backend) *service.Service {
	t.Helper()
	roster, err := service.NewRoster(nil, backends, 0, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	o := &owner{&certmagic.FileStorage{Path: t.TempDir()}}
	m := manage.Acquire(t.Context(), name, o.storage, zap.NewNop())
	s := service.New(service.Options{
		Owner: o, Manager: m, Logger: zap.NewNop(), Roster: roster, Policy: new(policies.RoundRobin), Settings: new(config.Settings),
		Warnings: []string{"this hurts"},
	})
	m.Serve(o)
	part := &stock.Handler{Transport: new(stock.Transport)}
	if err := s.Open(caddy.Context{Context: t.Context()}, part, nil, 0, pool.BudgetSettings{Ratio: 0.2, PerSecond: 10}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		m.Unserve(o)
		m.Release()
	})
	return s
}

// edit makes edits.
func edit(t *testing.T, s *service.Service, alter func(*overlay.Overlay) *overlay.Overlay) {
	t.Helper()
	if _, err := s.Manager().Change(func(e *manage.Edits, _ manage.Group) (*overlay.Overlay, error) { return alter(e.Overlay), nil }); err != nil {
		t.Fatal(err)
	}
}

func set(f overlay.Field, value any) []overlay.Edit {
	return []overlay.Edit{{Field: f, Value: value, Mark: overlay.Mark{Owner: "ops"}}}
}

// What is shown of a pool and its backends follows what people do to it.
func TestOverviewOfEdits(t *testing.T) {
	weight := 3
	s := open(t, "status-edits", &config.Backend{Address: "b:1", Name: "bee", Weight: &weight}, &config.Backend{Address: "a:1"})
	show := func() Pool { return Overview(s, s.Running(time.Now()), []string{"so does that"}) }
	p := show()
	if p.Name != "status-edits" || p.State != "ok" || p.Usable != 2 || p.Policy != "lb_round_robin" || p.RetryBudget != 100 ||
		!slices.Equal(p.Warnings, []string{"this hurts", "so does that"}) {
		t.Errorf("%+v", p)
	}
	if a, b := p.Backends[0], p.Backends[1]; a.Name != "a:1" || b.Name != "bee" || b.EffectiveWeight != 3 || b.Health != "unknown" || b.Source != "config" {
		t.Errorf("backends %+v, want them sorted by name", p.Backends)
	}
	edit(t, s, func(o *overlay.Overlay) *overlay.Overlay {
		return o.Edit("b:1", set(overlay.StateField, string(overlay.Maintenance)), nil).Add("c:1", "", nil, overlay.Mark{Owner: "ops"})
	})
	p = show()
	bee, added := p.Backends[1], p.Backends[2]
	if p.State != "ok" || p.Usable != 2 || bee.Usable || bee.Reason != "maintenance" || bee.EffectiveWeight != 0 || bee.Edits[0].Owner != "ops" {
		t.Errorf("in maintenance: %+v in a pool that is %s", bee, p.State)
	}
	if added.Source != "api" || added.Added == nil || !added.Usable {
		t.Errorf("added: %+v", added)
	}
	for _, address := range []string{"a:1", "c:1"} {
		edit(t, s, func(o *overlay.Overlay) *overlay.Overlay { return o.Edit(address, set(overlay.Weight, 0), nil) })
	}
	if p = show(); p.State != "down" || p.Usable != 0 || p.Backends[0].Reason != "weight is 0" {
		t.Errorf("with nobody left: %+v", p)
	}
}

// The differences of a pool say how the config would have to be.
func TestDiffIsAConfig(t *testing.T) {
	s := open(t, "status-diff", &config.Backend{Address: "a:1"}, &config.Backend{Address: "b:1"})
	if d := Diff(s, time.Now()); len(d.Changes) != 0 || d.Caddyfile != "" || len(d.JSON) != 0 {
		t.Errorf("without edits: %+v", d)
	}
	edit(t, s, func(o *overlay.Overlay) *overlay.Overlay {
		return o.Edit("a:1", set(overlay.Weight, 5), nil).Remove("b:1", overlay.Mark{}).Add("c:1", "sea", set(overlay.MaxRequests, 7), overlay.Mark{})
	})
	d := Diff(s, time.Now())
	const want = "# replaces the upstream a:1\nbackend a:1 {\n\tweight 5\n}\n# b:1 was removed: leave it out\nbackend c:1 {\n\tname sea\n\tmax_requests 7\n}\n"
	if d.Caddyfile != want {
		t.Errorf("Caddyfile\n%s\nwant\n%s", d.Caddyfile, want)
	}
	if text, err := json.Marshal(d.JSON); err != nil || string(text) != `[{"address":"a:1","weight":5},{"address":"c:1","name":"sea","max_requests":7}]` {
		t.Errorf("JSON %s, %v", text, err)
	}
}

// gathered are the values of a metric by the names of backends.
func gathered(t *testing.T, name string, services ...*service.Service) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(Metrics{Services: func() ([]*service.Service, bool) { return services, true }})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[string]float64)
	for _, f := range families {
		if strings.TrimPrefix(f.GetName(), "caddy_load_balancer_") != name {
			continue
		}
		for _, m := range f.GetMetric() {
			at := slices.IndexFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetName() == "backend" })
			values[m.GetLabel()[at].GetValue()] = m.GetGauge().GetValue()
		}
	}
	return values
}

// Metrics are those of the backends in force, and nothing is told twice: what ends up with a label that there is already is counted with
// the rest.
func TestMetricsOfBackends(t *testing.T) {
	s := open(t, "status-metrics", &config.Backend{Address: "a:1", Name: "a"}, &config.Backend{Address: "b:1", Name: otherBackends})
	view, _ := s.Shown()
	if l, ok := view.View().AcquireMember(view.Find("b:1")); !ok {
		t.Fatal("no slot")
	} else {
		defer l.Release()
	}
	if got := gathered(t, "in_flight", s); len(got) != 2 || got["a"] != 0 || got[otherBackends] != 1 {
		t.Errorf("in flight %v", got)
	}
	edit(t, s, func(o *overlay.Overlay) *overlay.Overlay {
		return o.Edit("a:1", set(overlay.StateField, string(overlay.Drain)), nil)
	})
	if got := gathered(t, "draining", s); len(got) != 1 || got["a"] != 1 {
		t.Errorf("draining %v", got)
	}
	if got := gathered(t, "weight", s); got["a"] != 0 {
		t.Errorf("the weight of a backend that drains is %v", got["a"])
	}
	// While no config serves there is nothing to tell, and no error.
	found := make(chan prometheus.Metric, 1)
	Metrics{Services: func() ([]*service.Service, bool) { return nil, false }}.Collect(found)
	if len(found) != 0 {
		t.Error("metrics of nobody")
	}
}
