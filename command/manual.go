package command

import (
	"strings"

	"github.com/spf13/cobra"
)

// asManual prepares the commands for `caddy manpage`, which takes their texts for Markdown: it would drop text in angle brackets as HTML,
// and join the lines of a list.
func asManual(cmd *cobra.Command) {
	cmd.Use, cmd.Long = escaped(cmd.Use), listed(cmd.Long)
	cmd.Short = escaped(cmd.Short)
	for _, child := range cmd.Commands() {
		asManual(child)
	}
}

func escaped(text string) string { return strings.ReplaceAll(text, "<", `\<`) }

// listed turns indented lines into code blocks, and escapes the others.
func listed(text string) string {
	var b strings.Builder
	before := ""
	for line := range strings.Lines(text) {
		item, indented := strings.CutPrefix(line, "  ")
		switch {
		case !indented:
			b.WriteString(escaped(line))
		default:
			if !strings.HasPrefix(before, "  ") && strings.TrimSpace(before) != "" {
				b.WriteByte('\n') // a block begins after an empty line
			}
			b.WriteString("    " + item)
		}
		before = line
	}
	return b.String()
}
