package caddyfile

import (
	"strings"

	"github.com/ballastlb/ballast/lbmodule/policies"
)

// elsewhere maps words of other servers to the equivalent here.
var elsewhere = map[string]string{
	"max_conns": "max_requests", "maxconn": "max_requests", "max_connections": "max_requests", "fail_timeout": "fail_duration",
	"balance": "lb_policy", "policy": "lb_policy", "server": "backend", "upstream": "backend",
	"option": "health_check", "httpchk": "health_check", "check": "health_check", "health": "health_check", "inter": "interval", "fastinter": "fast_interval",
	"outlier_detection": "breaker", "circuit_breaker": "breaker", "proxy_next_upstream": "retry", "redispatch": "retry",
}

// policiesElsewhere maps policy names of other servers to the name here, where the two are not similar.
var policiesElsewhere = map[string]string{
	"rr": "round_robin", "wrr": "weighted_round_robin", "static-rr": "weighted_round_robin", "least_request": "least_conn", "least_requests": "least_conn",
	"least_connections": "least_conn", "least_time": "peak_ewma", "ewma": "peak_ewma", "ring_hash": "hash", "ringhash": "hash", "maglev": "hash", "consistent_hash": "hash",
	"source": "client_ip_hash", "uri": "uri_hash", "hdr": "header", "url_param": "query", "power_of_two": "p2c", "power_of_two_choices": "p2c", "two_choices": "p2c",
}

// fromElsewhere returns the equivalent here for a word of another server with its argument, or "". It does not translate names of policies
// that other servers have as words of their own.
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
		argument = "http /" // the original argument has another form
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

// policyElsewhere returns the equivalent here for the policy name of another server, or "".
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
