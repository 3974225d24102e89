package main

import (
	"os"
	"path/filepath"
	"slices"
)

const (
	ours   = "load_balancer"
	theirs = "reverse_proxy"
	stock  = "reverse_proxy, stock binary"
)

// usualKinds returns the proxies, which forward requests and do nothing else.
func usualKinds(_ *processes, dir string, o options) ([]kind, error) {
	policy := "lb_policy " + o.policy
	kinds := []kind{caddyKind(theirs, o, "reverse_proxy", policy), caddyKind(ours, o, "load_balancer", policy)}
	if o.stock != "" {
		kinds = append(kinds, caddyKind(stock, options{caddy: o.stock}, "reverse_proxy", policy))
	}
	return append(kinds, haproxyKind("haproxy", "roundrobin"), nginxKind("nginx", dir, "")), nil
}

// withDefault returns the same, and load_balancer with the default policy.
func withDefault(started *processes, dir string, o options) ([]kind, error) {
	kinds, err := usualKinds(started, dir, o)
	if err != nil {
		return nil, err
	}
	return slices.Insert(kinds, 2, caddyKind(ours+", default policy", o, "load_balancer")), nil
}

const (
	allOff      = "load_balancer, all off"
	ownOn       = "load_balancer, its own on"
	allOn       = "load_balancer, all on"
	theirsAllOn = "reverse_proxy, all it has on"
)

// highLimit is never reached.
const highLimit = "ip_rate_limit {\n\t\trate 1000000/s\n\t}\n\t"

// logTo returns the directive that makes Caddy write an access log.
func logTo(file string) string {
	return "log {\n\t\toutput file " + file + " {\n\t\t\troll_disabled\n\t\t}\n\t}\n\t"
}

// everythingKinds returns load_balancer with all options that may cost something at every request, with only its own, and with none; and
// reverse_proxy with those that it has, and with none.
func everythingKinds(_ *processes, dir string, o options) ([]kind, error) {
	policy := "lb_policy " + o.policy
	const metrics = "admin off\n\tmetrics"
	// Breaker and retries are on by default.
	own := []string{policy, "health_check {", "\thttp /1k 2xx", "\tinterval 1s", "}"}
	ourLog, theirLog := filepath.Join(dir, "ours.log"), filepath.Join(dir, "theirs.log")
	on := caddyWithAdmin(allOn, o, metrics, logTo(ourLog)+highLimit+"load_balancer", own...)
	theirsOn := caddyWithAdmin(theirsAllOn, o, metrics, logTo(theirLog)+"reverse_proxy", policy, "health_uri /1k", "health_interval 1s")
	on.log, theirsOn.log = logFile(ourLog), logFile(theirLog)
	return []kind{
		caddyKind(theirs, o, "reverse_proxy", policy),
		theirsOn,
		caddyKind(allOff, o, "load_balancer", policy, "breaker off", "retry off", "slow_start off", "hold off"),
		caddyKind(ownOn, o, highLimit+"load_balancer", own...),
		on,
	}, nil
}

const oursLimited = "with ip_rate_limit"

// limitScenarios returns the plain scenarios with limits.
func limitScenarios() []scenario {
	all := slices.Clone(plain)
	for i := range all {
		all[i].kinds, all[i].pairs = limitKinds, []pair{{judged: oursLimited, reference: ours}}
	}
	return all
}

func limitKinds(started *processes, _ string, o options) ([]kind, error) {
	redis, err := startRedis(started)
	return limitedBy(redis, o), err
}

// limitedBy returns load_balancer alone, and with limits that are never reached, to measure the cost of the decision. redis is the address
// of a Redis; "" for none.
func limitedBy(redis string, o options) []kind {
	policy := "lb_policy " + o.policy
	limited := func(name, options string) kind {
		return caddyKind(name, o, "ip_rate_limit {\n\t\trate 1000000/s\n"+options+"\t}\n\tload_balancer", policy)
	}
	kinds := []kind{
		caddyKind(ours, o, "load_balancer", policy),
		limited(oursLimited, ""),
		limited("with concurrency, too", "concurrency 100000\n"),
	}
	if redis != "" {
		kinds = append(kinds, limited("in redis", "redis redis://"+redis+"\n"))
	}
	return kinds
}

const (
	mirrorNone = "load_balancer, 0.01 % mirrored"
	mirrorFew  = "load_balancer, 1 % mirrored"
	mirrorAll  = "load_balancer, all mirrored"
)

// mirrorKinds returns load_balancer without a mirror, and with one that gets different shares of the requests.
func mirrorKinds(started *processes, dir string, o options) ([]kind, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "mirror.conf")
	server := "server { " + nginxListen(address, " backlog=4096", false, certificate{}) + " root " + dir + "; }"
	if err := os.WriteFile(file, []byte(nginxConfig(filepath.Join(dir, "mirror"), 1, server)), 0o644); err != nil {
		return nil, err
	}
	if _, err := started.start("mirror", address, "nginx", "-c", file); err != nil {
		return nil, err
	}
	return mirroredTo(address, o), nil
}

// mirroredTo returns them with the mirror at that address.
func mirroredTo(address string, o options) []kind {
	policy := "lb_policy " + o.policy
	with := func(name, share string) kind {
		return caddyKind(name, o, "load_balancer", policy, "mirror "+address+" "+share+" {", "\tmax_requests 10000", "}")
	}
	return []kind{caddyKind(ours, o, "load_balancer", policy), with(mirrorNone, "0.01%"), with(mirrorFew, "1%"), with(mirrorAll, "100%")}
}
