package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/ballastlb/ballast/command/plain"
)

// misuse makes errors that cobra finds in flags and arguments look like all other errors.
func (t *tool) misuse(lb *cobra.Command) {
	lb.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if words := cmd.Flags().Args(); cmd == lb && len(words) > 0 {
			return t.fail(cmd, unknownCommand(lb, words[0])) // the flags of an unknown command cannot be parsed
		}
		return t.fail(cmd, usageErrorf("%s; see '%s --help'", flagError(err), cmd.CommandPath()))
	})
	for _, cmd := range lb.Commands() {
		arguments := cmd.Args
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := arguments(cmd, args); err != nil {
				return t.fail(cmd, usageErrorf("wrong number of arguments; usage: %s", strings.TrimSuffix(cmd.UseLine(), " [flags]")))
			}
			if err := excluded(cmd); err != nil {
				return t.fail(cmd, err)
			}
			return nil
		}
	}
}

// flagError describes what is wrong with a flag.
func flagError(err error) string {
	if invalid, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		rule := "is not a valid value"
		switch invalid.GetFlag().Value.Type() {
		case "duration":
			rule = "must be a duration, such as 30s or 5m"
		case "int", "uint16", "uint64":
			rule = "must be a whole number"
		case "float64":
			rule = "must be a number"
		case "bool":
			rule = "must be true or false"
		default:
			if cause := errors.Unwrap(err); cause != nil {
				rule = cause.Error()
			}
		}
		return fmt.Sprintf("--%s %s: %s", invalid.GetFlag().Name, invalid.GetValue(), rule)
	}
	if missing, ok := errors.AsType[*pflag.ValueRequiredError](err); ok {
		return fmt.Sprintf("--%s: must have a value", missing.GetFlag().Name)
	}
	if none, ok := errors.AsType[*pflag.NotExistError](err); ok && len(none.GetSpecifiedShortnames()) == 0 {
		return fmt.Sprintf("--%s: is not a flag of this command", none.GetSpecifiedName())
	}
	return err.Error()
}

// excluded returns the error for flags that exclude each other.
func excluded(cmd *cobra.Command) error {
	const exclusive = "cobra_annotation_mutually_exclusive" // set by MarkFlagsMutuallyExclusive, whose own message is hard to read
	var wrong error
	cmd.Flags().Visit(func(f *pflag.Flag) {
		for _, group := range f.Annotations[exclusive] {
			for name := range strings.FieldsSeq(group) {
				if name != f.Name && cmd.Flags().Changed(name) && wrong == nil {
					wrong = usageErrorf("--%s: must not be combined with --%s", f.Name, name)
				}
			}
		}
	})
	return wrong
}

// unknownCommand returns the error for an unknown command, with similar ones.
func unknownCommand(lb *cobra.Command, word string) error {
	hint := "see 'caddy lb --help'"
	lb.SuggestionsMinimumDistance = 2 // allows for typing errors
	if near := lb.SuggestionsFor(word); len(near) > 0 {
		hint = "did you mean " + strings.Join(near, " or ") + "?"
	}
	return usageErrorf("unknown command %s; %s", word, hint)
}

// bare is run for lb without a command of its own.
func (t *tool) bare(lb *cobra.Command, args []string) error {
	if len(args) > 0 && args[0] == "help" {
		if about, _, err := lb.Find(args[1:]); err == nil && (about != lb || len(args) == 1) {
			return about.Help()
		}
		args = args[1:]
	}
	if len(args) == 0 {
		return lb.Help()
	}
	return t.fail(lb, unknownCommand(lb, args[0]))
}

// fail prints an error and turns it into the exit code.
func (t *tool) fail(cmd *cobra.Command, err error) error {
	t.outcome.code = exitCode(err)
	if err.Error() != "" {
		t.problem("error", "Error: ", err.Error())
	}
	cmd.SilenceErrors = true
	if t.outcome.code == exitFailed {
		return err
	}
	return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) { return t.outcome.code, nil })(cmd, nil)
}

// warning prints a warning to stderr.
func (t *tool) warning(format string, args ...any) {
	t.problem("warning", "Warning: ", fmt.Sprintf(format, args...))
}

// problem prints a line to stderr: text, or with --json an object with one field.
func (t *tool) problem(field, prefix, message string) {
	if !t.wantsJSON() {
		t.warn("%s%s", prefix, message)
		return
	}
	encoded, err := json.Marshal(map[string]string{field: message})
	if err != nil {
		encoded = []byte(`{}`) // cannot happen: texts can be encoded
	}
	fmt.Fprintln(t.err, string(plain.CleanJSON(encoded)))
}

// wantsJSON reports whether --json is given, even after a flag that is wrong.
func (t *tool) wantsJSON() bool {
	const flag = "--json"
	given := t.args
	if end := slices.Index(given, "--"); end >= 0 {
		given = given[:end]
	}
	return t.flags.json || slices.ContainsFunc(given, func(arg string) bool {
		value, is := strings.CutPrefix(arg, flag+"=")
		on, err := strconv.ParseBool(value)
		return arg == flag || is && err == nil && on
	})
}

// lasting is a flag for a duration. Its text is sent unchanged.
type lasting string

// String implements [pflag.Value].
func (l *lasting) String() string { return string(*l) }

// Type implements [pflag.Value].
func (l *lasting) Type() string { return "time" }

// Set implements [pflag.Value].
func (l *lasting) Set(text string) error {
	if d, err := time.ParseDuration(text); err != nil || d <= 0 {
		return errors.New("must be a duration above 0, such as 90s, 30m or 12h")
	}
	*l = lasting(text)
	return nil
}

// moment is a flag for a time. Its text is sent unchanged.
type moment string

// String implements [pflag.Value].
func (m *moment) String() string { return string(*m) }

// Type implements [pflag.Value].
func (m *moment) Type() string { return "time" }

// Set implements [pflag.Value].
func (m *moment) Set(text string) error {
	if _, err := time.Parse(time.RFC3339, text); err != nil {
		return errors.New("must be a time with its zone, such as 2026-01-02T15:04:05Z or 2026-01-02T15:04:05+01:00")
	}
	*m = moment(text)
	return nil
}

// requestCap is a flag for a limit of requests in flight: a number, or auto.
type requestCap string

// String implements [pflag.Value].
func (c *requestCap) String() string { return string(*c) }

// Type implements [pflag.Value].
func (c *requestCap) Type() string { return "number|auto" }

// Set implements [pflag.Value].
func (c *requestCap) Set(text string) error {
	if _, err := strconv.Atoi(text); err != nil && text != "auto" {
		return errors.New("must be a whole number, or auto")
	}
	*c = requestCap(text)
	return nil
}
