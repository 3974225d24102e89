package caddyfile

import (
	"strings"

	"github.com/ballastlb/ballast/lbmodule/policies"
)

// elsewhere are words of other servers for what has another name here.
var elsewhere = map[string]string{
	"max_conns": "max_requests", "maxconn": "max_requests", "max_connections": "max_requests", "fail_timeout": "fail_duration",
	"balance": "lb_policy", "policy": "lb_policy", "server": "backend", "upstream": "backend",
	"option": "health_check", "httpchk": "health_check", "check": "health_check", "health": "health_check", "inter": "interval", "fastinter": "fast_interval",
	"outlier_detection": "breaker", "circuit_breaker": "breaker", "proxy_next_upstream": "retry", "redispatch": "retry",
}

// policiesElsewhere are names of other servers for policies that have another name here, and are not near it.
var policiesElsewhere = map[string]string{
	"rr": "round_robin", "wrr": "weighted_round_robin", "static-rr": "weighted_round_robin", "least_request": "least_conn", "least_requests": "least_conn",
	"least_connections": "least_conn", "least_time": "peak_ewma", "ewma": "peak_ewma", "ring_hash": "hash", "ringhash": "hash", "maglev": "hash", "consistent_hash": "hash",
	"source": "client_ip_hash", "uri": "uri_hash", "hdr": "header", "url_param": "query", "power_of_two": "p2c", "power_of_two_choices": "p2c", "two_choices": "p2c",
}

// fromElsewhere returns what a word of another server, with the argument that follows it, is called here; "" if it is none. Policies are
// words of their own elsewhere.
func fromElsewhere(word, argument string) string {
	name, value, assigned := strings.Cut(word, "=")
	if assigned {
		argument = value
	}
	here, known := elsewhere[name]
	switch policy := policyElsewhere(name); {
	case known && here == "lb_policy":
		if policy := policyElsewhere(argument); policy != "" {
			argument = policy
		}
	case known && argument == "{":
		argument = ""
	case known && here == "health_check":
		argument = "http /" // what stood there is too different
	case known:
	case policy != "":
		here, argument = "lb_policy", policy
	case assigned && isWord(name):
		here = name
	default:
		return ""
	}
	return strings.TrimSpace(here + " " + argument)
}

// policyElsewhere returns what a policy is called here that another server calls so; "" if there is none.
func policyElsewhere(name string) string {
	if here := policiesElsewhere[name]; here != "" {
		return here
	}
	plain := strings.ReplaceAll(strings.ReplaceAll(strings.ToLower(name), "-", ""), "_", "")
	for _, policy := range policies.Names() {
		if strings.ReplaceAll(policy, "_", "") == plain {
			return policy
		}
	}
	return ""
}
