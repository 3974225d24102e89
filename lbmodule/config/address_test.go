package config

import (
	"strings"
	"testing"
)

// An address that can be none is refused, and what any host may be called is not.
func TestAddresses(t *testing.T) {
	for _, address := range []string{
		"a:1", "my_app:80", "my-app.example.:80", "3scale:80", "8080:80", "10.1:80", ":8080", "[::1]:80", "[fe80::1%eth0]:80", "bücher.example:80",
		"tcp4/a:1", "unix//run/a=b;c.sock", "unix+h2c//run/a.sock", "unix/@abstract", "unix/relative.sock", "plugin5/a:1", "{http.request.host}:80", "{env.A}=", "a~b:1", "a+b:1",
	} {
		if err := ValidateAddress(address); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
	for address, want := range map[string]string{
		"weight=3:80":                    `without '='`,
		"127.0.0.1:8080;:80":             "must be",
		"a;b:80":                         `without ';'`,
		"a,b:80":                         `without ','`,
		"a b:80":                         `without ' '`,
		" a:80":                          `without ' '`,
		"a\x00b:80":                      `without '\x00'`,
		"20%:80":                         `without '%'`,
		"@api:80":                        `without '@'`,
		"$HOST:80":                       `without '$'`,
		"*.example.com:80":               `without '*'`,
		`"a":80`:                         `without '"'`,
		"[127.0.0.1:80 127.0.0.1:81]:80": "must be one host and one port",
		"[]]:80":                         "must be",
		"127.0.0.1:8080/api:80":          "without a scheme or a path",
		"example.com/api:80":             "without a scheme or a path",
		"http://a:1":                     "without a scheme or a path",
		"https://10.0.0.1:443":           "without a scheme or a path",
		"256.0.0.1:80":                   "with parts from 0 to 255",
		"a":                              "must have a port",
		"a:0":                            "must have a port",
		"-x:80":                          "must not begin with '-'",
		"tcp5/a:80":                      "must be at tcp, tcp4 or tcp6",
		"unix/":                          "must be the path of a socket",
		"unix//":                         "must be the path of a socket",
		"unix//run/":                     "must be the path of a socket",
		"a:1-3":                          "must be one socket",
		"a:99999":                        "must be a network address",
		"a\xff:1":                        "must be UTF-8",
	} {
		if err := ValidateAddress(address); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want an error with %q", address, err, want)
		}
	}
}
