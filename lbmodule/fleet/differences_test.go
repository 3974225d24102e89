package fleet

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// described is the node with this label and these pools.
func described(label string, pools ...Pool) Seen {
	return Seen{Node: &Node{ID: label, Version: "v1", Config: "c", Pools: pools}, Label: label, State: Alive}
}

func with(b Backend, change func(*Backend)) Backend {
	change(&b)
	return b
}

// large is a pool that lists only those that are not fine.
func large(of int, listed ...Backend) Pool {
	p := web(listed...)
	p.Total, p.Fine, p.Members = of, of-len(listed), "many"
	return p
}

func TestDifferences(t *testing.T) {
	down := with(fine("a"), func(b *Backend) { b.Usable, b.Reason = false, "active check failed" })
	open := with(fine("a"), func(b *Backend) { b.Breaker = "open" })
	heavy := with(fine("a"), func(b *Backend) { b.Weight = 5 })
	drained := with(fine("a"), func(b *Backend) { b.State, b.Usable, b.Reason = "drain", false, "draining" })
	other := web(fine("a"))
	other.Name = "other"
	edited := web(fine("a"))
	edited.Edits = "x"
	few := large(500, down)
	few.LeftOut = 3
	part := large(500)
	part.Subset = true
	elsewhere := large(500)
	elsewhere.Members = "others"
	old := described("two", web(fine("a")))
	old.Version, old.Config = "v0", "d"
	alone := described("two")
	alone.Alone = true
	gone := described("two", web(down))
	gone.State = Gone
	for name, x := range map[string]struct {
		nodes []Seen
		want  string
	}{
		"none":               {nil, ""},
		"the same":           {[]Seen{described("one", web(fine("a"))), described("two", web(fine("a")))}, ""},
		"usable":             {[]Seen{described("one", web(fine("a"))), described("two", web(down))}, "usable web a: active check failed=two, usable=one"},
		"usable, most first": {[]Seen{described("one", web(fine("a"))), described("two", web(down)), described("three", web(fine("a")))}, "usable web a: usable=one+three, active check failed=two"},
		"all down":           {[]Seen{described("one", web(down)), described("two", web(drained))}, "state web a: drain=two, ready=one"},
		"breaker":            {[]Seen{described("one", web(fine("a"))), described("two", web(open))}, "breaker web a: closed=one, open=two"},
		"weight":             {[]Seen{described("one", web(fine("a"))), described("two", web(heavy))}, "weight web a: 1=one, 5=two"},
		"edits":              {[]Seen{described("one", web(fine("a"))), described("two", edited)}, "edits web : =one, x=two"},
		"members":            {[]Seen{described("one", web(fine("a"))), described("two", web(fine("a"), fine("b")))}, "members web : 1=one, 2=two"},
		"pool":               {[]Seen{described("one", web(fine("a"))), described("two", web(fine("a")), other)}, "pool other : not there=one, there=two"},
		"version and config": {[]Seen{described("one", web(fine("a"))), old}, "version  : v0=two, v1=one; config  : c=one, d=two"},
		"alone":              {[]Seen{described("one", web(down)), alone}, ""},
		"gone":               {[]Seen{described("one", web(fine("a"))), gone}, ""},
		"not listed, fine":   {[]Seen{described("one", large(500, down)), described("two", large(500))}, "usable web a: active check failed=one, usable=two"},
		"not listed, unsure": {[]Seen{described("one", large(500, fine("a"))), described("two", few)}, "usable web a: active check failed=two, usable=one"},
		"left out":           {[]Seen{described("one", large(500, with(down, func(b *Backend) { b.Address = "z:1" }))), described("two", few)}, "usable web a: active check failed=two, usable=one"},
		"subset":             {[]Seen{described("one", large(500, down)), described("two", part)}, ""},
		"other backends":     {[]Seen{described("one", large(500, down)), described("two", elsewhere)}, "members web : many=one, others=two"},
	} {
		t.Run(name, func(t *testing.T) {
			all, more := compare(x.nodes)
			var got []string
			for _, d := range all {
				var values []string
				for _, v := range d.Values {
					values = append(values, v.Value+"="+strings.Join(v.Nodes, "+"))
				}
				got = append(got, fmt.Sprintf("%s %s %s: %s", d.Kind, d.Pool, d.Backend, strings.Join(values, ", ")))
			}
			if text := strings.Join(got, "; "); text != x.want || more != 0 {
				t.Errorf("got  %q and %d more\nwant %q", text, more, x.want)
			}
		})
	}
}

// What is listed has bounds, and so have differences.
func TestBounds(t *testing.T) {
	build := func(all int, bad bool) Pool {
		p := Pool{Name: "web", Total: all, Members: "m"}
		for i := range all {
			b := fine(fmt.Sprintf("backend-%05d", i))
			if bad {
				b.Usable, b.Reason, b.Error = false, "active check failed", strings.Repeat("é", 500)
			}
			p.Backends = append(p.Backends, b)
		}
		return p
	}
	for _, x := range []struct {
		size                  int
		bad                   bool
		listed, fine, leftOut int
		bytes                 int
	}{
		{10, false, 10, 0, 0, 3_000}, {200, false, 200, 0, 0, 50_000}, {1000, false, 0, 1000, 0, 1_000}, {10_000, false, 0, 10_000, 0, 1_000},
		{10_000, true, 1000, 0, 9000, 600_000},
	} {
		n := Node{ID: "one", Pools: []Pool{build(x.size, x.bad), build(0, false)}}
		n.shorten()
		raw, err := encode(&n)
		if err != nil {
			t.Fatal(err)
		}
		p := n.Pools[0]
		t.Logf("%d backends, bad %v: %d bytes", x.size, x.bad, len(raw))
		if len(p.Backends) != x.listed || p.Fine != x.fine || p.LeftOut != x.leftOut || len(raw) > x.bytes {
			t.Errorf("%d backends, bad %v: %d listed, %d fine, %d left out, %d bytes", x.size, x.bad, len(p.Backends), p.Fine, p.LeftOut, len(raw))
		}
		if !json.Valid(raw) {
			t.Error("no JSON")
		}
	}
	good, bad := described("one", build(1000, false)), described("two", build(1000, true))
	good.shorten()
	bad.shorten()
	if all, more := compare([]Seen{good, bad}); len(all) != mostDifferences || more != 1000-mostDifferences {
		t.Errorf("%d differences and %d more", len(all), more)
	}
}

// More nodes than are known do no harm.
func TestManyNodes(t *testing.T) {
	var w watch
	now := time.Now()
	found := make(map[string]*Node)
	for i := range mostNodes {
		found[fmt.Sprint(i)] = &Node{ID: fmt.Sprint(i), Name: "same", Written: now, Period: 128}
	}
	if past := w.take(found, nil, now, shortest); len(past) > 0 {
		t.Errorf("%v removed", past)
	}
	labels := make(map[string]bool)
	for _, s := range w.list(nil, now, shortest) {
		labels[s.Label] = true
	}
	if len(labels) != mostNodes {
		t.Errorf("%d labels of %d nodes", len(labels), mostNodes)
	}
}
