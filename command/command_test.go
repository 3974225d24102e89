package command

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestCommandsAreDocumented checks that all commands are on their page of docs/, and explain themselves.
func TestCommandsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/command-line.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented, built []string
	for _, match := range regexp.MustCompile("(?m)^\\| `([a-z]+)").FindAllStringSubmatch(string(page), -1) {
		documented = append(documented, match[1])
	}
	lb := &cobra.Command{Use: "lb"}
	addCommands(lb, console{}, &outcome{})
	for _, c := range lb.Commands() {
		built = append(built, c.Name())
		if c.Short == "" || c.Long == "" || c.Example == "" {
			t.Errorf("%s does not explain itself", c.Name())
		}
		for line := range strings.Lines(c.Long) {
			if len(strings.TrimRight(line, "\n")) > 80 {
				t.Errorf("%s: a line of its help has %d columns: %s", c.Name(), len(line), line)
			}
		}
	}
	// Caddy's command has the name lb in front of it.
	documented = slices.DeleteFunc(documented, func(s string) bool { return s == "caddy" })
	slices.Sort(documented)
	slices.Sort(built)
	if !slices.Equal(documented, built) {
		t.Errorf("docs/command-line.md has %v, but there are %v", documented, built)
	}
}
