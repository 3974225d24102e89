//go:build trust

package integration

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// headerScenarios are about the fields of messages.
func headerScenarios() []scenario {
	const names = "http-rules/restrict_req_hdr_names.vtc"
	const composite = "http-rules/h1or2_to_h1c.vtc"
	ok := textAnswer("ok")
	// with is a scenario of a site with these settings, and a request with these fields.
	with := func(file, name, before, settings, path string, fields []string, want func(w wired) error) scenario {
		return scenario{name, file, func(s *scene) error {
			w := wired{s: s, far: s.backend(says(ok))}
			c := s.start(before + "\nPROXY " + w.far.addr + " {\n" + settings + "\n}")
			w.near = s.dial(c)
			w.nearAnswer, w.err = w.near.ask(request("GET "+path, fields...))
			return errors.Join(w.err, want(w))
		}}
	}
	const trusted = "trusted_proxies 127.0.0.0/8"
	odd := "HTTP/1.1 234 Some\r\nhdr1: val1\r\nhdr2:  val2a\r\nhdr2:    val2b\r\nhdr3:      val3a, val3b\r\nhdr4:\r\nContent-Length: 14\r\n\r\nThis is a body"
	return []scenario{
		with(names, "a name with an underscore is dropped", "", "", "/", []string{"X-my_hdr: on"}, field("X-my_hdr", "")),
		with(names, "names with many of them are dropped, others stay", "", "", "/", []string{"X_my_hdr-1: on", "X-my-hdr-2: on"}, func(w wired) error {
			return errors.Join(field("X_my_hdr-1", "")(w), field("X-my-hdr-2", "on")(w))
		}),
		with(names, "a name that ends in one is dropped", "", "", "/", []string{"X-my-hdr-with-trailing-underscore_: on"}, field("X-my-hdr-with-trailing-underscore_", "")),
		with("http-rules/ifnone-forwardfor.vtc", "the backend is told the client's address", "", "", "/", nil, field("X-Forwarded-For", "127.0.0.1")),
		with("http-rules/ifnone-forwardfor.vtc", "what a client says of itself does not count", "", "", "/", []string{"X-Forwarded-For: 10.0.0.128"}, field("X-Forwarded-For", "127.0.0.1")),
		with("http-rules/except-forwardfor-originalto.vtc", "what a proxy in front says does", "", trusted, "/", []string{"X-Forwarded-For: 10.0.0.128"}, field("X-Forwarded-For", "10.0.0.128, 127.0.0.1")),
		with("http-rules/forwarded-header-7239.vtc", "RFC 7239's field can be made", "", "header_up Forwarded \"proto={scheme};host={host};for={client_ip}\"", "/", nil,
			field("Forwarded", "proto=http;host=hostname;for=127.0.0.1")),
		with("http-rules/del_header.vtc", "fields can be taken away, set and added", "", "header_up -X-Away\n header_up X-Set new\n header_up +X-Add two", "/",
			[]string{"X-Away: 1", "X-Set: old", "X-Add: one"}, func(w wired) error {
				return errors.Join(field("X-Away", "")(w), field("X-Set", "new")(w), field("X-Add", "one|two")(w))
			}),
		with("http-rules/del_header.vtc", "fields can be taken away by how they begin", "", "header_up -X-Away-*", "/", []string{"X-Away-1: 1", "X-Away-2: 1", "X-Stays: 1"}, func(w wired) error {
			return errors.Join(field("X-Away-1", "")(w), field("X-Away-2", "")(w), field("X-Stays", "1")(w))
		}),
		with("http-rules/path_and_pathq.vtc", "a path is rewritten, and what it was is known", "rewrite * /regtest/foo/fe{path}/bar?{query}",
			"header_up X-Path {http.request.orig_uri.path}\n header_up X-Query {http.request.orig_uri.query}", "/req1?param1=val1&param2=val2", nil, func(w wired) error {
				r, err := w.far.only()
				if err == nil && r.target() != "/regtest/foo/fe/req1/bar?param1=val1&param2=val2" {
					err = fmt.Errorf("the backend got %s", r.target())
				}
				return errors.Join(err, field("X-Path", "/req1")(w), field("X-Query", "param1=val1&param2=val2")(w))
			}),
		with("stream/unique-id.vtc", "a request has one name, at both ends", "header X-Id {http.request.uuid}", "header_up X-Id {http.request.uuid}", "/", nil, func(w wired) error {
			r, err := w.far.only()
			if err == nil && (w.header.Get("X-Id") == "" || r.field("X-Id") != w.header.Get("X-Id")) {
				err = fmt.Errorf("it is %q and %q", r.field("X-Id"), w.header.Get("X-Id"))
			}
			return err
		}),
		{"an answer's fields arrive as they are", composite, func(s *scene) error {
			f := s.backend(says(odd))
			a, err := s.askPath(s.start("PROXY "+f.addr), "/")
			return errors.Join(err, oddArrives(a))
		}},
		{"an answer's fields arrive as they are over HTTP/2", composite, func(s *scene) error {
			f := s.backend(says(odd))
			found, err := s.askHTTP2(s.start("PROXY "+f.addr), http2Request("GET", "/"), false)
			return errors.Join(err, oddArrives(found.nearAnswer))
		}},
		{"an answer's fields can be set", "http-rules/http_after_response.vtc", func(s *scene) error {
			f := s.backend(says("HTTP/1.1 200 OK\r\nServer: s1\r\nX-Away: 1\r\nContent-Length: 2\r\n\r\nok"))
			a, err := s.askPath(s.start("PROXY "+f.addr+" {\n header_down Server be/s1\n header_down -X-Away\n header_down +X-More yes\n}"), "/")
			if err == nil && (a.header.Get("Server") != "be/s1" || a.header.Get("X-Away") != "" || a.header.Get("X-More") != "yes") {
				err = fmt.Errorf("the fields are %v", a.header)
			}
			return errors.Join(err, a.wants(http.StatusOK, "ok"))
		}},
	}
}

// oddArrives looks at the fields of an answer with some that are repeated, listed and empty.
func oddArrives(a nearAnswer) error {
	for name, want := range map[string][]string{"Hdr1": {"val1"}, "Hdr2": {"val2a", "val2b"}, "Hdr3": {"val3a, val3b"}, "Hdr4": {""}} {
		got := a.header[name]
		if got == nil {
			got = a.header[strings.ToLower(name)]
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("%s is %q", name, got)
		}
	}
	return a.wants(234, "This is a body")
}
