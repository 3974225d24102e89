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

// console is where a command runs.
type console struct {
	in       io.Reader
	out, err io.Writer
	asks     bool     // a user at a terminal can be asked
	color    bool     // out shows colours
	width    int      // columns of the terminal that out is; 0 if it is none
	args     []string // of the command line
}

// systemConsole is the terminal, or whatever stands in its place.
func systemConsole() console {
	return console{
		in: os.Stdin, out: os.Stdout, err: os.Stderr, args: os.Args[1:],
		asks:  isTerminal(os.Stdin) && isTerminal(os.Stderr),
		width: columns(os.Stdout),
		color: isTerminal(os.Stdout) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb",
	}
}

// columns is how wide the terminal is; 0 if f is none.
func columns(f *os.File) int {
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// say prints a line. What comes from elsewhere is cleaned.
func (c *console) say(format string, args ...any) {
	fmt.Fprintln(c.out, plain.Clean(fmt.Sprintf(format, args...)))
}

// paragraph prints text, wrapped where the terminal ends.
func (c *console) paragraph(text string) {
	for _, line := range plain.Wrap(plain.Clean(text), c.width) {
		fmt.Fprintln(c.out, line)
	}
}

// warn prints a line beside the result.
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

// confirm asks whether to go on, unless the user has said so beforehand.
func (c *console) confirm(yes bool, what string) error {
	if yes {
		return nil
	}
	if !c.asks {
		return usageErrorf("%s: needs confirmation, and there is no terminal to ask at; use --yes", what)
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
		return usageErrorf("not confirmed: nothing was changed")
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
