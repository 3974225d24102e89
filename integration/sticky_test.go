package integration

import (
	"net/http"
	"net/http/cookiejar"
	"testing"
)

// TestSticky: a browser stays at its backend, also over a reload, until that is gone; then it stays at another one.
func TestSticky(t *testing.T) {
	backends, addresses := startBackends(t, 3)
	site := "load_balancer " + addresses + " {\n name p\n lb_policy sticky {\n secret {env.STICKY_SECRET}\n }\n}"
	t.Setenv("STICKY_SECRET", "s3cret")
	c := startCaddy(t, site)
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Jar: jar, Transport: client.Transport}
	get := func() string {
		t.Helper()
		res, err := browser.Get(c.url("/"))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Fatalf("status %d", res.StatusCode)
		}
		return res.Header.Get("X-Backend")
	}
	stays := func(at string) {
		t.Helper()
		for range 20 {
			if got := get(); got != at {
				t.Fatalf("answered by %s, want %s", got, at)
			}
		}
	}
	first := get()
	stays(first)
	if err := c.reload(siteConfig(site + "\nheader X-Reloaded yes")); err != nil {
		t.Fatal(err)
	}
	stays(first)
	// While it drains its sessions stay, and nobody else comes.
	c.edit("PATCH", first, `{"state": "drain"}`).wants(t, http.StatusOK)
	stays(first)
	for range 20 {
		if _, header, _ := c.get("/"); header.Get("X-Backend") == first {
			t.Fatal("a backend that drains got a new session")
		}
	}
	c.edit("PATCH", first, `{"state": "ready"}`).wants(t, http.StatusOK)
	for _, b := range backends {
		if b.addr == first {
			b.kill()
		}
	}
	second := get()
	if second == first {
		t.Fatalf("answered by %s, which is gone", second)
	}
	stays(second)
}
