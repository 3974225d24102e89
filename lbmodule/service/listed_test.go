package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/discovery"
	"github.com/ballastlb/ballast/lbmodule/manage"
	"github.com/ballastlb/ballast/lbmodule/overlay"
	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// listedSource is a source of whole backends that says what the test has it say.
type listedSource struct {
	list *discovery.List
	err  error
}

func (l *listedSource) List(context.Context) (*discovery.List, error) { return l.list, l.err }

func (*listedSource) GetUpstreams(*http.Request) ([]*reverseproxy.Upstream, error) {
	return nil, errors.New("asked for addresses only")
}

// names has the source name these backends.
func (l *listedSource) names(backends ...config.Backend) {
	l.list, l.err = &discovery.List{Backends: backends}, nil
}

// plainSource names addresses.
type plainSource []string

func (p plainSource) GetUpstreams(*http.Request) (all []*reverseproxy.Upstream, err error) {
	for _, address := range p {
		all = append(all, &reverseproxy.Upstream{Dial: address})
	}
	return all, nil
}

// polling has s poll these sources, and returns what does so once.
func polling(t testing.TB, s *Service, sources ...reverseproxy.UpstreamSource) (poll func() error) {
	t.Helper()
	s.dynamic = newDynamicSource(s, nil)
	for i, source := range sources {
		s.dynamic.polled = append(s.dynamic.polled, &polledSource{source: source, name: fmt.Sprint("source ", i), answers: answers{since: time.Now()}})
	}
	return func() error {
		_, err := s.dynamic.refresh(t.Context(), false)
		return err
	}
}

func weighing(address string, weight int) config.Backend {
	return config.Backend{Address: address, Weight: &weight}
}

// described is what is shown of the backends in force.
func described(s *Service) string {
	var words []string
	for _, b := range s.Running(time.Now()) {
		words = append(words, fmt.Sprintf("%s=%s/%d/%d/%d/%s", b.Name, b.Address, b.Weight, b.MaxRequests, b.Backup, b.Zone))
	}
	return strings.Join(words, " ")
}

// What a source says of a backend is in force as if the config had said it, and edits are above it.
func TestListedProperties(t *testing.T) {
	s := open(t, "service-listed", Options{Limit: 9})
	source := new(listedSource)
	poll := polling(t, s, source)
	one := weighing("a:1", 3)
	one.Name, one.MaxRequests, one.Backup, one.Zone = "one", 5, 2, "eu"
	source.names(one, config.Backend{Address: "b:1"})
	if err := poll(); err != nil {
		t.Fatal(err)
	}
	if got, want := described(s), "one=a:1/3/5/2/eu b:1=b:1/1/9/0/"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	set, dynamic := s.Shown()
	if got, want := set.View().Backend(0), (pool.Backend{Address: "a:1", Weight: 3, MaxRequests: 5, Backup: 2, Zone: "eu"}); got != want || !dynamic {
		t.Errorf("%+v, want %+v", got, want)
	}
	if name := s.Manager().Name("a:1"); name != "one" {
		t.Errorf("its name is %s", name)
	}
	edit(t, s, func(o *overlay.Overlay) *overlay.Overlay {
		return o.Edit("a:1", []overlay.Edit{{Field: "weight", Value: 7}}, nil)
	})
	one.Zone = "us"
	source.names(one, weighing("b:1", 2))
	if err := poll(); err != nil {
		t.Fatal(err)
	}
	if got, want := described(s), "one=a:1/7/5/2/us b:1=b:1/2/9/0/"; got != want {
		t.Errorf("with an edit: %s, want %s", got, want)
	}
	edit(t, s, func(o *overlay.Overlay) *overlay.Overlay { return o.Edit("a:1", nil, []overlay.Field{"weight"}) })
	if got, want := described(s), "one=a:1/3/5/2/us b:1=b:1/2/9/0/"; got != want {
		t.Errorf("with the edit taken back: %s, want %s", got, want)
	}
}

// A change of a label is one of the weight, and of nothing that is known of a backend: not of what it is serving, nor of what is known of it.
func TestListedStateStays(t *testing.T) {
	s := open(t, "service-listed-state", Options{})
	source := new(listedSource)
	poll := polling(t, s, source)
	source.names(weighing("a:1", 1), weighing("b:1", 1))
	if err := poll(); err != nil {
		t.Fatal(err)
	}
	before, _ := s.Shown()
	lease, ok := before.View().AcquireMember(0)
	if !ok {
		t.Fatal("no slot")
	}
	source.names(weighing("a:1", 3), weighing("c:1", 1))
	if err := poll(); err != nil {
		t.Fatal(err)
	}
	after, _ := s.Shown()
	if after == before || after.View().Backend(0).Weight != 3 || after.View().Member(0) != before.View().Member(0) || after.View().Member(0).InFlight() != 1 {
		t.Errorf("weight %d, in flight %d, the same member: %v", after.View().Backend(0).Weight, after.View().Member(0).InFlight(), after.View().Member(0) == before.View().Member(0))
	}
	if _, other := before.Superseded(); !isClosed(other) {
		t.Error("the channel of the list before is not closed")
	}
	lease.Release()
	if n := after.View().Member(0).InFlight(); n != 0 {
		t.Errorf("%d in flight in the end", n)
	}
	if members := s.Pool().Members(); len(members) != 2 {
		t.Errorf("%d members, want 2: members that are no longer named are not held", len(members))
	}
	if err := poll(); err != nil {
		t.Fatal(err)
	}
	if again, _ := s.Shown(); again != after {
		t.Error("an equal answer makes another set")
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Whatever is wrong with a list, the last good one stays in force. A problem is logged once, and so is another problem after it.
func TestListedIsKept(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	s := open(t, "service-listed-kept", Options{})
	s.logger = zap.New(core)
	source := &listedSource{err: errors.New("cannot be read")}
	poll := polling(t, s, source)
	if d := s.Discoveries(); len(d) != 1 || d[0].OK || d[0].Error != nil || d[0].Size != 0 {
		t.Errorf("before the first answer: %+v", d)
	}
	if err := poll(); err == nil || !strings.Contains(err.Error(), "cannot be read") {
		t.Errorf("%v", err)
	}
	if set, _ := s.Shown(); set != nil {
		t.Errorf("without a list there are %v", s.addresses())
	}
	begun := s.Discoveries()[0].Since
	source.names(weighing("a:1", 1))
	if err := poll(); err != nil {
		t.Fatal(err)
	}
	if d := s.Discoveries()[0]; !d.OK || d.Error != nil || d.Size != 1 || !d.Since.After(begun) {
		t.Errorf("with a good list: %+v", d)
	}
	good := s.Discoveries()[0].Since
	notFound := &net.OpError{Err: &net.DNSError{IsNotFound: true}}
	_, contentA := parse(t, "a")
	_, contentB := parse(t, "b")
	for _, err := range []error{notFound, notFound, contentA, contentA, contentB, errors.New("refused 1"), errors.New("refused 2")} {
		source.err = err
		for range 3 {
			_ = poll()
		}
		if got := described(s); got != "a:1=a:1/1/0/0/" {
			t.Errorf("%v: %q", err, got)
		}
		if d := s.Discoveries()[0]; d.OK || d.Error.Error() != err.Error() || d.Size != 1 || !d.Since.After(good) {
			t.Errorf("%v: %+v", err, d)
		}
	}
	source.err = nil
	_ = poll()
	var got []string
	for _, entry := range logs.All() {
		got = append(got, fmt.Sprint(entry.Level, " ", entry.ContextMap()["error"]))
	}
	want := []string{"error cannot be read", "info <nil>", "error " + notFound.Error(), "error " + contentA.Error(), "error " + contentB.Error(), "error refused 1", "info <nil>"}
	if !slices.Equal(got, want) {
		t.Errorf("logged\n%q, want\n%q", got, want)
	}
}

// parse is what is wrong with a list that has this weight.
func parse(t *testing.T, weight string) (*discovery.List, error) {
	t.Helper()
	list, err := discovery.Parse([]byte(`[{"targets": ["a:1"], "labels": {"weight": "` + weight + `"}}]`))
	if err == nil {
		t.Fatal("it is good")
	}
	return list, err
}

// Several sources make one pool: an address is one backend, and what stands for two is refused, so that the last good list stays.
func TestListedTogether(t *testing.T) {
	named := func(address, name string) config.Backend { return config.Backend{Address: address, Name: name} }
	many := make([]config.Backend, config.MaxBackends)
	for i := range many {
		many[i].Address = fmt.Sprintf("h%d:1", i)
	}
	for name, test := range map[string]struct {
		second []config.Backend
		wrong  string
		want   string
	}{
		"others":               {[]config.Backend{weighing("c:1", 2)}, "", "own:1=own:1/1/0/0/ b:1=b:1/2/0/0/ x=a:1/1/0/0/ c:1=c:1/2/0/0/"},
		"the same":             {[]config.Backend{weighing("a:1", 2)}, "", "own:1=own:1/1/0/0/ b:1=b:1/2/0/0/ x=a:1/1/0/0/"},
		"what is plain":        {[]config.Backend{weighing("b:1", 5)}, "", "own:1=own:1/1/0/0/ b:1=b:1/5/0/0/ x=a:1/1/0/0/"},
		"one of the config":    {[]config.Backend{weighing("own:1", 5)}, "", "own:1=own:1/1/0/0/ b:1=b:1/2/0/0/ x=a:1/1/0/0/"},
		"name of another":      {[]config.Backend{named("c:1", "x")}, `target c:1: label name "x": must be unique, and stands for a:1`, "own:1=own:1/1/0/0/ b:1=b:1/2/0/0/ x=a:1/1/0/0/"},
		"name is an address":   {[]config.Backend{named("c:1", "b:1")}, `label name "b:1": must be unique`, "own:1=own:1/1/0/0/ b:1=b:1/2/0/0/ x=a:1/1/0/0/"},
		"name is the config's": {[]config.Backend{named("c:1", "own:1")}, `label name "own:1": must be unique, and stands for own:1 of the config`, "own:1=own:1/1/0/0/ b:1=b:1/2/0/0/ x=a:1/1/0/0/"},
		"address is a name":    {[]config.Backend{named("x", "")}, "target x: must not be the name of another backend", "own:1=own:1/1/0/0/ b:1=b:1/2/0/0/ x=a:1/1/0/0/"},
		"too many":             {many, "16384 targets: makes 16388 backends", "own:1=own:1/1/0/0/ b:1=b:1/2/0/0/ x=a:1/1/0/0/"},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, "service-listed-together "+name, Options{}, "own:1")
			first, second := new(listedSource), new(listedSource)
			poll := polling(t, s, plainSource{"b:1", "b:1"}, first, second)
			first.names(named("a:1", "x"))
			second.names(test.second...)
			if err := poll(); err != nil {
				t.Fatal(err)
			}
			if got := described(s); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
			d := s.Discoveries()[2]
			if d.OK != (test.wrong == "") || !d.OK && !strings.Contains(d.Error.Error(), test.wrong) {
				t.Errorf("%+v, want %q", d, test.wrong)
			}
		})
	}
}

// A config that is loaded while there is no good list starts with that of its predecessor, also if it asks more often or with another secret.
func TestListedIsInherited(t *testing.T) {
	source := new(listedSource)
	of := func(raw string) *Service {
		s := open(t, "service-listed-inherited", Options{})
		polling(t, s, source)
		s.dynamic.polled[0].raw = json.RawMessage(raw)
		return s
	}
	before := of(`{"source": "lb_http", "url": "http://u:old@registry/web", "interval": "1s"}`)
	source.names(weighing("a:1", 3))
	if _, err := before.dynamic.refresh(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	source.list, source.err = nil, errors.New("refused")
	for raw, want := range map[string]string{
		`{"source": "lb_http", "url": "http://u:new@registry/web", "headers": {"A": ["b"]}}`: "a:1=a:1/3/0/0/",
		`{"source": "lb_http", "url": "http://registry/other"}`:                              "",
		`{"source": "lb_file", "path": "web.json"}`:                                          "",
	} {
		after := of(raw)
		after.dynamic.inherit([]manage.Group{before})
		after.manager.Attach(after)
		_, _ = after.dynamic.refresh(t.Context(), false)
		if got := described(after); got != want {
			t.Errorf("%s: %q, want %q", raw, got, want)
		}
	}
}

// Names of pools have no secret in them, nor a digest of one.
func TestSourceNames(t *testing.T) {
	for raw, want := range map[string]string{
		`{"source": "lb_file", "path": "/etc/caddy/web.json"}`:                   "file:/etc/caddy/web.json",
		`{"source": "lb_http", "url": "http://user:s3cret@registry/web?s3cret"}`: "http://registry/web",
		`{"source": "a", "name": "app.internal", "port": "80"}`:                  "a:app.internal:80",
	} {
		if got := SourceName([]byte(raw)); got != want {
			t.Errorf("%s: %s, want %s", raw, got, want)
		}
	}
	for _, pair := range [][2]string{
		{`{"source": "lb_http", "url": "http://user:one@{env.HOST}/web"}`, `{"source": "lb_http", "url": "http://user:two@{env.HOST}/web"}`},
		{
			`{"source": "multi", "sources": [{"source": "lb_http", "url": "http://user:one@registry/web"}]}`,
			`{"source": "multi", "sources": [{"source": "lb_http", "url": "http://user:two@registry/web"}]}`,
		},
	} {
		one, two := SourceName([]byte(pair[0])), SourceName([]byte(pair[1]))
		if one != two || !strings.HasPrefix(one, "dynamic:") {
			t.Errorf("%s is %s, and %s is %s", pair[0], one, pair[1], two)
		}
	}
}

// Weights by position are for backends that have a position.
func TestListedWeights(t *testing.T) {
	s := open(t, "service-listed-weights", Options{})
	s.policy = &policies.WeightedRoundRobin{Weights: []int{1, 2}}
	polling(t, s, new(listedSource))
	if err := s.dynamic.checkWeights(); err == nil || !strings.Contains(err.Error(), "lists weights by position") {
		t.Errorf("%v", err)
	}
	polling(t, s, plainSource{"a:1"})
	if err := s.dynamic.checkWeights(); err != nil {
		t.Error(err)
	}
}

// manyListed are so many backends.
func manyListed(n int) []config.Backend {
	all := make([]config.Backend, n)
	for i := range all {
		all[i] = config.Backend{Address: fmt.Sprintf("10.%d.%d.%d:8080", i>>16, i>>8&255, i&255), Zone: "eu-1"}
	}
	return all
}

// TestListedMany: of ten thousand backends one changes at a time. All others keep their state, and the memory of earlier lists is freed.
func TestListedMany(t *testing.T) {
	s := open(t, "service-listed-many", Options{})
	source := new(listedSource)
	poll := polling(t, s, source)
	all := manyListed(10_000)
	source.names(all...)
	if err := poll(); err != nil {
		t.Fatal(err)
	}
	first, _ := s.Shown()
	for round := range 20 {
		all = slices.Clone(all)
		all[round*100].Weight = new(int)
		*all[round*100].Weight = 5
		all[9_000+round].Address = fmt.Sprintf("10.9.9.%d:9", round)
		source.names(all...)
		if err := poll(); err != nil {
			t.Fatal(err)
		}
		set, _ := s.Shown()
		if set.View().Len() != 10_000 || set.View().Backend(round*100).Weight != 5 || set.Find(all[9_000+round].Address) != 9_000+round {
			t.Fatalf("round %d: %d backends, weight %d", round, set.View().Len(), set.View().Backend(round*100).Weight)
		}
		for i := range 8_000 {
			if set.View().Member(i) != first.View().Member(i) {
				t.Fatalf("round %d: backend %d has lost its state", round, i)
			}
			if round > 0 && i%100 != 0 && set.Target(i) != first.Target(i) {
				t.Fatalf("round %d: backend %d is set up anew", round, i)
			}
		}
	}
	if n := len(s.Pool().Members()); n != 10_000 {
		t.Errorf("%d members are held", n)
	}
	if n := len(s.dynamic.sets.known); n != 1 {
		t.Errorf("%d lists are held", n)
	}
	if n := len(s.dynamic.sets.hosts); n != 10_000 {
		t.Errorf("%d hosts are held", n)
	}
}

// BenchmarkListed measures what one change among ten thousand backends takes, and what an answer that says the same.
func BenchmarkListed(b *testing.B) {
	for _, change := range []bool{true, false} {
		b.Run(fmt.Sprint("change=", change), func(b *testing.B) {
			s := open(b, fmt.Sprint("service-listed-bench-", change), Options{})
			source := new(listedSource)
			poll := polling(b, s, source)
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			all := manyListed(10_000)
			source.names(all...)
			_ = poll()
			runtime.GC()
			runtime.ReadMemStats(&after)
			weight := 1
			for b.Loop() {
				if change {
					all = slices.Clone(all)
					all[5_000].Weight = &[]int{weight%100 + 1}[0]
					weight++
					source.names(all...)
				}
				_ = poll()
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/10_000, "B/backend")
		})
	}
}
