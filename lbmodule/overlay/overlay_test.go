package overlay

import (
	"slices"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func at(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }

// set is an edit made at the start; with until, for that many seconds.
func set(f Field, value any, until ...int) Edit {
	e := Edit{Field: f, Value: value, Mark: Mark{Since: start}}
	for _, s := range until {
		e.Until = at(s)
	}
	return e
}

func since(seconds int) Mark { return Mark{Since: at(seconds)} }

// config has a with weight 3 and b, a backup.
var config = []Backend{
	{Address: "a:1", Name: "a", Settings: Settings{Weight: 3, State: Ready}},
	{Address: "b:1", Name: "b:1", Settings: Settings{Weight: 1, Backup: 1, State: Ready}},
}

// shown is the address and the settings of a backend.
type shown struct {
	Address string
	Settings
}

func merged(o *Overlay, config []Backend, now time.Time) []shown {
	all := []shown{}
	for _, r := range o.Merge(config, nil, now) {
		all = append(all, shown{r.Address, r.Settings})
	}
	return all
}

func TestMerge(t *testing.T) {
	a := shown{"a:1", config[0].Settings}
	b := shown{"b:1", config[1].Settings}
	with := func(s shown, f Field, value any) shown {
		if err := s.Set(f, value); err != nil {
			t.Fatal(err)
		}
		return s
	}
	c := shown{"c:1", Settings{Weight: 1, State: Ready}}
	none := new(Overlay)
	for name, test := range map[string]struct {
		overlay *Overlay
		config  []Backend
		now     time.Time
		want    []shown
	}{
		"removed, forgotten":       {none.Remove("a:1", since(0)).Forget("a:1"), config, start, []shown{a, b}},
		"nothing edited":           {none, config, start, []shown{a, b}},
		"weight":                   {none.Edit("a:1", []Edit{set(Weight, 5)}, nil), config, start, []shown{with(a, Weight, 5), b}},
		"later wins":               {none.Edit("a:1", []Edit{set(Weight, 5)}, nil).Edit("a:1", []Edit{set(Weight, 6)}, nil), config, start, []shown{with(a, Weight, 6), b}},
		"other field stays":        {none.Edit("a:1", []Edit{set(Weight, 5)}, nil).Edit("a:1", []Edit{set(Zone, "eu")}, nil), config, start, []shown{with(with(a, Weight, 5), Zone, "eu"), b}},
		"taken back":               {none.Edit("a:1", []Edit{set(Weight, 5), set(Zone, "eu")}, nil).Edit("a:1", nil, []Field{Weight}), config, start, []shown{with(a, Zone, "eu"), b}},
		"timed":                    {none.Edit("a:1", []Edit{set(Weight, 5, 10)}, nil), config, at(9), []shown{with(a, Weight, 5), b}},
		"timed, over":              {none.Edit("a:1", []Edit{set(Weight, 5, 10)}, nil), config, at(10), []shown{a, b}},
		"timed on permanent":       {none.Edit("a:1", []Edit{set(Weight, 4)}, nil).Edit("a:1", []Edit{set(Weight, 5, 10)}, nil), config, at(9), []shown{with(a, Weight, 5), b}},
		"timed on permanent, over": {none.Edit("a:1", []Edit{set(Weight, 4)}, nil).Edit("a:1", []Edit{set(Weight, 5, 10)}, nil), config, at(10), []shown{with(a, Weight, 4), b}},
		"timed replaces timed":     {none.Edit("a:1", []Edit{set(Weight, 4, 20)}, nil).Edit("a:1", []Edit{set(Weight, 5, 10)}, nil), config, at(15), []shown{a, b}},
		"permanent ends timed":     {none.Edit("a:1", []Edit{set(Weight, 5, 10)}, nil).Edit("a:1", []Edit{set(Weight, 4)}, nil), config, start, []shown{with(a, Weight, 4), b}},
		"taken back, timed too":    {none.Edit("a:1", []Edit{set(Weight, 4)}, nil).Edit("a:1", []Edit{set(Weight, 5, 10)}, nil).Edit("a:1", nil, []Field{Weight}), config, start, []shown{a, b}},
		"drained":                  {none.Edit("b:1", []Edit{set(StateField, "drain")}, nil), config, start, []shown{a, with(b, StateField, "drain")}},
		"edit of one not there":    {none.Edit("x:1", []Edit{set(Weight, 5)}, nil), config, start, []shown{a, b}},
		"added":                    {none.Add("c:1", "", nil, since(0)), config, start, []shown{a, b, c}},
		"added, with settings":     {none.Add("c:1", "", []Edit{set(Weight, 9)}, since(0)), config, start, []shown{a, b, with(c, Weight, 9)}},
		"added, in order":          {none.Add("d:1", "", nil, since(2)).Add("c:1", "", nil, since(1)), config, at(3), []shown{a, b, c, {"d:1", c.Settings}}},
		"added to nothing":         {none.Add("c:1", "", nil, since(0)), nil, start, []shown{c}},
		"added, config gains it":   {none.Add("a:1", "", []Edit{set(Zone, "eu")}, since(0)), config, start, []shown{with(a, Zone, "eu"), b}},
		"removed, drains":          {none.Remove("a:1", since(0)), config, start, []shown{with(a, StateField, "drain"), b}},
		"removed, edits forgotten": {none.Edit("a:1", []Edit{set(Weight, 5)}, nil).Remove("a:1", since(0)), config, start, []shown{with(a, StateField, "drain"), b}},
		"removed, restored":        {none.Remove("a:1", since(0)).Restore("a:1", nil), config, start, []shown{a, b}},
		"removed, config drops it": {none.Remove("a:1", since(0)), config[1:], start, []shown{b}},
		"added, removed":           {none.Add("c:1", "", nil, since(0)).Remove("c:1", since(1)), config, at(2), []shown{a, b, with(c, StateField, "drain")}},
		"added, forgotten":         {none.Add("c:1", "", nil, since(0)).Forget("c:1"), config, at(2), []shown{a, b}},
		"edited, config drops it":  {none.Edit("a:1", []Edit{set(Weight, 5)}, nil), config[1:], start, []shown{b}},
		"permanent part":           {none.Edit("a:1", []Edit{set(Weight, 4)}, nil).Edit("a:1", []Edit{set(Weight, 5, 10), set(Zone, "eu", 10)}, nil).Add("c:1", "", nil, Mark{Since: start, Until: at(5)}).Permanent(), config, start, []shown{with(a, Weight, 4), b}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := merged(test.overlay, test.config, test.now); !slices.Equal(got, test.want) {
				t.Errorf("got %+v\nwant %+v", got, test.want)
			}
		})
	}
	if config[0].Weight != 3 || len(none.Backends) != 0 || none.Version != 0 {
		t.Error("what was merged or edited was changed")
	}
}

func TestNames(t *testing.T) {
	o := new(Overlay).Add("c:1", "shop", nil, since(0)).Add("d:1", "", nil, since(1)).Add("a:1", "other", nil, since(2))
	// What the config has come to use is the config's.
	o = o.Add("e:1", "a", nil, since(3)).Add("a", "", nil, since(4)).Add("f:1", "shop", nil, since(5))
	want := map[string]string{"a:1": "a", "b:1": "b:1", "c:1": "shop", "d:1": "d:1", "e:1": "e:1", "a": "a~2", "f:1": "f:1"}
	for _, r := range o.Merge(config, nil, start) {
		if r.Name != want[r.Address] {
			t.Errorf("%s is called %s, want %s", r.Address, r.Name, want[r.Address])
		}
	}
}

// Who is gone is not there, and its name is free.
func TestGone(t *testing.T) {
	o := new(Overlay).Remove("a:1", since(0)).Add("c:1", "a", nil, since(1)).Add("d:1", "", nil, since(2)).Remove("d:1", since(3))
	for _, test := range []struct {
		gone map[string]bool
		want string
	}{
		{nil, "a:1=a b:1=b:1 c:1=c:1 d:1=d:1 "},
		{map[string]bool{"a:1": true, "d:1": true}, "b:1=b:1 c:1=a "},
		{map[string]bool{"b:1": true}, "a:1=a b:1=b:1 c:1=c:1 d:1=d:1 "}, // not removed
	} {
		got := ""
		for _, r := range o.Merge(config, test.gone, at(4)) {
			got += r.Address + "=" + r.Name + " "
		}
		if got != test.want {
			t.Errorf("gone %v: %s, want %s", test.gone, got, test.want)
		}
	}
}

func TestExpire(t *testing.T) {
	o := new(Overlay).Edit("a:1", []Edit{set(Weight, 4)}, nil).Edit("a:1", []Edit{set(Weight, 5, 10), set(Zone, "eu", 20)}, nil).
		Add("c:1", "", nil, Mark{Since: start, Until: at(15)})
	for _, step := range []struct {
		now, due int
		expired  int
		version  uint64
	}{
		{9, 10, 0, o.Version},
		{10, 15, 1, o.Version + 1},
		{15, 20, 1, o.Version + 2},
		{25, 0, 1, o.Version + 3},
		{26, 0, 0, o.Version + 3},
	} {
		next, expired := o.Expire(at(step.now))
		if len(expired) != step.expired || next.Version != step.version {
			t.Errorf("at %d: %d expired, version %d, want %d and %d", step.now, len(expired), next.Version, step.expired, step.version)
		}
		due := next.Due()
		if step.due == 0 && !due.IsZero() || step.due > 0 && !due.Equal(at(step.due)) {
			t.Errorf("at %d: due %v, want %d", step.now, due, step.due)
		}
		o = next
	}
	got := merged(o, config, at(26))
	want := Settings{Weight: 4, State: Ready}
	if len(got) != 3 || got[0].Settings != want || got[2].State != Drain {
		t.Errorf("in the end %+v", got)
	}
}

func TestDiff(t *testing.T) {
	o := new(Overlay).Edit("a:1", []Edit{set(Weight, 5), set(Zone, "")}, nil).Remove("b:1", Mark{Since: start, Owner: "me", Reason: "old"}).
		Add("c:1", "shop", []Edit{set(MaxRequests, 7)}, since(0))
	got := Diff(o.Merge(config, nil, start))
	want := []Difference{
		{Backend: "a", Field: Weight, Config: 3, Running: 5}, // the zone is what it was
		{Backend: "b:1", Removed: true, Owner: "me", Reason: "old"},
		{Backend: "shop", Added: true},
		{Backend: "shop", Field: MaxRequests, Running: 7},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if none := Diff(new(Overlay).Merge(config, nil, start)); none == nil || len(none) != 0 {
		t.Errorf("without edits %v, want an empty list", none)
	}
}

func TestRevisions(t *testing.T) {
	one := new(Overlay).Edit("a:1", []Edit{set(Weight, 5)}, nil)
	two := one.Edit("b:1", []Edit{set(Weight, 5)}, nil)
	again := two.Edit("a:1", []Edit{set(Weight, 5)}, nil)
	if a, b := one.Backends["a:1"].Revision, two.Backends["a:1"].Revision; a != b {
		t.Errorf("an edit of another backend made revision %d of %d", b, a)
	}
	if a, b := two.Backends["a:1"].Revision, again.Backends["a:1"].Revision; a >= b {
		t.Errorf("an edit made revision %d of %d", b, a)
	}
	if len(one.Edit("a:1", nil, []Field{Weight}).Backends) != 0 {
		t.Error("what was taken back left something")
	}
}

func TestSet(t *testing.T) {
	for _, wrong := range []struct {
		field Field
		value any
	}{
		{Weight, "5"}, {Weight, 1.5}, {Weight, true}, {Weight, 1e12}, {Weight, nil}, {MaxRequests, []any{}}, {MaxRequests, "sometimes"}, {MaxRequests, float64(Auto)}, {Backup, 1.5}, {Backup, "1"}, {Zone, 1.0},
		{StateField, "stop"}, {StateField, 1.0}, {"color", "red"},
	} {
		s := Settings{Weight: 1, State: Ready}
		if err := s.Set(wrong.field, wrong.value); err == nil || s != (Settings{Weight: 1, State: Ready}) {
			t.Errorf("%s = %v: error %v, settings %+v", wrong.field, wrong.value, err, s)
		}
	}
	s := Settings{MaxRequests: 7}
	if err := s.Set(MaxRequests, "auto"); err != nil || s.MaxRequests != Auto || s.Get(MaxRequests) != "auto" {
		t.Errorf("auto: %v, %+v, %v", err, s, s.Get(MaxRequests))
	}
	if (&Settings{}).Get("color") != nil {
		t.Error("a setting that does not exist has a value")
	}
}
