package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ballastlb/ballast/command/convert"
)

func (t *tool) convertCommand() *cobra.Command {
	var from, out string
	cmd := &cobra.Command{
		Use:   "convert <file>",
		Short: "Converts a configuration of HAProxy or nginx to a Caddyfile",
		Long: `
Reads haproxy.cfg or nginx.conf and prints a Caddyfile that does the same; '-'
reads the standard input. A line that cannot be converted, or only nearly,
becomes a comment in its place, with the reason. No running Caddy is needed.
The only file that is written is that of --out.

A route whose protection cannot be converted, such as a login, is not left
open: it answers 403 until you fix it.

The exit code is 0 if all lines were understood, and 9 if some were left as
comments. docs/migrating.md lists the general differences.`,
		Example: examples("caddy lb convert /etc/haproxy/haproxy.cfg --out Caddyfile",
			"caddy lb convert nginx.conf --json",
			"nginx -T | caddy lb convert - --from nginx"),
		Args: cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&from, "from", "", "Format of the file: haproxy or nginx (default: detected)")
	cmd.Flags().StringVarP(&out, "out", "o", "", "Write the Caddyfile to this file, which must not exist")
	cmd.RunE = t.offline(func(_ context.Context, args []string) error { return t.convert(args[0], from, out) })
	return cmd
}

func (t *tool) convert(file, from, out string) error {
	name := filepath.Base(file)
	in := t.in
	if file == "-" {
		name = "input"
	} else {
		f, err := os.Open(file)
		if err != nil {
			return usageErrorf("%v", err)
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, convert.MaxSize+1))
	if err != nil {
		return usageErrorf("%s: %v", name, err)
	}
	if from == "" {
		if from = convert.Detect(string(text)); from == "" {
			return usageErrorf("%s: is neither a haproxy.cfg nor an nginx.conf by its looks; name the format with --from", name)
		}
	}
	r, err := convert.Convert(name, string(text), from)
	if err != nil {
		return usageErrorf("%v", err)
	}
	if out != "" {
		if err := writeNew(out, r.Caddyfile); err != nil {
			return usageErrorf("%v", err)
		}
	}
	switch {
	case t.flags.json:
		answer, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		t.raw(answer)
	case out == "":
		// The converter has taken out control characters.
		fmt.Fprint(t.out, r.Caddyfile)
	}
	summary := fmt.Sprintf("understood %d of %d lines; %d left as comments", r.Understood, r.Lines, len(r.Left))
	guards := 0
	for _, l := range r.Left {
		if l.Guards {
			guards++
		}
	}
	if guards > 0 {
		summary += fmt.Sprintf(", of which %d protect something: look at them first", guards)
	}
	t.warn("%s", summary)
	if len(r.Left) > 0 {
		return silentError(exitPartly)
	}
	return nil
}

// writeNew writes a new file, and never overwrites one: a user may have edited it.
func writeNew(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("out %s: exists already", name)
	}
	if err != nil {
		return err
	}
	_, err = io.Copy(f, strings.NewReader(text))
	return errors.Join(err, f.Close())
}
