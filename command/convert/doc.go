// Package convert converts the configurations of other load balancers to Caddyfiles. It reads and writes text only.
package convert
