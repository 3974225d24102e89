package caddyfile

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/ratelimit"
)

// families are the directives, each as a map from its blocks to their words. load_balancer's is the first.
var families []map[string][]string

func init() { // set here, because the parsers use families
	families = []map[string][]string{
		{
			"load_balancer":  slices.Concat(stockWords, slices.Sorted(maps.Keys(settingParsers)), []string{"name", "backend", "shadow_policy"}),
			"backend":        backendWords(new(config.Backend)).names(),
			"health_check":   healthCheckWords(new(config.HealthCheck)).names(),
			"breaker":        breakerWords(new(config.Breaker)).names(),
			"retry":          retryWords(new(config.Retry)).names(),
			"subset":         subsetWords(new(config.Subset)).names(),
			"mirror":         mirrorWords(new(config.Mirror)).names(),
			"canary":         canaryWords(new(config.Canary), nil).names(),
			"guard":          guardWords(new(config.CanaryGuard)).names(),
			"transport http": stockTransportWords,
		},
		{
			"ip_rate_limit": rateLimitWords(new(ratelimit.Handler)).names(),
			"redis":         redisWords(new(ratelimit.Redis)).names(),
		},
		{"load_balancer_dashboard": {"actions"}},
		{"load_balancer_ready": nil},
	}
}

func (w words) names() []string { return slices.Sorted(maps.Keys(w)) }

// unrecognized returns the error for the current word, which the block does not have. title begins the error.
func unrecognized(d *caddyfile.Dispenser, title, block string) error {
	return withHint(d.Errf("%s: unrecognized setting %s", title, d.Val()), block, d.Val(), "")
}

// suggest adds a suggestion to an error of reverse_proxy's parser about an unknown word.
func (p *directiveParser) suggest(err error) error {
	if word := p.unknown.Text; word != "" && strings.Contains(err.Error(), "unrecognized subdirective "+word) {
		return withHint(err, "load_balancer", word, p.argument)
	}
	return err
}

// withHint adds to an error about a word that the block does not have: the block where it belongs, its equivalent here, or a similar word.
// argument follows the word.
func withHint(err error, block, word, argument string) error {
	for _, family := range families {
		if _, near := family[block]; !near && block != "load_balancer" {
			continue // a directive without this block
		}
		if places := placesOf(word, family); len(places) > 0 {
			return fmt.Errorf("%w; %s", err, belongs(word, places))
		}
	}
	if _, ours := families[0][block]; ours {
		if meant := fromElsewhere(word, argument); meant != "" {
			here, _, _ := strings.Cut(meant, " ")
			places := placesOf(here, families[0])
			if slices.Contains(places, block) {
				return fmt.Errorf("%w; did you mean %s?", err, meant)
			}
			return fmt.Errorf("%w; did you mean %s? %s", err, meant, belongs(here, places))
		}
	}
	for _, family := range families {
		own, is := family[block]
		if !is {
			continue
		}
		nearest := config.Nearest(word, own)
		if long := "lb_" + word; nearest == "" && slices.Contains(own, long) {
			nearest = long
		}
		if nearest != "" {
			return fmt.Errorf("%w; did you mean %s?", err, nearest)
		}
		if nearest := config.Nearest(word, slices.Concat(slices.Collect(maps.Values(family))...)); nearest != "" {
			return fmt.Errorf("%w; did you mean %s? %s", err, nearest, belongs(nearest, placesOf(nearest, family)))
		}
	}
	return err
}

func belongs(word string, places []string) string {
	return word + " belongs in the block of " + strings.Join(places, " or ")
}

// placesOf returns the blocks of the family that have the word.
func placesOf(word string, family map[string][]string) (places []string) {
	for block, words := range family {
		if slices.Contains(words, word) {
			places = append(places, block)
		}
	}
	slices.Sort(places)
	return places
}

// stockWords are the subdirectives of reverse_proxy.
var stockWords = []string{
	"to", "dynamic", "lb_policy", "lb_retries", "lb_try_duration", "lb_try_interval", "lb_retry_match",
	"health_uri", "health_path", "health_upstream", "health_port", "health_headers", "health_method", "health_request_body", "health_interval",
	"health_timeout", "health_status", "health_body", "health_follow_redirects", "health_passes", "health_fails",
	"max_fails", "fail_duration", "unhealthy_request_count", "unhealthy_status", "unhealthy_latency",
	"flush_interval", "request_buffers", "response_buffers", "stream_buffer_size", "stream_timeout", "stream_close_delay", "proxy_status_name",
	"trusted_proxies", "header_up", "header_down", "method", "rewrite", "transport", "handle_response", "replace_status", "verbose_logs",
}

// stockTransportWords are the subdirectives of its HTTP transport.
var stockTransportWords = []string{
	"read_buffer", "write_buffer", "read_timeout", "write_timeout", "max_response_header", "proxy_protocol", "forward_proxy_url", "network_proxy",
	"dial_timeout", "dial_fallback_delay", "response_header_timeout", "expect_continue_timeout", "resolvers",
	"tls", "tls_client_auth", "tls_insecure_skip_verify", "tls_curves", "tls_timeout", "tls_trusted_ca_certs", "tls_server_name",
	"tls_renegotiation", "tls_except_ports", "tls_trust_pool", "keepalive", "keepalive_interval", "keepalive_idle_conns",
	"keepalive_idle_conns_per_host", "versions", "compression", "max_conns_per_host", "local_address",
}
