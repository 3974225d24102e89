package discovery

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/ballastlb/ballast/lbmodule/config"
)

// maxSize bounds the size of a list in bytes.
const maxSize = 16 << 20

// group is a group of targets with the same labels.
type group struct {
	line    int // its first line
	targets []string
	labels  map[string]string
}

// wrong returns a [ContentError].
func wrong(format string, args ...any) error {
	return &ContentError{fmt.Sprintf(format, args...)}
}

// wrongAt returns a ContentError with the line.
func wrongAt(line int, format string, args ...any) error {
	return wrong("line %d: "+format, append([]any{line}, args...)...)
}

// Parse reads a list in JSON. Its error is a [ContentError].
func Parse(text []byte) (*List, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, wrong("must be a JSON list, and is empty")
	}
	// The decoder below would report only the first error after what it has read, and ignore text after the list.
	var whole json.RawMessage
	if err := json.Unmarshal(text, &whole); err != nil {
		offset := int64(len(text))
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			offset = syntax.Offset
		}
		return nil, wrongAt(lineAt(text, offset), "byte %d: must be JSON: %v", offset, err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	if start, err := d.Token(); err != nil || start != json.Delim('[') {
		return nil, wrong("must be a JSON list of objects with targets and labels")
	}
	var b builder
	line, counted := 1, int64(0)
	for d.More() {
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return nil, wrong("must be JSON: %v", err)
		}
		start := d.InputOffset() - int64(len(raw))
		line += bytes.Count(text[counted:start], []byte("\n"))
		counted = start
		g, err := jsonGroup(raw)
		if err != nil {
			return nil, wrongAt(line, "byte %d: %v", start+1, err)
		}
		g.line = line
		if err := b.add(&g); err != nil {
			return nil, err
		}
	}
	return b.list()
}

// lineAt returns the line of a byte.
func lineAt(text []byte, offset int64) int {
	return 1 + bytes.Count(text[:min(max(offset-1, 0), int64(len(text)))], []byte("\n"))
}

func jsonGroup(raw json.RawMessage) (g group, err error) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil || fields == nil {
		return g, errors.New("must be an object with targets and labels")
	}
	for key, value := range fields {
		switch key {
		case "targets":
			if json.Unmarshal(value, &g.targets) != nil {
				return g, errors.New("targets: must be a list of texts")
			}
		case "labels":
			if g.labels, err = jsonLabels(value); err != nil {
				return g, err
			}
		default:
			return g, unknownKey(key)
		}
	}
	return g, nil
}

func unknownKey(key string) error {
	return fmt.Errorf("unknown key %.64q: must be targets or labels%s", key, config.DidYouMean(key, "targets", "labels"))
}

func jsonLabels(raw json.RawMessage) (map[string]string, error) {
	var values map[string]json.RawMessage
	if json.Unmarshal(raw, &values) != nil {
		return nil, errors.New("labels: must be an object")
	}
	labels := make(map[string]string, len(values))
	for name, value := range values {
		var text string
		switch {
		case !understood(name), string(value) == "null":
			continue
		case value[0] == '{' || value[0] == '[':
			return nil, fmt.Errorf("label %s: must be a text", name)
		case json.Unmarshal(value, &text) != nil:
			text = string(value) // a number or a boolean, whose text is unambiguous
		}
		labels[name] = text
	}
	return labels, nil
}

// parseYAML reads a list in YAML.
func parseYAML(text []byte) (*List, error) {
	d := yaml.NewDecoder(bytes.NewReader(text))
	var document, other yaml.Node
	if err := d.Decode(&document); errors.Is(err, io.EOF) || err == nil && len(document.Content) == 0 {
		return nil, wrong("must be a YAML list, and is empty")
	} else if err != nil {
		return nil, wrong("must be YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := d.Decode(&other); !errors.Is(err, io.EOF) {
		return nil, wrong("must be one YAML document, and there is more behind it")
	}
	root := resolved(document.Content[0])
	if root.Kind != yaml.SequenceNode {
		return nil, wrongAt(root.Line, "must be a list of objects with targets and labels")
	}
	var b builder
	for _, node := range root.Content {
		g, err := yamlGroup(resolved(node))
		if err != nil {
			return nil, err
		}
		g.line = node.Line
		if err := b.add(&g); err != nil {
			return nil, err
		}
	}
	return b.list()
}

// resolved returns the node that an alias refers to.
func resolved(node *yaml.Node) *yaml.Node {
	if node.Kind == yaml.AliasNode {
		return node.Alias // it is never an alias itself
	}
	return node
}

func yamlGroup(node *yaml.Node) (g group, err error) {
	if node.Kind != yaml.MappingNode {
		return g, wrongAt(node.Line, "must be an object with targets and labels")
	}
	seen := make(map[string]bool)
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], resolved(node.Content[i+1])
		if seen[key.Value] {
			return g, wrongAt(key.Line, "%.64s: given twice", key.Value)
		}
		seen[key.Value] = true
		switch {
		case key.Value == "targets" && isNull(value), key.Value == "labels" && isNull(value):
		case key.Value == "targets":
			if value.Kind != yaml.SequenceNode {
				return g, wrongAt(value.Line, "targets: must be a list of texts")
			}
			for _, target := range value.Content {
				target = resolved(target)
				if target.Kind != yaml.ScalarNode {
					return g, wrongAt(target.Line, "targets: must be a list of texts")
				}
				g.targets = append(g.targets, target.Value)
			}
		case key.Value == "labels":
			if g.labels, err = yamlLabels(value); err != nil {
				return g, err
			}
		default:
			return g, wrongAt(key.Line, "%v", unknownKey(key.Value))
		}
	}
	return g, nil
}

func isNull(node *yaml.Node) bool { return node.Kind == yaml.ScalarNode && node.Tag == "!!null" }

func yamlLabels(node *yaml.Node) (map[string]string, error) {
	if node.Kind != yaml.MappingNode {
		return nil, wrongAt(node.Line, "labels: must be an object")
	}
	labels := make(map[string]string)
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], resolved(node.Content[i+1])
		_, twice := labels[key.Value]
		switch {
		case !understood(key.Value), isNull(value):
		case value.Kind != yaml.ScalarNode:
			return nil, wrongAt(value.Line, "label %s: must be a text", key.Value)
		case twice:
			return nil, wrongAt(key.Line, "label %s: given twice", key.Value)
		default:
			labels[key.Value] = value.Value
		}
	}
	return labels, nil
}
