package haproxy

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/ballastlb/ballast/command/convert/draft"
)

// whole reads a number.
func whole(text string, least, most int) (int, bool) {
	n, err := strconv.Atoi(text)
	return n, err == nil && n >= least && n <= most
}

var durationText = regexp.MustCompile(`^(\d{1,12})(us|ms|s|m|h|d)?$`)

// duration reads a time, in milliseconds if it has no unit.
func duration(text string) (time.Duration, bool) {
	m := durationText.FindStringSubmatch(text)
	if m == nil {
		return 0, false
	}
	unit := map[string]time.Duration{"us": time.Microsecond, "ms": time.Millisecond, "": time.Millisecond, "s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour}[m[2]]
	n, _ := strconv.ParseInt(m[1], 10, 64)
	if n <= 0 || n > int64(365*24*time.Hour/unit) {
		return 0, false
	}
	return time.Duration(n) * unit, true
}

// written writes a duration without parts that are zero: 1m, not 1m0s.
func written(d time.Duration) string { return draft.Duration(d) }

// size reads a number with an optional unit k, m or g.
func size(text string) (int, bool) {
	factor := 1
	switch {
	case strings.HasSuffix(text, "k"):
		factor = 1 << 10
	case strings.HasSuffix(text, "m"):
		factor = 1 << 20
	}
	n, ok := whole(strings.TrimRight(text, "km"), 1, 1<<24)
	return min(n*factor, 1<<24), ok
}

// samples are expressions that a text may contain, and Caddy's placeholders.
var samples = map[string]string{
	"src": "{remote_host}", "src_port": "{remote_port}", "dst": "{http.request.local.host}", "dst_port": "{http.request.local.port}",
	"path": "{path}", "url": "{uri}", "pathq": "{uri}", "query": "{query}", "method": "{method}", "uuid()": "{http.request.uuid}", "uuid": "{http.request.uuid}",
	"unique-id": "{http.request.uuid}", "ssl_fc_sni": "{http.request.tls.server_name}", "ssl_fc_protocol": "{http.request.tls.version}",
	"ssl_fc_cipher": "{http.request.tls.cipher_suite}", "ssl_c_s_dn": "{http.request.tls.client.subject}", "hostname": "{system.hostname}",
	"capture.req.uri": "{http.request.orig_uri}", "capture.req.method": "{method}", "ssl_fc,iif(https,http)": "{http.request.scheme}",
}

// aliases are the short names of the log format.
var aliases = map[string]string{
	"ci": "{remote_host}", "cp": "{remote_port}", "fi": "{http.request.local.host}", "fp": "{http.request.local.port}",
	"H": "{system.hostname}", "HM": "{method}", "HP": "{path}", "HU": "{uri}", "HQ": "?{query}", "ID": "{http.request.uuid}",
}

var (
	sampleOf  = regexp.MustCompile(`^(req\.hdr|req\.fhdr|hdr|req\.cook|cook|url_param|urlp|env|str|res\.hdr)\(([^(){}]*)\)$`)
	formatted = regexp.MustCompile(`%%|%\{[^}]*\}|%\[[^\[\]]*\]|%[A-Za-z]+|%`)
)

// value translates a text in the log format to one with placeholders.
func value(text string) (string, error) {
	var b strings.Builder
	var wrong error
	end := 0
	for _, at := range formatted.FindAllStringIndex(text, -1) {
		b.WriteString(draft.Plain(text[end:at[0]]))
		found := text[at[0]:at[1]]
		end = at[1]
		switch {
		case found == "%%":
			b.WriteString("%")
			continue
		case strings.HasPrefix(found, "%["):
			placeholder, ok := sampleText(found[2 : len(found)-1])
			if ok {
				b.WriteString(placeholder)
				continue
			}
		default:
			if placeholder, ok := aliases[found[1:]]; ok {
				b.WriteString(placeholder)
				continue
			}
		}
		wrong = fmt.Errorf("%s has no equivalent in Caddy", found)
	}
	b.WriteString(draft.Plain(text[end:]))
	if wrong == nil && !draft.Quotable(b.String()) {
		wrong = fmt.Errorf("the text cannot be written in a Caddyfile")
	}
	if wrong == nil && strings.ContainsAny(text, "\r\n") {
		wrong = fmt.Errorf("the text has more than one line")
	}
	return b.String(), wrong
}

// sampleText returns the placeholder of a sample expression.
func sampleText(expression string) (string, bool) {
	expression = strings.TrimSpace(expression)
	if p, ok := samples[expression]; ok {
		return p, true
	}
	m := sampleOf.FindStringSubmatch(expression)
	if m == nil {
		return "", false
	}
	of := strings.Trim(strings.TrimSpace(m[2]), `"'`)
	if m[1] == "str" {
		return draft.Plain(of), true
	}
	name, _, _ := strings.Cut(of, ",")
	if !headerName.MatchString(name) {
		return "", false
	}
	switch m[1] {
	case "req.hdr", "req.fhdr", "hdr":
		if strings.EqualFold(name, "host") {
			return "{hostport}", true
		}
		return "{header." + name + "}", true
	case "req.cook", "cook":
		return "{cookie." + name + "}", true
	case "url_param", "urlp":
		return "{query." + name + "}", true
	case "env":
		return "{env." + name + "}", true
	}
	return "", false
}

var headerName = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
