package integration

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// messagesOfOthers are messages on docs/troubleshooting.md that Go prints. Those that are no values of Go's packages are from net/http and crypto/tls.
var messagesOfOthers = []string{
	io.ErrUnexpectedEOF.Error(), context.DeadlineExceeded.Error(), syscall.ECONNRESET.Error(), syscall.ECONNREFUSED.Error(),
	"malformed HTTP response", "first record does not look like a TLS handshake",
}

// composed are messages that the program puts together of several texts.
var composed = map[string][]string{"breaker is open": {"breaker is ", "open"}, "malformed answer": {"malformed %s: %q", "answer"}}

// TestDocsMessages: every message in the tables of docs/troubleshooting.md is one that the program prints, word for word: one word is a text
// of the code, several are a part of one. A number on the page stands for any number.
func TestDocsMessages(t *testing.T) {
	number := regexp.MustCompile(`%d|\d+`)
	var printed []string
	for _, text := range append(literals(t), messagesOfOthers...) {
		printed = append(printed, number.ReplaceAllString(text, "0"))
	}
	isPrinted := func(part string) bool {
		return slices.ContainsFunc(printed, func(text string) bool {
			return text == part || strings.Contains(part, " ") && strings.Contains(text, part)
		})
	}
	checked := 0
	for message := range messages(read(t, "../docs/troubleshooting.md")) {
		checked++
		parts := composed[message]
		if parts == nil {
			parts = []string{number.ReplaceAllString(message, "0")}
		}
		for _, part := range parts {
			if !isPrinted(part) {
				t.Errorf("docs/troubleshooting.md: %q is printed by nothing", message)
			}
		}
	}
	if checked < 18 {
		t.Errorf("docs/troubleshooting.md has %d messages; the test does not find them any more", checked)
	}
}

// messages are the texts in code style in the first column of tables whose heading is error or reason. A row of a symptom has its message
// after a colon. Commands and events are none.
func messages(page string) map[string]bool {
	found := map[string]bool{}
	inTable := false
	for line := range strings.Lines(page) {
		cells := strings.Split(line, "|")
		if len(cells) < 3 {
			inTable = false
			continue
		}
		first := strings.TrimSpace(cells[1])
		switch {
		case first == "error" || first == "reason":
			inTable = true
		case !inTable && strings.Contains(first, ": `"):
			_, first, _ = strings.Cut(first, ": ")
			fallthrough
		case inTable:
			for _, code := range inlineCode.FindAllString(first, -1) {
				text := strings.Trim(code, "`")
				if !strings.HasPrefix(text, "caddy ") && text != "breaker_opened" {
					found[text] = true
				}
			}
		}
	}
	return found
}

// literals returns all texts in the code of the program.
func literals(t *testing.T) []string {
	t.Helper()
	var all []string
	files := token.NewFileSet()
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == "integration" || entry.Name() == "fake" || strings.HasPrefix(entry.Name(), ".") && entry.Name() != ".."):
			return filepath.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if text, err := strconv.Unquote(lit.Value); err == nil {
					all = append(all, text)
				}
			}
			return true
		})
		return nil
	})
	if err != nil || len(all) == 0 {
		t.Fatalf("no texts in the code: %v", err)
	}
	return all
}
