package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/template"

	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/discovery"
)

const discoveryExamples = "../examples/discovery/"

// namesBackends fails the test unless a list is good and names these backends: address, name, weight, zone, cap and level.
func namesBackends(t *testing.T, list string, want ...string) {
	t.Helper()
	parsed, err := discovery.Parse([]byte(list))
	if err != nil {
		t.Fatalf("%v\n%s", err, list)
	}
	var got []string
	for _, b := range parsed.Backends {
		got = append(got, inWords(&b))
	}
	if !slices.Equal(got, want) {
		t.Errorf("names\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func inWords(b *config.Backend) string {
	weight := "-"
	if b.Weight != nil {
		weight = fmt.Sprint(*b.Weight)
	}
	return fmt.Sprintf("%s %s %s %s %d %d", b.Address, b.Name, weight, b.Zone, b.MaxRequests, b.Backup)
}

// toolAnswer reads an answer as a tool gets it; it was written by hand, in the tool's format.
func toolAnswer[T any](t *testing.T, file string) (into T) {
	t.Helper()
	if err := json.Unmarshal([]byte(read(t, "testdata/discovery/"+file)), &into); err != nil {
		t.Fatal(err)
	}
	return into
}

func toJSON(value any) (string, error) {
	text, err := json.Marshal(value)
	return string(text), err
}

// rendered is what a template makes of data with the functions that its tool has.
func rendered(t *testing.T, file string, data any, functions template.FuncMap) string {
	t.Helper()
	parsed, err := template.New(file).Funcs(functions).Parse(read(t, discoveryExamples+file))
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if err := parsed.Execute(&text, data); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// TestExampleDiscoveryConsul renders the template for consul-template with an answer of Consul.
func TestExampleDiscoveryConsul(t *testing.T) {
	type instance struct {
		Node, ID, Address string
		Port              int
		ServiceMeta       map[string]string
		Weights           struct{ Passing, Warning int }
	}
	var instances []instance
	for _, entry := range toolAnswer[[]struct {
		Node    struct{ Node, Address string }
		Service struct {
			ID, Address string
			Port        int
			Meta        map[string]string
			Weights     struct{ Passing, Warning int }
		}
	}](t, "consul.json") {
		s := entry.Service
		address := s.Address
		if address == "" {
			address = entry.Node.Address
		}
		instances = append(instances, instance{entry.Node.Node, s.ID, address, s.Port, s.Meta, s.Weights})
	}
	service := func(instances []instance) template.FuncMap {
		return template.FuncMap{
			"toJSON": toJSON, "contains": func(part, text string) bool { return strings.Contains(text, part) },
			"service": func(name string) ([]instance, error) {
				if name != "web" {
					return nil, fmt.Errorf("no service %s", name)
				}
				return instances, nil
			},
		}
	}
	namesBackends(t, rendered(t, "consul/web.json.ctmpl", nil, service(instances)),
		"10.0.0.1:8080 node-1/web-1 3 eu-1 100 0", "[fd00::2]:8080 node-2/web-1 1  0 0", "10.0.9.1:80 node-3/web-9 1  0 1")
	if _, err := discovery.Parse([]byte(rendered(t, "consul/web.json.ctmpl", nil, service(nil)))); err == nil || !strings.Contains(err.Error(), "names no target") {
		t.Errorf("without instances: %v", err)
	}
}

// TestExampleDiscoveryDocker renders the template for docker-gen with what Docker tells of containers.
func TestExampleDiscoveryDocker(t *testing.T) {
	type network struct{ Name, IP string }
	type container struct {
		Name     string
		Labels   map[string]string
		Networks []network
		State    struct {
			Running bool
			Health  struct{ Status string }
		}
	}
	var containers []container
	for _, told := range toolAnswer[[]struct {
		Name  string
		State struct {
			Running bool
			Health  struct{ Status string }
		}
		Config          struct{ Labels map[string]string }
		NetworkSettings struct {
			Networks map[string]struct{ IPAddress string }
		}
	}](t, "docker.json") {
		c := container{Name: strings.TrimPrefix(told.Name, "/"), Labels: told.Config.Labels, State: told.State}
		for name, n := range told.NetworkSettings.Networks {
			c.Networks = append(c.Networks, network{name, n.IPAddress})
		}
		slices.SortFunc(c.Networks, func(a, b network) int { return strings.Compare(a.Name, b.Name) })
		containers = append(containers, c)
	}
	functions := template.FuncMap{"json": toJSON, "whereLabelExists": func(all []container, label string) (found []container) {
		for _, c := range all {
			if _, has := c.Labels[label]; has {
				found = append(found, c)
			}
		}
		return found
	}}
	namesBackends(t, rendered(t, "docker/web.json.tmpl", containers, functions), "172.20.0.2:8080 web-1 3 eu-1 0 0", "172.20.0.3:8080 web-2 -  0 1")
}

// TestExampleDiscoveryKubernetes runs the script with a kubectl that answers what a cluster did, with jq as it is.
func TestExampleDiscoveryKubernetes(t *testing.T) {
	dir := t.TempDir()
	list, bin := filepath.Join(dir, "web.json"), filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	answer, err := filepath.Abs("testdata/discovery/endpointslices.json")
	if err != nil {
		t.Fatal(err)
	}
	kubectl := func(script string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(bin, "kubectl"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run := func(family string) string {
		t.Helper()
		script := exec.Command(discoveryExamples+"kubernetes/endpointslices.sh", "shop", "web", "http", list)
		script.Env = append(os.Environ(), "ONCE=1", "FAMILY="+family, "PATH="+bin+":"+os.Getenv("PATH"))
		if out, err := script.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return read(t, list)
	}
	kubectl(`[ "$*" = "get endpointslices --namespace shop --selector kubernetes.io/service-name=web --output json" ] && cat ` + answer)
	v4 := []string{
		"10.42.0.11:8080 web-6d4b75cb6d-hx2kq - eu-1a 0 0", "10.42.0.12:8080 web-6d4b75cb6d-p8w4z -  0 0", "10.42.0.13:8080 web-6d4b75cb6d-ends1 0 eu-1b 0 0",
	}
	namesBackends(t, run("IPv4"), v4...)
	namesBackends(t, run("IPv6"), "[fd00:42::11]:8080 web-6d4b75cb6d-hx2kq -  0 0")
	run("IPv4")
	for _, broken := range []string{"exit 1", "echo '<html>'", "echo; exit 1"} {
		kubectl(broken)
		namesBackends(t, run("IPv4"), v4...)
	}
	if left, err := filepath.Glob(list + ".*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestExampleDiscoveryLists: both lists are the same, and the Caddyfile beside them takes either.
func TestExampleDiscoveryLists(t *testing.T) {
	namesBackends(t, read(t, discoveryExamples+"web.json"),
		"10.0.0.1:8080  - eu-1 0 0", "10.0.0.2:8080  - eu-1 0 0", "10.0.1.1:8080 large 3 eu-2 100 0", "10.0.9.1:8080  -  0 1")
	for _, name := range []string{"web.json", "web.yaml"} {
		path, err := filepath.Abs(discoveryExamples + name)
		if err != nil {
			t.Fatal(err)
		}
		config := strings.Replace(read(t, discoveryExamples+"Caddyfile"), ":8080 {", "{\n\tadmin ADMIN_ADDRESS\n}\nhttp://SITE_ADDRESS {", 1)
		c := startCaddyConfig(t, config, "TARGETS="+path)
		waitFor(t, "the list", func() bool { return len(c.poolNamed("web").Backends) == 4 })
		if b := c.poolNamed("web").Backends[3]; b.Name != "large" || b.Address != "10.0.1.1:8080" {
			t.Errorf("%s: %+v", name, b)
		}
	}
}
