package discovery

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/ballastlb/ballast/lbmodule/config"
)

func weight(n int) *int { return &n }

// The same list in JSON and in YAML is the same.
func TestGoodLists(t *testing.T) {
	for name, test := range map[string]struct {
		json, yaml string
		want       []config.Backend
	}{
		"all labels": {
			`[{"targets": ["a:1"], "labels": {"weight": "3", "zone": "eu-1", "backup": "true", "max_requests": "100", "name": "a"}}]`,
			"- targets: ['a:1']\n  labels: {weight: '3', zone: eu-1, backup: 'true', max_requests: '100', name: a}\n",
			[]config.Backend{{Address: "a:1", Name: "a", Weight: weight(3), MaxRequests: 100, Backup: 1, Zone: "eu-1"}},
		},
		"several groups": {
			`[{"targets": ["a:1", "b:1"], "labels": {"zone": "x"}}, {"targets": ["[::1]:1"]}, {"targets": []}, {"labels": {"weight": "2"}}]`,
			"- targets: [a:1, b:1]\n  labels:\n    zone: x\n- targets:\n  - '[::1]:1'\n- targets: []\n- labels: {weight: 2}\n",
			[]config.Backend{{Address: "a:1", Zone: "x"}, {Address: "b:1", Zone: "x"}, {Address: "[::1]:1"}},
		},
		"labels of others": {
			`[{"targets": ["a:1"], "labels": {"__meta_x": "1", "job": "", "Weight": "x", "any": {"thing": []}, "env": null}}]`,
			"- targets: [a:1]\n  labels: {__meta_x: 1, job: '', Weight: x, any: {thing: []}, env: null}\n",
			[]config.Backend{{Address: "a:1"}},
		},
		"without a value": {
			`[{"targets": ["a:1"], "labels": {"weight": "", "zone": "", "backup": "", "max_requests": null, "name": ""}}]`,
			"- targets: [a:1]\n  labels: {weight: '', zone: '', backup: '', max_requests: , name: ''}\n",
			[]config.Backend{{Address: "a:1"}},
		},
		"not in quotes": {
			`[{"targets": ["a:1"], "labels": {"weight": 0, "backup": 2, "max_requests": 7}}, {"targets": ["b:1"], "labels": {"backup": true}}]`,
			"- targets: [a:1]\n  labels: {weight: 0, backup: 2, max_requests: 7}\n- targets: [b:1]\n  labels: {backup: true}\n",
			[]config.Backend{{Address: "a:1", Weight: weight(0), MaxRequests: 7, Backup: 2}, {Address: "b:1", Backup: 1}},
		},
		"Python's booleans": {
			`[{"targets": ["a:1"], "labels": {"backup": "True"}}, {"targets": ["b:1"], "labels": {"backup": "False"}}]`,
			"- targets: [a:1]\n  labels: {backup: True}\n- targets: [b:1]\n  labels: {backup: 'False'}\n",
			[]config.Backend{{Address: "a:1", Backup: 1}, {Address: "b:1"}},
		},
		"twice the same": {
			`[{"targets": ["a:1", "a:1"], "labels": {"weight": "2"}}, {"targets": ["a:1"], "labels": {"weight": "2", "job": "x"}}]`,
			"- &a {targets: [a:1, a:1], labels: {weight: 2}}\n- *a\n",
			[]config.Backend{{Address: "a:1", Weight: weight(2)}},
		},
	} {
		for format, text := range map[string]string{"JSON": test.json, "YAML": test.yaml} {
			parse := map[string]func([]byte) (*List, error){"JSON": Parse, "YAML": parseYAML}[format]
			list, err := parse([]byte(text))
			if err != nil {
				t.Errorf("%s in %s: %v", name, format, err)
			} else if !reflect.DeepEqual(list.Backends, test.want) {
				t.Errorf("%s in %s: %+v, want %+v", name, format, list.Backends, test.want)
			}
		}
	}
}

// Errors say where, which target, which label, which value and which rule.
func TestBadLists(t *testing.T) {
	many := make([]string, config.MaxBackends+1)
	for i := range many {
		many[i] = fmt.Sprintf(`"h%d:1"`, i)
	}
	labels := func(labels string) string {
		return `[{"targets": ["a:1"]},` + "\n" + `{"targets": ["b:1"], "labels": {` + labels + `}}]`
	}
	for text, want := range map[string]string{
		``:                             "must be a JSON list, and is empty",
		" \n":                          "must be a JSON list, and is empty",
		`[]`:                           "names no target: must name one at least",
		`[{"targets": []}]`:            "names no target",
		`[{}]`:                         "names no target",
		`null`:                         "must be a JSON list of objects",
		`{"targets": ["a:1"]}`:         "must be a JSON list of objects",
		`["a:1"]`:                      "line 1: byte 2: must be an object with targets and labels",
		`[null]`:                       "must be an object",
		"[\n{\"targets\": [\"a:1\"":    "line 2: byte 20: must be JSON: unexpected end of JSON input",
		"[\n\n{\"targets\" [\"a:1\"]}": "line 3: byte 15: must be JSON: invalid character '['",
		`[{"targets": ["a:1"]}] x`:     "byte 24: must be JSON: invalid character 'x' after top-level value",
		"[{\"targets\": [\"a:1\"]},\n\n  {\"target\": [\"b:1\"]}]": `line 3: byte 27: unknown key "target": must be targets or labels; did you mean targets?`,
		`[{"targets": "a:1"}]`:                                   "targets: must be a list of texts",
		`[{"targets": [1]}]`:                                     "targets: must be a list of texts",
		`[{"targets": ["a:1"], "labels": []}]`:                   "labels: must be an object",
		labels(`"weight": []`):                                   "label weight: must be a text",
		labels(`"weight": "heavy"`):                              `line 2: target b:1: label weight "heavy": must be a whole number from 0 to 65535`,
		labels(`"weight": "-1"`):                                 `label weight "-1"`,
		labels(`"weight": "+1"`):                                 `label weight "+1"`,
		labels(`"weight": "1.5"`):                                `label weight "1.5"`,
		labels(`"weight": "65536"`):                              `label weight "65536": must be a whole number from 0 to 65535`,
		labels(`"weight": "99999999999999999999"`):               `label weight "99999999999999999999"`,
		labels(`"max_requests": "0"`):                            `target b:1: label max_requests "0": must be a whole number from 1 to 10000000, or auto`,
		labels(`"backup": "10"`):                                 `label backup "10": must be true, false, or a level from 1 to 9`,
		labels(`"backup": "yes"`):                                `label backup "yes"`,
		labels(`"zone": "eu 1"`):                                 `target b:1: label zone "eu 1": must consist of letters, digits and`,
		labels(`"name": "<b>"`):                                  `target b:1: label name "<b>": must consist of letters`,
		labels(`"name": "a:1"`):                                  `target b:1: label name "a:1": must not be the address of another target`,
		`[{"targets": ["a:1", "b:1"], "labels": {"name": "x"}}]`: `label name "x": must be that of one target, and the group has 2`,
		`[{"targets": ["a:1"]}, {"targets": ["a"]}]`:             `target "a": must have a port`,
		`[{"targets": [""]}]`:                                    `target "": must be a host and a port, and is empty`,
		`[{"targets": [":80"]}]`:                                 `target ":80": must have a host`,
		`[{"targets": ["{http.request.host}:80"]}]`:              "without a scheme, a path or placeholders",
		`[{"targets": ["http://a:80"]}]`:                         "without a scheme",
		`[{"targets": ["unix//run/docker.sock"]}]`:               "must be a host and a port",
		`[{"targets": ["fd/3"]}]`:                                "must be a host and a port",
		`[{"targets": ["a:1-3"]}]`:                               "must be one socket, not a range of 3 ports",
		`[{"targets": ["a:0"]}]`:                                 "must have a port from 1 to 65535",
		`[{"targets": ["a b:1"]}]`:                               "without ' '",
		`[{"targets": ["` + strings.Repeat("a", 300) + `:1"]}]`:  "must have at most 259 bytes",
		`[{"targets": [` + strings.Join(many, ",") + `]}]`:       "more than 16384 targets",
		"[{\"targets\": [\"a:1\"]},\n{\"targets\": [\"a:1\"], \"labels\": {\"weight\": \"2\"}}]":                              "line 2: target a:1: given before, on line 1, with other labels",
		"[{\"targets\": [\"a:1\"], \"labels\": {\"name\": \"x\"}},\n{\"targets\": [\"b:1\"], \"labels\": {\"name\": \"x\"}}]": `line 2: target b:1: label name "x": must be unique, and is that of a:1, on line 1`,
	} {
		list, err := Parse([]byte(text))
		expectBad(t, text, list, err, want)
	}
	for text, want := range map[string]string{
		``:                                     "must be a YAML list, and is empty",
		"# nothing\n":                          "must be a YAML list, and is empty",
		"[]\n":                                 "names no target",
		"targets: [a:1]\n":                     "line 1: must be a list of objects",
		"- a:1\n":                              "line 1: must be an object",
		"- targets: [a:1\n":                    "must be YAML: line",
		"- targets: a:1\n":                     "line 1: targets: must be a list of texts",
		"- targets: [[a]]\n":                   "targets: must be a list of texts",
		"- targets: [a:1]\n  lables: {}":       `line 2: unknown key "lables": must be targets or labels; did you mean labels?`,
		"- targets: [a:1]\n  targets: [b:1]\n": "line 2: targets: given twice",
		"- targets: [a:1]\n  labels: [x]\n":    "line 2: labels: must be an object",
		"- targets: [a:1]\n  labels:\n    weight: {}\n":                        "line 3: label weight: must be a text",
		"- targets: [a:1]\n  labels:\n    weight: 1\n    weight: 2\n":          "line 4: label weight: given twice",
		"- targets: [a:1]\n- targets: [b:1]\n  labels:\n    weight: heavy\n":   `line 2: target b:1: label weight "heavy"`,
		"- targets: [a:1]\n---\n- targets: [b:1]\n":                            "must be one YAML document",
		"- targets: [a:1]\n  labels:\n    name: a\n- targets: [a:1]\n":         "line 4: target a:1: given before, on line 1",
		"- &g {targets: [&t x:1" + strings.Repeat(", *t", 9999) + "]}\n- *g\n": "line 2: more than 16384 targets",
	} {
		list, err := parseYAML([]byte(text))
		expectBad(t, text, list, err, want)
	}
}

func expectBad(t *testing.T, text string, list *List, err error, want string) {
	t.Helper()
	if len(text) > 200 {
		text = text[:200]
	}
	if err == nil || list != nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%s\n%v, %v, want %q", text, list, err, want)
	}
	if _, is := errors.AsType[*ContentError](err); !is {
		t.Errorf("%s\n%T, want an error about the content", text, err)
	}
}

func TestLocation(t *testing.T) {
	for raw, want := range map[string]string{
		`{"source": "lb_file", "path": "/etc/caddy/web.json"}`:                              "file:/etc/caddy/web.json",
		`{"source": "lb_http", "url": "https://registry.internal:8443/web"}`:                "https://registry.internal:8443/web",
		`{"source": "lb_http", "url": "http://user:s3cret@registry.internal/web?t=s3cret"}`: "http://registry.internal/web",
		`{"source": "lb_http", "url": "http://registry.internal/@team/web#s3cret"}`:         "http://registry.internal/@team/web",
		`{"source": "lb_http", "url": "http://user:s3cret/@registry.internal/web"}`:         "http://registry.internal/web",
		`{"source": "lb_http", "url": "http://user:s3cret@{env.HOST}/{env.LIST}?t=s3cret"}`: "http://{env.HOST}/{env.LIST}",
		`{"source": "lb_http", "url": "user:s3cret@registry.internal"}`:                     "registry.internal",
		`{"source": "a", "name": "x"}`:                                                      "",
	} {
		if got, ok := Location([]byte(raw)); got != want || ok != (want != "") {
			t.Errorf("%s: %q, want %q", raw, got, want)
		}
	}
}
