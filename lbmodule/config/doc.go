// Package config holds a load balancer's settings as they are written in a config: their JSON, their defaults and ranges, the checks of
// them, and the rules that the other packages derive from them. It sets nothing up.
package config
