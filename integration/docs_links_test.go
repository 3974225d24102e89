package integration

import (
	"cmp"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

var (
	headings   = regexp.MustCompile(`(?m)^#+ (.*)$`)
	links      = regexp.MustCompile(`\]\(([^)]+)\)`)
	inlineCode = regexp.MustCompile("`[^`\n]*`")
)

// anchors returns what a link to a heading of that page may end in, as GitHub makes it up.
func anchors(text string) []string {
	var found []string
	for _, heading := range headings.FindAllStringSubmatch(text, -1) {
		anchor := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, heading[1])
		for i, first := 1, anchor; slices.Contains(found, anchor); i++ {
			anchor = first + "-" + strconv.Itoa(i)
		}
		found = append(found, anchor)
	}
	return found
}

// TestDocsLinks: what a page links to in the tree is there, the heading too; and README.md links to all pages.
func TestDocsLinks(t *testing.T) {
	_, texts := snippets(t)
	linked := map[string]bool{"README.md": true}
	for page, text := range texts {
		for _, link := range links.FindAllStringSubmatch(inlineCode.ReplaceAllString(text, ""), -1) {
			to, err := url.Parse(link[1])
			if err != nil {
				t.Errorf("%s: %v", page, err)
				continue
			}
			if to.Scheme != "" {
				continue
			}
			target := page
			if to.Path != "" {
				target = path.Join(path.Dir(page), to.Path)
			}
			if page == "README.md" {
				linked[target] = true
			}
			if _, err := os.Stat(filepath.Join("..", target)); err != nil {
				t.Errorf("%s links to %s: %v", page, link[1], err)
			} else if to.Fragment != "" && !slices.Contains(anchors(texts[target]), to.Fragment) {
				t.Errorf("%s links to %s: there is no such heading, but %v", page, link[1], anchors(texts[target]))
			}
		}
	}
	for page := range texts {
		if !linked[page] {
			t.Errorf("README.md does not link to %s", page)
		}
	}
}

// TestDocsNames: the targets of make, the programs and the tests that the pages name are there.
func TestDocsNames(t *testing.T) {
	makefile := read(t, "../Makefile")
	named := 0
	for page, text := range pages(t) {
		for _, match := range regexp.MustCompile("make ([a-z]+)[`\n ]").FindAllStringSubmatch(strings.Join(codes(text), "\n")+"\n", -1) {
			if named++; !strings.Contains(makefile, "\n"+match[1]+":") {
				t.Errorf("%s: make %s: there is no such target", page, match[1])
			}
		}
		for _, match := range regexp.MustCompile(`go (?:run|test) (-C [a-z]+|\./[a-z/]+)(?: -run '?([A-Za-z|]+))?`).FindAllStringSubmatch(text, -1) {
			named++
			folder := filepath.Join("..", strings.TrimPrefix(match[1], "-C "))
			if _, err := os.Stat(folder); err != nil {
				t.Errorf("%s: %s: %v", page, match[0], err)
			}
			tests := testsIn(t, folder)
			for name := range strings.SplitSeq(match[2], "|") {
				if !strings.Contains(tests, "\nfunc "+name) && match[2] != "" {
					t.Errorf("%s: %s: there is no test %s", page, match[0], name)
				}
			}
		}
	}
	if named < 10 {
		t.Errorf("%d names; this test does not see them", named)
	}
}

// testsIn returns the text of the tests in a folder.
func testsIn(t *testing.T, folder string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, file := range files {
		text.WriteString(read(t, file))
	}
	return text.String()
}

// codes returns what is code in that page, in lines and in blocks.
func codes(text string) []string {
	blocks := regexp.MustCompile("(?s)```.*?```")
	return append(blocks.FindAllString(text, -1), inlineCode.FindAllString(blocks.ReplaceAllString(text, ""), -1)...)
}

// option is a row of a table of options: where it is set, how it is written, and its default.
type option struct{ in, written, standard string }

// TestDocsOptions: docs/options.md has all options that the other pages explain, with the same defaults, and says where.
func TestDocsOptions(t *testing.T) {
	explained, short := map[option]string{}, map[option]string{} // on which page
	for page, text := range pages(t) {
		in, isShort := "", false // which table it is
		for line := range strings.Lines(text) {
			cells := strings.Split(strings.ReplaceAll(strings.TrimSpace(line), `\|`, "\x00"), "|")
			if len(cells) < 4 {
				in, isShort = "", false
				continue
			}
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			switch head, begins := strings.CutPrefix(cells[1], "in "); {
			case begins && cells[2] == "default":
				in = head
			case cells[1] == "in" && cells[2] == "option":
				isShort = true
			case strings.HasPrefix(cells[1], "---"):
			case in != "":
				o := option{in, cells[1], cells[2]}
				if before := explained[o]; before != "" {
					t.Errorf("%s and %s explain %+v", before, page, o)
				}
				explained[o] = page
			case isShort:
				_, to, _ := strings.Cut(strings.TrimSuffix(cells[5], ")"), "](")
				short[option{cmp.Or(cells[1], "`load_balancer`"), cells[2], cells[3]}] = path.Join(path.Dir(page), to)
			}
		}
	}
	if len(short) < 90 {
		t.Errorf("docs/options.md has %d options; this test does not see them", len(short))
	}
	for o, page := range short {
		if explained[o] != page {
			t.Errorf("docs/options.md has %+v of %s, which does not explain it", o, page)
		}
	}
	for o, page := range explained {
		if short[o] == "" {
			t.Errorf("%s has %+v, docs/options.md does not", page, o)
		}
	}
}
