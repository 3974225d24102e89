package main

const oursSeamless = "behind seamless"

// seamlessScenarios returns scenarios that measure the cost of the listener wrapper seamless: at most 2 % of the CPU time of a request on a
// kept connection, and 10 % if each request has a connection of its own.
func seamlessScenarios() (all []scenario) {
	bars := map[string]float64{"get1k": 1.02, "https": 1.02, "h2": 1.02, "conns1000": 1.02, "connect": 1.10}
	for _, s := range scenarios {
		if bar := bars[s.name]; bar > 0 {
			s.kinds, s.pairs = seamlessKinds, []pair{{judged: oursSeamless, reference: ours, bar: bar, cpuOnly: true}}
			all = append(all, s)
		}
	}
	return all
}

func seamlessKinds(_ *processes, _ string, o options) ([]kind, error) {
	policy := "lb_policy " + o.policy
	return []kind{
		caddyKind(ours, o, "load_balancer", policy),
		caddyWithServers(oursSeamless, o, "admin off", []string{"listener_wrappers {", "\tseamless", "}"}, "load_balancer", policy),
	}, nil
}
