//go:build trust

package integration

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// targetScenarios are about what is asked for, and of which host.
func targetScenarios() []scenario {
	const targets = "http-messaging/h1_request_target_validation.vtc"
	const hosts = "http-messaging/h1_host_normalization.vtc"
	const fragment = "http-messaging/h1_authority_fragment_char.vtc"
	ok := textAnswer("ok")
	// line is a request with that line, and these fields alone.
	line := func(line string, fields ...string) string {
		return line + " HTTP/1.1\r\nUser-Agent: vtc\r\nConnection: close\r\n" + strings.Join(fields, "\r\n") + "\r\n\r\n"
	}
	answered := func(w wired) error { return errors.Join(w.err, w.wants(http.StatusOK, w.body)) }
	// hostIs wants the request to arrive for that host.
	hostIs := func(hosts ...string) func(w wired) error {
		return func(w wired) error {
			r, err := w.far.only()
			if err := errors.Join(w.err, err); err != nil {
				return err
			}
			for _, host := range hosts {
				if r.field("Host") == host && !strings.Contains(r.target(), "@") {
					return w.wants(http.StatusOK, "ok")
				}
			}
			return fmt.Errorf("the backend got %q", r.head)
		}
	}
	return []scenario{
		wire(targets, "OPTIONS *", line("OPTIONS *", "Host: hostname"), ok, answered),
		wire(targets, "OPTIONS /", line("OPTIONS /", "Host: hostname"), ok, answered),
		wire(targets, "OPTIONS of a whole URL", line("OPTIONS http://hostname", "Host: hostname"), ok, answered),
		wire(targets, "OPTIONS */test", line("OPTIONS */test", "Host: hostname"), ok, refusedWith(400)),
		wire(targets, "GET *", line("GET *", "Host: hostname"), ok, refusedWith(400)),
		wire(targets, "CONNECT without a port", line("CONNECT hostname", "Host: hostname"), ok, refusedWith(400)),
		wire(targets, "CONNECT of a path", line("CONNECT /", "Host: hostname"), ok, refusedWith(400)),
		wire(targets, "CONNECT of a URL", line("CONNECT http://hostname:80", "Host: hostname"), ok, refusedWith(400)),
		wire(targets, "GET of an authority", line("GET hostname:80", "Host: hostname"), ok, refusedWith(400)),
		wire(targets, "GET of a word", line("GET admin", "Host: hostname"), ok, refusedWith(400)),

		wire(hosts, "what is before the host of a URL is no part of it", line("GET http://toto:poue@hostname:80/c1", "Host: hostname:80"), ok, hostIs("hostname", "hostname:80")),
		wire(hosts, "a port that is not the default one is kept", line("GET http://hostname:8080/c2", "Host: hostname:8080"), ok, hostIs("hostname:8080")),
		wire(hosts, "a URL of one host, a field of another", line("GET http://hostname1/", "Host: hostname2"), ok, refusedWith(400)),
		wire(hosts, "a URL of one port, a field of another", line("GET http://hostname:80/", "Host: hostname:81"), ok, refusedWith(400)),
		wire(hosts, "two fields that differ", line("GET http://hostname1/", "Host: hostname1", "Host: hostname2"), ok, refusedWith(400)),
		wire(hosts, "two fields that differ by a default port", line("GET http://hostname1/", "Host: hostname1:80", "Host: hostname1"), ok, refusedWith(400)),
		wire(hosts, "CONNECT with an empty port", line("CONNECT hostname:", "Host: hostname"), ok, refusedWith(400)),
		wire(hosts, "CONNECT of one host, a field of another", line("CONNECT hostname1:80", "Host: hostname2:80"), ok, refusedWith(400)),
		wire(hosts, "a URL without a host", line("GET http:///", "Host: hostname"), ok, func(w wired) error {
			if w.status == http.StatusBadRequest {
				return refusedWith(http.StatusBadRequest)(w)
			}
			return hostIs("hostname")(w)
		}),
		wire(hosts, "a query without a path", line("GET http://hostname?a=b", "Host: hostname"), ok, func(w wired) error {
			r, _ := w.far.only()
			if r.target() != "/?a=b" && r.target() != "?a=b" {
				return fmt.Errorf("the backend got %q", r.head)
			}
			return hostIs("hostname")(w)
		}),

		wire(fragment, "a fragment behind the host is no part of it", line("GET http://hostname#frag", "Host: hostname"), ok, func(w wired) error {
			if w.status == http.StatusBadRequest {
				return refusedWith(http.StatusBadRequest)(w)
			}
			return hostIs("hostname")(w)
		}),
		wire(fragment, "a raw # is not sent on as it is", line("GET http://hostname/abc#frag", "Host: hostname"), ok, func(w wired) error {
			if w.status == http.StatusBadRequest {
				return refusedWith(http.StatusBadRequest)(w)
			}
			r, _ := w.far.only()
			if strings.Contains(r.target(), "#") {
				return fmt.Errorf("the backend got %q", r.head)
			}
			return hostIs("hostname")(w)
		}),
	}
}
