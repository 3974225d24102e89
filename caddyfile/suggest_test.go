package caddyfile

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The words that are suggested are those that reverse_proxy's parser has, as its source says.
func TestStockWords(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/caddyserver/caddy/v2").Output()
	if err != nil {
		t.Fatalf("finding Caddy's source: %v", err)
	}
	source, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "modules", "caddyhttp", "reverseproxy", "caddyfile.go"))
	if err != nil {
		t.Fatal(err)
	}
	for parser, words := range map[string][]string{
		"func (h *Handler) UnmarshalCaddyfile":       stockWords,
		"func (h *HTTPTransport) UnmarshalCaddyfile": stockTransportWords,
	} {
		_, body, _ := strings.Cut(string(source), parser)
		body, _, found := strings.Cut(body, "\n}\n")
		if !found {
			t.Fatalf("no %s in Caddy's source", parser)
		}
		var want []string
		// The words of the outer switch, and not the values that inner ones look at.
		for _, line := range regexp.MustCompile(`(?m)^\t\tcase (".*"):$`).FindAllStringSubmatch(body, -1) {
			for _, word := range strings.Split(line[1], ", ") {
				want = append(want, strings.Trim(word, `"`))
			}
		}
		got := slices.DeleteFunc(slices.Sorted(slices.Values(words)), func(w string) bool { return slices.Contains(want, w) })
		missing := slices.DeleteFunc(want, func(w string) bool { return slices.Contains(words, w) || slices.Contains(schemes, w) })
		if len(want) < 20 || len(got) > 0 || len(missing) > 0 {
			t.Errorf("%s has %d words; %v are too many here, %v are missing", parser, len(want), got, missing)
		}
	}
}

// schemes are cases of the switch over the scheme of an address, which stands as deep.
var schemes = []string{"wss", "ws", "https", "http", "h2c", ""}

// docs/options.md lists every option that the parsers take, in its block, but for those of reverse_proxy.
func TestDocumentedWords(t *testing.T) {
	text, err := os.ReadFile("../docs/options.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| (?:`([a-z_]+)`)? ?\\| (.*?[^\\\\]) \\|").FindAllStringSubmatch(string(text), -1) {
		for _, option := range regexp.MustCompile("`([a-z0-9_]+)").FindAllStringSubmatch(row[2], -1) {
			listed[strings.TrimSpace(row[1]+" "+option[1])] = true
		}
	}
	checked := 0
	for _, family := range families {
		for block, words := range family {
			for _, word := range words {
				if block == "load_balancer" && slices.Contains(stockWords, word) || block == "transport http" {
					continue
				}
				checked++
				if block != "load_balancer" {
					word = block + " " + word
				}
				if !listed[word] {
					t.Errorf("docs/options.md does not list %s", word)
				}
			}
		}
	}
	if checked < 60 {
		t.Errorf("%d words; this test does not see them", checked)
	}
}
