package plain

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/ballastlb/ballast/command/api"
)

func TestDuration(t *testing.T) {
	for _, test := range []struct {
		d    time.Duration
		want string
	}{
		{-time.Hour, "0s"}, {0, "0s"}, {999 * time.Millisecond, "0s"}, {59 * time.Second, "59s"}, {time.Minute, "1m0s"},
		{5*time.Minute - 1, "4m59s"}, {time.Hour, "1h0m"}, {24*time.Hour - 1, "23h59m"}, {124 * time.Hour, "5d4h"},
	} {
		if got := Duration(test.d); got != test.want {
			t.Errorf("Duration(%s) = %s, want %s", test.d, got, test.want)
		}
	}
	now := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	if got := Since(time.Time{}, now); got != None {
		t.Errorf("since an unknown time: %s", got)
	}
}

func TestNumbers(t *testing.T) {
	for ms, want := range map[float64]string{0: "0.0ms", 0.44: "0.4ms", 9.94: "9.9ms", 9.96: "10ms", 31.7: "32ms", 999.4: "999ms", 999.6: "1.0s", 61234: "61.2s"} {
		if got := Milliseconds(ms); got != want {
			t.Errorf("Milliseconds(%v) = %s, want %s", ms, got, want)
		}
	}
	for x, want := range map[float64]string{0: "0", 3: "3", 0.25: "0.2", 10: "10", 99.96: "100"} {
		if got := Number(x); got != want {
			t.Errorf("Number(%v) = %s, want %s", x, got, want)
		}
	}
	for n, want := range map[uint64]string{0: "0B", 999: "999B", 1500: "1.5kB", 82_854_982: "83MB", 5_000_000_000: "5.0GB"} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %s, want %s", n, got, want)
		}
	}
}

func TestClean(t *testing.T) {
	for _, test := range []struct{ s, want string }{
		{"10.0.0.1:8080", "10.0.0.1:8080"}, {"größer 漢字", "größer 漢字"}, {"\x1b[31mred\x1b]0;title\a", "?[31mred?]0;title?"},
		{"c1 \u009b31m", "c1 ?31m"}, {"a\r\nb\tc", "a  b c"}, {"\u202eevil", "?evil"}, {"\xff", "?"}, {"line\u2028s", "line?s"}, {"e\u0301", "e\u0301"},
		{"\u0301e \u0301", "?e ?"}, {"हिन्दी", "हिन्दी"}, {"e\u0301\u0302\u0303\u0304\u0305", "e\u0301\u0302\u0303?\u0305"}, {"a\ufe0fb\u034f", "a?b?"},
		{"a\u20dd", "a?"}, {"\u200b", "?"}, {"", ""},
	} {
		if got := Clean(test.s); got != test.want {
			t.Errorf("Clean(%q) = %q, want %q", test.s, got, test.want)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add("\x1b[2J\u009b\xff漢")
	f.Fuzz(func(t *testing.T, s string) {
		clean := Clean(s)
		for _, r := range clean {
			if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
				t.Errorf("Clean(%q) = %q", s, clean)
			}
		}
		if again := Clean(clean); again != clean {
			t.Errorf("%q is %q when it is cleaned again", clean, again)
		}
		for n := range 10 {
			if clipped := Clip(clean, n); Width(clipped) > n || !strings.HasPrefix(clean, clipped) {
				t.Errorf("Clip(%q, %d) = %q", clean, n, clipped)
			}
		}
		text, err := json.Marshal(map[string]string{"s": s})
		if err != nil {
			t.Fatal(err)
		}
		var before, after any
		harmless := CleanJSON(text)
		if json.Unmarshal(text, &before) != nil || json.Unmarshal(harmless, &after) != nil || !reflect.DeepEqual(before, after) {
			t.Errorf("%s became %s", text, harmless)
		}
		if bytes.ContainsFunc(harmless, unicode.IsControl) {
			t.Errorf("%q has control characters", harmless)
		}
	})
}

func TestWidth(t *testing.T) {
	for s, want := range map[string]int{"a漢b": 4, "東京": 4, "🚀": 2, "cafe\u0301": 4, "ｗ": 2, "größer": 6} {
		if got := Width(s); got != want {
			t.Errorf("%q takes %d columns, want %d", s, got, want)
		}
	}
	if got := Clip("cafe\u0301s", 4); got != "cafe\u0301" {
		t.Errorf("a letter without its mark: %q", got)
	}
	if got := Clip("a漢b", 2); got != "a" {
		t.Errorf("half of a wide character: %q", got)
	}
}

func TestTable(t *testing.T) {
	table := NewTable("NAME", "STATE", "REASON")
	table.Row("a", Word("ok"), "")
	table.Row("漢字漢字", Word("down"), "broken\x1b[2J\nline")
	var b strings.Builder
	if _, err := table.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	if want := "NAME      STATE  REASON\na         ok     -\n漢字漢字  down   broken?[2J line\n"; b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
	b.Reset()
	table.Color = true
	if _, err := table.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	if want := "a         \x1b[32mok\x1b[0m     -\n"; !strings.Contains(b.String(), want) {
		t.Errorf("got %q, want %q in it", b.String(), want)
	}
}

func TestWrap(t *testing.T) {
	for _, test := range []struct {
		text    string
		columns int
		want    string
	}{
		{"a b c", 0, "a b c"}, {"", 5, ""}, {"a b c", 5, "a b c"}, {"one two three", 7, "one two|three"}, {"one two three", 6, "one|two|three"},
		{"abcdefgh i", 3, "abc|def|gh|i"}, {"漢字漢字", 3, "漢|字|漢|字"}, {"漢字", 1, "漢|字"}, {"a  b", 2, "a |b"},
	} {
		if got := strings.Join(Wrap(test.text, test.columns), "|"); got != test.want {
			t.Errorf("%q in %d columns: %q, want %q", test.text, test.columns, got, test.want)
		}
	}
}

func TestNarrowTable(t *testing.T) {
	build := func() *Table {
		table := NewTable("NAME", "FIRST", "SECOND", "REASON")
		table.Row("a", "1", "2", Cell{"it is out because of something long", Bad})
		table.Note("and a note below it that is long, too")
		table.Row("漢字", "", "2", "")
		table.Optional("FIRST", "NONE", "SECOND")
		return table
	}
	for _, test := range []struct {
		width int
		want  string
	}{
		{0, "NAME  FIRST  SECOND  REASON\na     1      2       it is out because of something long\n    and a note below it that is long, too\n漢字  -      2       -\n"},
		{60, "NAME  FIRST  SECOND  REASON\na     1      2       it is out because of something long\n    and a note below it that is long, too\n漢字  -      2       -\n"},
		{50, "NAME  SECOND  REASON\na     2       it is out because of something long\n    and a note below it that is long, too\n漢字  2       -\n"},
		{36, "NAME  REASON\na     it is out because of something\n      long\n    and a note below it that is\n    long, too\n漢字  -\n"},
	} {
		var b strings.Builder
		table := build()
		table.Width = test.width
		if _, err := table.WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		if b.String() != test.want {
			t.Errorf("in %d columns:\n%s\nwant\n%s", test.width, b.String(), test.want)
		}
	}
	var b strings.Builder
	table := build()
	table.Width, table.Color = 30, true
	if _, err := table.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	if want := "      \x1b[31msomething long\x1b[0m\n"; !strings.Contains(b.String(), want) {
		t.Errorf("got %q, want %q in it", b.String(), want)
	}
}

func TestStatus(t *testing.T) {
	for _, test := range []struct {
		b    api.Backend
		want string
	}{
		{api.Backend{Usable: true, State: "ready", Health: "up", Breaker: "closed"}, "up"},
		{api.Backend{Usable: true}, "up"},
		{api.Backend{Usable: true, Backup: 1}, "backup"},
		{api.Backend{Usable: true, Avoided: "it fails"}, "avoided"},
		{api.Backend{Usable: true, Backup: 1, Avoided: "it fails"}, "avoided"},
		{api.Backend{Breaker: "half_open", Avoided: "it fails"}, "half-open"},
		{api.Backend{State: "drain", Breaker: "open"}, "drain"},
		{api.Backend{State: "drain", Removing: true}, "removing"},
		{api.Backend{State: "maintenance", Health: "down"}, "maint"},
		{api.Backend{Breaker: "open", Health: "down"}, "open"},
		{api.Backend{Breaker: "half_open"}, "half-open"},
		{api.Backend{Health: "down"}, "down"},
		{api.Backend{Health: "unknown"}, "out"},
	} {
		if got := Status(&test.b); got.Text != test.want || got.Style == 0 {
			t.Errorf("%+v is %v, want %s", test.b, got, test.want)
		}
	}
}

func TestWhy(t *testing.T) {
	now := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	soon := now.Add(4*time.Minute + 59*time.Second)
	for _, test := range []struct {
		name string
		b    api.Backend
		want string
	}{
		{"nothing", api.Backend{}, ""},
		{"a breaker", api.Backend{Reason: "breaker open", Until: &soon}, "breaker open; 4m59s left"},
		{"one that is avoided", api.Backend{Usable: true, Avoided: "it fails; tried again in 0.8 s"}, "avoided: it fails; tried again in 0.8 s"},
		{"a timed state", api.Backend{Reason: "draining", Until: &soon, Edits: []api.Edit{{Field: "state", Value: json.RawMessage(`"drain"`), Mark: api.Mark{Owner: "eve@ops", Reason: "update", Until: &soon}}}},
			"draining; set by eve@ops: update (4m59s left)"},
		{"a failed check", api.Backend{Reason: "active check failed", LastCheck: &api.Check{Error: "status 500"}}, "active check failed; last check: status 500"},
		{"a reason that tells of the check", api.Backend{Reason: "check failed: status 500", LastCheck: &api.Check{Error: "status 500"}}, "check failed: status 500"},
		{"a check that is fine", api.Backend{LastCheck: &api.Check{OK: true, Error: "old"}}, ""},
		{"another edit", api.Backend{Edits: []api.Edit{{Field: "weight", Value: json.RawMessage("5"), Config: json.RawMessage("3")}}}, "weight 5, not 3"},
		{"an edit that says what the config says", api.Backend{Edits: []api.Edit{{Field: "state", Value: json.RawMessage(`"ready"`), Config: json.RawMessage(`"ready"`)}}}, ""},
		{"an addition", api.Backend{Added: &api.Mark{Owner: "eve@ops", Until: &soon}}, "added by eve@ops (4m59s left)"},
		{"an edit of what the config has not", api.Backend{Edits: []api.Edit{{Field: "zone", Value: json.RawMessage(`"eu"`)}}}, "zone eu"},
	} {
		if got := Why(&test.b, now); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

func TestInFlight(t *testing.T) {
	for want, text := range map[string]string{
		"4":    `{"in_flight": 4}`,
		"4/9":  `{"in_flight": 4, "max_requests": 9}`,
		"4/12": `{"in_flight": 4, "max_requests": "auto", "limit": 12}`,
	} {
		var b api.Backend
		if err := json.Unmarshal([]byte(text), &b); err != nil {
			t.Errorf("%s: %v", text, err)
		} else if got := InFlight(&b); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

func TestEvent(t *testing.T) {
	for _, test := range []struct{ name, data, want string }{
		{"backend_changed", `{"time":"2026-01-02T15:04:05.1239Z","pool":"web","backend":"a","before":{"weight":3,"max_requests":0},"after":{"max_requests":9,"weight":1},"reason":"sale","owner":"eve@ops"}`,
			"2026-01-02T15:04:05.123Z  backend_changed      web  a  max requests 0 -> 9, weight 3 -> 1; sale; by eve@ops"},
		{"backend_changed", `{"pool":"web","backend":"a","before":{"weight":3},"after":{"weight":null},"reason":"","owner":""}`, "-  backend_changed      web  a  weight 3 -> as in the config"},
		{"backend_added", `{"pool":"web","backend":"a","before":{},"after":{"weight":2,"backup":true,"zone":""}}`, "-  backend_added        web  a  backup yes, weight 2, zone -"},
		{"backend_down", `{"time":"soon","pool":"web","backend":"a","reason":"active check failed","error":"status 500"}`, "soon  backend_down         web  a  active check failed; status 500"},
		{"breaker_opened", `{"pool":"web","backend":"a","reason":"5 in a row","error":"","open_for":5.734,"dry_run":true}`, "-  breaker_opened       web  a  5 in a row; dry run; open for 5.7s"},
		{"panic_began", `{"pool":"web","usable":0,"total":3}`, "-  panic_began          web  -  0 of 3 usable"},
		{"change_expired", `{"pool":"web","backend":"a","field":"state","reason":"its time is over"}`, "-  change_expired       web  a  state: its time is over"},
		{"canary_moved", `{"pool":"web","share":0.25,"state":"running","reason":"step","another_node":false,"canary":{"requests":5,"p50_ms":1.25},"list":["a",1,null]}`,
			"-  canary_moved         web  -  step; canary (p50 ms 1.2, requests 5); list a 1 ; share 25%; state running"},
	} {
		data, err := EventData(api.Event{Data: test.data})
		if err != nil {
			t.Fatal(err)
		}
		if got := Event(test.name, data); got != test.want {
			t.Errorf("%s:\n%s\nwant\n%s", test.data, got, test.want)
		}
	}
}
