package overlay

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestRebase(t *testing.T) {
	base := new(Overlay).Edit("a:1", []Edit{set(Weight, 2)}, nil).Edit("b:1", []Edit{set(Weight, 2)}, nil)
	weight := func(o *Overlay, address string, n int) *Overlay { return o.Edit(address, []Edit{set(Weight, n)}, nil) }
	for name, test := range map[string]struct {
		mine, theirs, want *Overlay // want is compared by what it changes
		conflicts          []Conflict
		newer              bool // than theirs
	}{
		"nobody":                    {base, base, base, nil, false},
		"only they":                 {base, weight(base, "a:1", 5), weight(base, "a:1", 5), nil, false},
		"only I":                    {weight(base, "a:1", 5), base, weight(base, "a:1", 5), nil, true},
		"both, different backends":  {weight(base, "a:1", 5), weight(base, "b:1", 6), weight(weight(base, "a:1", 5), "b:1", 6), nil, true},
		"both, the same":            {weight(base, "a:1", 5), weight(base, "a:1", 5), weight(base, "a:1", 5), nil, false},
		"both, one backend":         {weight(base, "a:1", 5), weight(base, "a:1", 6), weight(base, "a:1", 5), []Conflict{{"a:1"}}, true},
		"I add, they edit":          {base.Add("c:1", "", nil, since(0)), weight(base, "a:1", 6), weight(base, "a:1", 6).Add("c:1", "", nil, since(0)), nil, true},
		"I forget, they do nothing": {base.Forget("a:1"), base, base.Forget("a:1"), nil, true},
		"I forget, they edit":       {base.Forget("a:1"), weight(base, "a:1", 6), base.Forget("a:1"), []Conflict{{"a:1"}}, true},
		"they forget, I edit":       {weight(base, "a:1", 6), base.Forget("a:1"), weight(base, "a:1", 6), []Conflict{{"a:1"}}, true},
		"they forget":               {base, base.Forget("a:1"), base.Forget("a:1"), nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, conflicts := Rebase(base, test.mine, test.theirs)
			if !got.Equal(test.want) || !slices.Equal(conflicts, test.conflicts) {
				t.Errorf("got %+v, conflicts %v\nwant %+v, conflicts %v", got.Backends, conflicts, test.want.Backends, test.conflicts)
			}
			if newer := got.Version > test.theirs.Version; newer != test.newer || got.Version < test.theirs.Version {
				t.Errorf("version %d of %d", got.Version, test.theirs.Version)
			}
		})
	}
}

// TestNodesAgree has nodes edit at random and write in turn: in the end all have the same, and no edit of a backend is lost that
// only one of them had edited since the last time that both agreed.
func TestNodesAgree(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	addresses := []string{"a:1", "b:1", "c:1", "d:1"}
	for range 300 {
		stored := new(Overlay)
		bases, mine := []*Overlay{stored, stored, stored}, []*Overlay{stored, stored, stored}
		exchange := func(n int) {
			next, _ := Rebase(bases[n], mine[n], stored)
			if next.Version < stored.Version {
				t.Fatalf("version %d after %d", next.Version, stored.Version)
			}
			stored, bases[n], mine[n] = next, next, next
		}
		for range 30 {
			n, address := r.IntN(3), addresses[r.IntN(4)]
			switch r.IntN(6) {
			case 0:
				mine[n] = mine[n].Add(address, "", nil, since(r.IntN(10)))
			case 1:
				mine[n] = mine[n].Remove(address, since(r.IntN(10)))
			case 2:
				mine[n] = mine[n].Forget(address)
			case 3:
				mine[n] = mine[n].Edit(address, []Edit{set(Weight, r.IntN(9))}, nil)
			default:
				exchange(n)
			}
		}
		own := mine[2].Edit("only mine", []Edit{set(Weight, 7)}, nil)
		mine[2] = own
		for n := range 3 {
			exchange(n)
		}
		for n := range 3 {
			exchange(n)
		}
		if !mine[0].Equal(mine[1]) || !mine[1].Equal(mine[2]) || !mine[2].Equal(stored) {
			t.Fatalf("they do not agree: %+v, %+v, %+v", mine[0], mine[1], mine[2])
		}
		if e := stored.Backends["only mine"]; len(e.Edits) != 1 || e.Edits[0].Value != 7 {
			t.Fatalf("an edit is lost: %+v", stored)
		}
	}
}

func TestDocument(t *testing.T) {
	o := new(Overlay).Edit("a:1", []Edit{set(Weight, 5), set(Zone, "<&>\n\"eu\"", 10), set(Backup, true), set(StateField, "drain")}, nil).
		Add("c:1", "shop", nil, Mark{Since: at(1), Until: at(2), Owner: "me", Reason: "ü"}).Remove("b:1", since(3))
	raw, err := Encode("web", "line", "node", o, start)
	if err != nil {
		t.Fatal(err)
	}
	got, lineage, err := Decode("web", raw)
	if err != nil || !got.Equal(o) || got.Version != o.Version || lineage != "line" {
		t.Fatalf("read %+v of %q, %v\nwant %+v", got, lineage, err, o)
	}
	if !slices.Equal(merged(got, config, at(1)), merged(o, config, at(1))) {
		t.Error("what was read means something else")
	}
	if _, _, err := Decode("other", raw); !errors.Is(err, ErrForeign) {
		t.Errorf("of another pool: %v", err)
	}
	later := `{"format": "ballast pool state", "schema": 2, "pool": "web", "checksum": "x", "state": {}}`
	if _, _, err := Decode("web", []byte(later)); !errors.Is(err, ErrLater) {
		t.Errorf("of a later version: %v", err)
	}
	for name, text := range map[string]string{
		"empty": "", "no JSON": "hello", "null": "null", "array": "[]", "other JSON": `{"a": 1}`, "cut off": string(raw[:len(raw)/2]),
	} {
		if _, _, err := Decode("web", []byte(text)); !errors.Is(err, ErrForeign) && !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzDecode changes a document: it is refused, or means what it meant.
func FuzzDecode(f *testing.F) {
	o := new(Overlay).Edit("a:1", []Edit{set(Weight, 5), set(Zone, "eu", 10)}, nil).Add("c:1", "shop", nil, since(1))
	raw, err := Encode("web", "line", "node", o, start)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw, 3, byte('x'))
	f.Add(raw, len(raw)/2, byte('1'))
	f.Add(raw[:len(raw)-3], 0, byte('{'))
	f.Fuzz(func(t *testing.T, text []byte, position int, b byte) {
		_, _, _ = Decode("web", text) // whatever it is, there is no panic
		changed := slices.Clone(raw)
		changed[(position%len(raw)+len(raw))%len(raw)] = b
		if got, _, err := Decode("web", changed); err == nil && (!got.Equal(o) || got.Version != o.Version) {
			t.Fatalf("%s was read as %+v", changed, got)
		}
	})
}
