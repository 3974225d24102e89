package lbmodule

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/balance"
	"github.com/ballastlb/ballast/lbmodule/policies"
)

func init() { caddy.RegisterModule(other{}) }

// other is a policy that does all that a policy may, and that nothing knows by its type. Sessions say in a header where they are.
type other struct{ reverseproxy.FirstSelection }

func (other) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: policies.Namespace + ".lb_other", New: func() caddy.Module { return new(other) }}
}

func (other) BalancePolicy() balance.Policy { return balance.First{} }
func (other) PositionWeights() []int        { return []int{3, 1} }
func (other) UsesWeights() bool             { return false }
func (other) UntilLastByte() bool           { return true }
func (other) Warnings() []string            { return []string{"the other policy hurts"} }
func (other) Strictly() bool                { return false }
func (other) Tells() bool                   { return true }

func (other) Tell(header http.Header, address string, _ *http.Request) {
	header.Add("Set-Cookie", "at="+address)
}

func (other) Among(upstreams reverseproxy.UpstreamPool) policies.Sessions { return byHeader(upstreams) }

type byHeader reverseproxy.UpstreamPool

func (all byHeader) Find(r *http.Request) (position int, known, signed bool) {
	cookie, err := r.Cookie("at")
	if err != nil {
		return 0, false, false
	}
	at := slices.IndexFunc(all, func(u *reverseproxy.Upstream) bool { return u.Dial == cookie.Value })
	return max(at, 0), at >= 0, true
}

func (byHeader) Stale(*http.Request) bool { return false }

// A policy is one file: sessions, weights by position, how time is taken and warnings come with its methods.
func TestOtherPolicy(t *testing.T) {
	c := newConfig(t)
	h := c.mustLoad(`{"name": "other", "upstreams": [{"dial": "a:1"}, {"dial": "b:1"}], "load_balancing": {"selection_policy": {"policy": "other"}},
		"hedge": {"percentile": 0.9, "max_extra": 0.1}}`)
	view := h.set().View()
	if a, b := view.Backend(0).Weight, view.Backend(1).Weight; a != 3 || b != 1 {
		t.Errorf("weights %d and %d, want 3 and 1", a, b)
	}
	if !h.rules.UntilLastByte {
		t.Error("time is taken to the header of answers")
	}
	log := c.logged()
	for _, want := range []string{"the other policy hurts", "ignores weights"} {
		if !strings.Contains(log, want) {
			t.Errorf("no warning that %q", want)
		}
	}
	b := newBrowser(t, h)
	if at, err := b.get(); at != "a:1" || err != nil || b.set != "at=a:1" {
		t.Errorf("a session begins at %s, %v, cookie %q", at, err, b.set)
	}
	b.cookies["at"] = "b:1"
	b.stays("b:1")
	b.cookies["at"] = "gone:1"
	if at, err := b.get(); at != "a:1" || err != nil || b.set != "at=a:1" {
		t.Errorf("of a backend that is gone: %s, %v, cookie %q", at, err, b.set)
	}
}
