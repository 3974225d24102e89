package convert

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/ballastlb/ballast/command/convert/draft"
	"github.com/ballastlb/ballast/command/convert/haproxy"
	"github.com/ballastlb/ballast/command/convert/nginx"
)

// The programs whose configurations can be converted.
const (
	HAProxy = "haproxy"
	Nginx   = "nginx"
)

// MaxSize is the maximum size of a configuration in bytes.
const MaxSize = 4 << 20

// Result is the result of a conversion.
type Result struct {
	From       string `json:"from"`
	Caddyfile  string `json:"caddyfile"`
	Lines      int    `json:"lines"` // number of lines that have an effect
	Understood int    `json:"understood"`
	Nearly     int    `json:"nearly"` // number of understood lines that are converted with a difference
	Left       []Left `json:"left"`
}

// Left is a line that is not converted, or only in part.
type Left struct {
	Line    int      `json:"line"`
	Text    string   `json:"text"`
	Reasons []string `json:"reasons"`
	Guards  bool     `json:"guards"` // it restricts access
}

// Convert returns a Caddyfile for the text of a configuration. The comments in it name the lines by the file.
func Convert(file, text, from string) (*Result, error) {
	if len(text) > MaxSize {
		return nil, fmt.Errorf("%s: has %d bytes, must have at most %d", file, len(text), MaxSize)
	}
	ledger := &draft.Ledger{File: draft.OneLine(draft.Clean(file))}
	text = draft.Clean(text)
	var body string
	switch from {
	case HAProxy:
		body = haproxy.Convert(text, ledger)
	case Nginx:
		var err error
		if body, err = nginx.Convert(text, ledger); err != nil {
			return nil, fmt.Errorf("%s:%w", file, err)
		}
	default:
		return nil, fmt.Errorf("from %s: must be %s or %s", from, HAProxy, Nginx)
	}
	if len(ledger.Lines) == 0 {
		return nil, fmt.Errorf("%s: has no lines with an effect", file)
	}
	r := &Result{From: from, Lines: len(ledger.Lines), Nearly: len(ledger.Of(draft.Near)), Left: []Left{}}
	for _, line := range ledger.Of(draft.Left) {
		r.Left = append(r.Left, Left{line.Number, line.Text, line.Notes, line.Guards})
	}
	r.Understood = r.Lines - len(r.Left)
	head := new(draft.Writer)
	head.Comment(fmt.Sprintf("Converted from %s: understood %d of %d lines; %d left as comments.", ledger.File, r.Understood, r.Lines, len(r.Left)))
	head.Comment(general[from]...)
	r.Caddyfile = strings.TrimRight(head.String()+body, "\n") + "\n"
	return r, nil
}

// general describes differences that apply to every configuration.
var general = map[string][]string{
	HAProxy: {
		"Everywhere: paths are compared without regard to case; breaker, slow start and hold are on, as docs/faults.md says; X-Forwarded-For,",
		"X-Forwarded-Proto and X-Forwarded-Host are set; a request without a match gets what the last handle says. See docs/migrating.md.",
	},
	Nginx: {
		"Everywhere: paths are compared without regard to case; breaker, slow start and hold are on, as docs/faults.md says; X-Forwarded-For,",
		"X-Forwarded-Proto and X-Forwarded-Host are set; nginx's defaults of 60s and of 1m for bodies are not. See docs/migrating.md.",
	},
}

var (
	haproxyBegins = regexp.MustCompile(`(?m)^(global|defaults|frontend|backend|listen)\b[^;{]*$`)
	nginxOpens    = regexp.MustCompile(`(?m)^\s*(events|http|server|upstream\s+\S+|location\s.*|map\s.*)\s*\{`)
	nginxEnds     = regexp.MustCompile(`(?m);\s*$`)
)

// Detect returns the program that a configuration is for, "" if the text does not show it.
func Detect(text string) string {
	h, n := haproxyBegins.MatchString(text), nginxOpens.MatchString(text)
	switch {
	case h && !n: // a line of haproxy.cfg may end in a semicolon
		return HAProxy
	case !h && (n || nginxEnds.MatchString(text)):
		return Nginx
	}
	return ""
}
