package caddyapp

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

func TestRangesInWords(t *testing.T) {
	for _, tt := range []struct {
		r     Range
		value float64
		want  string
	}{
		{Number("a", 1, 100), 0, "a 0: must be from 1 to 100"},
		{Number("a.b.c", 1, 100), -7, "a: b: c -7: must be from 1 to 100"},
		{Number("a", 1, 100), 1, ""},
		{Number("a", 1, 100), 100, ""},
		{Percent("a", 0.1, 100), 0.001, ""},
		{Percent("a", 0.1, 100), 1, ""},
		{Percent("a", 0.1, 99.99), 1, "a 100%: must be from 0.1% to 99.99%"},
		{Percent("a", 0.1, 100), 1e-8, "a 0.000001%: must be from 0.1% to 100%"},
		{Duration("a", time.Millisecond, 24*time.Hour), 1, "a 1ns: must be from 1ms to 24h"},
		{Duration("a", 90*time.Second, 90*time.Minute), float64(10000 * time.Hour), "a 10000h: must be from 1m30s to 1h30m"},
		{Duration("a", time.Second, time.Minute).OrOff(), 0, ""},
		{Duration("a", time.Second, time.Minute).OrOff(), -1, ""},
		{Duration("a", time.Second, time.Minute).OrOff(), 1, "a 1ns: must be from 1s to 1m, or off"},
		{Size("a", 1, 1<<30), 1e12, "a 1000000000000B: must be from 1B to 1GiB"},
		{Size("a", 1<<20, 1<<30), 0, "a 0B: must be from 1MiB to 1GiB"},
	} {
		got := ""
		if err := tt.r.Check(tt.value); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%+v at %v: got %q, want %q", tt.r, tt.value, got, tt.want)
		}
	}
}

type outer struct {
	*embedded
	List   []*element        `json:"list,omitempty"`
	Map    map[string][]int  `json:"map,omitempty"`
	Module json.RawMessage   `json:"module,omitempty"`
	Texts  map[string]string `json:"texts,omitempty"`
	Inner  *struct {
		Wait  caddy.Duration `json:"wait,omitempty"`
		Share float64        `json:"share,omitempty"`
		On    bool           `json:"on,omitempty"`
	} `json:"inner,omitempty"`

	hidden int
}

type embedded struct {
	Count int `json:"count,omitempty"`
}

type element struct {
	Count int `json:"count,omitempty"`
}

func TestDecode(t *testing.T) {
	ranges := Ranges{
		Number("count", 1, 9), Number("list.count", 1, 9), Percent("inner.share", 0, 50), Duration("inner.wait", time.Second, time.Minute),
	}
	for text, want := range map[string]string{
		`{}`: "",
		`{"list": [{"count": 3}], "map": {"a": [1]}, "module": {"a": [{}]}, "inner": {"wait": "5s", "share": 0, "on": true}}`: "",
		`{"list": null, "map": null, "module": null, "inner": null, "count": null}`:                                           "",

		`[]`:                                 "must be an object",
		`{"list": {}}`:                       "list {}: must be a list",
		`{"list": [{}, null]}`:               "list: position 1 is null",
		`{"list": [{"count": 0}]}`:           "list: position 0: count 0: must be from 1 to 9",
		`{"count": 0}`:                       "count 0: must be from 1 to 9",
		`{"COUNT": 0}`:                       "count 0: must be from 1 to 9",
		`{"count": 99999999999999999999}`:    "count 99999999999999999999: must be a whole number from 1 to 9",
		`{"count": 1, "count": 2}`:           "count: given twice",
		`{"map": {"a": 1}}`:                  "map: a 1: must be a list",
		`{"map": {"a": [null]}}`:             "map: a: position 0 is null",
		`{"map": {"a": ["x"]}}`:              `map: a: position 0 "x": must be a whole number`,
		`{"map": {"a": [1], "a": [2]}}`:      "map: a: given twice",
		`{"module": {"a": [{}, null]}}`:      "module: a: position 1 is null",
		`{"module": {"a": {"b": [[null]]}}}`: "module: a: b: position 0: position 0 is null",
		`{"texts": {"a": 1}}`:                "texts: a 1: must be a text",
		`{"inner": 7}`:                       "inner 7: must be an object",
		`{"inner": {"wait": "soon"}}`:        `inner: wait "soon": must be a duration from 1s to 1m`,
		`{"inner": {"wait": 0}}`:             "inner: wait 0s: must be from 1s to 1m",
		`{"inner": {"share": "much"}}`:       `inner: share "much": must be a number from 0% to 50%`,
		`{"inner": {"on": "yes"}}`:           `inner: on "yes": must be true or false`,
		`{"inner": {"off": true}}`:           `inner: unknown field "off"`,
		`{"off": true}`:                      `unknown field "off"`,
		`{"hidden": 1}`:                      `unknown field "hidden"`,
	} {
		var got string
		into := outer{embedded: new(embedded)}
		if err := ranges.Decode("", []byte(text), &into); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}

func TestCheckLooksAtWhatIsGiven(t *testing.T) {
	ranges := Ranges{Number("x.count", 5, 9)}
	for count, want := range map[int]string{0: "", 5: "", 4: "x: count 4: must be from 5 to 9", -1: "x: count -1: must be from 5 to 9"} {
		got := ""
		if err := ranges.Check("x", &outer{embedded: &embedded{Count: count}, hidden: 1}); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%d: got %q, want %q", count, got, want)
		}
	}
	if err := ranges.Check("x", &outer{}); err != nil {
		t.Errorf("without the embedded struct: %v", err)
	}
}
