package command

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/ballastlb/ballast/command/plain"
)

// console is the terminal of a command, or the files in its place.
type console struct {
	in       io.Reader
	out, err io.Writer
	asks     bool     // it can ask the user
	color    bool     // out shows colours
	width    int      // width of out in columns; 0 if it is not a terminal
	args     []string // of the command line
}

// systemConsole returns the console of the process.
func systemConsole() console {
	return console{
		in: os.Stdin, out: os.Stdout, err: os.Stderr, args: os.Args[1:],
		asks:  isTerminal(os.Stdin) && isTerminal(os.Stderr),
		width: columns(os.Stdout),
		color: isTerminal(os.Stdout) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb",
	}
}

// columns returns the width of the terminal f; 0 if f is not a terminal.
func columns(f *os.File) int {
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// say prints a line. Text from elsewhere is cleaned.
func (c *console) say(format string, args ...any) {
	fmt.Fprintln(c.out, plain.Clean(fmt.Sprintf(format, args...)))
}

// paragraph prints text, wrapped to the width of the terminal.
func (c *console) paragraph(text string) {
	for _, line := range plain.Wrap(plain.Clean(text), c.width) {
		fmt.Fprintln(c.out, line)
	}
}

// warn prints a line to stderr.
func (c *console) warn(format string, args ...any) {
	fmt.Fprintln(c.err, plain.Clean(fmt.Sprintf(format, args...)))
}

// raw prints the server's JSON.
func (c *console) raw(text []byte) {
	if text = plain.CleanJSON(text); len(text) == 0 {
		return
	}
	fmt.Fprintln(c.out, strings.TrimRight(string(text), "\n"))
}

// table prints a table.
func (c *console) table(t *plain.Table) error {
	t.Color, t.Width = c.color, c.width
	_, err := t.WriteTo(c.out)
	return err
}

// confirm asks for confirmation, unless the user has given it beforehand.
func (c *console) confirm(yes bool, what string) error {
	if yes {
		return nil
	}
	if !c.asks {
		return usageErrorf("%s: needs confirmation, but there is no terminal; use --yes", what)
	}
	fmt.Fprintf(c.err, "%s? [y/N] ", plain.Clean(what))
	answer, err := bufio.NewReader(c.in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	default:
		return usageErrorf("not confirmed; nothing was changed")
	}
}

// lines prints a heading and text of several lines.
func (c *console) lines(heading, text string) {
	fmt.Fprintln(c.out, plain.Clean(heading))
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		indent := len(line) - len(strings.TrimLeft(line, "\t"))
		fmt.Fprintln(c.out, line[:indent]+plain.Clean(line[indent:]))
	}
}
