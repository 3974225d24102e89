package integration

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestExpressBehindProxies: a request that a trusted proxy forwards is its client's, in the express lane as in Caddy: in the log, for limits,
// and for what backends are told.
func TestExpressBehindProxies(t *testing.T) {
	t.Parallel()
	for options, clients := range map[string][]string{ // of requests forwarded for 192.0.2.1, 198.51.100.2 and others
		"":                                   {"127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.1"},
		"trusted_proxies static 10.0.0.0/8":  {"127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.1"},
		"trusted_proxies static 127.0.0.0/8": {"192.0.2.1", "2001:db8::1", "127.0.0.1", "192.0.2.1"},
		"trusted_proxies static 127.0.0.0/8 198.51.100.0/24\n trusted_proxies_strict":     {"192.0.2.1", "203.0.113.3", "127.0.0.1", "203.0.113.3"},
		"trusted_proxies static 127.0.0.0/8\n client_ip_headers X-Client X-Forwarded-For": {"192.0.2.1", "2001:db8::1", "127.0.0.1", "203.0.113.9"},
	} {
		t.Run(options, func(t *testing.T) {
			t.Parallel()
			b := startBackend(t)
			b.handle(func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprintf(w, "%q %q %q %q", r.Header["X-Forwarded-For"], r.Header["X-Forwarded-Proto"], r.Header["X-Forwarded-Host"], r.Header["X-Who"])
			})
			logs := t.TempDir()
			o := startOnSides(t, options, func(i int, on side) string {
				limit := "ip_rate_limit {\n zone " + on.name + "\n rate 2/h\n burst 2\n }\n"
				if i == right {
					limit = ""
				}
				return fmt.Sprintf("log {\n output file %s/%d\n format json\n}\nhandle /edited {\n %s %s {\n header_up X-Who {client_ip}\n }\n}\nhandle {\n route {\n %s %s %s\n }\n}", logs, i, on.directive, b.addr, limit, on.directive, b.addr)
			})
			requests := [][]string{
				{"X-Forwarded-For: 192.0.2.1, 198.51.100.2", "X-Forwarded-Proto: https"},
				{"X-Forwarded-For: [2001:db8::1]:80", "X-Forwarded-For: 203.0.113.3", "X-Forwarded-Host: a.test", "X-Forwarded-Host: b.test"},
				{"X-Forwarded-For: nobody", "X-Forwarded-Host:"},
				{"X-Forwarded-For: 192.0.2.1", "X-Forwarded-For: 203.0.113.3", "X-Client: 203.0.113.9"},
			}
			var got [len(sides)][]string
			for i := range sides {
				conn, err := net.Dial("tcp", o.sites[i])
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(differentialPatience))
				br := bufio.NewReader(conn)
				for n := range 2 * len(requests) {
					fields := requests[n/2]
					fmt.Fprintf(conn, "GET /%s HTTP/1.1\r\nHost: site.test\r\n%s\r\n\r\n", []string{"", "edited"}[n%2], strings.Join(fields, "\r\n"))
					res, err := http.ReadResponse(br, nil)
					if err != nil {
						t.Fatal(err)
					}
					text, err := io.ReadAll(res.Body)
					if err != nil {
						t.Fatal(err)
					}
					got[i] = append(got[i], fmt.Sprint(res.StatusCode, " ", string(text)))
				}
			}
			seen := map[string]int{}
			for n, client := range clients {
				if seen[client]++; seen[client] > 2 {
					got[right][2*n] = "429 " // it has no limit
				}
			}
			var each []string // two requests
			for _, client := range clients {
				each = append(each, client, client)
			}
			for i, on := range sides {
				if !slices.Equal(got[i], got[right]) {
					t.Errorf("%s: answers %q, want %q", on, got[i], got[right])
				}
				var ips []string
				waitFor(t, "the requests in the log", func() bool {
					ips = clientsLogged(filepath.Join(logs, fmt.Sprint(i)))
					return len(ips) >= len(each)
				})
				if !slices.Equal(ips, each) {
					t.Errorf("%s: clients %q, want %q", on, ips, each)
				}
			}
			if l := o.laneOf(t, 1); int(l.Served) != len(each) || len(l.HandedOver) > 0 {
				t.Errorf("the lane: %+v", l)
			}
		})
	}
}

// clientsLogged are the clients of requests in an access log.
func clientsLogged(name string) (ips []string) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		var l struct {
			Request struct {
				ClientIP string `json:"client_ip"`
			}
		}
		if json.Unmarshal([]byte(line), &l) == nil {
			ips = append(ips, l.Request.ClientIP)
		}
	}
	return ips
}

// TestExpressStrictNames: where the host must be the name of the TLS handshake, another host is refused as by Caddy, and the right one is
// served by the lane.
func TestExpressStrictNames(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	certificate, key := selfSigned(t)
	var sites [len(sides)]string
	var global, servers strings.Builder
	for i, on := range sides {
		sites[i] = freeAddress(t)
		fmt.Fprintf(&global, "servers %s {\n protocols h1\n strict_sni_host on\n %s\n}\n", sites[i], on.wrappers)
		fmt.Fprintf(&servers, "https://:%s {\n bind 127.0.0.1\n tls %s %s\n %s %s\n}\n", port(t, sites[i]), certificate, key, on.directive, b.addr)
	}
	o := &onSides{sites: sites, caddy: startCaddyConfig(t, "{\n admin ADMIN_ADDRESS\n persist_config off\n auto_https disable_redirects\n"+global.String()+"}\nhttp://SITE_ADDRESS {\n respond ok\n}\n"+servers.String())}
	hosts := []string{"a.test", "A.Test:443", "b.test", "a.test.", "127.0.0.1"}
	want := []int{http.StatusOK, http.StatusOK, http.StatusMisdirectedRequest, http.StatusMisdirectedRequest, http.StatusMisdirectedRequest}
	for i, on := range sides {
		for n, host := range hosts {
			conn, err := tls.Dial("tcp", sites[i], &tls.Config{InsecureSkipVerify: true, ServerName: "a.test"})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(differentialPatience))
			fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", host)
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if res.Body.Close(); res.StatusCode != want[n] {
				t.Errorf("%s: %s: %d, want %d", on, host, res.StatusCode, want[n])
			}
		}
	}
	if l := o.laneOf(t, 1); l.Served != 2 || l.HandedOver["strict_sni_host"] != 3 {
		t.Errorf("the lane: %+v", l)
	}
}

// TestExpressConnectionTimes: connections are closed when no request comes, or none to its end, at the time at which Caddy closes them.
func TestExpressConnectionTimes(t *testing.T) {
	t.Parallel()
	const limit = time.Second
	b := startBackend(t)
	get := "GET / HTTP/1.1\r\nHost: site.test\r\n"
	for _, c := range []struct {
		name, timeouts string
		whole          int    // requests
		begun          string // what is sent of the next
		closes         bool
	}{
		{"idle", "idle 1s", 1, "", true},
		{"idle for ever", "idle -1s\n read_header 1s\n read_body 1s", 2, "", false},
		{"idle as read_header does not count", "idle 1m\n read_header 1s", 1, "", false},
		{"first head", "read_header 1s\n idle 1m", 0, get, true},
		{"later head", "read_header 1s\n idle 1m", 2, get, true},
		{"head for ever", "read_header -1s\n idle 1s", 1, get, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o := startOnSides(t, "timeouts {\n "+c.timeouts+"\n }", func(_ int, on side) string { return on.directive + " " + b.addr })
			for i, on := range sides {
				t.Run(on.name, func(t *testing.T) {
					t.Parallel()
					conn, err := net.Dial("tcp", o.sites[i])
					if err != nil {
						t.Fatal(err)
					}
					defer conn.Close()
					br := bufio.NewReader(conn)
					answer := func() error {
						_ = conn.SetReadDeadline(time.Now().Add(differentialPatience))
						res, err := http.ReadResponse(br, nil)
						if err == nil {
							_, err = discard(res.Body)
						}
						return err
					}
					for range c.whole {
						io.WriteString(conn, get+"\r\n")
						if err := answer(); err != nil {
							t.Fatal(err)
						}
					}
					start := time.Now()
					io.WriteString(conn, c.begun)
					_ = conn.SetReadDeadline(start.Add(2 * limit))
					if c.closes {
						_ = conn.SetReadDeadline(start.Add(differentialPatience))
					}
					_, err = br.ReadByte()
					took := time.Since(start)
					if !c.closes {
						if e := net.Error(nil); !errors.As(err, &e) || !e.Timeout() {
							t.Fatalf("after %v: %v", took, err)
						}
						if c.begun == "" {
							io.WriteString(conn, get)
						}
						io.WriteString(conn, "\r\n")
						if err := answer(); err != nil {
							t.Errorf("a later request: %v", err)
						}
						return
					}
					// The times are to the second; on a busy machine it is noticed late.
					if err == nil || took < limit*9/10 || took > 10*limit {
						t.Errorf("%v after %v, want the end after %v", err, took, limit)
					}
				})
			}
			t.Cleanup(func() {
				served := c.whole
				if !c.closes {
					served++
				}
				if l := o.laneOf(t, 1); int(l.Served) != served || len(l.HandedOver) > 0 {
					t.Errorf("the lane: %+v, want %d requests", l, served)
				}
			})
		})
	}
}

// TestExpressHeadSizes: a head is refused at the size at which Caddy refuses it.
func TestExpressHeadSizes(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	o := startOnSides(t, "max_header_size 8KB", func(_ int, on side) string { return on.directive + " " + b.addr })
	for size, want := range map[int]int{2000: http.StatusOK, 6000: http.StatusOK, 7900: http.StatusOK, 11_000: http.StatusOK, 20_000: http.StatusRequestHeaderFieldsTooLarge} {
		for i, on := range sides {
			conn, err := net.Dial("tcp", o.sites[i])
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(differentialPatience))
			fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: site.test\r\nX-Large: %s\r\n\r\n", strings.Repeat("x", size))
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if res.Body.Close(); res.StatusCode != want {
				t.Errorf("%s: a head of %d bytes: %d, want %d", on, size, res.StatusCode, want)
			}
		}
	}
	if l := o.laneOf(t, 1); l.Served != 3 || l.HandedOver["too_long"] != 2 {
		t.Errorf("the lane: %+v", l)
	}
}
