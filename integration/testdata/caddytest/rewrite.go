package caddytest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"

	"github.com/caddyserver/caddy/v2/caddyconfig"

	_ "conformance/loopback"
)

// Environment variables that say what is changed in configs, and where to write what came of it.
const (
	seamless      = "CONFORMANCE_SEAMLESS"      // servers get the listener wrapper
	loadBalancers = "CONFORMANCE_LOAD_BALANCER" // load_balancer takes the place of reverse_proxy
	record        = "CONFORMANCE_RECORD"
)

// rewrite changes a test's config. It returns what it cannot read as it is: the test wants to see the error.
func rewrite(tc *Tester, config, kind string) (string, string) {
	text := []byte(config)
	if kind != "json" {
		var err error
		if text, _, err = caddyconfig.GetAdapter(kind).Adapt(text, nil); err != nil {
			return config, kind
		}
	}
	var root map[string]any
	if json.Unmarshal(text, &root) != nil {
		return config, kind
	}
	apps, _ := root["apps"].(map[string]any)
	app, _ := apps["http"].(map[string]any)
	servers, _ := app["servers"].(map[string]any)
	for _, s := range servers {
		if os.Getenv(seamless) != "" {
			server := s.(map[string]any)
			wrappers, _ := server["listener_wrappers"].([]any)
			server["listener_wrappers"] = append([]any{map[string]any{"wrapper": "seamless"}}, wrappers...)
		}
	}
	if proxies(root) > 0 {
		write("proxy", tc.t.Name())
	}
	if os.Getenv(seamless) == "" && os.Getenv(loadBalancers) == "" {
		return config, kind
	}
	text, err := json.Marshal(root)
	if err != nil {
		return config, kind
	}
	return string(text), "json"
}

// proxies counts the proxies of a config, and has load_balancer take their place where it is to.
func proxies(in any) (n int) {
	switch in := in.(type) {
	case []any:
		for _, value := range in {
			n += proxies(value)
		}
	case map[string]any:
		if in["handler"] == "reverse_proxy" {
			n++
			if os.Getenv(loadBalancers) != "" {
				in["handler"] = "load_balancer"
			}
		}
		for _, value := range in {
			n += proxies(value)
		}
	}
	return n
}

// note writes what the express lanes of the running config did.
func note(tc *Tester) {
	res, err := http.Get(fmt.Sprintf("http://localhost:%d/load_balancer/express", tc.config.AdminPort))
	if err != nil {
		return
	}
	defer res.Body.Close()
	var lanes []struct {
		Served     uint64            `json:"served"`
		HandedOver map[string]uint64 `json:"handed_over"`
	}
	if json.NewDecoder(res.Body).Decode(&lanes) != nil || len(lanes) == 0 {
		return
	}
	var served, handedOver uint64
	for _, l := range lanes {
		served += l.Served
		for _, n := range l.HandedOver {
			handedOver += n
		}
	}
	write("lane", tc.t.Name(), served, handedOver)
}

// write adds a line to the record.
func write(words ...any) {
	f, err := os.OpenFile(os.Getenv(record), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	fmt.Fprintln(f, words...)
}
