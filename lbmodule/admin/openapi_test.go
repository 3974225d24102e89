package admin

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// route is a method and a path of the API, with the names of its parts in braces.
type route struct{ method, pattern string }

// servedRoutes are the routes of the admin API: of the pools, and of the rate limits, which are another package's.
func servedRoutes() []route {
	const limits = "/load_balancer/rate_limits"
	all := []route{
		{"GET", limits},
		{"GET", limits + "/{zone}"},
		{"DELETE", limits + "/{zone}"},
		{"GET", limits + "/{zone}/{key}"},
		{"DELETE", limits + "/{zone}/{key}"},
	}
	for _, r := range apiRoutes {
		all = append(all, route{r.method, r.pattern})
	}
	return all
}

func TestOpenAPIListsTheRoutes(t *testing.T) {
	served, documented := servedRoutes(), documentedRoutes(t, readOpenAPI(t))
	for _, r := range served {
		if !slices.Contains(documented, r) {
			t.Errorf("%s %s is served, but not in openapi.yaml", r.method, r.pattern)
		}
	}
	for _, r := range documented {
		if !slices.Contains(served, r) {
			t.Errorf("%s %s is in openapi.yaml, but not served", r.method, r.pattern)
		}
	}
}

// documentedRoutes are the paths of openapi.yaml with their methods. Each path is to declare the parts that it names.
func documentedRoutes(t *testing.T, document map[string]any) []route {
	t.Helper()
	var found []route
	for pattern, item := range document["paths"].(map[string]any) {
		operations := item.(map[string]any)
		declared := fmt.Sprint(operations["parameters"])
		for part := range strings.SplitSeq(pattern, "/") {
			if name, is := strings.CutPrefix(part, "{"); is && !strings.Contains(declared, "parameters/"+strings.TrimSuffix(name, "}")) {
				t.Errorf("%s does not declare its part %s", pattern, part)
			}
		}
		for _, method := range []string{"get", "post", "put", "patch", "delete"} {
			if operations[method] != nil {
				found = append(found, route{strings.ToUpper(method), pattern})
			}
		}
	}
	slices.SortFunc(found, func(a, b route) int {
		return cmp.Or(cmp.Compare(a.pattern, b.pattern), cmp.Compare(a.method, b.method))
	})
	return found
}

func readOpenAPI(t *testing.T) map[string]any {
	t.Helper()
	text, err := os.ReadFile("../openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var document map[string]any
	if err := yaml.Unmarshal(text, &document); err != nil {
		t.Fatalf("openapi.yaml: %v", err)
	}
	return document
}

// TestOpenAPIHoldsTogether checks that references lead somewhere, that nothing is defined in vain, and that examples are what their
// schemas say.
func TestOpenAPIHoldsTogether(t *testing.T) {
	document := readOpenAPI(t)
	used := map[string]bool{}
	eachReference(document, func(reference string) {
		used[reference] = true
		if follow(document, reference) == nil {
			t.Errorf("%s leads nowhere", reference)
		}
	})
	for kind, components := range document["components"].(map[string]any) {
		for name := range components.(map[string]any) {
			if !used["#/components/"+kind+"/"+name] {
				t.Errorf("components/%s/%s is used nowhere", kind, name)
			}
		}
	}
	checked := 0
	eachContent(document, func(where string, schema, examples map[string]any) {
		for name, example := range examples {
			checked++
			value := resolve(document, example.(map[string]any))["value"]
			fits(t, document, where+" example "+name, schema, value)
		}
	})
	if checked < 8 {
		t.Errorf("%d examples were checked", checked)
	}
}

// eachReference calls f for each $ref below v.
func eachReference(v any, f func(string)) {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if reference, ok := value.(string); ok && key == "$ref" {
				f(reference)
			}
			eachReference(value, f)
		}
	case []any:
		for _, value := range v {
			eachReference(value, f)
		}
	}
}

// eachContent calls f for each content of the operations that has examples.
func eachContent(v any, f func(where string, schema, examples map[string]any)) {
	walk(v, "", func(where string, node map[string]any) {
		schema, ok := node["schema"].(map[string]any)
		examples, okToo := node["examples"].(map[string]any)
		if ok && okToo {
			f(where, schema, examples)
		}
	})
}

func walk(v any, where string, f func(where string, node map[string]any)) {
	switch v := v.(type) {
	case map[string]any:
		f(where, v)
		for key, value := range v {
			walk(value, where+"/"+key, f)
		}
	case []any:
		for _, value := range v {
			walk(value, where, f)
		}
	}
}

func follow(document map[string]any, reference string) map[string]any {
	node := document
	for part := range strings.SplitSeq(strings.TrimPrefix(reference, "#/"), "/") {
		node, _ = node[part].(map[string]any)
	}
	return node
}

func resolve(document, node map[string]any) map[string]any {
	if reference, ok := node["$ref"].(string); ok {
		return follow(document, reference)
	}
	return node
}

// fits checks a value against a schema, as far as ours go.
func fits(t *testing.T, document map[string]any, where string, schema map[string]any, value any) {
	t.Helper()
	schema = resolve(document, schema)
	if !ofType(schema["type"], value) {
		t.Errorf("%s: %v (%T) is not of type %v", where, value, value, schema["type"])
		return
	}
	if enum, ok := schema["enum"].([]any); ok && !slices.Contains(enum, value) {
		t.Errorf("%s: %v is not one of %v", where, value, enum)
	}
	switch v := value.(type) {
	case []any:
		for i, item := range v {
			fits(t, document, fmt.Sprintf("%s/%d", where, i), schema["items"].(map[string]any), item)
		}
	case map[string]any:
		required, _ := schema["required"].([]any)
		for _, name := range required {
			if _, ok := v[name.(string)]; !ok {
				t.Errorf("%s: %v is missing", where, name)
			}
		}
		properties, described := schema["properties"].(map[string]any)
		for name, field := range v {
			property, ok := properties[name].(map[string]any)
			switch {
			case ok:
				fits(t, document, where+"/"+name, property, field)
			case described:
				t.Errorf("%s: %s is not in the schema", where, name)
			}
		}
	}
}

func ofType(types, value any) bool {
	if types == nil {
		return true
	}
	if several, ok := types.([]any); ok {
		return slices.ContainsFunc(several, func(one any) bool { return ofType(one, value) })
	}
	switch value.(type) {
	case nil:
		return types == "null"
	case string:
		return types == "string"
	case bool:
		return types == "boolean"
	case int:
		return types == "integer" || types == "number"
	case float64:
		return types == "number"
	case []any:
		return types == "array"
	case map[string]any:
		return types == "object"
	default:
		return false
	}
}
