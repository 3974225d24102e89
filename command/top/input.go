package top

import (
	"bytes"
	"strconv"
	"unicode/utf8"
)

// Key is a key: a character, or one of the constants below.
type Key rune

// Keys that are not characters, and actions of the mouse.
const (
	Up Key = -1 - iota
	Down
	PageUp
	PageDown
	Home
	End
	Escape
	Unknown
	Click
	WheelUp
	WheelDown
)

// Keys that are control characters.
const (
	interrupt Key = 0x03
	redraw    Key = 0x0c
	suspend   Key = 0x1a
	enter     Key = '\r'
	newline   Key = '\n'
	rubout    Key = 0x7f
	backspace Key = 0x08
)

// Input is a key, or a click with the line that it is on.
type Input struct {
	Key  Key
	Line int // from 0
}

// sequences are the escape sequences that terminals send for keys that are not characters.
var sequences = map[string]Key{
	"\x1b[A": Up, "\x1b[B": Down, "\x1bOA": Up, "\x1bOB": Down, "\x1b[5~": PageUp, "\x1b[6~": PageDown,
	"\x1b[H": Home, "\x1b[F": End, "\x1bOH": Home, "\x1bOF": End, "\x1b[1~": Home, "\x1b[4~": End,
}

// Read decodes the bytes that a terminal sent. The rest is the beginning of a sequence or character that is not complete yet. An escape
// character without a sequence is the key Escape.
func Read(sent []byte) (inputs []Input, rest []byte) {
	for len(sent) > 0 {
		if sent[0] == 0x1b && len(sent) > 1 && (sent[1] == '[' || sent[1] == 'O') {
			n := sequenceLength(sent)
			if n == 0 {
				return inputs, sent
			}
			sequence := sent[:n]
			sent = sent[n:]
			if in, is := readMouse(sequence); is {
				if in.Key != Unknown {
					inputs = append(inputs, in)
				}
				continue
			}
			key, ok := sequences[string(sequence)]
			if !ok {
				key = Unknown
			}
			inputs = append(inputs, Input{Key: key})
			continue
		}
		if sent[0] == 0x1b {
			inputs, sent = append(inputs, Input{Key: Escape}), sent[1:]
			continue
		}
		if !utf8.FullRune(sent) {
			return inputs, sent
		}
		r, n := utf8.DecodeRune(sent)
		inputs, sent = append(inputs, Input{Key: Key(r)}), sent[n:]
	}
	return inputs, nil
}

// oldMouse begins the reports of terminals without SGR mouse mode (1006): three bytes follow, which could be mistaken for keys.
const oldMouse = "\x1b[M"

// sequenceLength returns the length of the escape sequence at the beginning of sent, 0 if it is not complete. A sequence that is longer
// than that of any key is cut off, so that Read does not keep it.
func sequenceLength(sent []byte) int {
	const longest, follow = 24, 3
	if bytes.HasPrefix(sent, []byte(oldMouse)) {
		if n := len(oldMouse) + follow; len(sent) >= n {
			return n
		}
		return 0
	}
	for i := 2; i < len(sent); i++ {
		if sent[i] >= 0x40 || i == longest { // the final byte; parameters are below 0x40
			return i + 1
		}
	}
	return 0
}

// readMouse decodes a report of the mouse. The key is Unknown for reports without a meaning here: other buttons, released buttons.
func readMouse(sequence []byte) (in Input, is bool) {
	nothing := Input{Key: Unknown}
	if bytes.HasPrefix(sequence, []byte(oldMouse)) {
		b := sequence[len(oldMouse):]
		return mouse(int(b[0])-0x20, int(b[2])-0x20), true
	}
	said, is := bytes.CutPrefix(sequence, []byte("\x1b[<"))
	if !is {
		return nothing, false
	}
	said, pressed := bytes.CutSuffix(said, []byte("M"))
	parts := bytes.Split(said, []byte(";"))
	if !pressed || len(parts) != 3 {
		return nothing, true
	}
	button, err := strconv.Atoi(string(parts[0]))
	line, err2 := strconv.Atoi(string(parts[2]))
	if err != nil || err2 != nil {
		return nothing, true
	}
	return mouse(button, line), true
}

// mouse returns the input of a button. The line is counted from 1, as terminals do.
func mouse(button, line int) Input {
	const shift, meta, control = 4, 8, 16
	switch button &^ (shift | meta | control) {
	case 0:
		return Input{Key: Click, Line: line - 1}
	case 64:
		return Input{Key: WheelUp}
	case 65:
		return Input{Key: WheelDown}
	default:
		return Input{Key: Unknown}
	}
}
