package integration

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// wrapperLists are the lists of wrappers in which seamless may be, with TLS or without. Caddy refuses a list that begins with tls,
// which is the default.
var wrapperLists = []struct {
	wrappers string
	tls      bool
}{
	{"seamless", false},
	{"proxy_protocol seamless", false},
	{"seamless proxy_protocol", false},
	{"seamless", true},
	{"seamless tls", true},
	{"proxy_protocol seamless tls", true},
	{"proxy_protocol tls seamless", true},
	{"seamless proxy_protocol tls", true},
	{"http_redirect tls seamless", true},
	{"http_redirect seamless tls", true},
	{"seamless http_redirect tls", true},
	{"proxy_protocol http_redirect seamless tls", true},
}

// TestSeamlessWrappers: the other wrappers do with each connection what they are for, and connections outlive configs all the same.
func TestSeamlessWrappers(t *testing.T) {
	certificate, key := selfSigned(t)
	site := freeAddress(t)
	p := &reloaded{name: "seamless", sites: make(map[string]string)}
	var options, sites strings.Builder
	var ways, kept []way
	for i, l := range wrapperLists {
		address, scheme, name, secured := freeAddress(t), "http", fmt.Sprintf("plain %d", i), ""
		if l.tls {
			scheme, name, secured = "https", fmt.Sprintf("tls %d", i), "tls "+certificate+" "+key+"\n"
		}
		p.sites[name] = address
		list := strings.ReplaceAll(strings.Join(strings.Fields(l.wrappers), "\n"), "proxy_protocol", "proxy_protocol {\nallow 127.0.0.0/8\n}")
		fmt.Fprintf(&options, "servers :%s {\nlistener_wrappers {\n%s\n}\n}\n", port(t, address), list)
		fmt.Fprintf(&sites, "%s://%s {\n%sheader X-Config CONFIG\nheader X-Client {http.request.remote.host}\nrespond ok\n}\n", scheme, address, secured)
		kept = append(kept, way{l.wrappers, name, "h1", true, asWhole, 10})
		ways = append(ways, kept[len(kept)-1], way{l.wrappers + ", new connections", name, "h1", false, asWhole, 10})
		if l.tls {
			kept = append(kept, way{l.wrappers + ", h2", name, "h2", true, asWhole, 10})
		}
	}
	p.prepare = func(c *strictClient) {
		c.seen = "127.0.0.1"
		if strings.Contains(c.name, "proxy_protocol") {
			c.seen, c.greeting = "192.0.2.7", "PROXY TCP4 192.0.2.7 127.0.0.1 1234 443\r\n"
		}
		c.size = 2
	}
	p.config = func(n int64) string {
		return "{\nadmin ADMIN_ADDRESS\npersist_config off\nauto_https off\n" + options.String() + "}\nhttp://SITE_ADDRESS {\nrespond ok\n}\n" +
			strings.ReplaceAll(sites.String(), "CONFIG", fmt.Sprint(n))
	}
	p.caddy = startCaddyAt(t, site, p.config(0))
	p.reload = func(n int64) error { return p.caddy.reload(p.config(n)) }
	var clients []*strictClient
	for _, w := range kept {
		waitFor(t, w.name, func() bool { return canConnect(p.sites[w.site]) })
		c := p.client(w)
		defer c.close()
		clients = append(clients, c)
	}
	askAll(t, "before", clients)
	rows, samples := underLoad(t, p, ways, func() {
		for n := range 3 {
			if err := p.next(); err != nil {
				t.Error(err)
			}
			askAll(t, fmt.Sprint("after reload ", n+1), clients)
		}
	})
	judgeLosses(t, rows, samples)
	for _, w := range ways {
		if strings.Contains(w.name, "http_redirect") && !strings.HasSuffix(w.name, "new connections") {
			if status, location := askPlainly(t, p.client(w)); status != http.StatusPermanentRedirect || !strings.HasPrefix(location, "https://") {
				t.Errorf("%s: status %d, Location %q of a request without TLS", w.name, status, location)
			}
		}
	}
}

// askPlainly sends a request without TLS to a site that has it.
func askPlainly(t *testing.T, c *strictClient) (status int, location string) {
	t.Helper()
	conn, err := net.Dial("tcp", c.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(strictPatience))
	_, _ = io.WriteString(conn, c.greeting+"GET / HTTP/1.1\r\nHost: "+c.address+"\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%s: %v", c.name, err)
	}
	res.Body.Close()
	return res.StatusCode, res.Header.Get("Location")
}
