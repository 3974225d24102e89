package discovery

import (
	"fmt"
	"strings"
	"testing"
)

// BenchmarkList measures how long reading a list of ten thousand targets takes, each with labels of its own.
func BenchmarkList(b *testing.B) {
	var asJSON, asYAML strings.Builder
	asJSON.WriteString("[\n")
	for i := range 10_000 {
		if i > 0 {
			asJSON.WriteString(",\n")
		}
		fmt.Fprintf(&asJSON, `{"targets": ["10.0.%d.%d:8080"], "labels": {"name": "web-%d", "zone": "eu-1", "weight": "3"}}`, i>>8, i&255, i)
		fmt.Fprintf(&asYAML, "- targets: ['10.0.%d.%d:8080']\n  labels: {name: web-%d, zone: eu-1, weight: 3}\n", i>>8, i&255, i)
	}
	asJSON.WriteString("]\n")
	for name, parse := range map[string]func() (*List, error){
		"JSON": func() (*List, error) { return Parse([]byte(asJSON.String())) },
		"YAML": func() (*List, error) { return parseYAML([]byte(asYAML.String())) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if list, err := parse(); err != nil || len(list.Backends) != 10_000 {
					b.Fatal(err)
				}
			}
		})
	}
}
