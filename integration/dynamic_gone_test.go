package integration

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// dynamicSources are sources of which each names the backends of the name server, at most 100 ms late.
func (s *nameServer) dynamicSources(port string) map[string]string {
	settings := " {\n refresh 100ms\n resolvers " + s.addr + "\n }\n"
	return map[string]string{
		"a":     "dynamic a app.example.test " + port + settings,
		"srv":   "dynamic srv srv.example.test" + settings,
		"multi": "dynamic multi {\n a app.example.test " + port + settings + "srv srv.example.test" + settings + "}\n",
	}
}

// TestDynamicGone: a name server that says that there is nobody is believed after negative_ttl, and what it says then is, too. What is
// on its way when the list is emptied goes on. reverse_proxy believes it at once, over the same sources.
func TestDynamicGone(t *testing.T) {
	t.Parallel()
	for _, fault := range []fault{noDomain, noData} {
		for _, kind := range []string{"a", "srv", "multi"} {
			t.Run(fmt.Sprint(kind, " ", fault), func(t *testing.T) {
				t.Parallel()
				names := startNameServer(t)
				b := startBackend(t)
				proceed := make(chan struct{})
				b.handle(func(w http.ResponseWriter, r *http.Request) {
					if strings.HasSuffix(r.URL.Path, "/slow") {
						_ = http.NewResponseController(w).Flush()
						<-proceed
					}
					fmt.Fprint(w, b.addr)
				})
				names.set(false, []string{"127.0.0.1"}, []string{port(t, b.addr)})
				source := names.dynamicSources(port(t, b.addr))[kind]
				transport := "transport http {\n resolvers " + names.addr + "\n }\n" // for what SRV records name
				c := startCaddy(t, "load_balancer_ready /ready web\nhandle /stock {\n reverse_proxy {\n "+source+transport+"}\n}\n"+
					"handle {\n load_balancer {\n name web\n negative_ttl 1s\n "+source+transport+"}\n}")
				if got := c.answers(10); got != b.addr {
					t.Fatalf("answers from %s, want %s", got, b.addr)
				}
				r := c.request(http.MethodGet, nil)
				r.URL.Path = "/slow"
				slow, err := client.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				defer slow.Body.Close()

				start := time.Now()
				names.become(fault)
				var control time.Duration
				waitFor(t, "the list to be emptied", func() bool {
					if status, _, _ := c.get("/stock"); status == http.StatusServiceUnavailable && control == 0 {
						control = time.Since(start)
					}
					status, _, _ := c.get("/")
					return status == http.StatusServiceUnavailable
				})
				took := time.Since(start)
				t.Logf("503 after %v, with reverse_proxy after %v", took.Round(10*time.Millisecond), control.Round(10*time.Millisecond))
				if took < time.Second {
					t.Errorf("emptied after %v, want after negative_ttl", took)
				}
				if p := c.pool(); p.State != "down" || p.Usable != 0 || len(p.Backends) != 0 {
					t.Errorf("pool %+v, want one without backends", p)
				}
				if status, _, _ := c.get("/ready"); status != http.StatusServiceUnavailable {
					t.Errorf("ready says %d", status)
				}
				var explained struct {
					Candidates []any `json:"candidates"`
				}
				if status := c.api(http.MethodGet, "/load_balancer/pools/web/explain", &explained); status != http.StatusOK || len(explained.Candidates) != 0 {
					t.Errorf("explain: status %d, %v", status, explained)
				}
				begun := time.Now()
				for range 20 {
					if status, header, _ := c.get("/"); status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" {
						t.Fatalf("status %d, Retry-After %q", status, header.Get("Retry-After"))
					}
				}
				if took := time.Since(begun); took > 2*time.Second {
					t.Errorf("20 answers that there is nobody took %v", took)
				}
				close(proceed)
				if body, err := io.ReadAll(slow.Body); err != nil || string(body) != b.addr {
					t.Errorf("what was on its way ended with %q, %v", body, err)
				}
				if n, want := c.logged("dynamic source has no backends any more"), map[string]int{"multi": 2}[kind]; n != max(want, 1) {
					t.Errorf("logged %d times that there is nobody", n)
				}

				names.become("")
				back := time.Now()
				waitFor(t, "the backend to be back", func() bool {
					status, _, _ := c.get("/")
					return status == http.StatusOK
				})
				t.Logf("200 %v after the name was back", time.Since(back).Round(10*time.Millisecond))
			})
		}
	}
}

// TestDynamicFailing: a name server that does not answer, or not what it was asked, takes nobody away, however little time a name may
// be gone for.
func TestDynamicFailing(t *testing.T) {
	t.Parallel()
	for _, fault := range []fault{servFail, refused, garbage, silence, noDataOf6, noDataSlow} {
		for _, kind := range []string{"a", "srv", "multi"} {
			if kind != "a" && (fault == noDataOf6 || fault == noDataSlow || fault == silence) { // which takes 10 s to be noticed
				continue
			}
			t.Run(fmt.Sprint(kind, " ", fault), func(t *testing.T) {
				t.Parallel()
				names := startNameServer(t)
				b := startBackend(t)
				names.set(false, []string{"127.0.0.1"}, []string{port(t, b.addr)})
				c := startCaddy(t, "load_balancer {\n name web\n negative_ttl 0s\n "+names.dynamicSources(port(t, b.addr))[kind]+
					"transport http {\n resolvers "+names.addr+"\n }\n}")
				if got := c.answers(10); got != b.addr {
					t.Fatalf("answers from %s, want %s", got, b.addr)
				}
				names.become(fault)
				c.waitLogged("failed getting dynamic upstreams")
				if fault != silence {
					before := names.asked()
					waitFor(t, "it to be asked again", func() bool { return names.asked() >= before+8 })
				}
				if got := c.answers(10); got != b.addr {
					t.Errorf("answers from %s, want %s", got, b.addr)
				}
				if n := c.logged("names no backends"); n != 0 {
					t.Errorf("logged %d times that there is nobody", n)
				}
			})
		}
	}
}

// TestDynamicGoneFromTheStart: there is nobody at once when there has never been anybody, and whoever comes is used at once.
func TestDynamicGoneFromTheStart(t *testing.T) {
	t.Parallel()
	names := startNameServer(t)
	names.become(noDomain)
	b, own := startBackend(t), startBackend(t)
	names.set(false, []string{"127.0.0.1"}, nil)
	source := names.dynamicSources(port(t, b.addr))["a"]
	c := startCaddy(t, "handle /with {\n load_balancer "+own.addr+" {\n name with\n "+source+"}\n}\nhandle {\n load_balancer {\n name web\n "+source+"}\n}")
	if got := c.answers(10); got != "503" {
		t.Errorf("answers %s, want 503", got)
	}
	if _, _, body := c.get("/with"); body != own.addr {
		t.Errorf("answer from %s, want the backend of the config to stand in", body)
	}
	names.become("")
	waitFor(t, "the backend to be found", func() bool { return c.answers(3) == b.addr })
	waitFor(t, "the backend to be found where another stands in", func() bool {
		_, _, body := c.get("/with")
		return body == b.addr
	})
	names.become(noDomain)
	c.waitLogged("the last ones are kept")
	// A config that is loaded meanwhile goes on with what the one before had.
	if err := c.reload(siteConfig("respond /other ok\nhandle {\n load_balancer {\n name web\n " + source + "}\n}")); err != nil {
		t.Fatal(err)
	}
	if got := c.answers(10); got != b.addr {
		t.Errorf("after a reload answers %s, want %s", got, b.addr)
	}
}
