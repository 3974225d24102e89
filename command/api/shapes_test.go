package api

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestShapesAreDocumented checks that the fields read here are in the API's description.
func TestShapesAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../lbmodule/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Components struct {
			Schemas map[string]struct {
				Properties map[string]any
			}
		}
	}
	if err := yaml.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	for _, shape := range []any{Pool{}, Backend{}, Mark{}, Edit{}, Diff{}, Difference{}, Explanation{}, Candidate{}, Live{}, Zone{}, Store{}, Key{}, ExpressServer{}, ExpressRoute{},
		Fleet{}, FleetNode{}, FleetPool{}, FleetDifference{}, FleetValue{}} {
		kind := reflect.TypeOf(shape)
		schema, ok := document.Components.Schemas[kind.Name()]
		if !ok {
			t.Errorf("%s is not described", kind.Name())
		}
		for i := range kind.NumField() {
			if kind.Field(i).Anonymous {
				continue // a shape of its own
			}
			if name, _, _ := strings.Cut(kind.Field(i).Tag.Get("json"), ","); schema.Properties[name] == nil {
				t.Errorf("%s of %s is not described", name, kind.Name())
			}
		}
	}
}
