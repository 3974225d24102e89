package lbmodule

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/ballastlb/ballast/lbmodule/app"
)

func init() { caddy.RegisterModule(new(mute)) }

// mute is a transport whose backends never answer.
type mute struct{}

// CaddyModule returns the Caddy module information.
func (*mute) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.reverse_proxy.transport.mute", New: func() caddy.Module { return new(mute) }}
}

func (*mute) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// settled reports whether a is settled now.
func settled(a *app.App) bool {
	select {
	case <-a.Settled():
		return true
	default:
		return false
	}
}

// A config is settled when it has started, also if it has no load balancer, and not before.
func TestSettledAfterStart(t *testing.T) {
	for name, settings := range map[string]string{
		"no load balancer": "",
		"no check":         `{"upstreams": [{"dial": "a:1"}]}`,
		"initially up":     `{"upstreams": [{"dial": "a:1"}], "transport": {"protocol": "mute"}, "health_check": {"initial": "up"}}`,
		"a source":         `{"dynamic_upstreams": {"source": "multi", "sources": []}, "health_check": {}}`,
		"source by request": `{"dynamic_upstreams": {"source": "a", "name": "{http.request.host}"}, "transport": {"protocol": "mute"},
			"health_check": {}}`,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newQuietConfig(t)
				if settings != "" {
					c.mustLoad(settings)
				}
				a := c.app()
				time.Sleep(time.Hour)
				if settled(a) {
					t.Error("it is settled before it has started")
				}
				c.start()
				synctest.Wait()
				if !settled(a) {
					t.Error("it is not settled")
				}
			})
		})
	}
}

// No check, whatever its timeout, and nothing else keeps a start for longer than ten seconds.
func TestSettledIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newQuietConfig(t)
		c.mustLoad(`{"upstreams": [{"dial": "a:1"}, {"dial": "b:1"}], "transport": {"protocol": "mute"}, "health_check": {"interval": "1h", "timeout": "10m"}}`)
		c.start()
		begun := time.Now()
		time.Sleep(10*time.Second - 1)
		if settled(c.app()) {
			t.Error("it is settled, though nobody has answered")
		}
		<-c.app().Settled()
		if took := time.Since(begun); took != 10*time.Second {
			t.Errorf("settled after %v, want 10 s", took)
		}
		c.cancel()
	})
}

// Who waits for a config that ends is let go.
func TestSettledAtTheEnd(t *testing.T) {
	const settings = `{"upstreams": [{"dial": "a:1"}], "transport": {"protocol": "mute"}, "health_check": {"interval": "1h", "timeout": "10m"}}`
	t.Run("stopped", func(t *testing.T) {
		c := newConfig(t)
		c.mustLoad(settings)
		c.start()
		if settled(c.app()) {
			t.Error("it is settled, though nobody has answered")
		}
		if err := c.app().Stop(); err != nil {
			t.Fatal(err)
		}
		if !settled(c.app()) {
			t.Error("it is not settled after its end")
		}
		if strings.Contains(c.logged(), "not all backends are checked") {
			t.Error("a config that ended is said to serve")
		}
	})
	t.Run("never started", func(t *testing.T) {
		c := newConfig(t)
		c.mustLoad(settings)
		a := c.app()
		c.cancel()
		if !settled(a) {
			t.Error("it is not settled after its end")
		}
	})
}
