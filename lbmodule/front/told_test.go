package front

import (
	"net/http"
	"slices"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
)

// Values from the environment or from files are not logged, in any field.
func TestSecretFields(t *testing.T) {
	replace := func(name, with string) *headers.HeaderOps {
		return &headers.HeaderOps{Replace: map[string][]headers.Replacement{name: {{Search: "x", Replace: with}}}}
	}
	for name, c := range map[string]struct {
		ops  *headers.HeaderOps
		want []string
	}{
		"none":                      {nil, nil},
		"known":                     {&headers.HeaderOps{Set: http.Header{"X-A": {"{http.request.host}"}}}, nil},
		"set":                       {&headers.HeaderOps{Set: http.Header{"x-a": {"key {env.KEY}"}}}, []string{"X-A"}},
		"added":                     {&headers.HeaderOps{Add: http.Header{"X-A": {"a", "{file./key}"}}}, []string{"X-A"}},
		"replaced":                  {replace("x-a", "{env.KEY}"), []string{"X-A"}},
		"replaced in any":           {replace("*", "{env.KEY}"), []string{anyField}},
		"known, replaced in any":    {replace("*", "y"), nil},
		"in one that is told later": {&headers.HeaderOps{Set: http.Header{"{http.request.header.X-Name}": {"{env.KEY}"}}}, []string{anyField}},
	} {
		if got := secretFields(c.ops); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// Of such a request no field is logged.
func TestLoggableWithoutFields(t *testing.T) {
	r := newRequest(t, http.MethodGet, "/", nil)
	sent := r.Clone(r.Context())
	sent.Header.Set("X-A", "secret")
	q := &Request{Told: &Told{front: &Front{secrets: []string{anyField}}}, original: r, sent: sent}
	if got := q.loggable().Header.Get("X-A"); got != "REDACTED" || sent.Header.Get("X-A") != "secret" {
		t.Errorf("logged %q, sent %q", got, sent.Header.Get("X-A"))
	}
}
