package caddytest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"

	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// Environment variables that say what is changed in configs, and where to write what came of it.
const (
	seamless      = "REWRITE_SEAMLESS"      // servers get the listener wrapper
	loadBalancers = "REWRITE_LOAD_BALANCER" // load_balancer takes the place of reverse_proxy
	record        = "REWRITE_RECORD"
)

// rewrite changes a config. It returns what it cannot read as it is: the test wants to see the error.
func rewrite(config, kind string) (string, string) {
	if os.Getenv(seamless) == "" {
		return config, kind
	}
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
		server := s.(map[string]any)
		wrappers, _ := server["listener_wrappers"].([]any)
		server["listener_wrappers"] = append([]any{map[string]any{"wrapper": "seamless"}}, wrappers...)
	}
	if os.Getenv(loadBalancers) != "" {
		balance(root)
	}
	text, err := json.Marshal(root)
	if err != nil {
		return config, kind
	}
	return string(text), "json"
}

// balance has load_balancer take the place of reverse_proxy.
func balance(in any) {
	switch in := in.(type) {
	case []any:
		for _, value := range in {
			balance(value)
		}
	case map[string]any:
		if in["handler"] == "reverse_proxy" {
			in["handler"] = "load_balancer"
		}
		for _, value := range in {
			balance(value)
		}
	}
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
	f, err := os.OpenFile(os.Getenv(record), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	fmt.Fprintln(f, tc.t.Name(), served, handedOver)
}
