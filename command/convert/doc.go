// Package convert writes Caddyfiles of the configurations of other load balancers. It reads and writes text only.
package convert
